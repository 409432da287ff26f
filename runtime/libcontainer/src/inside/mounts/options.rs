//! Mount options, as `mounts[].options` names them (runtime-spec `config.md`, "Linux mount options").

use super::flags::{self, Flags};
use crate::sys::MountAttr;
use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Every word that is known here, for `features`; what is not is the file system's own.
pub const KNOWN: [&str; 61] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
];

/// One mount's options, sorted by what acts on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of the mount itself.
    pub(crate) flags: Flags,
    /// Of the mount and all below it (`rro`, …).
    pub(crate) recursive: MountAttr,
    /// In the order given; each with whether it is recursive.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// `Some(recursive)` for `bind` and `rbind`.
    pub(crate) bind: Option<bool>,
    pub(crate) remount: bool,
    /// Fill a new tmpfs with what the image has there.
    pub(crate) copy_up: bool,
    /// `Some(recursive)` for `idmap` and `ridmap`.
    pub(crate) id_map: Option<bool>,
    /// The file system's own parameters.
    pub(crate) parameters: Vec<(String, Option<String>)>,
}

impl Options {
    /// Sorts `options`; later ones win. What is not known here is the file system's to judge.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        if let Some((bit, set)) = flags::of(option) {
            return self.flags.add(bit, set);
        }
        if let Some((set, clear)) = flags::recursive(option) {
            self.recursive.set = self.recursive.set & !clear | set;
            self.recursive.clear = self.recursive.clear & !set | clear;
            return;
        }
        if let Some(propagation) = propagation(option) {
            return self.propagation.push(propagation);
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "" | "defaults" => {}
            _ => self.parameters.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }
}

/// `rshared` and its like.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) => (name, true),
        None => (option, false),
    };
    let flag = match name {
        "private" => MS_PRIVATE,
        "shared" => MS_SHARED,
        "slave" => MS_SLAVE,
        "unbindable" => MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_RDONLY, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY};

    fn parse(options: &str) -> Options {
        Options::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn sorts_options() {
        let o = parse("nosuid,noexec,nodev,ro,size=65536k,newinstance");
        assert_eq!(o.flags.set, MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY);
        assert_eq!(o.parameters, [("size".into(), Some("65536k".into())), ("newinstance".into(), None)]);
        assert_eq!((o.bind, o.id_map), (None, None));

        let o = parse("rbind,rro,rslave,ridmap");
        assert_eq!((o.bind, o.flags.set, o.recursive.set), (Some(true), 0, MOUNT_ATTR_RDONLY));
        assert_eq!((o.propagation, o.id_map), (vec![(MS_SLAVE, true)], Some(true)));
        assert_eq!(parse("rbind,bind").bind, Some(true));
    }

    #[test]
    fn the_last_recursive_access_time_counts() {
        let o = parse("rnoatime,rstrictatime,rnoatime");
        assert_eq!((o.recursive.set, o.recursive.clear), (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME));
        assert_eq!(parse("rnoatime,ratime").recursive.set, 0);
    }

    #[test]
    fn what_is_known_is_no_parameter() {
        for option in KNOWN {
            assert!(parse(option).parameters.is_empty(), "{option}");
        }
        assert!(KNOWN.is_sorted());
    }
}
