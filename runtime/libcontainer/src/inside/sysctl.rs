//! Kernel settings of a container (`linux.sysctl`): only what belongs to a namespace of its own, the rest is the host's.

use crate::{
    error::{Error, Result},
    spec::{Linux, NamespaceKind},
};
use std::path::Path;

/// One setting that may be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As the configuration names it.
    pub(crate) key: String,
    /// Beneath `/proc`.
    pub(crate) path: String,
    pub(crate) value: String,
}

/// The System V IPC settings, below `kernel`.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Checks and translates `linux.sysctl`.
pub(crate) fn settings(linux: &Linux) -> Result<Vec<Setting>> {
    linux
        .sysctl
        .iter()
        .map(|(key, value)| {
            let names = names(key).ok_or_else(|| refusal(key, "is no name of a setting", ""))?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            check(key, &names, linux)?;
            Ok(Setting { key: key.clone(), path: format!("sys/{}", names.join("/")), value: value.clone() })
        })
        .collect()
}

fn check(key: &str, names: &[&str], linux: &Linux) -> Result<()> {
    let private = |kind| linux.namespaces.iter().any(|n| n.kind == kind);
    let hosts_own = Path::new("/proc/self/ns/net");
    let own_network =
        linux.namespaces.iter().any(|n| n.kind == NamespaceKind::Network && n.path.as_deref() != Some(hosts_own));
    let (own, missing) = match names {
        ["kernel", name] if IPC.contains(name) => (private(NamespaceKind::Ipc), ": add ipc to linux.namespaces"),
        ["fs", "mqueue", _] => (private(NamespaceKind::Ipc), ": add ipc to linux.namespaces"),
        ["net", _, ..] => (own_network, ": add network to linux.namespaces"),
        ["kernel", "domainname"] => (private(NamespaceKind::Uts), ": add uts to linux.namespaces"),
        ["kernel", "hostname"] => return Err(refusal(key, "conflicts with the OCI \"hostname\" field", "")),
        _ => (false, ""),
    };
    if own { Ok(()) } else { Err(refusal(key, "is not in a separate kernel namespace", missing)) }
}

fn refusal(key: &str, rule: &str, missing: &str) -> Error {
    Error::invalid(format!("linux.sysctl.{key}"), format!("sysctl {key:?} {rule}{missing}"))
}

/// `net.ipv4.ip_forward` is `net/ipv4/ip_forward`; with slashes first, dots are names' own (sysctl.d(5)). What is judged
/// are the very names that are opened: `net/../kernel/core_pattern` has none, because `..` is not a name.
fn names(key: &str) -> Option<Vec<String>> {
    let slash_first = key.find(['.', '/']).is_some_and(|i| key.as_bytes()[i] == b'/');
    let names: Vec<String> = if slash_first {
        key.split('/').map(str::to_owned).collect()
    } else {
        key.split('.').map(|name| name.replace('/', ".")).collect()
    };
    let is_name = |name: &String| !matches!(&**name, "" | "." | "..") && !name.contains(['/', '\0']);
    names.iter().all(is_name).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_dots_or_slashes() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(names(key).unwrap().join("/"), path);
        }
    }

    #[test]
    fn the_hosts_settings_are_refused_however_they_are_spelled() {
        let private = r#"{"type":"network"},{"type":"ipc"},{"type":"uts"}"#;
        for (namespaces, key, refused) in [
            (private, "net.core.somaxconn", false),
            ("", "net.core.somaxconn", true),
            (r#"{"type":"network","path":"/proc/self/ns/net"}"#, "net.core.somaxconn", true),
            (private, "kernel.shmmax", false),
            (private, "fs.mqueue.msg_max", false),
            (private, "kernel.domainname", false),
            (private, "kernel.hostname", true),
            (private, "kernel.core_pattern", true),
            (private, "vm.swappiness", true),
            (private, "net/../kernel/core_pattern", true),
            (private, "net./.kernel.core_pattern", true),
            (private, "net.//.kernel", true),
            (private, "net/./core", true),
            (private, "fs/mqueue/../../kernel/core_pattern", true),
            (private, "net..kernel", true),
            (private, "net", true),
            (private, "", true),
        ] {
            let json = format!(r#"{{"namespaces":[{namespaces}],"sysctl":{{"{key}":"1"}}}}"#);
            let linux: Linux = crate::spec::parse(json.as_bytes()).unwrap();
            assert_eq!(settings(&linux).is_err(), refused, "{key}");
        }
    }
}
