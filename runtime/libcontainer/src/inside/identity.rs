//! Who a container's process is: user, groups, capabilities.

use crate::{
    error::{At, Error, Result},
    spec::{Capabilities, User},
};
use rustix::{
    fs::{Gid, Mode, Uid},
    thread::{CapabilitySet, CapabilitySets},
};
use std::collections::BTreeSet;

/// `linux/capability.h`, by number.
const NAMES: [&str; 41] = [
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

/// Every capability that is known here, as `CAP_…`.
pub fn capability_names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

/// The five sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CapSets {
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
}

impl CapSets {
    /// Names to sets. Unknown names are left out with a warning, as runc does: an engine newer than us may send them.
    pub(crate) fn of<'a>(capabilities: Option<&'a Capabilities>) -> Self {
        let Some(names) = capabilities else {
            let none = CapabilitySet::empty();
            return Self { bounding: none, effective: none, inheritable: none, permitted: none, ambient: none };
        };
        let mut unknown = BTreeSet::new();
        let mut set = |names: &'a [String]| {
            let mut set = CapabilitySet::empty();
            for name in names {
                match number(name) {
                    Some(number) => set |= CapabilitySet::from_bits_retain(1 << number),
                    None => drop(unknown.insert(name.as_str())),
                }
            }
            set
        };
        let sets = Self {
            bounding: set(&names.bounding),
            effective: set(&names.effective),
            inheritable: set(&names.inheritable),
            permitted: set(&names.permitted),
            ambient: set(&names.ambient),
        };
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.into_iter().collect();
            tracing::warn!("ignoring unknown or unavailable capabilities: [{}]", names.join(" "));
        }
        // capabilities(7): ambient ones must be permitted and inheritable.
        let ambient = sets.ambient & sets.permitted & sets.inheritable;
        for name in (sets.ambient - ambient).iter().filter_map(name) {
            tracing::warn!("can't raise ambient capability {name}: it is not both permitted and inheritable");
        }
        Self { ambient, ..sets }
    }
}

fn number(name: &str) -> Option<usize> {
    let bare = name.strip_prefix("CAP_")?;
    NAMES.iter().position(|known| *known == bare)
}

/// Makes the user the owner of its standard streams, so that it can open `/dev/stdout` and the like again. The null device
/// is everybody's, and a stream that cannot change hands (of a mount with other ids, or a read-only one) works all the same.
pub(crate) fn own_standard_streams(uid: u32) -> Result<()> {
    use rustix::{
        fs::{FileType, fchown, fstat, makedev},
        io::Errno,
        stdio,
    };
    for stream in [stdio::stdin(), stdio::stdout(), stdio::stderr()] {
        // One that is closed stays so.
        let Ok(stat) = fstat(stream) else { continue };
        let null = FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == makedev(1, 3);
        if null || stat.st_uid == uid {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), None) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(error).at("chown the standard streams"),
        }
    }
    Ok(())
}

/// Takes on user, groups and capabilities, in the only order that works: each step needs what the next gives away. The
/// capabilities `until_exec` are kept as well: execve(2) takes them away, since what a program is permitted comes of the
/// bounding, inheritable and ambient sets alone (capabilities(7)).
///
/// # Errors
/// Names the step that the kernel refused.
pub(crate) fn assume(user: &User, caps: &CapSets, may_set_groups: bool, until_exec: CapabilitySet) -> Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if caps.bounding.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the kernel's last capability.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).at("drop from the bounding set"),
        }
    }
    // Leaving uid 0 clears the permitted set otherwise, before the wanted one is set from it.
    rustix::thread::set_keep_capabilities(true).at("keep capabilities")?;
    if may_set_groups {
        let groups: Vec<Gid> = user.additional_gids.iter().map(|&gid| Gid::from_raw(gid)).collect();
        rustix::thread::set_thread_groups(&groups).at("setgroups")?;
    } else if !user.additional_gids.is_empty() {
        return Err(Error::invalid("process.user.additionalGids", "setgroups is denied in this user namespace"));
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).at_with(|| format!("setgid {}", user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at_with(|| format!("setuid {}", user.uid))?;
    let (effective, permitted) = (caps.effective | until_exec, caps.permitted | until_exec);
    let sets = CapabilitySets { effective, permitted, inheritable: caps.inheritable };
    set_capabilities(sets)?;
    rustix::thread::set_keep_capabilities(false).at("keep capabilities")?;
    rustix::thread::clear_ambient_capability_set().at("clear ambient capabilities")?;
    for one in caps.ambient.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true).at("raise an ambient capability")?;
    }
    rustix::process::umask(Mode::from_raw_mode(user.umask.unwrap_or(0o022)));
    Ok(())
}

fn set_capabilities(wanted: CapabilitySets) -> Result<()> {
    let Err(error) = rustix::thread::set_capabilities(None, wanted) else { return Ok(()) };
    let held = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let lacking: Vec<String> = (wanted.permitted - held).iter().filter_map(name).collect();
    if lacking.is_empty() {
        return Err(error).at("capset");
    }
    Err(error).at_with(|| {
        format!("capset: the caller itself lacks {}, take it out of process.capabilities", lacking.join(", "))
    })
}

fn name(one: CapabilitySet) -> Option<String> {
    NAMES.get(one.bits().trailing_zeros() as usize).map(|name| format!("CAP_{name}"))
}

/// Becomes root of a user namespace that was just entered, with all of its capabilities.
pub(crate) fn become_namespace_root(may_set_groups: bool) -> Result<()> {
    if may_set_groups {
        rustix::thread::set_thread_groups(&[]).at("setgroups")?;
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).at("setgid 0 in the user namespace")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).at("setuid 0 in the user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_sets_and_unknown_ones_are_left_out() {
        let caps: Capabilities = crate::spec::parse(
            br#"{"bounding":["CAP_CHOWN","CAP_FUTURE","KILL"],"permitted":["CAP_CHOWN","CAP_KILL"],
                "inheritable":["CAP_CHOWN"],"ambient":["CAP_CHOWN","CAP_KILL"]}"#,
        )
        .unwrap();
        let sets = CapSets::of(Some(&caps));
        assert_eq!(sets.bounding, CapabilitySet::CHOWN);
        assert_eq!(sets.permitted, CapabilitySet::CHOWN | CapabilitySet::KILL);
        assert_eq!(sets.ambient, CapabilitySet::CHOWN);
    }

    #[test]
    fn no_capabilities_asked_for_means_none() {
        assert_eq!(CapSets::of(None).bounding, CapabilitySet::empty());
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("SYS_ADMIN"), None);
    }
}
