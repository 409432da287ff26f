//! conmon's command line, as Podman and CRI-O write it. Parsed by hand: what parses it stays for the container's life,
//! and every page that it touches counts.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// What the command line says.
#[derive(Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(super) struct Flags {
    pub(super) version: bool,
    pub(super) help: bool,
    /// Whether the newer form of the pipes' messages is spoken.
    pub(super) api_version: bool,
    pub(super) bundle: Option<PathBuf>,
    pub(super) cid: String,
    pub(super) cuuid: Option<String>,
    pub(super) name: Option<String>,
    pub(super) runtime: PathBuf,
    pub(super) runtime_args: Vec<OsString>,
    pub(super) runtime_opts: Vec<OsString>,
    pub(super) conmon_pidfile: Option<PathBuf>,
    pub(super) container_pidfile: Option<PathBuf>,
    pub(super) persist_dir: Option<PathBuf>,
    pub(super) exit_dir: Option<PathBuf>,
    pub(super) exit_command: Option<PathBuf>,
    pub(super) exit_args: Vec<OsString>,
    /// Seconds.
    pub(super) exit_delay: u64,
    pub(super) exec: bool,
    pub(super) exec_attach: bool,
    pub(super) exec_process_spec: Option<PathBuf>,
    pub(super) restore: Option<PathBuf>,
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    pub(super) leave_stdin_open: bool,
    pub(super) systemd_cgroup: bool,
    pub(super) no_pivot: bool,
    pub(super) no_new_keyring: bool,
    pub(super) log_paths: Vec<OsString>,
    /// Bytes; not positive: no limit.
    pub(super) log_size_max: i64,
    pub(super) log_global_size_max: i64,
    pub(super) log_rotate: bool,
    pub(super) log_max_files: u32,
    pub(super) log_tag: Option<String>,
    pub(super) log_labels: Vec<String>,
    pub(super) log_level: Option<String>,
    pub(super) no_container_partial_message: bool,
    pub(super) no_sync_log: bool,
    pub(super) syslog: bool,
    /// Stay the caller's child.
    pub(super) sync: bool,
    pub(super) sdnotify_socket: Option<PathBuf>,
    pub(super) socket_dir: Option<PathBuf>,
    pub(super) full_attach: bool,
    pub(super) replace_listen_pid: bool,
    /// Seconds after which the container is killed; not positive: never.
    pub(super) timeout: i64,
}

/// Short flags and the long ones that they stand for.
const SHORT: [(char, &str); 16] = [
    ('b', "bundle"),
    ('c', "cid"),
    ('P', "conmon-pidfile"),
    ('p', "container-pidfile"),
    ('u', "cuuid"),
    ('e', "exec"),
    ('l', "log-path"),
    ('n', "name"),
    ('0', "persist-dir"),
    ('r', "runtime"),
    ('i', "stdin"),
    ('s', "systemd-cgroup"),
    ('t', "terminal"),
    ('T', "timeout"),
    ('h', "help"),
    ('?', "help"),
];

/// Flags without a value.
const SWITCHES: [&str; 19] = [
    "api-version",
    "exec",
    "exec-attach",
    "full-attach",
    "help",
    "leave-stdin-open",
    "log-rotate",
    "no-container-partial-message",
    "no-new-keyring",
    "no-pivot",
    "no-sync-log",
    "replace-listen-pid",
    "stdin",
    "sync",
    "syslog",
    "systemd-cgroup",
    "terminal",
    "version",
    // So that a typing error in this list is found: see `set`.
    "",
];

impl Flags {
    /// Reads the words after the program's name.
    pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut flags = Self { log_size_max: -1, log_global_size_max: -1, log_max_files: 1, ..Self::default() };
        let mut words: VecDeque<OsString> = words.into_iter().collect();
        while let Some(word) = words.pop_front() {
            let bytes = word.into_vec();
            if bytes == b"--" {
                break;
            } else if let Some(long) = bytes.strip_prefix(b"--") {
                flags.long(long, &mut words)?;
            } else if let Some(short @ [_, ..]) = bytes.strip_prefix(b"-") {
                flags.short(short, &mut words)?;
            }
            // `--api-version 1` leaves a word that conmon ignores too.
        }
        Ok(flags)
    }

    fn long(&mut self, word: &[u8], words: &mut VecDeque<OsString>) -> Result<()> {
        let equals = word.iter().position(|&byte| byte == b'=');
        let (name, value) = equals.map_or((word, None), |at| (&word[..at], Some(&word[at + 1..])));
        let name = String::from_utf8_lossy(name);
        let value = value.map(|value| OsString::from_vec(value.to_vec()));
        if SWITCHES.contains(&&*name) {
            // The version may be given as `--api-version=1` too: there is only one.
            if value.is_some() && name != "api-version" {
                return Err(failed(&format!("the option --{name} takes no value")));
            }
            return self.set(&name, OsString::new());
        }
        let value = value.or_else(|| words.pop_front());
        match value {
            Some(value) => self.set(&name, value),
            None if known(&name) => Err(failed(&format!("Missing argument for --{name}"))),
            None => Err(unknown(&format!("--{name}"))),
        }
    }

    fn short(&mut self, cluster: &[u8], words: &mut VecDeque<OsString>) -> Result<()> {
        let mut rest = cluster;
        while let [letter, after @ ..] = rest {
            let letter = char::from(*letter);
            let name = SHORT.iter().find(|(short, _)| *short == letter).map(|&(_, long)| long);
            let name = name.ok_or_else(|| unknown(&format!("-{letter}")))?;
            if SWITCHES.contains(&name) {
                self.set(name, OsString::new())?;
                rest = after;
                continue;
            }
            let glued = (!after.is_empty()).then(|| OsString::from_vec(after.to_vec()));
            let value = glued.or_else(|| words.pop_front());
            let value = value.ok_or_else(|| failed(&format!("Missing argument for -{letter}")))?;
            return self.set(name, value);
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: OsString) -> Result<()> {
        let number = |value: &OsString| {
            let parsed = value.to_str().and_then(|text| text.trim().parse::<i64>().ok());
            parsed.ok_or_else(|| {
                failed(&format!("Cannot parse integer value \u{201c}{}\u{201d} for --{name}", value.display()))
            })
        };
        // What conmon keeps in an int.
        let small = |value: &OsString| {
            let found = number(value)?;
            let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
            let out =
                || failed(&format!("Integer value \u{201c}{}\u{201d} for --{name} out of range", value.display()));
            range.contains(&found).then_some(found).ok_or_else(out)
        };
        let text = |value: OsString| {
            value.into_string().map_err(|value| failed(&format!("--{name} {}: not UTF-8", value.display())))
        };
        match name {
            "api-version" => self.api_version = true,
            "bundle" => self.bundle = Some(value.into()),
            "cid" => self.cid = text(value)?,
            "conmon-pidfile" => self.conmon_pidfile = Some(value.into()),
            "container-pidfile" | "pidfile" => self.container_pidfile = Some(value.into()),
            "cuuid" => self.cuuid = Some(text(value)?),
            "exec" => self.exec = true,
            "exec-attach" => self.exec_attach = true,
            "exec-process-spec" => self.exec_process_spec = Some(value.into()),
            "exit-command" => self.exit_command = Some(value.into()),
            "exit-command-arg" => self.exit_args.push(value),
            "exit-delay" => {
                self.exit_delay = u64::try_from(small(&value)?).map_err(|_| {
                    Error::invalid("Delay before invoking exit command must be greater than or equal to 0")
                })?;
            }
            "exit-dir" => self.exit_dir = Some(value.into()),
            "full-attach" => self.full_attach = true,
            "help" => self.help = true,
            "leave-stdin-open" => self.leave_stdin_open = true,
            // Which directories a log may be in is for whoever names the log to say.
            "log-allowlist-dir" => {}
            "log-global-size-max" => self.log_global_size_max = number(&value)?,
            "log-label" => self.log_labels.push(text(value)?),
            "log-level" => self.log_level = Some(text(value)?),
            "log-max-files" => {
                let number = small(&value)?;
                self.log_max_files = u32::try_from(number)
                    .map_err(|_| Error::invalid(format!("log-max-files must be non-negative, got {number}")))?;
            }
            "log-path" => self.log_paths.push(value),
            "log-rotate" => self.log_rotate = true,
            "log-size-max" => self.log_size_max = number(&value)?,
            "log-tag" => self.log_tag = Some(text(value)?),
            "name" => self.name = Some(text(value)?),
            "no-container-partial-message" => self.no_container_partial_message = true,
            "no-new-keyring" => self.no_new_keyring = true,
            "no-pivot" => self.no_pivot = true,
            "no-sync-log" => self.no_sync_log = true,
            "persist-dir" => self.persist_dir = Some(value.into()),
            "replace-listen-pid" => self.replace_listen_pid = true,
            "restore" => self.restore = Some(value.into()),
            "runtime" => self.runtime = value.into(),
            "runtime-arg" => self.runtime_args.push(value),
            "runtime-opt" | "restore-arg" => self.runtime_opts.push(value),
            "sdnotify-socket" => self.sdnotify_socket = Some(value.into()),
            "socket-dir-path" => self.socket_dir = Some(value.into()),
            "stdin" => self.stdin = true,
            "sync" => self.sync = true,
            "syslog" => self.syslog = true,
            "systemd-cgroup" => self.systemd_cgroup = true,
            "terminal" => self.terminal = true,
            "timeout" => self.timeout = small(&value)?,
            "version" => self.version = true,
            _ => return Err(unknown(&format!("--{name}"))),
        }
        Ok(())
    }

    /// Refuses what makes no sense. The words are conmon's own, which callers look for.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::invalid(text));
        if self.log_rotate && self.log_max_files == 0 {
            return refuse("log-max-files must be at least 1 when log-rotate is enabled, got 0");
        }
        if self.cid.is_empty() {
            return refuse("Container ID not provided. Use --cid");
        }
        if self.restore.is_some() && self.exec {
            return refuse("Cannot use 'exec' and 'restore' at the same time");
        }
        if !self.exec && self.exec_attach {
            return refuse("Attach can only be specified with exec");
        }
        if !self.api_version && self.exec_attach {
            return refuse("Attach can only be specified for a non-legacy exec session");
        }
        if self.cuuid.is_none() && (!self.exec || self.api_version) {
            return refuse("Container UUID not provided. Use --cuuid");
        }
        if self.runtime.as_os_str().is_empty() {
            return refuse("Runtime path not provided. Use --runtime");
        }
        if let Err(errno) = rustix::fs::access(&self.runtime, rustix::fs::Access::EXEC_OK) {
            let reason = crate::error::plain(&errno.into());
            return refuse(&format!("Runtime path {} is not valid: {reason}", self.runtime.display()));
        }
        if self.exec && self.exec_process_spec.is_none() {
            return refuse("Exec process spec path not provided. Use --exec-process-spec");
        }
        Ok(())
    }
}

fn known(name: &str) -> bool {
    // What only lacks its value is refused for that; a number's parser takes this too.
    Flags::default().set(name, "0".into()).is_ok()
}

fn failed(text: &str) -> Error {
    Error::invalid(format!("option parsing failed: {text}"))
}

fn unknown(flag: &str) -> Error {
    failed(&format!("Unknown option {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Flags> {
        Flags::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn what_podman_writes() {
        let flags = parse(&[
            "--api-version",
            "1",
            "-c",
            "abc",
            "-u",
            "abc",
            "-r",
            "/bin/true",
            "-b",
            "/b/userdata",
            "-p",
            "/b/pidfile",
            "-n",
            "web",
            "--exit-dir",
            "/run/exits",
            "--full-attach",
            "-s",
            "-l",
            "k8s-file:/b/ctr.log",
            "--log-level",
            "warning",
            "--syslog",
            "--runtime-arg",
            "--log-format=json",
            "--runtime-arg",
            "--log",
            "--runtime-arg=/b/oci-log",
            "-t",
            "--conmon-pidfile",
            "/b/conmon.pid",
            "--exit-command",
            "/usr/bin/podman",
            "--exit-command-arg",
            "--root",
            "--exit-command-arg",
            "/d",
        ])
        .unwrap();
        flags.check().unwrap();
        assert!(flags.api_version && flags.full_attach && flags.terminal && flags.systemd_cgroup && flags.syslog);
        assert_eq!(flags.runtime_args, ["--log-format=json", "--log", "/b/oci-log"]);
        assert_eq!(flags.exit_args, ["--root", "/d"]);
        assert_eq!((flags.cid.as_str(), flags.name.as_deref()), ("abc", Some("web")));
        assert_eq!(flags.log_paths, ["k8s-file:/b/ctr.log"]);
    }

    #[test]
    fn short_flags_can_be_glued() {
        let flags = parse(&["-it", "-cabc", "-T5", "--log-size-max=10", "-ei"]).unwrap();
        assert!(flags.stdin && flags.terminal && flags.exec);
        assert_eq!((flags.cid.as_str(), flags.timeout, flags.log_size_max), ("abc", 5, 10));
    }

    #[test]
    fn every_switch_is_known() {
        for name in SWITCHES.iter().filter(|name| !name.is_empty()) {
            assert!(known(name), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_conmons_words() {
        for (words, complaint) in [
            (&["--nonsense"][..], "Unknown option --nonsense"),
            (&["--nonsense", "x"], "Unknown option --nonsense"),
            (&["-x"], "Unknown option -x"),
            (&["--cid"], "Missing argument for --cid"),
            (&["--timeout", "soon"], "Cannot parse integer value"),
            (&["--timeout", "2147483648"], "out of range"),
            (&["--exit-delay", "-1"], "Delay before invoking exit command"),
            (&["--log-max-files", "-1"], "log-max-files must be non-negative, got -1"),
            (&[], "Container ID not provided. Use --cid"),
            (&["-c", "x"], "Container UUID not provided. Use --cuuid"),
            (&["-c", "x", "-u", "x"], "Runtime path not provided. Use --runtime"),
            (&["-c", "x", "-u", "x", "-r", "/no/such"], "Runtime path /no/such is not valid"),
            (&["-c", "x", "-u", "x", "-r", "/bin/sh", "-e"], "Exec process spec path not provided"),
            (&["-c", "x", "-u", "x", "-r", "/bin/sh", "--exec-attach"], "Attach can only be specified with exec"),
            (&["-c", "x", "-e", "--exec-attach"], "Attach can only be specified for a non-legacy exec session"),
        ] {
            let error = parse(words).and_then(|flags| flags.check()).unwrap_err();
            assert!(error.text().contains(complaint), "{words:?}: {error}");
        }
    }
}
