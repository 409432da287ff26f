//! Mount options, as `mounts[].options` names them (runtime-spec `config.md`, "Linux mount options").

use crate::sys::MountAttr;
use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

/// One mount's options, sorted by what acts on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of the mount itself.
    pub(crate) attr: MountAttr,
    /// Of the mount and all below it (`rro`, …).
    pub(crate) recursive: MountAttr,
    /// In the order given; each with whether it is recursive.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// `Some(recursive)` for `bind` and `rbind`.
    pub(crate) bind: Option<bool>,
    pub(crate) remount: bool,
    /// Fill a new tmpfs with what the image has there.
    pub(crate) copy_up: bool,
    /// `idmap` or `ridmap` was asked for.
    pub(crate) id_mapped: bool,
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
        if let Some((set, clear)) = attribute(option) {
            return apply(&mut self.attr, set, clear);
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            return apply(&mut self.recursive, set, clear);
        }
        if let Some(propagation) = propagation(option) {
            return self.propagation.push(propagation);
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" | "ridmap" => self.id_mapped = true,
            "" | "defaults" | "loud" | "async" | "nomand" | "noiversion" | "nolazytime" => {}
            _ => self.parameters.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }
}

fn apply(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = attr.set & !clear | set;
    attr.clear = attr.clear & !set | clear;
}

/// The bits to set and to clear. The access-time modes are one field: whoever sets a mode clears the field first.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, MOUNT_ATTR_RDONLY),
        "nosuid" => (MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, MOUNT_ATTR_NOSUID),
        "nodev" => (MOUNT_ATTR_NODEV, 0),
        "dev" => (0, MOUNT_ATTR_NODEV),
        "noexec" => (MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, MOUNT_ATTR_NOEXEC),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
        _ => return None,
    })
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

    fn parse(options: &str) -> Options {
        Options::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn sorts_options() {
        let o = parse("nosuid,noexec,nodev,ro,size=65536k,newinstance");
        assert_eq!(o.attr.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY);
        assert_eq!(o.parameters, [("size".into(), Some("65536k".into())), ("newinstance".into(), None)]);
        assert_eq!(o.bind, None);

        let o = parse("rbind,rro,rslave");
        assert_eq!((o.bind, o.attr.set, o.recursive.set), (Some(true), 0, MOUNT_ATTR_RDONLY));
        assert_eq!(o.propagation, [(MS_SLAVE, true)]);
        assert_eq!(parse("rbind,bind").bind, Some(true));
    }

    #[test]
    fn later_options_win() {
        let o = parse("ro,rw");
        assert_eq!((o.attr.set, o.attr.clear), (0, MOUNT_ATTR_RDONLY));
        let o = parse("rw,ro");
        assert_eq!((o.attr.set, o.attr.clear), (MOUNT_ATTR_RDONLY, 0));
        let o = parse("noatime,strictatime");
        assert_eq!(o.attr.set, MOUNT_ATTR_STRICTATIME);
        assert_eq!(o.attr.clear, MOUNT_ATTR__ATIME);
    }
}
