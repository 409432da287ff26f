//! Instructions that make nothing: they describe the image, in its config. `--change` of `commit` and `import` takes them too.

use serde_json::json;

use super::env::Env;
use super::expand::{Expander, Room};
use super::parse::{self, Command, Instruction, Kind, Pair, Word};
use super::source::{Fault, Locate as _, Result};
use super::state;
use crate::error::{Error, Step as _};
use crate::oci::Execution;

/// Signals by name, as Docker takes them for STOPSIGNAL.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// What such an instruction sees and changes.
pub(crate) struct Describe<'a> {
    pub(crate) config: &'a mut Execution,
    /// ENV and ARG.
    pub(crate) env: &'a mut Env,
    /// The Dockerfile's escape character.
    pub(crate) escape: char,
    /// What it may become.
    pub(crate) room: &'a Room,
    /// Whether there was a CMD, in this stage.
    pub(crate) cmd_set: &'a mut bool,
}

impl Describe<'_> {
    /// Returns the line of the history, if it is one of those that have one.
    pub(crate) fn instruction(&mut self, command: &Instruction) -> Result<Option<String>> {
        let line = match &command.kind {
            Kind::Env(pairs) => {
                let mut line = "ENV".to_owned();
                // All of one ENV see the variables as they were before it.
                for (key, value) in self.pairs(command, pairs)? {
                    line.extend([" ", &key, "=", &value]);
                    self.set_env(&key, &value);
                }
                line
            }
            Kind::Label(pairs) => {
                let mut line = "LABEL".to_owned();
                for (key, value) in self.pairs(command, pairs)? {
                    line.extend([" ", &key, "=", &value]);
                    self.config.labels.get_or_insert_default().insert(key, value);
                }
                line
            }
            Kind::Expose(words) => self.expose(command, words)?,
            Kind::Volume(words) => {
                let mut volumes = Vec::new();
                for word in words {
                    let path = self.word(command, word)?;
                    if path.is_empty() {
                        return Err(Fault::at(command.at(word), "VOLUME: an empty path"));
                    }
                    self.config.volumes.get_or_insert_default().insert(path.clone(), json!({}));
                    volumes.push(path);
                }
                format!("VOLUME [{}]", volumes.join(" "))
            }
            Kind::User(word) => {
                self.config.user = self.word(command, word)?;
                format!("USER {}", self.config.user)
            }
            Kind::Stopsignal(word) => {
                let signal = self.word(command, word)?;
                if !is_signal(&signal) {
                    return Err(Fault::at(command.at(word), format!("STOPSIGNAL {signal}: no such signal")));
                }
                let line = format!("STOPSIGNAL {signal}");
                self.config.stop_signal = Some(signal);
                line
            }
            Kind::Shell(words) => {
                self.config.shell = Some(words.clone());
                format!("SHELL [{}]", words.join(" "))
            }
            Kind::Onbuild(text) => {
                self.config.on_build.get_or_insert_default().push(text.clone());
                return Ok(None);
            }
            Kind::Healthcheck(health) => {
                self.config.healthcheck = Some(health.check.clone());
                format!("HEALTHCHECK {}", health.check)
            }
            Kind::Cmd(cmd) => {
                let words = self.process(cmd);
                let line = format!("CMD {}", quoted(&words));
                self.config.cmd = Some(words);
                *self.cmd_set = true;
                line
            }
            Kind::Entrypoint(cmd) => {
                let words = self.process(cmd);
                let line = format!("ENTRYPOINT {}", quoted(&words));
                self.config.entrypoint = if words.is_empty() { None } else { Some(words) };
                // A command of the base image is the argument of another program.
                if !*self.cmd_set {
                    self.config.cmd = None;
                }
                line
            }
            _ => return Err(Fault::at(command.span(), format!("{} does not describe an image", command.keyword))),
        };
        Ok(Some(line))
    }

    fn word(&self, command: &Instruction, word: &Word) -> Result<String> {
        self.expand(command, &word.text, word.at)
    }

    fn expand(&self, command: &Instruction, text: &str, at: usize) -> Result<String> {
        let word = Expander::new(self.escape).word(text, self.env).and_then(|word| self.room.grown(text, word));
        word.locate(command.line.span(at))
    }

    fn pairs(&self, command: &Instruction, pairs: &[Pair]) -> Result<Vec<(String, String)>> {
        let expand = |pair: &Pair| {
            let key = self.expand(command, &pair.key, pair.at)?;
            Ok((key, self.expand(command, &pair.value, pair.at)?))
        };
        pairs.iter().map(expand).collect()
    }

    fn set_env(&mut self, key: &str, value: &str) {
        self.env.set(key, value);
        let all = self.config.env.get_or_insert_default();
        let entry = format!("{key}={value}");
        match all.iter_mut().find(|have| have.split_once('=').map_or(have.as_str(), |(k, _)| k) == key) {
            Some(have) => *have = entry,
            None => all.push(entry),
        }
    }

    /// Words of CMD or ENTRYPOINT: of the shell form, the shell's.
    fn process(&self, command: &Command) -> Vec<String> {
        if command.exec || command.words.is_empty() {
            return command.words.clone();
        }
        let mut words = state::shell(self.config);
        words.push(command.words.join(" "));
        words
    }

    fn expose(&mut self, command: &Instruction, words: &[Word]) -> Result<String> {
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
                for port in low..=high {
                    let port = format!("{port}/{lower}");
                    self.room.take(port.len()).locate(command.at(word))?;
                    ports.push(port);
                }
            }
        }
        let text: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let line = format!("EXPOSE [{}]", if ports.is_empty() { text.join(" ") } else { ports.join(" ") });
        let all = self.config.exposed_ports.get_or_insert_default();
        all.extend(ports.into_iter().map(|port| (port, json!({}))));
        Ok(line)
    }
}

/// Applies instructions to the config of an image that is there: those of this module, and WORKDIR, which makes nothing here.
pub(crate) fn change(config: &mut Execution, changes: &[String]) -> crate::error::Result<()> {
    let mut env = Env::of(config.env.iter().flatten());
    let mut cmd_set = false;
    for text in changes {
        let mut one = || -> Result<()> {
            let parsed = parse::statements(text)?;
            let [statement] = parsed.all.as_slice() else {
                return Err(Error::malformed("want one instruction of a Dockerfile").into());
            };
            let command = parse::instruction(statement)?;
            let (room, escape) = (&Room::new(), parsed.escape);
            let mut describe = Describe { config: &mut *config, env: &mut env, escape, room, cmd_set: &mut cmd_set };
            if let Kind::Workdir(word) = &command.kind {
                let path = describe.word(&command, word)?;
                config.working_dir = state::absolute(&config.working_dir, &path);
                return Ok(());
            }
            describe.instruction(&command).map(drop)
        };
        one().map_err(|fault| fault.error).with(|| format!("--change {text:?}"))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> crate::error::Result<Execution> {
        let mut config = Execution { cmd: Some(vec!["base".to_owned()]), ..Execution::default() };
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        change(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn changes_are_made_as_by_docker_commit() {
        let config = after(&[
            r#"CMD ["sh", "-c", "echo hi"]"#,
            "entrypoint exec top -b",
            r#"ENV A=b C="d e" F=g\ h"#,
            "ENV A  two words of $C",
            "EXPOSE 80 53/udp",
            r#"VOLUME ["/data"]"#,
            "VOLUME /a /b",
            "WORKDIR /srv",
            "WORKDIR app",
            "USER app:app",
            "STOPSIGNAL SIGINT",
            r#"LABEL x.y="1 2" z='3'"#,
            "HEALTHCHECK --interval=5s CMD test -e /x",
            "ONBUILD RUN true",
        ]);
        let config = config.unwrap();
        assert_eq!(config.cmd.unwrap(), ["sh", "-c", "echo hi"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(config.env.unwrap(), ["A=two words of d e", "C=d e", "F=g h"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/a", "/b", "/data"]);
        assert_eq!(config.working_dir, "/srv/app");
        assert_eq!(config.user, "app:app");
        assert_eq!(config.stop_signal.unwrap(), "SIGINT");
        assert_eq!(config.labels.unwrap()["x.y"], "1 2");
        let check = json!({"Test": ["CMD-SHELL", "test -e /x"], "Interval": 5_000_000_000_u64});
        assert_eq!((config.healthcheck, config.on_build), (Some(check), Some(vec!["RUN true".to_owned()])));
        assert_eq!(after(&["ENTRYPOINT [\"/x\"]"]).unwrap().cmd, None, "the arguments of another program");
    }

    #[test]
    fn what_is_no_description_is_refused() {
        for bad in [
            "",
            "RUN ls",
            "ENV =x",
            "ENV A",
            "EXPOSE 0",
            "EXPOSE 80/icmp",
            "LABEL a=\"b",
            "FROM x",
            "COPY a b",
            "USER a\nUSER b",
            "STOPSIGNAL nothing",
            "HEALTHCHECK true",
            "ARG A",
            &format!("EXPOSE {}", "1-65535 ".repeat(100)),
        ] {
            let error = after(&[bad]).map(drop).expect_err(bad).to_string();
            assert!(error.starts_with(&format!("--change {bad:?}: ")), "{bad}: {error}");
        }
    }
}
