//! Flags of one mount: what was asked for, and what is to be changed to get it.

use crate::{
    error::{Error, Result},
    sys::MountAttr,
};
use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME, MS_DIRSYNC, MS_I_VERSION,
    MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_RDONLY,
    MS_RELATIME, MS_SILENT, MS_STRICTATIME, MS_SYNCHRONOUS,
};
use rustix::io::Errno;

/// `MS_*` bits. Unlike with `MOUNT_ATTR_*`, relatime is a bit of its own, whose absence says that nothing was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Asked for.
    pub(crate) set: u64,
    /// Asked not to be.
    pub(crate) cleared: u64,
}

const ATIME: u64 = MS_NOATIME | MS_RELATIME | MS_STRICTATIME | MS_NODIRATIME;
/// What the kernel locks, besides access times, in mounts that come from a more privileged mount namespace.
const LOCKED: u64 = MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID;
const PLAIN: [(u64, u64); 5] = [
    (MS_RDONLY, MOUNT_ATTR_RDONLY),
    (MS_NOSUID, MOUNT_ATTR_NOSUID),
    (MS_NODEV, MOUNT_ATTR_NODEV),
    (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
];

impl Flags {
    /// Takes the words for one bit; later words win.
    pub(crate) fn add(&mut self, bit: u64, set: bool) {
        if set {
            self.set |= bit;
            self.cleared &= !bit;
        } else {
            self.set &= !bit;
            self.cleared |= bit;
        }
    }

    /// Whether `bit` is asked for.
    pub(crate) fn has(self, bit: u64) -> bool {
        self.set & bit != 0
    }

    /// The attributes of a new file system's mount.
    pub(crate) fn fresh(self) -> u64 {
        plain(self.set) | atime(self.set)
    }

    /// What belongs to a new file system as a whole, by the kernel's words for it.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        let words =
            [(MS_SYNCHRONOUS, "sync"), (MS_DIRSYNC, "dirsync"), (MS_LAZYTIME, "lazytime"), (MS_MANDLOCK, "mand")];
        words.into_iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, word)| word)
    }

    /// What the words themselves say, and nothing else.
    pub(crate) fn listed(self) -> MountAttr {
        let mut attr = MountAttr { set: plain(self.set), clear: plain(self.cleared), ..MountAttr::default() };
        if self.has(ATIME) {
            attr.set |= atime(self.set);
            attr.clear |= MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME & !attr.set;
        }
        attr
    }

    /// What a bind mount changes of its source's flags: all, or none where none was named. Access times are kept unless one of
    /// their flags is asked for. This is what runc 1.2 and later do; mount(8) means the same and does less.
    pub(crate) fn bind(self) -> MountAttr {
        if self.set | self.cleared == 0 {
            return MountAttr::default();
        }
        let listed = self.listed();
        let rest = PLAIN.iter().fold(0, |all, (_, attr)| all | attr) & !listed.set;
        MountAttr { clear: listed.clear | rest, ..listed }
    }

    /// The same in a user namespace, where the flags of `source` (`MS_*`) that are locked stay.
    ///
    /// # Errors
    /// One of them is asked not to be.
    pub(crate) fn bind_locked(self, source: u64) -> Result<MountAttr> {
        let attr = self.bind();
        let source = if source & (MS_NOATIME | MS_RELATIME) == 0 { source | MS_STRICTATIME } else { source };
        let lost = source & !self.set & LOCKED;
        let asked = self.set & ATIME;
        let same_atime = atime(asked) == atime(source);
        if attr == MountAttr::default() || (lost == 0 && (asked == 0 || same_atime)) {
            return Ok(attr);
        }
        let refused = |what: &str, flags: u64| {
            Error::from(Errno::PERM)
                .at(format!("failed to set user-requested vfs flags on bind-mount: cannot {what} {}", names(flags)))
        };
        let unclearable = source & self.cleared & (LOCKED | ATIME);
        if unclearable != 0 {
            return Err(refused("clear locked flags", unclearable));
        }
        if asked != 0 && asked != source & ATIME {
            return Err(refused("change locked atime flags", source & ATIME));
        }
        let kept = plain(source & LOCKED);
        let set = (attr.set | kept) & !(MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME);
        Ok(MountAttr { set, clear: MOUNT_ATTR_NOSYMFOLLOW & !set, ..attr })
    }
}

fn plain(flags: u64) -> u64 {
    PLAIN.iter().filter(|(bit, _)| flags & bit != 0).fold(0, |all, (_, attr)| all | attr)
}

/// As mount(2) reads its flags: strictatime wins, and without any it is relatime, which is 0.
fn atime(flags: u64) -> u64 {
    let mode = match flags {
        _ if flags & MS_STRICTATIME != 0 => MOUNT_ATTR_STRICTATIME,
        _ if flags & MS_NOATIME != 0 => MOUNT_ATTR_NOATIME,
        _ => 0,
    };
    mode | if flags & MS_NODIRATIME != 0 { MOUNT_ATTR_NODIRATIME } else { 0 }
}

fn names(flags: u64) -> String {
    let known = [
        (MS_RDONLY, "MS_RDONLY"),
        (MS_NOSUID, "MS_NOSUID"),
        (MS_NODEV, "MS_NODEV"),
        (MS_NOEXEC, "MS_NOEXEC"),
        (MS_NOATIME, "MS_NOATIME"),
        (MS_NODIRATIME, "MS_NODIRATIME"),
        (MS_RELATIME, "MS_RELATIME"),
        (MS_STRICTATIME, "MS_STRICTATIME"),
    ];
    known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

/// The bit of a word, and whether the word sets it.
pub(super) fn of(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "ro" => (MS_RDONLY, true),
        "rw" => (MS_RDONLY, false),
        "nosuid" => (MS_NOSUID, true),
        "suid" => (MS_NOSUID, false),
        "nodev" => (MS_NODEV, true),
        "dev" => (MS_NODEV, false),
        "noexec" => (MS_NOEXEC, true),
        "exec" => (MS_NOEXEC, false),
        "nosymfollow" => (MS_NOSYMFOLLOW, true),
        "symfollow" => (MS_NOSYMFOLLOW, false),
        "noatime" => (MS_NOATIME, true),
        "atime" => (MS_NOATIME, false),
        "nodiratime" => (MS_NODIRATIME, true),
        "diratime" => (MS_NODIRATIME, false),
        "relatime" => (MS_RELATIME, true),
        "norelatime" => (MS_RELATIME, false),
        "strictatime" => (MS_STRICTATIME, true),
        "nostrictatime" => (MS_STRICTATIME, false),
        "sync" => (MS_SYNCHRONOUS, true),
        "async" => (MS_SYNCHRONOUS, false),
        "dirsync" => (MS_DIRSYNC, true),
        "lazytime" => (MS_LAZYTIME, true),
        "nolazytime" => (MS_LAZYTIME, false),
        "mand" => (MS_MANDLOCK, true),
        "nomand" => (MS_MANDLOCK, false),
        "iversion" => (MS_I_VERSION, true),
        "noiversion" => (MS_I_VERSION, false),
        "silent" => (MS_SILENT, true),
        "loud" => (MS_SILENT, false),
        _ => return None,
    })
}

/// The attributes to set and to clear for a mount and all below it. The access-time modes are one field: whoever sets a mode
/// clears the field first.
pub(super) fn recursive(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "rro" => (MOUNT_ATTR_RDONLY, 0),
        "rrw" => (0, MOUNT_ATTR_RDONLY),
        "rnosuid" => (MOUNT_ATTR_NOSUID, 0),
        "rsuid" => (0, MOUNT_ATTR_NOSUID),
        "rnodev" => (MOUNT_ATTR_NODEV, 0),
        "rdev" => (0, MOUNT_ATTR_NODEV),
        "rnoexec" => (MOUNT_ATTR_NOEXEC, 0),
        "rexec" => (0, MOUNT_ATTR_NOEXEC),
        "rnosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "rsymfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        "rnodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "rdiratime" => (0, MOUNT_ATTR_NODIRATIME),
        "rnoatime" => (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
        "rstrictatime" => (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
        // relatime is 0, and what is left when another mode is cleared.
        "ratime" | "rrelatime" | "rnorelatime" | "rnostrictatime" => (0, MOUNT_ATTR__ATIME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &str) -> Flags {
        let mut flags = Flags::default();
        for (bit, set) in words.split(',').filter_map(of) {
            flags.add(bit, set);
        }
        flags
    }

    const ALL: u64 =
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
    const ATIMES: u64 = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;

    #[test]
    fn later_words_win() {
        assert_eq!(flags("ro,rw"), Flags { set: 0, cleared: MS_RDONLY });
        assert_eq!(flags("rw,ro"), Flags { set: MS_RDONLY, cleared: 0 });
    }

    #[test]
    fn a_new_mount_has_what_was_asked_for() {
        for (words, expected) in [
            ("nosuid,ro", MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY),
            ("noatime", MOUNT_ATTR_NOATIME),
            ("noatime,atime", 0),
            ("noatime,strictatime", MOUNT_ATTR_STRICTATIME),
            ("nodiratime,norelatime", MOUNT_ATTR_NODIRATIME),
        ] {
            assert_eq!(flags(words).fresh(), expected, "{words}");
        }
        assert_eq!(flags("sync,lazytime,async").words().collect::<Vec<_>>(), ["lazytime"]);
    }

    #[test]
    fn a_bind_mount_keeps_all_flags_or_only_those_named() {
        for (words, set, clear) in [
            ("", 0, 0),
            ("ro", MOUNT_ATTR_RDONLY, ALL & !MOUNT_ATTR_RDONLY),
            ("dev", 0, ALL),
            ("norelatime", 0, ALL),
            ("atime", 0, ALL),
            ("relatime", 0, ALL | ATIMES),
            ("nodiratime", MOUNT_ATTR_NODIRATIME, ALL | MOUNT_ATTR__ATIME),
            ("strictatime", MOUNT_ATTR_STRICTATIME, ALL | ATIMES),
        ] {
            assert_eq!(flags(words).bind(), MountAttr { set, clear, ..MountAttr::default() }, "{words}");
        }
    }

    /// By source, words, and what comes of it: attributes to set, or the refusal.
    #[test]
    fn locked_flags_stay_or_the_mount_is_refused() {
        for (source, words, expected) in [
            ("ro", "nosuid", Ok(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)),
            ("ro,relatime", "nosuid,nodev", Ok(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)),
            ("ro", "rw", Err("cannot clear locked flags MS_RDONLY")),
            ("nodev,noatime", "dev,suid,exec,atime", Err("cannot clear locked flags MS_NODEV|MS_NOATIME")),
            ("nodev,nosuid,noatime", "ro,exec", Ok(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)),
            ("noatime", "atime", Ok(0)),
            ("noatime", "relatime", Err("cannot change locked atime flags MS_NOATIME")),
            ("relatime", "nodiratime", Err("cannot change locked atime flags MS_RELATIME")),
            ("", "relatime", Err("cannot change locked atime flags MS_STRICTATIME")),
            ("", "nostrictatime", Ok(0)),
            ("relatime", "relatime", Ok(0)),
            ("nodiratime,relatime", "strictatime", Err("cannot change locked atime flags MS_NODIRATIME|MS_RELATIME")),
        ] {
            match (flags(words).bind_locked(flags(source).set), expected) {
                (Ok(attr), Ok(set)) => assert_eq!(attr.set, set, "{source} {words}"),
                (Err(error), Err(text)) => {
                    assert!(error.to_string().contains(text), "{source} {words}: {error}");
                    assert!(error.to_string().ends_with("operation not permitted"), "{error}");
                }
                (got, _) => panic!("{source} {words}: {got:?}"),
            }
        }
    }
}
