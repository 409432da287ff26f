//! Capabilities: Docker's default set, and what `--cap-add` and `--cap-drop` make of it.

use crate::error::{Error, Result, Step};

/// What Docker gives a container.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All that Linux has, in the kernel's order.
const ALL: [&str; 41] = [
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

/// The container's capabilities as `CAP_NAME`. `ALL` stands for all; what is added by name is not dropped by `ALL`, as
/// Docker has it.
pub(super) fn capabilities(add: &[String], drop: &[String]) -> Result<Vec<String>> {
    let (add_all, add) = named("--cap-add", add)?;
    let (drop_all, drop) = named("--cap-drop", drop)?;
    let starts = |name: &str| add_all || (!drop_all && DEFAULT.contains(&name));
    let keep = |name: &&&str| (starts(name) || add.contains(name)) && !drop.contains(name);
    Ok(ALL.iter().filter(keep).map(|name| format!("CAP_{name}")).collect())
}

/// Those of `list` that this process has itself: no other can be given.
pub(super) fn held(list: &[String]) -> Result<Vec<String>> {
    let status = std::fs::read_to_string("/proc/self/status").at("read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.ok_or_else(|| Error::other("/proc/self/status: no CapPrm"))?;
    let has = |name: &&String| {
        let number = ALL.iter().position(|known| name.strip_prefix("CAP_") == Some(known));
        number.is_some_and(|number| mask >> number & 1 == 1)
    };
    Ok(list.iter().filter(has).cloned().collect())
}

fn named(flag: &str, names: &[String]) -> Result<(bool, Vec<&'static str>)> {
    let mut found = Vec::new();
    let mut all = false;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if plain == "ALL" {
            all = true;
        } else if let Some(known) = ALL.iter().find(|known| **known == plain) {
            found.push(*known);
        } else {
            return Err(Error::malformed(format!("{flag} {name}: no such capability")));
        }
    }
    Ok((all, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop)).unwrap()
    }

    #[test]
    fn add_and_drop_work_as_in_docker() {
        assert_eq!(of(&[], &[]).len(), 14);
        assert_eq!(of(&["ALL"], &[]).len(), 41);
        assert_eq!(of(&[], &["all"]).len(), 0);
        assert_eq!(of(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(of(&["ALL"], &["CAP_SYS_ADMIN"]).len(), 40);
        assert!(!of(&[], &["mknod"]).contains(&"CAP_MKNOD".to_owned()));
        assert!(capabilities(&["NO_SUCH".to_owned()], &[]).is_err());
    }
}
