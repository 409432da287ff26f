//! New file systems, made attached nowhere.

use super::flags::Flags;
use crate::error::{At, Error, Result};
use libc::MS_RDONLY;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags, XattrFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen,
    },
};

/// `linux.mountLabel`.
pub(crate) type Label<'a> = Option<&'a str>;

/// What is to be made.
pub(super) struct Wanted<'a> {
    pub(super) kind: &'a str,
    pub(super) source: &'a str,
    pub(super) parameters: &'a [(String, Option<String>)],
    pub(super) flags: Flags,
    /// Of a tmpfs's root, unless a parameter says otherwise.
    pub(super) mode: Option<u32>,
    pub(super) label: Label<'a>,
}

/// fsconfig(2) takes this many bytes a value.
const MAX_VALUE: usize = 255;

/// The kernel's own file systems, of which there is one each, whoever mounts it: read-only is then the mount's matter alone.
const KERNELS: [&str; 5] = ["proc", "sysfs", "mqueue", "devpts", "tmpfs"];

/// A new file system, attached nowhere.
pub(super) fn mount(wanted: &Wanted<'_>) -> Result<OwnedFd> {
    let kind = wanted.kind;
    let context = match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => {
            return Err(Error::other(format!("type {kind:?}: this kernel has no such file system")));
        }
        context => context.at_with(|| format!("fsopen {kind}"))?,
    };
    let source = if wanted.source.is_empty() { kind } else { wanted.source };
    checked(&context, fsconfig_set_string(&context, "source", source), || format!("source {source}"))?;
    if let Some(mode) = wanted.mode {
        let mode = format!("{mode:04o}");
        checked(&context, fsconfig_set_string(&context, "mode", &*mode), || format!("option mode={mode}"))?;
    }
    // What a value refers to by its descriptor has to be open until the file system is made.
    let mut open = Vec::new();
    for (key, value) in wanted.parameters {
        match value {
            Some(value) => configure(&context, key, value, &mut open)?,
            None => checked(&context, fsconfig_set_flag(&context, &**key), || format!("option {key}"))?,
        }
    }
    let read_only = (wanted.flags.has(MS_RDONLY) && !KERNELS.contains(&kind)).then_some("ro");
    for word in wanted.flags.words().chain(read_only) {
        checked(&context, fsconfig_set_flag(&context, word), || format!("option {word}"))?;
    }
    // The labels of these are the policy's.
    if let Some(label) = wanted.label.filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue")) {
        checked(&context, fsconfig_set_string(&context, "context", label), || format!("option context={label}"))?;
    }
    checked(&context, fsconfig_create(&context), || format!("make the {kind}"))?;
    let attr = MountAttrFlags::from_bits_retain(wanted.flags.fresh() as u32);
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).at_with(|| format!("mount the {kind}"))?;
    if let (Some(label), "mqueue") = (wanted.label, kind) {
        // mqueue knows no such option.
        let root = rustix::fs::openat(&mount, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open")?;
        rustix::fs::fsetxattr(&root, c"security.selinux", label.as_bytes(), XattrFlags::empty())
            .at_with(|| format!("linux.mountLabel {label:?}"))?;
    }
    Ok(mount)
}

/// Permissions of what a tmpfs is going to cover.
pub(super) fn mode_of(place: &OwnedFd) -> Result<u32> {
    Ok(rustix::fs::fstat(place).at("stat")?.st_mode & 0o7777)
}

fn configure(context: &OwnedFd, key: &str, value: &str, open: &mut Vec<OwnedFd>) -> Result<()> {
    let string = |key: &str, value: &str| {
        checked(context, fsconfig_set_string(context, key, value), || format!("option {key}={value}"))
    };
    if value.len() <= MAX_VALUE {
        return string(key, value);
    }
    match key {
        "upperdir" | "workdir" => string(key, &short(value, open)?),
        // Data-only layers, after a double colon, cannot be told from the others by one.
        "lowerdir" if !value.contains("::") => {
            let layers = value.split(':').map(|layer| short(layer, open)).collect::<Result<Vec<_>>>()?;
            let all = layers.join(":");
            if all.len() <= MAX_VALUE {
                return string(key, &all);
            }
            layers.iter().try_for_each(|layer| string("lowerdir+", layer))
        }
        _ => string(key, value),
    }
}

/// A name of at most some twenty bytes for a directory: by a descriptor of it.
fn short(path: &str, open: &mut Vec<OwnedFd>) -> Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).at_with(|| format!("open {path}"))?;
    let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
    open.push(dir);
    Ok(name)
}

/// What the kernel says of a refusal is more than its number.
fn checked(context: &OwnedFd, result: rustix::io::Result<()>, step: impl Fn() -> String) -> Result<()> {
    result.map_err(|errno| Error::from(errno).at(format!("{}{}", step(), kernel_log(context))))
}

/// What the kernel says of the last failure on a file-system context, in brackets.
fn kernel_log(context: &OwnedFd) -> String {
    let mut line = [0; 256];
    match rustix::io::read(context, &mut line) {
        // `e ` for an error, then the text.
        Ok(n) if n > 2 => format!(" ({})", String::from_utf8_lossy(&line[2..n]).trim_end()),
        _ => String::new(),
    }
}
