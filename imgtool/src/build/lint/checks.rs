//! The checks themselves: names, FROM, and a walk through the instructions as a build would do it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rule, Settings, Warning};
use crate::build::args::{self, BuildArgs};
use crate::build::expand::{Env, Expander};
use crate::build::ignore::{Ignore, clean};
use crate::build::parse::{Copy, Dockerfile, Instruction, Kind, Stage, Word};
use crate::build::plan::{Base, Plan};
use crate::build::source::{Pos, Span, meant};
use crate::build::state::DEFAULT_PATH;
use crate::platform::Platform;
use crate::reference::Reference;

/// What is known of an image that a stage begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// `None`: the image's is the one that is wanted.
    pub(crate) other_platform: Option<(Platform, Platform)>,
    pub(crate) env: Env,
    pub(crate) has_shell: bool,
    pub(crate) workdir_set: bool,
}

/// What the checks look at.
pub(crate) struct Subject<'a> {
    pub(crate) file: &'a Dockerfile,
    pub(crate) plan: &'a Plan,
    pub(crate) args: &'a BuildArgs,
    pub(crate) ignore: &'a Ignore,
    /// The config of an image, if the store has it: without it, variables that it may set are no mistake.
    pub(crate) known: &'a dyn Fn(&str, Option<&Platform>) -> Option<Known>,
}

struct Checks<'a> {
    subject: &'a Subject<'a>,
    settings: &'a Settings,
    found: Vec<Warning>,
}

/// All warnings, in the order of their lines.
pub(crate) fn check(subject: &Subject<'_>, settings: &Settings) -> Vec<Warning> {
    let mut checks = Checks { subject, settings, found: Vec::new() };
    checks.names();
    checks.casing();
    checks.from();
    checks.stages();
    for line in &subject.file.empty_continuations {
        let span = Span { at: Pos { line: *line, column: 1 }, last: *line };
        checks.warn(Rule::NoEmptyContinuation, span, "Empty continuation line");
    }
    let mut found = checks.found;
    found.sort_by_key(|warning| (warning.span.at, warning.rule));
    found
}

impl Checks<'_> {
    fn warn(&mut self, rule: Rule, span: Span, text: impl Into<String>) {
        if self.settings.tells(rule) {
            self.found.push(Warning { rule, span, text: text.into() });
        }
    }

    fn names(&mut self) {
        let mut seen = BTreeSet::new();
        for stage in &self.subject.file.stages {
            let Some((word, name)) = &stage.from.written else { continue };
            let at = stage.instruction.at(name);
            let lower = name.text.to_lowercase();
            if lower != name.text {
                self.warn(Rule::StageNameCasing, at, format!("Stage name '{}' should be lowercase", name.text));
            }
            let keyword = &stage.instruction.keyword;
            let fits = match (keyword.to_lowercase() == *keyword, keyword.to_uppercase() == *keyword) {
                (true, _) => word.text == word.text.to_lowercase(),
                (_, true) => word.text == word.text.to_uppercase(),
                _ => true,
            };
            if !fits {
                let text = format!("'{}' and '{keyword}' keywords' casing do not match", word.text);
                self.warn(Rule::FromAsCasing, stage.instruction.at(word), text);
            }
            if matches!(lower.as_str(), "scratch" | "context") {
                let text = format!("Stage name should not use the same name as reserved stage {lower:?}");
                self.warn(Rule::ReservedStageName, at, text);
            }
            if !seen.insert(lower.clone()) {
                let text = format!("Duplicate stage name {lower:?}, stage names should be unique");
                self.warn(Rule::DuplicateStageName, at, text);
            }
            self.description("FROM", &[lower], &stage.instruction);
        }
    }

    fn description(&mut self, keyword: &str, names: &[String], instruction: &Instruction) {
        let Some(comment) = instruction.line.comments.last() else { return };
        let first = comment.split(' ').next().unwrap_or_default();
        if names.is_empty() || names.iter().any(|name| name == first) {
            return;
        }
        let example = if names.len() == 1 { names[0].as_str() } else { "<arg_key>" };
        let text = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        self.warn(Rule::InvalidDefinitionDescription, instruction.span(), text);
    }

    /// All keywords in capitals, or none of them.
    fn casing(&mut self) {
        let all = || {
            let stages = self.subject.file.stages.iter();
            stages.flat_map(|stage| std::iter::once(&stage.instruction).chain(&stage.commands))
        };
        let is_lower = |word: &str| word.to_lowercase() == word;
        let is_upper = |word: &str| word.to_uppercase() == word;
        let lower = all().filter(|i| is_lower(&i.keyword)).count();
        let upper = all().filter(|i| is_upper(&i.keyword)).count();
        let (fits, wanted): (&dyn Fn(&str) -> bool, _) =
            if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
        let odd: Vec<(Span, String)> =
            all().filter(|i| !fits(&i.keyword)).map(|i| (i.span(), i.keyword.clone())).collect();
        for (span, keyword) in odd {
            let text = format!("Command '{keyword}' should match the case of the command majority ({wanted})");
            self.warn(Rule::ConsistentInstructionCasing, span, text);
        }
    }

    fn from(&mut self) {
        let Subject { file, plan, .. } = self.subject;
        let expander = Expander::new(file.escape);
        let declared: Vec<&str> = file.args.iter().map(|(arg, _)| arg.key.as_str()).collect();
        // As if no --build-arg were given.
        let mut defaults = Env::default();
        for (arg, _) in &file.args {
            if let Some(default) = &arg.default {
                let value = expander.word(default, &defaults).unwrap_or_default();
                defaults.set(&arg.key, &value);
            }
        }
        for (key, value) in plan.globals.iter().filter(|(key, _)| !declared.contains(key)) {
            defaults.set(key, value);
        }
        for stage in &file.stages {
            let word = &stage.from.image;
            let at = stage.instruction.at(word);
            if let Ok(expanded) = expander.expand(&word.text, &plan.globals) {
                self.undeclared(&expanded.unset, &declared, at);
            }
            if let Ok(name) = expander.word(&word.text, &defaults)
                && name.parse::<Reference>().is_err()
            {
                let text = format!("Default value for ARG {} results in empty or invalid base image name", word.text);
                self.warn(Rule::InvalidDefaultArgInFrom, at, text);
            }
            self.platform(stage, expander, &declared);
        }
    }

    fn undeclared(&mut self, unset: &BTreeSet<String>, declared: &[&str], at: Span) {
        let plan = self.subject.plan;
        for name in unset.iter().filter(|name| !declared.contains(&name.as_str())) {
            let known = declared.iter().copied().chain(plan.globals.keys());
            let hint = meant(name, known).map_or_else(String::new, |best| format!(" (did you mean {best}?)"));
            self.warn(Rule::UndefinedArgInFrom, at, format!("FROM argument '{name}' is not declared{hint}"));
        }
    }

    fn platform(&mut self, stage: &Stage, expander: Expander, declared: &[&str]) {
        let Some(word) = &stage.from.platform else { return };
        let at = stage.instruction.at(word);
        let plan = self.subject.plan;
        let Ok(expanded) = expander.expand(&word.text, &plan.globals) else { return };
        self.undeclared(&expanded.unset, declared, at);
        let only: Vec<&String> = expanded.used.iter().collect();
        if let [one] = only.as_slice()
            && one.as_str() == "TARGETPLATFORM"
            && expanded.unset.is_empty()
            && plan.globals.get("TARGETPLATFORM") == Some(&expanded.text)
        {
            let text = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            self.warn(Rule::RedundantTargetPlatform, at, text);
        }
        if expanded.used.is_empty() && expanded.unset.is_empty() {
            let name = stage.from.name.clone().unwrap_or_default();
            let parts: Vec<&str> = expanded.text.split('/').take(2).collect();
            // A stage that says in its name which platform it is for means it.
            if !parts.iter().any(|part| name.contains(part)) {
                let text = format!("FROM --platform flag should not use constant value {:?}", expanded.text);
                self.warn(Rule::FromPlatformFlagConstDisallowed, at, text);
            }
        }
    }

    /// Walks through the instructions as a build would.
    fn stages(&mut self) {
        let Subject { file, plan, .. } = self.subject;
        for (arg, instruction) in &file.args {
            self.secret("ARG", &arg.key, instruction.span());
            self.description("ARG", std::slice::from_ref(&arg.key), instruction);
        }
        let mut after: Vec<Option<Known>> = Vec::new();
        for (number, stage) in file.stages.iter().enumerate() {
            let known = match &plan.stages[number].base {
                Base::Scratch => Some(Known::default()),
                Base::Stage(base) => after[*base].clone(),
                Base::Image(name) => {
                    let known = (self.subject.known)(name, plan.stages[number].platform.as_ref());
                    if let Some((wanted, have)) = known.as_ref().and_then(|known| known.other_platform.clone()) {
                        let text = format!(
                            "Base image {name} was pulled with platform \"{have}\", expected \"{wanted}\" for current build"
                        );
                        self.warn(Rule::InvalidBaseImagePlatform, stage.instruction.at(&stage.from.image), text);
                    }
                    known
                }
            };
            // What stands in for a stage has nothing of its instructions.
            let end = if plan.stages[number].replaced { known } else { self.stage(stage, known) };
            after.push(end);
        }
    }

    fn stage(&mut self, stage: &Stage, known: Option<Known>) -> Option<Known> {
        let complete = known.is_some();
        let Known { mut env, mut has_shell, mut workdir_set, .. } = known.unwrap_or_default();
        if env.get("PATH").is_none() {
            env.set("PATH", DEFAULT_PATH);
        }
        let mut declared: BTreeSet<String> = BTreeSet::new();
        let mut last: BTreeMap<&str, Span> = BTreeMap::new();
        for command in &stage.commands {
            if complete {
                self.variables(command, &env, &declared);
            }
            let span = command.span();
            let once = match &command.kind {
                Kind::Cmd(_) => Some("CMD"),
                Kind::Entrypoint(_) => Some("ENTRYPOINT"),
                Kind::Healthcheck(_) => Some("HEALTHCHECK"),
                _ => None,
            };
            if let Some(keyword) = once
                && let Some(before) = last.insert(keyword, span)
            {
                let text = format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                );
                self.warn(Rule::MultipleInstructionsDisallowed, before, text);
            }
            match &command.kind {
                Kind::Arg(list) => {
                    let names: Vec<String> = list.iter().map(|arg| arg.key.clone()).collect();
                    self.description("ARG", &names, command);
                    for arg in list {
                        self.secret("ARG", &arg.key, span);
                        declared.insert(arg.key.clone());
                        let default = arg.default.as_ref();
                        let expanded =
                            default.and_then(|text| Expander::new(self.subject.file.escape).word(text, &env).ok());
                        let given = self.subject.args.get(&arg.key).cloned();
                        let global = self.subject.plan.globals.get(&arg.key).map(str::to_owned);
                        if let Some(value) = given.or(expanded).or(global) {
                            env.set(&arg.key, &value);
                        }
                    }
                }
                Kind::Env(pairs) | Kind::Label(pairs) => {
                    let is_env = matches!(command.kind, Kind::Env(_));
                    let keyword = if is_env { "ENV" } else { "LABEL" };
                    for pair in pairs {
                        let at = command.line.span(pair.at);
                        if pair.legacy {
                            let text = format!(
                                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                            );
                            self.warn(Rule::LegacyKeyValueFormat, at, text);
                        }
                        if is_env {
                            self.secret("ENV", &pair.key, at);
                        }
                    }
                    for pair in pairs.iter().filter(|_| is_env) {
                        let value = Expander::new(self.subject.file.escape).word(&pair.value, &env).unwrap_or_default();
                        env.set(&pair.key, &value);
                    }
                }
                Kind::Cmd(cmd) | Kind::Entrypoint(cmd) if !cmd.exec && !cmd.words.is_empty() && !has_shell => {
                    let keyword = if matches!(command.kind, Kind::Cmd(_)) { "CMD" } else { "ENTRYPOINT" };
                    let text = format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                    );
                    self.warn(Rule::JSONArgsRecommended, span, text);
                }
                Kind::Shell(_) => has_shell = true,
                Kind::Maintainer(_) => {
                    let text = "Maintainer instruction is deprecated in favor of using label";
                    self.warn(Rule::MaintainerDeprecated, span, text);
                }
                Kind::Workdir(word) => {
                    let path = Expander::new(self.subject.file.escape).word(&word.text, &env).unwrap_or_default();
                    if !workdir_set && !path.starts_with('/') {
                        let text =
                            format!("Relative workdir {path:?} can have unexpected results if the base image changes");
                        self.warn(Rule::WorkdirRelativePath, command.at(word), text);
                    }
                    workdir_set = true;
                }
                Kind::Expose(words) => self.expose(command, words),
                Kind::Copy(copy) if copy.from.is_none() => self.ignored(command, copy),
                _ => {}
            }
        }
        complete.then_some(Known { env, has_shell, workdir_set, other_platform: None })
    }

    fn expose(&mut self, command: &Instruction, words: &[Word]) {
        for word in words.iter().filter(|word| !word.text.contains('$')) {
            let (ports, protocol) = word.text.split_once('/').unwrap_or((&word.text, ""));
            if protocol.to_lowercase() != protocol {
                let text = format!("Defined protocol '{}' in EXPOSE instruction should be lowercase", word.text);
                self.warn(Rule::ExposeProtoCasing, command.at(word), text);
            }
            if ports.contains(':') {
                let text = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
                    word.text
                );
                self.warn(Rule::ExposeInvalidFormat, command.at(word), text);
            }
        }
    }

    fn ignored(&mut self, command: &Instruction, copy: &Copy) {
        let ignore = self.subject.ignore;
        if ignore.is_empty() || ignore.takes_back() {
            return;
        }
        for word in copy.sources.iter().filter(|word| !word.text.contains('$') && !word.text.contains("://")) {
            let path = clean(&word.text);
            if !path.is_empty() && ignore.is_ignored(&path) {
                let verb = if copy.add { "Add" } else { "Copy" };
                let text = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.warn(Rule::CopyIgnoredFile, command.at(word), text);
            }
        }
    }

    fn secret(&mut self, keyword: &str, key: &str, at: Span) {
        const SECRET: [&str; 10] =
            ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
        const HARMLESS: [&str; 3] = ["public", "file", "version"];
        let lower = key.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let text = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {key:?})");
            self.warn(Rule::SecretsUsedInArgOrEnv, at, text);
        }
    }

    /// Variables that nobody set, in what is expanded.
    fn variables(&mut self, command: &Instruction, env: &Env, declared: &BTreeSet<String>) {
        let mut texts: Vec<(&str, usize)> = Vec::new();
        match &command.kind {
            Kind::Copy(copy) => {
                let words = copy.sources.iter().chain(&copy.target).chain(&copy.chown).chain(&copy.chmod);
                texts.extend(words.map(|word| (word.text.as_str(), word.at)));
            }
            Kind::Env(pairs) | Kind::Label(pairs) => {
                texts.extend(pairs.iter().flat_map(|p| [(p.key.as_str(), p.at), (p.value.as_str(), p.at)]));
            }
            Kind::Arg(list) => texts.extend(list.iter().filter_map(|arg| Some((arg.default.as_deref()?, 0)))),
            Kind::Expose(words) | Kind::Volume(words) => {
                texts.extend(words.iter().map(|word| (word.text.as_str(), word.at)));
            }
            Kind::User(word) | Kind::Workdir(word) | Kind::Stopsignal(word) => texts.push((&word.text, word.at)),
            _ => {}
        }
        let expander = Expander::new(self.subject.file.escape);
        for (text, at) in texts {
            let Ok(expanded) = expander.expand(text, env) else { continue };
            for name in expanded.unset.iter().filter(|name| !declared.contains(*name) && !args::is_predefined(name)) {
                let hint = meant(name, env.keys()).map_or_else(String::new, |best| format!(" (did you mean ${best}?)"));
                let text = format!("Usage of undefined variable '${name}'{hint}");
                self.warn(Rule::UndefinedVar, command.line.span(at), text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::parse::parse;
    use crate::build::plan::Wanted;

    fn found(text: &str, settings: &str) -> Vec<(String, usize, usize)> {
        let file = parse(text).unwrap_or_else(|f| panic!("{text}: {}", f.error));
        let host = Platform::of("linux", "amd64", None);
        let args = BuildArgs::new();
        let wanted = Wanted { target: None, args: &args, build: &host, platform: &host, contexts: &[] };
        let plan = Plan::of(&file, &wanted).unwrap_or_else(|f| panic!("{text}: {}", f.error));
        let ignore = Ignore::of(["secret*"]).unwrap();
        let known = |name: &str, _: Option<&Platform>| match name {
            "known" => Some(Known::default()),
            "foreign" => Some(Known {
                other_platform: Some((host.clone(), Platform::of("linux", "arm64", None))),
                ..Known::default()
            }),
            _ => None,
        };
        let subject = Subject { file: &file, plan: &plan, args: &args, ignore: &ignore, known: &known };
        let all = check(&subject, &Settings::parse(settings).unwrap());
        all.into_iter().map(|w| (w.rule.name(), w.span.at.line, w.span.at.column)).collect()
    }

    #[test]
    fn each_rule_finds_its_mistake_and_its_place() {
        for (text, rule, line, column) in [
            ("FROM known AS Build\n", "StageNameCasing", 1, 15),
            ("FROM known as b\n", "FromAsCasing", 1, 12),
            ("FROM known\nRUN a \\\n\n b\n", "NoEmptyContinuation", 3, 1),
            ("FROM known\nrun a\nENV A=b\n", "ConsistentInstructionCasing", 2, 1),
            ("FROM known AS a\nFROM known AS a\n", "DuplicateStageName", 2, 15),
            ("FROM known AS context\n", "ReservedStageName", 1, 15),
            ("FROM known\nCMD echo\n", "JSONArgsRecommended", 2, 1),
            ("FROM known\nMAINTAINER me\n", "MaintainerDeprecated", 2, 1),
            ("FROM known${V:-}\n", "UndefinedArgInFrom", 1, 6),
            ("FROM known\nWORKDIR a\n", "WorkdirRelativePath", 2, 9),
            ("FROM known\nENV HOSTN=1\nLABEL a=$HOSTM\n", "UndefinedVar", 3, 7),
            ("FROM known\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed", 2, 1),
            ("FROM known\nENV a b\n", "LegacyKeyValueFormat", 2, 5),
            ("FROM --platform=$TARGETPLATFORM known\n", "RedundantTargetPlatform", 1, 6),
            ("FROM known\nENV A=1 API_KEY=x\n", "SecretsUsedInArgOrEnv", 2, 9),
            ("ARG V=:\nFROM known${V}\n", "InvalidDefaultArgInFrom", 2, 6),
            ("FROM --platform=linux/arm64 known\n", "FromPlatformFlagConstDisallowed", 1, 6),
            ("FROM known\nCOPY a secret.txt /x/\n", "CopyIgnoredFile", 2, 8),
            ("FROM foreign\n", "InvalidBaseImagePlatform", 1, 6),
            ("FROM known\nEXPOSE 80/TCP\n", "ExposeProtoCasing", 2, 8),
            ("FROM known\nEXPOSE 1.2.3.4:80:80\n", "ExposeInvalidFormat", 2, 8),
        ] {
            assert_eq!(found(text, ""), [(rule.to_owned(), line, column)], "{text}");
            assert!(found(text, &format!("skip={rule}")).is_empty(), "{text}");
        }
        let described = "FROM known\n# wrong words\nARG A\n";
        assert!(found(described, "").is_empty());
        assert_eq!(found(described, "experimental=all").len(), 1);
    }

    #[test]
    fn what_is_in_order_says_nothing() {
        let text = "# about b\nARG V=1\nFROM known AS b\nARG V\nENV A=$V PUBLIC_KEY=x\nSHELL [\"/bin/bash\", \"-c\"]\nCMD echo $NOT_OURS\nWORKDIR /a\nWORKDIR b\nFROM unknown\nLABEL a=$PERHAPS\n";
        assert!(found(text, "").is_empty(), "{:?}", found(text, ""));
        assert!(Settings::parse("skip").is_err() && Settings::parse("error=maybe").is_err());
        assert!(Settings::parse("skip=all;error=true").unwrap().error);
    }
}
