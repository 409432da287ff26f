//! Arguments: the predefined ones, those before the first FROM, and what the command line says.

use std::collections::BTreeMap;

use super::env::Env;
use super::expand::Expander;
use super::parse::Dockerfile;
use super::source::{Locate as _, Result};
use crate::error::Error;
use crate::platform::Platform;

/// Given by `--build-arg` without an ARG, and kept out of history and cache: how a machine reaches the network says nothing
/// of what is built.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What `--build-arg` said.
pub(crate) type BuildArgs = BTreeMap<String, String>;

/// The variables that every RUN gets of `--build-arg` without asking.
pub(crate) fn proxies(args: &BuildArgs) -> impl Iterator<Item = (&str, &str)> {
    args.iter().filter(|(key, _)| PROXIES.contains(&key.as_str())).map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Whether an argument counts although no ARG names it.
pub(crate) fn is_predefined(key: &str) -> bool {
    PROXIES.contains(&key) || key.starts_with("BUILDKIT_") || key == "SOURCE_DATE_EPOCH"
}

/// An argument that turns something on or off; off if it is not given.
pub(crate) fn switch(given: &BuildArgs, key: &str) -> crate::error::Result<bool> {
    match given.get(key).map(String::as_str) {
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(other) => Err(Error::malformed(format!("--build-arg {key}={other}: want true or false"))),
    }
}

/// The arguments of the platform, which a stage sees after `ARG NAME`.
fn platform_args(build: &Platform, target: &Platform, stage: &str) -> Env {
    let mut env = Env::default();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let mut set = |name: &str, value: &str| env.set(&format!("{prefix}{name}"), value);
        set("PLATFORM", &platform.to_string());
        set("OS", &platform.os);
        set("OSVERSION", platform.os_version.as_deref().unwrap_or_default());
        set("ARCH", &platform.architecture);
        set("VARIANT", platform.variant.as_deref().unwrap_or_default());
    }
    env.set("TARGETSTAGE", if stage.is_empty() { "default" } else { stage });
    env
}

/// What FROM can use: the predefined arguments and those before the first FROM, with what the command line gives instead.
pub(crate) fn global(
    file: &Dockerfile,
    given: &BuildArgs,
    build: &Platform,
    target: &Platform,
    stage: &str,
) -> Result<Env> {
    let mut env = platform_args(build, target, stage);
    for key in env.keys().map(str::to_owned).collect::<Vec<_>>() {
        if let Some(value) = given.get(&key) {
            env.set(&key, value);
        }
    }
    let expander = Expander::new(file.escape);
    for (arg, instruction) in &file.args {
        let value = match (given.get(&arg.key), &arg.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => expander.word(default, &env).locate(instruction.span())?,
            (None, None) => continue,
        };
        env.set(&arg.key, &value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn arguments_before_from_build_on_each_other() {
        let file = parse("ARG A=1\nARG B=${A}2\nARG C\nARG TARGETARCH\nFROM x\n").unwrap();
        let given = BTreeMap::from([("A".to_owned(), "9".to_owned())]);
        let host = Platform::of("linux", "amd64", None);
        let env = global(&file, &given, &host, &Platform::of("linux", "arm", Some("v7")), "").unwrap();
        let get = |key: &str| env.get(key);
        assert_eq!((get("A"), get("B"), get("C")), (Some("9"), Some("92"), None));
        assert_eq!((get("TARGETPLATFORM"), get("TARGETVARIANT")), (Some("linux/arm/v7"), Some("v7")));
        assert_eq!((get("BUILDARCH"), get("TARGETSTAGE")), (Some("amd64"), Some("default")));
    }
}
