//! What is found on a walk through the instructions as a build would do it: with the variables that are set by then.

use std::collections::{BTreeMap, BTreeSet};

use super::Rule;
use super::checks::{Checks, Known, Subject};
use crate::build::args;
use crate::build::env::Env;
use crate::build::expand::Expander;
use crate::build::ignore::clean;
use crate::build::parse::{Copy, Instruction, Kind, Stage, Word};
use crate::build::plan::Base;
use crate::build::source::{Span, meant};
use crate::build::state::DEFAULT_PATH;

impl Checks<'_> {
    /// Walks through the instructions as a build would.
    pub(super) fn stages(&mut self) {
        let Subject { file, plan, .. } = self.subject;
        for (arg, instruction) in &file.args {
            self.secret("ARG", &arg.key, instruction.span());
            self.description("ARG", std::slice::from_ref(&arg.key), instruction);
        }
        let mut after: Vec<Option<Known>> = Vec::new();
        let needed = plan.needed();
        for (number, stage) in file.stages.iter().enumerate() {
            self.aside = !self.subject.all && !needed.contains(&number);
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
        self.aside = false;
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
