//! Looking: everything that /proc and the plain calls tell a process about itself.

use std::collections::BTreeMap;
use std::fs;

use integration::report::{Caps, Mount, Report, Signals};

/// Reads what there is to see; what cannot be read is named in `blind`.
pub(crate) fn report() -> Report {
    let mut blind = Vec::new();
    // Descriptors first: nothing of our own is open yet.
    let fds = descriptors(&mut blind);
    let status = status(&mut blind);
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    let mask = |name: &str| u64::from_str_radix(&field(name), 16).unwrap_or_default();
    let ids = |name: &str| field(name).split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>();
    let uname = nix::sys::utsname::uname().ok();
    Report {
        pid: nix::unistd::getpid().as_raw(),
        ppid: nix::unistd::getppid().as_raw(),
        sid: nix::unistd::getsid(None).map_or(-1, nix::unistd::Pid::as_raw),
        args: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        env: std::env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .collect(),
        cwd: nix::unistd::getcwd().map_or_else(|e| format!("{e:?}"), |p| p.to_string_lossy().into_owned()),
        umask: u32::from_str_radix(&field("Umask"), 8).unwrap_or(u32::MAX),
        uid: ids("Uid"),
        gid: ids("Gid"),
        groups: ids("Groups"),
        caps: Caps {
            effective: mask("CapEff"),
            permitted: mask("CapPrm"),
            inheritable: mask("CapInh"),
            bounding: mask("CapBnd"),
            ambient: mask("CapAmb"),
        },
        no_new_privs: field("NoNewPrivs") == "1",
        seccomp: field("Seccomp").parse().unwrap_or(u32::MAX),
        signals: Signals { blocked: mask("SigBlk"), ignored: mask("SigIgn") },
        limits: limits(&mut blind),
        namespaces: namespaces(&mut blind),
        mounts: text("/proc/self/mountinfo", &mut blind).lines().filter_map(Mount::parse).collect(),
        cgroups: text("/proc/self/cgroup", &mut blind).lines().map(str::to_owned).collect(),
        hostname: uname.as_ref().map(|u| u.nodename().to_string_lossy().into_owned()).unwrap_or_default(),
        domainname: uname.as_ref().map(|u| u.domainname().to_string_lossy().into_owned()).unwrap_or_default(),
        fds,
        processes: processes(),
        oom_score_adj: text("/proc/self/oom_score_adj", &mut blind).trim().to_owned(),
        interfaces: text("/proc/self/net/dev", &mut blind)
            .lines()
            .filter_map(|l| l.split_once(':').map(|(name, _)| name.trim().to_owned()))
            .collect(),
        blind,
    }
}

fn text(path: &str, blind: &mut Vec<String>) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| {
        blind.push(format!("{path}: {e}"));
        String::new()
    })
}

fn status(blind: &mut Vec<String>) -> BTreeMap<String, String> {
    text("/proc/self/status", blind)
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn limits(blind: &mut Vec<String>) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    text("/proc/self/limits", blind)
        .lines()
        .skip(1)
        .filter_map(|line| {
            // The name is padded to 26 columns.
            let (name, values) = line.split_at_checked(26)?;
            let mut values = values.split_whitespace().map(|v| v.parse().ok());
            Some((name.trim().to_owned(), (values.next()?, values.next()?)))
        })
        .collect()
}

fn namespaces(blind: &mut Vec<String>) -> BTreeMap<String, u64> {
    let entries = match fs::read_dir("/proc/self/ns") {
        Ok(entries) => entries,
        Err(e) => {
            blind.push(format!("/proc/self/ns: {e}"));
            return BTreeMap::new();
        }
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            let inode = target.split_once('[')?.1.trim_end_matches(']').parse().ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), inode))
        })
        .collect()
}

fn descriptors(blind: &mut Vec<String>) -> BTreeMap<i32, String> {
    let entries = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(e) => {
            blind.push(format!("/proc/self/fd: {e}"));
            return BTreeMap::new();
        }
    };
    let listed: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_string_lossy().parse().ok()).collect();
    // The directory that was just read is closed by now: its link is gone and so it is not in the result.
    listed
        .into_iter()
        .filter_map(|fd| {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            Some((fd, target.to_string_lossy().into_owned()))
        })
        .collect()
}

fn processes() -> BTreeMap<i32, String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_string_lossy().parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Some((pid, name.trim().to_owned()))
        })
        .collect()
}

/// What this process sees of the terminal on its stdin.
pub(crate) fn terminal() -> serde_json::Value {
    let stdin = std::io::stdin();
    let size = rustix::termios::tcgetwinsize(&stdin).ok();
    let modes = rustix::termios::tcgetattr(&stdin).ok();
    serde_json::json!({
        "tty": [
            rustix::termios::isatty(&stdin),
            rustix::termios::isatty(std::io::stdout()),
            rustix::termios::isatty(std::io::stderr()),
        ],
        "name": rustix::termios::ttyname(&stdin, Vec::new()).ok().map(|n| n.to_string_lossy().into_owned()),
        "rows": size.map(|s| s.ws_row),
        "columns": size.map(|s| s.ws_col),
        "onlcr": modes.as_ref().map(|m| m.output_modes.contains(rustix::termios::OutputModes::ONLCR)),
        "controlling": fs::OpenOptions::new().read(true).open("/dev/tty").is_ok(),
        "console": fs::metadata("/dev/console").map(|m| std::os::unix::fs::MetadataExt::rdev(&m)).ok(),
        "stdin": fs::metadata("/proc/self/fd/0").map(|m| std::os::unix::fs::MetadataExt::rdev(&m)).ok(),
        "leader": nix::unistd::getsid(None).ok() == Some(nix::unistd::getpid()),
    })
}
