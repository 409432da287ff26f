use super::*;

fn refused(text: &str) -> (String, (usize, usize)) {
    let fault = parse(text).expect_err(text);
    let at = fault.span.unwrap_or_else(|| panic!("{text}: no place")).at;
    (fault.error.to_string(), (at.line, at.column))
}

fn only(text: &str) -> Kind {
    let file = parse(&format!("FROM x\n{text}\n")).unwrap_or_else(|f| panic!("{text}: {}", f.error));
    file.stages[0].commands[0].kind.clone()
}

#[test]
fn every_error_has_line_and_column() {
    for (text, at, why) in [
        ("", (1, 1), "no instructions"),
        ("# only\n# comments\n", (2, 1), "no instructions"),
        ("FROM x\nRNU ls\n", (2, 1), "did you mean RUN"),
        ("FROM x\n\n  COPY a\n", (3, 8), "two arguments"),
        ("FROM x\nCOPY --chwon=1 a b\n", (2, 6), "did you mean chown"),
        ("FROM x\nRUN --network=host \\\n  --network=none ls\n", (3, 3), "twice"),
        ("FROM x\nRUN \\\n  --mount=type=cahce,target=/x \\\n  ls\n", (3, 3), "did you mean cache"),
        ("FROM x y\n", (1, 8), "one or three"),
        ("FROM x AS 9lives\n", (1, 11), "invalid name"),
        ("FROM x\nENV A\n", (2, 5), "two arguments"),
        ("FROM x\nENV A=b C\n", (2, 5), "NAME=VALUE"),
        ("FROM x\nCMD [\"a\", 1]\n", (2, 5), "list of strings"),
        ("FROM x\nCOPY <<EOF /x\nnever ends\n", (2, 6), "unterminated heredoc"),
        ("RUN ls\n", (1, 1), "must come after FROM"),
        ("ARG A=1\n", (1, 1), "FROM is missing"),
        ("FROM x\nHEALTHCHECK --interval=soon CMD x\n", (2, 13), "30s"),
        ("FROM x\nHEALTHCHECK CDM x\n", (2, 13), "did you mean CMD"),
        ("FROM x\nONBUILD FROM y\n", (2, 9), "cannot be a trigger"),
        ("FROM x\nONBUILD RUN --nope ls\n", (2, 13), "unknown flag"),
        ("FROM x\nSHELL sh -c\n", (2, 1), "JSON form"),
        ("# escape=x\nFROM x\n", (1, 1), "escape character"),
        ("# escape=`\n# escape=`\nFROM x\n", (2, 1), "twice"),
        ("FROM x\nCOPY a <<EOF\nEOF\n", (2, 8), "cannot be the target"),
        ("FROM x\nLABEL =x\n", (2, 7), "name is missing"),
    ] {
        let (error, place) = refused(text);
        assert!(error.contains(why), "{text:?}: {error}");
        assert_eq!(place, at, "{text:?}: {error}");
    }
}

#[test]
fn continuations_comments_and_empty_lines() {
    let file = parse("FROM x\nRUN a \\\n# comment\n\n  && b \\\n  && c\nCMD d\n").unwrap();
    let Kind::Run(run) = &file.stages[0].commands[0].kind else { panic!("RUN") };
    assert_eq!(run.command.words, ["a   && b   && c"]);
    assert_eq!(file.empty_continuations, [4]);
    assert_eq!(file.stages[0].commands[1].span().at.line, 7);
    let file = parse("# escape=`\nFROM x\nRUN a `\n  b\\\nCMD c").unwrap();
    let Kind::Run(run) = &file.stages[0].commands[0].kind else { panic!("RUN") };
    assert_eq!(run.command.words, ["a   b\\"]);
}

#[test]
fn heredocs_belong_to_their_instruction() {
    let Kind::Run(run) = only("RUN <<EOF\n# no comment\n  echo $a \\\nEOF") else { panic!("RUN") };
    assert_eq!(run.command.heredocs[0].content, "# no comment\n  echo $a \\\n");
    let Kind::Copy(copy) = only("COPY <<a <<-\"b\" file /dst/\n1\na\n\t2\n\tb") else { panic!("COPY") };
    assert_eq!((copy.inline[0].text(), copy.inline[1].text()), ("1\n".to_owned(), "2\n".to_owned()));
    assert!(copy.inline[0].expand && !copy.inline[1].expand);
    assert_eq!(copy.sources[0].text, "file");
    let Kind::Onbuild(text) = only("ONBUILD RUN <<E\nx\nE") else { panic!("ONBUILD") };
    assert_eq!(text, "RUN <<E\nx\nE");
}

#[test]
fn health_checks_are_dockers_object() {
    let Kind::Healthcheck(health) = only("HEALTHCHECK --interval=1m30s --timeout=0.5s --retries=3 CMD curl -f x")
    else {
        panic!("HEALTHCHECK")
    };
    let want = serde_json::json!({"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90_000_000_000_u64,
        "Timeout": 500_000_000, "Retries": 3});
    assert_eq!(health.check, want);
}

#[test]
fn stages_and_arguments_before_them() {
    let file = parse("ARG V=1\nFROM --platform=$BUILDPLATFORM x:$V AS Build\nFROM build\nARG V\n").unwrap();
    assert_eq!(file.args[0].0.default.as_deref(), Some("1"));
    assert_eq!(file.stages[0].from.name.as_deref(), Some("build"));
    assert_eq!(file.stages[0].from.platform.as_ref().unwrap().text, "$BUILDPLATFORM");
    assert_eq!(file.stages.len(), 2);
}
