//! The process that `exec` runs: the container's own, with what the command line changes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde_json::{Map, Value, json};

use crate::cli::Exec;
use crate::error::{Context, Error, Result};
use crate::io::file::{CAUTIOUS, read_open};
use crate::solo::derive::name_terminal;

/// The capabilities by number, as capability.h has them.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Derives the process from the container's configuration. `pid` is the container's init, whose root has the users;
/// `size` is the terminal's.
pub(crate) fn derive(config: &Value, exec: &Exec, pid: u32, size: Option<(u16, u16)>) -> Result<Value> {
    let mut process: Map<String, Value> =
        config["process"].as_object().cloned().ok_or_else(|| Error::invalid("config.json: process is missing"))?;
    process.insert("args".into(), json!(exec.command));
    process.insert("terminal".into(), exec.tty.into());
    process.remove("consoleSize");
    if let Some((rows, columns)) = size.filter(|_| exec.tty) {
        process.insert("consoleSize".into(), json!({"height": rows, "width": columns}));
    }
    if let Some(dir) = &exec.workdir {
        if !dir.starts_with('/') {
            return Err(Error::invalid(format!("--workdir {dir}: it is not absolute")));
        }
        process.insert("cwd".into(), json!(dir));
    }
    let mut home = None;
    if let Some(user) = &exec.user {
        let lists = Lists::of(pid)?;
        let found = lists.find(user)?;
        home = found.home;
        process.insert("user".into(), found.user);
    }
    if exec.tty {
        name_terminal(&mut process).context(|| "config.json")?;
    }
    let env = process.entry("env").or_insert_with(|| json!([]));
    let env = env.as_array_mut().ok_or_else(|| Error::invalid("config.json: process.env is not a list"))?;
    let mut put = |name: &str, value: &str| {
        let prefix = format!("{name}=");
        env.retain(|entry| !entry.as_str().is_some_and(|entry| entry.starts_with(&prefix)));
        env.push(json!(format!("{prefix}{value}")));
    };
    if let Some(home) = home {
        // The variable is the image's user's, and this is another one.
        put("HOME", &home);
    }
    for variable in &exec.env {
        match variable.split_once('=') {
            Some(("", _)) => return Err(Error::invalid(format!("--env {variable}: the name is missing"))),
            Some((name, value)) => put(name, value),
            // As Docker has it: what we do not have either, it does not get.
            None => {
                if let Ok(value) = std::env::var(variable) {
                    put(variable, &value);
                }
            }
        }
    }
    if exec.privileged {
        let all = ours()?;
        let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
        let sets: Map<_, _> = sets.iter().map(|&set| (set.to_owned(), json!(all))).collect();
        process.insert("capabilities".into(), sets.into());
        process.insert("noNewPrivileges".into(), false.into());
        process.remove("apparmorProfile");
    }
    Ok(process.into())
}

/// The names of the capabilities that we may give.
fn ours() -> Result<Vec<String>> {
    let status = std::fs::read_to_string("/proc/self/status").context(|| "read our own capabilities")?;
    let set = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapPrm:")?.trim(), 16).ok());
    let set = set.ok_or_else(|| Error::other("read our own capabilities: there is no CapPrm"))?;
    let held = CAPABILITIES.iter().enumerate().filter(|(number, _)| set & (1 << number) != 0);
    Ok(held.map(|(_, name)| format!("CAP_{name}")).collect())
}

/// /etc/passwd and /etc/group of a container, which may be anything.
struct Lists {
    passwd: String,
    group: String,
}

/// A user as `process.user` has it.
struct Found {
    user: Value,
    home: Option<String>,
}

impl Lists {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty()).context(|| format!("open {path}"))?;
        Ok(Self { passwd: list(&root, "etc/passwd")?, group: list(&root, "etc/group")? })
    }

    /// `USER[:GROUP]`, each a name or a number.
    fn find(&self, text: &str) -> Result<Found> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let number = user.parse::<u32>().ok();
        let entry = fields(&self.passwd).find(|entry| {
            entry.len() >= 6
                && (entry[0] == user || number.is_some_and(|number| entry[2].parse::<u32>().ok() == Some(number)))
        });
        let uid = entry.as_ref().and_then(|entry| entry[2].parse().ok()).or(number);
        let uid: u32 = uid.ok_or_else(|| Error::invalid(format!("--user {text}: there is no user {user}")))?;
        let primary = entry.as_ref().and_then(|entry| entry[3].parse::<u32>().ok()).unwrap_or(0);
        let mut additional = Vec::new();
        let gid = match group {
            None => {
                let name = entry.as_ref().map(|entry| entry[0].clone());
                additional = name.map(|name| self.groups_of(&name, primary)).unwrap_or_default();
                primary
            }
            Some(group) => {
                let named = fields(&self.group).find(|entry| entry.len() >= 3 && entry[0] == group);
                let gid = named.and_then(|entry| entry[2].parse().ok()).or_else(|| group.parse().ok());
                gid.ok_or_else(|| Error::invalid(format!("--user {text}: there is no group {group}")))?
            }
        };
        let home = entry.map(|entry| entry[5].clone()).filter(|home| home.starts_with('/'));
        Ok(Found { user: json!({"uid": uid, "gid": gid, "additionalGids": additional}), home })
    }

    fn groups_of(&self, name: &str, primary: u32) -> Vec<u32> {
        let member = |entry: &Vec<String>| entry.len() >= 4 && entry[3].split(',').any(|member| member == name);
        let groups = fields(&self.group).filter(member).filter_map(|entry| entry[2].parse().ok());
        groups.filter(|&gid| gid != primary).collect()
    }
}

fn fields(list: &str) -> impl Iterator<Item = Vec<String>> {
    list.lines().map(|line| line.split(':').map(str::to_owned).collect())
}

/// Reads a list beneath the container's root: no link in it leads out, and no fifo or device can hold us up.
fn list(root: &OwnedFd, path: &str) -> Result<String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root.as_fd(), path, CAUTIOUS, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        other => other.context(|| format!("open the container's /{path}"))?,
    };
    let bytes = read_open(file).context(|| format!("read the container's /{path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Lists {
        Lists {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/sh\n".into(),
            group: "root:x:0:\nweb:x:34:\nextra:x:44:db,web\nbad:x\n".into(),
        }
    }

    #[test]
    fn users_by_name_and_number() {
        for (text, uid, gid, additional, home) in [
            ("web", 33, 34, json!([44]), Some("/srv")),
            ("33", 33, 34, json!([44]), Some("/srv")),
            ("web:root", 33, 0, json!([]), Some("/srv")),
            ("web:7", 33, 7, json!([]), Some("/srv")),
            ("1000", 1000, 0, json!([]), None),
            ("1000:extra", 1000, 44, json!([]), None),
        ] {
            let found = lists().find(text).unwrap();
            assert_eq!(found.user, json!({"uid": uid, "gid": gid, "additionalGids": additional}), "{text}");
            assert_eq!(found.home.as_deref(), home, "{text}");
        }
        for text in ["nobody", "", "web:nogroup", "-1"] {
            assert!(lists().find(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_stay_beneath_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/passwd", dir.path().join("etc/link")).unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join("etc/passwd"), Mode::RUSR).unwrap();
        let root = openat(CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(list(&root, "etc/link").unwrap_err().text().contains("it is not a file"), "it is the fifo in the root");
        assert_eq!(list(&root, "etc/group").unwrap(), "");
    }

    #[test]
    fn the_command_line_changes_the_process() {
        use clap::Parser;
        let words = [
            "shim",
            "exec",
            "-t",
            "-w",
            "/srv",
            "-e",
            "A=2",
            "-e",
            "B=3",
            "-e",
            "UNSET_HERE",
            "--privileged",
            "web",
            "ls",
        ];
        let crate::cli::Verb::Exec(exec) = crate::cli::Cli::try_parse_from(words).unwrap().verb else { unreachable!() };
        let config = json!({"process": {"args": ["x"], "cwd": "/", "env": ["A=1", "P=/bin"], "rlimits": [],
            "noNewPrivileges": true, "apparmorProfile": "p"}});
        let process = derive(&config, &exec, 1, Some((24, 80))).unwrap();
        assert_eq!(process["args"], json!(["ls"]));
        assert_eq!(process["env"], json!(["P=/bin", "TERM=xterm", "A=2", "B=3"]));
        assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/srv"), &json!(true)));
        assert_eq!(process["consoleSize"], json!({"height": 24, "width": 80}));
        assert_eq!((&process["noNewPrivileges"], &process["rlimits"]), (&json!(false), &json!([])));
        assert_eq!(process.get("apparmorProfile"), None);
    }
}
