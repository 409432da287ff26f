//! `--change`: a Dockerfile instruction applied to an image's config, the ones that `docker import` takes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::oci::{Execution, json};

/// Applies one instruction.
pub(crate) fn apply(config: &mut Execution, text: &str) -> Result<()> {
    let text = text.trim();
    let (instruction, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(Error::malformed("want INSTRUCTION ARGUMENTS"));
    }
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => {
            let env = config.env.get_or_insert_default();
            for (key, value) in pairs(rest)? {
                env.retain(|have| have.split_once('=').map(|(k, _)| k) != Some(&key));
                env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => config.labels.get_or_insert_default().extend(pairs(rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                config.exposed_ports.get_or_insert_default().insert(expose(&port)?, json!({}));
            }
        }
        "VOLUME" => {
            let paths = match json::<Vec<String>>(rest.as_bytes()) {
                Ok(paths) => paths,
                Err(_) => words(rest)?,
            };
            let volumes: &mut BTreeMap<String, Value> = config.volumes.get_or_insert_default();
            volumes.extend(paths.into_iter().map(|path| (path, json!({}))));
        }
        "USER" => rest.clone_into(&mut config.user),
        "WORKDIR" => {
            let from_root =
                if rest.starts_with('/') { rest.to_owned() } else { format!("{}/{rest}", config.working_dir) };
            config.working_dir = if from_root.starts_with('/') { from_root } else { format!("/{from_root}") };
        }
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "ONBUILD" => config.on_build.get_or_insert_default().push(rest.to_owned()),
        other => {
            let known = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR";
            return Err(Error::malformed(format!("{other} is not one of {known}")));
        }
    }
    Ok(())
}

/// The exec form is a JSON list; anything else is a line for the shell.
fn command(text: &str) -> Vec<String> {
    let shell = || vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    json::<Vec<String>>(text.as_bytes()).unwrap_or_else(|_| shell())
}

fn expose(port: &str) -> Result<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let good = number.parse::<u16>().is_ok_and(|n| n > 0) && matches!(protocol, "tcp" | "udp" | "sctp");
    if good { Ok(format!("{number}/{protocol}")) } else { Err(Error::malformed(format!("port {port:?}"))) }
}

/// `A=b C="d e"`, or the old form `A everything else`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or_else(|| Error::malformed("want KEY=VALUE"))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::malformed(format!("{word:?}: want KEY=VALUE"))),
    };
    words(text)?.into_iter().map(pair).collect()
}

/// Splits at blanks, with quotes and backslashes as a shell has them.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or_else(|| Error::malformed("ends in a backslash"))?;
                word.get_or_insert_default().push(next);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::malformed("a quote is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> Execution {
        let mut config = Execution::default();
        for change in changes {
            apply(&mut config, change).unwrap_or_else(|e| panic!("{change}: {e}"));
        }
        config
    }

    #[test]
    fn instructions_change_the_config_as_in_docker_import() {
        let config = after(&[
            r#"CMD ["sh", "-c", "echo hi"]"#,
            "entrypoint exec top -b",
            r#"ENV A=b C="d e" F=g\ h"#,
            "ENV A  two words",
            "EXPOSE 80 53/udp",
            r#"VOLUME ["/data"]"#,
            "VOLUME /a /b",
            "WORKDIR /srv",
            "WORKDIR app",
            "USER app:app",
            "STOPSIGNAL SIGINT",
            r#"LABEL x.y="1 2" z='3'"#,
        ]);
        assert_eq!(config.cmd.unwrap(), ["sh", "-c", "echo hi"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(config.env.unwrap(), ["C=d e", "F=g h", "A=two words"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/a", "/b", "/data"]);
        assert_eq!(config.working_dir, "/srv/app");
        assert_eq!(config.user, "app:app");
        assert_eq!(config.stop_signal.unwrap(), "SIGINT");
        assert_eq!(config.labels.unwrap()["x.y"], "1 2");
    }

    #[test]
    fn other_instructions_are_refused() {
        for bad in
            ["", "CMD", "RUN ls", "ENV =x", "ENV A", "EXPOSE 0", "EXPOSE 80/icmp", "LABEL a=\"b", "ENV A=b\\", "FROM x"]
        {
            assert!(apply(&mut Execution::default(), bad).is_err(), "{bad}");
        }
    }
}
