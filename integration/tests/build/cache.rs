//! What is done again, and what is not.

use std::fs;

use crate::Yard;

/// Names of the steps that were found in the cache, and of those that were done with the reason.
fn steps(stderr: &str) -> (Vec<String>, Vec<String>) {
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    for line in stderr.lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        let name = stderr.lines().find_map(|l| l.strip_prefix(&format!("{number} [")));
        let name = name.and_then(|name| name.split_once("] ")).map_or("", |(_, name)| name);
        if rest == "CACHED" {
            hit.push(name.to_owned());
        } else if let Some(key) = rest.strip_prefix("key ")
            && let Some((_, why)) = key.split_once(": ")
        {
            missed.push(format!("{name}: {why}"));
        }
    }
    (hit, missed)
}

const DOCKERFILE: &str = "FROM base\nARG V=1\nRUN echo $V > /v\nCOPY one /one\nRUN cat /one > /copy\nCOPY two /two\n";

#[test]
fn a_step_is_done_again_only_if_what_it_depends_on_changed() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let first = yard.build(DOCKERFILE, &[]).ok();
    assert_eq!(steps(&first.stderr).1.len(), 4);
    let digest = first.stdout;
    let again = yard.build(DOCKERFILE, &[]).ok();
    assert_eq!((steps(&again.stderr).0.len(), &again.stdout), (4, &digest), "the same image: {again}");

    // A file that is touched is the same file.
    fs::File::open(yard.context.join("one")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).1.len(), 0);

    yard.file("two", "other");
    let (hit, missed) = steps(&yard.build(DOCKERFILE, &[]).ok().stderr);
    assert_eq!((hit.len(), missed), (3, vec!["COPY two /two: /two changed".to_owned()]));

    yard.file("one", "other");
    let (hit, missed) = steps(&yard.build(DOCKERFILE, &[]).ok().stderr);
    assert_eq!(hit, ["RUN echo $V > /v"]);
    assert_eq!(
        missed,
        ["COPY one /one: /one changed", "RUN cat /one > /copy: layers changed", "COPY two /two: layers changed"]
    );

    let (hit, missed) = steps(&yard.build(DOCKERFILE, &["--build-arg", "V=2"]).ok().stderr);
    assert_eq!((hit.len(), missed[0].as_str()), (0, "RUN echo $V > /v: variable V changed"));

    let edited = DOCKERFILE.replace("cat /one", "cat /one /one");
    let (hit, missed) = steps(&yard.build(&edited, &["--build-arg", "V=2"]).ok().stderr);
    assert_eq!((hit.len(), missed[0].as_str()), (2, "RUN cat /one /one > /copy: command changed"));

    let (hit, missed) = steps(&yard.build(&edited, &["--no-cache"]).ok().stderr);
    assert!(hit.is_empty() && missed[0].contains("--no-cache"), "{missed:?}");
}

#[test]
fn the_same_result_of_another_way_is_the_same_from_there() {
    let yard = Yard::new();
    yard.file("one", "1");
    // The layer of the COPY is the same whatever the stage's name or the file's place.
    yard.build("FROM base AS x\nCOPY one /one\nRUN echo done > /done\n", &[]).ok();
    let (hit, missed) = steps(&yard.build("FROM base\nENV LATER=1\nCOPY one /one\n", &[]).ok().stderr);
    assert_eq!((hit.len(), missed.len()), (1, 0), "variables are none of a COPY's");
}

#[test]
fn the_cache_outlives_rm_and_prune_and_is_cleared_when_asked() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    yard.build(DOCKERFILE, &[]).ok();
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune"]).ok();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).0.len(), 4);
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).0.len(), 0);
    let whole = yard.place.ours("imgtool", &["fsck"]).ok();
    assert_eq!(whole.code, 0);
}

#[test]
fn a_cache_goes_to_a_directory_or_a_registry_and_comes_back() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let registry = integration::peer::registry::Registry::start(&yard.place.id, &yard.place.dir);
    let directory = yard.place.dir.join("exported");
    let to_directory = format!("type=local,dest={}", directory.display());
    let to_registry = format!("type=registry,ref={}/cache:1,mode=max", registry.host);
    yard.build(DOCKERFILE, &["--cache-to", &to_directory, "--cache-to", &to_registry]).ok();
    for from in
        [format!("type=local,src={}", directory.display()), format!("type=registry,ref={}/cache:1", registry.host)]
    {
        yard.place.ours("imgtool", &["rm", "app"]).ok();
        yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
        let out = yard.build(DOCKERFILE, &["--cache-from", &from]).ok();
        assert_eq!(steps(&out.stderr).0.len(), 4, "{from}: {out}");
        assert_eq!(yard.prints("app", &["/bin/cat", "/copy", "/v"]), "11\n");
    }
    let out = yard.build(DOCKERFILE, &["--cache-from", "type=local,src=/nowhere"]).ok();
    assert!(out.stderr.contains("goes on without"), "{out}");
}
