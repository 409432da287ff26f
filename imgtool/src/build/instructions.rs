//! What each instruction does to the image under construction.

use std::collections::BTreeMap;

use serde_json::json;

use super::builder::Work;
use super::cache::Key;
use super::env::Env;
use super::expand::Expander;
use super::parse::{Arg, Command, Instruction, Kind, Pair, Word};
use super::source::{Fault, Locate as _, Result};
use crate::error::Error;

/// Signals by name, as Docker takes them for STOPSIGNAL.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

impl Work<'_> {
    pub(crate) fn expander(&self) -> Expander {
        Expander::new(self.builder.plan.escape)
    }

    /// Puts the variables into a text of an instruction.
    pub(crate) fn expand(&self, command: &Instruction, text: &str, at: usize) -> Result<String> {
        self.expander().word(text, &self.state.env).locate(command.line.span(at))
    }

    pub(crate) fn word(&self, command: &Instruction, word: &Word) -> Result<String> {
        self.expand(command, &word.text, word.at)
    }

    fn commit(&mut self, created_by: String, layer: bool) {
        let time = self.time.clone();
        self.state.commit(created_by, time.as_deref(), layer);
    }

    pub(crate) fn instruction(&mut self, command: &Instruction) -> Result<()> {
        match &command.kind {
            Kind::Arg(list) => self.arg(command, list),
            Kind::Env(pairs) => {
                let mut text = "ENV".to_owned();
                // All of one ENV see the variables as they were before it.
                for (key, value) in self.pairs(command, pairs)? {
                    text.extend([" ", &key, "=", &value]);
                    self.state.set_env(&key, &value);
                }
                self.commit(text, false);
                Ok(())
            }
            Kind::Label(pairs) => {
                let mut text = "LABEL".to_owned();
                for (key, value) in self.pairs(command, pairs)? {
                    text.extend([" ", &key, "=", &value]);
                    self.state.config.config.labels.get_or_insert_default().insert(key, value);
                }
                self.commit(text, false);
                Ok(())
            }
            Kind::Maintainer(word) => {
                self.state.config.author = Some(word.text.clone());
                self.commit(format!("MAINTAINER {}", word.text), false);
                Ok(())
            }
            Kind::Expose(words) => self.expose(command, words),
            Kind::Volume(words) => {
                let mut volumes = Vec::new();
                for word in words {
                    let path = self.word(command, word)?;
                    if path.is_empty() {
                        return Err(Fault::at(command.at(word), "VOLUME: an empty path"));
                    }
                    self.state.config.config.volumes.get_or_insert_default().insert(path.clone(), json!({}));
                    volumes.push(path);
                }
                self.commit(format!("VOLUME [{}]", volumes.join(" ")), false);
                Ok(())
            }
            Kind::User(word) => {
                let user = self.word(command, word)?;
                self.state.config.config.user.clone_from(&user);
                self.commit(format!("USER {user}"), false);
                Ok(())
            }
            Kind::Stopsignal(word) => {
                let signal = self.word(command, word)?;
                if !is_signal(&signal) {
                    return Err(Fault::at(command.at(word), format!("STOPSIGNAL {signal}: no such signal")));
                }
                self.state.config.config.stop_signal = Some(signal.clone());
                self.commit(format!("STOPSIGNAL {signal}"), false);
                Ok(())
            }
            Kind::Shell(words) => {
                self.state.config.config.shell = Some(words.clone());
                self.commit(format!("SHELL [{}]", words.join(" ")), false);
                Ok(())
            }
            Kind::Onbuild(text) => {
                self.state.config.config.on_build.get_or_insert_default().push(text.clone());
                Ok(())
            }
            Kind::Healthcheck(health) => {
                self.state.config.config.healthcheck = Some(health.check.clone());
                self.commit(format!("HEALTHCHECK {}", health.check), false);
                Ok(())
            }
            Kind::Cmd(cmd) => {
                let words = self.process(cmd);
                self.commit(format!("CMD {}", quoted(&words)), false);
                self.state.config.config.cmd = Some(words);
                self.cmd_set = true;
                Ok(())
            }
            Kind::Entrypoint(cmd) => {
                let words = self.process(cmd);
                self.commit(format!("ENTRYPOINT {}", quoted(&words)), false);
                self.state.config.config.entrypoint = if words.is_empty() { None } else { Some(words) };
                // A command of the base image is the argument of another program.
                if !self.cmd_set {
                    self.state.config.config.cmd = None;
                }
                Ok(())
            }
            Kind::Workdir(word) => self.workdir(command, word),
            Kind::Copy(copy) => self.copy(command, copy),
            Kind::Run(run) => self.run(command, run),
            Kind::From(_) => Err(Error::other("FROM within a stage").into()),
        }
    }

    fn pairs(&self, command: &Instruction, pairs: &[Pair]) -> Result<Vec<(String, String)>> {
        let expand = |pair: &Pair| {
            let key = self.expand(command, &pair.key, pair.at)?;
            Ok((key, self.expand(command, &pair.value, pair.at)?))
        };
        pairs.iter().map(expand).collect()
    }

    /// Words of CMD or ENTRYPOINT: of the shell form, the shell's.
    fn process(&self, command: &Command) -> Vec<String> {
        if command.exec || command.words.is_empty() {
            return command.words.clone();
        }
        let mut words = self.state.shell();
        words.push(command.words.join(" "));
        words
    }

    fn arg(&mut self, command: &Instruction, list: &[Arg]) -> Result<()> {
        let mut texts = Vec::new();
        for arg in list {
            let given = self.builder.args.get(&arg.key).cloned();
            let value = match (given, &arg.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(command, default, 0)?),
                (None, None) => self.builder.plan.globals.get(&arg.key).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.state.env.set(&arg.key, value);
            }
            texts.push(match &value {
                Some(value) => format!("{}={value}", arg.key),
                None => arg.key.clone(),
            });
            self.state.args.push((arg.key.clone(), value));
        }
        self.commit(format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }

    fn expose(&mut self, command: &Instruction, words: &[Word]) -> Result<()> {
        let mut ports = Vec::new();
        for word in words {
            let text = self.word(command, word)?;
            for text in text.split_whitespace() {
                let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
                let lower = protocol.to_ascii_lowercase();
                // An address or a port of the host means nothing here.
                let numbers = numbers.rsplit_once(':').map_or(numbers, |(_, port)| port);
                let bad = || {
                    let text = format!("EXPOSE {text}: want PORT[-PORT][/tcp|udp|sctp], with ports from 1 to 65535");
                    Fault::at(command.at(word), text)
                };
                if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
                    return Err(bad());
                }
                let (low, high) = numbers.split_once('-').unwrap_or((numbers, numbers));
                let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
                let (low, high) = port(low).zip(port(high)).filter(|(low, high)| low <= high).ok_or_else(bad)?;
                ports.extend((low..=high).map(|port| format!("{port}/{lower}")));
            }
        }
        let text: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let text = format!("EXPOSE [{}]", if ports.is_empty() { text.join(" ") } else { ports.join(" ") });
        let all: &mut BTreeMap<_, _> = self.state.config.config.exposed_ports.get_or_insert_default();
        all.extend(ports.into_iter().map(|port| (port, json!({}))));
        self.commit(text, false);
        Ok(())
    }

    /// The directory is made, and belongs to the user of the steps that follow.
    fn workdir(&mut self, command: &Instruction, word: &Word) -> Result<()> {
        let path = self.word(command, word)?;
        let dir = self.state.absolute(&path);
        self.state.config.config.working_dir.clone_from(&dir);
        let text = format!("WORKDIR {dir}");
        let step = self.begin(&text, command.trigger);
        if dir == "/" {
            self.builder.display.done(step);
            self.commit(text, false);
            return Ok(());
        }
        let mut key = Key::default();
        key.add("layers", &self.state.chain());
        key.add("directory", &dir);
        key.add("user", &self.state.config.config.user);
        let keyed = self.keyed(key, &text);
        if let Some(made) = self.cached(step, &keyed)? {
            self.commit(text, made);
            return Ok(());
        }
        let layers = self.state.layers.clone();
        let user = self.state.config.config.user.clone();
        let made_at = self.builder.epoch;
        let made = self.layer(&keyed, &layers, None, |_, target| {
            let owner = match user.as_str() {
                "" => None,
                user => Some(super::copy::owner(target, user)?),
            };
            let look = super::place::Look { owner, made_at, ..super::place::Look::default() };
            let root = super::root::Root::open(target)?;
            root.make(&dir, &mut |fd, _| look.dress_parent(fd))?;
            Ok(())
        });
        let made = self.told(step, made)?;
        self.commit(text, made);
        Ok(())
    }

    /// Tells how a step ended.
    pub(crate) fn told<T>(&self, step: super::display::StepId, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.builder.display.done(step),
            Err(fault) => self.builder.display.failed(step, &fault.error.to_string()),
        }
        result
    }

    /// The text of a heredoc, with its variables if they count.
    pub(crate) fn inline(&self, command: &Instruction, doc: &super::parse::Heredoc) -> Result<String> {
        let text = doc.text();
        if !doc.expand {
            return Ok(text);
        }
        let how = Expander { no_quotes: true, ..self.expander() };
        how.word(&text, &self.state.env).locate(command.span())
    }

    /// The variables of a process of this stage.
    pub(crate) fn process_env(&self) -> Env {
        let mut env = self.state.env.clone();
        for (key, value) in super::args::proxies(&self.builder.args) {
            if env.get(key).is_none() {
                env.set(key, value);
            }
        }
        env
    }
}

/// As Go prints a list of strings by `%q`.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: &str, sign: char| {
        name.strip_prefix(base).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix(sign).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n <= 15))
        })
    };
    SIGNALS.contains(&name)
        || matches!(name, "IOT" | "POLL" | "CLD" | "UNUSED")
        || real_time("RTMIN", '+')
        || real_time("RTMAX", '-')
}
