//! The checks themselves: names, casing, FROM.

use std::collections::BTreeSet;

use super::{Rule, Settings, Warning};
use crate::build::args::BuildArgs;
use crate::build::env::Env;
use crate::build::expand::Expander;
use crate::build::ignore::Ignore;
use crate::build::parse::{Dockerfile, Instruction, Stage};
use crate::build::plan::Plan;
use crate::build::source::{Pos, Span, meant};
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
    /// Every stage counts, as if each were built; else those that the target needs.
    pub(crate) all: bool,
    /// The config of an image, if the store has it: without it, variables that it may set are no mistake.
    pub(crate) known: &'a dyn Fn(&str, Option<&Platform>) -> Option<Known>,
}

pub(super) struct Checks<'a> {
    pub(super) subject: &'a Subject<'a>,
    settings: &'a Settings,
    found: Vec<Warning>,
    /// Stands in a stage that is not asked for.
    pub(super) aside: bool,
}

/// All warnings, in the order of their lines.
pub(crate) fn check(subject: &Subject<'_>, settings: &Settings) -> Vec<Warning> {
    let mut checks = Checks { subject, settings, found: Vec::new(), aside: false };
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
    pub(super) fn warn(&mut self, rule: Rule, span: Span, text: impl Into<String>) {
        if self.settings.tells(rule) && (!self.aside || rule.is_of_writing()) {
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

    pub(super) fn description(&mut self, keyword: &str, names: &[String], instruction: &Instruction) {
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
        let subject = Subject { file: &file, plan: &plan, args: &args, ignore: &ignore, all: true, known: &known };
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
