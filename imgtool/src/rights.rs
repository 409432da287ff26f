//! What this process may do to files: everything, as root of the machine, or what a user namespace allows.
//!
//! An ordinary user unpacks in a user namespace of the process's own, in which the user is root:
//!
//! ```text
//! imgtool                               imgtool ids PID (started before, still outside)
//! unshare(user, mount)
//! closes its pipe              ----->   newuidmap PID 0 UID 1  1 START COUNT ...
//!                                       newgidmap PID 0 GID 1  1 START COUNT ...
//! reads what was mapped        <-----   exits
//! ```
//! With ranges in /etc/subuid and /etc/subgid files keep their owners there. Without ranges, or without those two programs, the
//! user alone is mapped, and all files of images belong to the user.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sched::CloneFlags;
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Step};
use crate::layer::{OverlayForm, Powers};

/// The programs that give a user the ranges of the files beside them.
const HELPERS: [(&str, &str); 2] = [("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")];

/// Ids of a namespace and what they are outside, as a line of /proc/PID/uid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) count: u32,
}

/// The ids of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Maps {
    pub(crate) uids: Vec<Range>,
    pub(crate) gids: Vec<Range>,
}

impl Maps {
    fn of_this_process() -> Result<Self> {
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// Whether these are all ids of a machine.
    fn is_whole(&self) -> bool {
        let whole = [Range { inside: 0, outside: 0, count: u32::MAX }];
        self.uids == whole && self.gids == whole
    }

    /// Whether there is one user and one group.
    pub(crate) fn is_single(&self) -> bool {
        [&self.uids, &self.gids].iter().all(|map| map.iter().map(|range| u64::from(range.count)).sum::<u64>() <= 1)
    }
}

/// Whether a namespace has an id of this number.
pub(crate) fn has(map: &[Range], id: u32) -> bool {
    map.iter().any(|range| id.checked_sub(range.inside).is_some_and(|offset| offset < range.count))
}

/// What an id is outside.
pub(crate) fn outside(map: &[Range], id: u32) -> Option<u32> {
    let of = |range: &Range| {
        let offset = id.checked_sub(range.inside).filter(|&offset| offset < range.count)?;
        range.outside.checked_add(offset)
    };
    map.iter().find_map(of)
}

/// The ranges that user namespaces of the machine's root's containers are taken of.
pub(crate) fn maps_of_containers() -> Result<Maps> {
    let of = |file: &str| match fs::read_to_string(file) {
        Ok(text) => Ok(ranges(&text, "containers", u32::MAX)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with(|| format!("read {file}")),
    };
    Ok(Maps { uids: of(HELPERS[0].1)?, gids: of(HELPERS[1].1)? })
}

/// A user namespace with these ids, made by the machine's root. Nobody is in it.
pub(crate) fn new_namespace(maps: &Maps) -> Result<OwnedFd> {
    let step = "make a user namespace";
    let program = std::env::current_exe().at("the path of imgtool")?;
    let mut child = Command::new(program)
        .arg("ids")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .at(step)?;
    let mut use_it = || -> Result<OwnedFd> {
        let said = child.stdout.as_mut().map(|out| out.read_exact(&mut [0]));
        if !matches!(said, Some(Ok(()))) {
            let mut why = String::new();
            child.stderr.as_mut().map(|err| err.read_to_string(&mut why)).transpose()?;
            return Err(Error::other(why.trim().to_owned()));
        }
        let at = |file: &str| format!("/proc/{}/{file}", child.id());
        for (file, map) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
            let line = |r: &Range| format!("{} {} {}\n", r.inside, r.outside, r.count);
            // In one write.
            fs::write(at(file), map.iter().map(line).collect::<String>()).at(file)?;
        }
        Ok(fs::File::open(at("ns/user"))?.into())
    };
    let namespace = use_it();
    // The end of its input is its end.
    drop(child.stdin.take());
    child.wait()?;
    namespace.at(step)
}

/// What `imgtool ids` does for [`new_namespace`]: the namespace is there while this process is.
pub(crate) fn be_namespace() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(std::io::Error::from)?;
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What this process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    powers: Powers,
    /// Those of the namespace that was made for this process.
    own: Option<Arc<Maps>>,
}

impl Rights {
    /// Those of the machine's root.
    pub(crate) const ROOT: Self = Self { powers: Powers::ROOT, own: None };

    /// What the unpacker may do.
    pub(crate) fn powers(&self) -> Powers {
        self.powers
    }

    /// The namespace that this process made for itself. Nothing that is mounted in it outlives the process.
    pub(crate) fn own_namespace(&self) -> Option<&Maps> {
        self.own.as_deref()
    }

    /// What people should know who unpack with these rights.
    pub(crate) fn note(&self) -> Option<&'static str> {
        let note = "files of images belong to you, whoever owns them there: you have no ranges of ids (newuidmap, /etc/subuid, /etc/subgid)";
        (!self.powers.owners).then_some(note)
    }

    /// Becomes as mighty as may be: an ordinary user gets a user namespace. To be called before there is a second thread.
    pub(crate) fn take() -> Result<Self> {
        let made = !geteuid().is_root();
        if made {
            make_namespace().at("make a user namespace")?;
        }
        let maps = Maps::of_this_process()?;
        if !made && maps.is_whole() {
            return Ok(Self::ROOT);
        }
        let powers = Powers { overlay: OverlayForm::User, owners: !maps.is_single(), devices: false };
        Ok(Self { powers, own: made.then(|| Arc::new(maps)) })
    }
}

/// The ids of the user namespace that this process is in, whoever made it; none for the machine's root.
pub(crate) fn user_namespace() -> Result<Option<Maps>> {
    Ok(Some(Maps::of_this_process()?).filter(|maps| !maps.is_whole()))
}

/// The user outside of the namespace that this process may have made.
pub(crate) fn outer_uid() -> u32 {
    let root = |map: Vec<Range>| map.into_iter().find(|range| range.inside == 0).map(|range| range.outside);
    let uid = geteuid();
    if uid.is_root() { read("/proc/self/uid_map").ok().and_then(root).unwrap_or(0) } else { uid.as_raw() }
}

fn make_namespace() -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let helper = if maps(uid, gid)?.is_some() { Some(start_helper()?) } else { None };
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|errno| {
        let text = errno.desc();
        Error::other(format!(
            "{text} (must be root, or the kernel let users make namespaces: user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        ))
    })?;
    let Some(mut helper) = helper else {
        fs::write("/proc/self/setgroups", "deny").at("write /proc/self/setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).at("write /proc/self/uid_map")?;
        return fs::write("/proc/self/gid_map", format!("0 {gid} 1")).at("write /proc/self/gid_map");
    };
    drop(helper.stdin.take());
    let out = helper.wait_with_output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
}

fn start_helper() -> Result<std::process::Child> {
    let program = std::env::current_exe().at("the path of imgtool")?;
    let mut command = Command::new(program);
    command.arg("ids").arg(std::process::id().to_string());
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

/// What `imgtool ids PID` does: waits until its parent has made its namespace, and maps ids into it.
pub(crate) fn map_ids_of(pid: u32) -> Result<()> {
    let maps = maps(geteuid().as_raw(), getegid().as_raw())?.ok_or_else(|| Error::other("no ranges of ids"))?;
    // The end of the pipe is the parent's word that it is ready.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get().cast_unsigned() != pid) {
        return Err(Error::other("called by imgtool itself only"));
    }
    for ((program, file), map) in HELPERS.iter().zip([&maps.uids, &maps.gids]) {
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for Range { inside, outside, count } in map {
            command.args([inside, outside, count].map(u32::to_string));
        }
        let out = command.stdin(Stdio::null()).output().at(program)?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            return Err(Error::other(format!("{said} (its ranges are those of {file})"))).at(program);
        }
    }
    Ok(())
}

/// The maps that the helpers may make for a user; `None` where they are not there, or the user has no ranges of both kinds.
fn maps(uid: u32, gid: u32) -> Result<Option<Maps>> {
    if !HELPERS.iter().all(|(program, _)| is_on_path(program)) {
        return Ok(None);
    }
    let name = name_of(uid);
    let [uids, gids] = HELPERS.map(|(_, file)| -> Result<Vec<Range>> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(ranges(&text, &name, uid)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).with(|| format!("read {file}")),
        }
    });
    let (mut uids, mut gids) = (uids?, gids?);
    if uids.is_empty() || gids.is_empty() {
        return Ok(None);
    }
    uids.insert(0, Range { inside: 0, outside: uid, count: 1 });
    gids.insert(0, Range { inside: 0, outside: gid, count: 1 });
    Ok(Some(Maps { uids, gids }))
}

/// The ranges of a user in /etc/subuid or /etc/subgid (subuid(5)), one after the other from 1 on.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<Range> {
    let mut all = Vec::new();
    let mut inside: u32 = 1;
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = fields.as_slice() else { continue };
        if (*owner != name || name.is_empty()) && *owner != uid.to_string() {
            continue;
        }
        let (Ok(outside), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else { continue };
        let Some(next) = inside.checked_add(count).filter(|_| count > 0 && outside.checked_add(count).is_some()) else {
            continue;
        };
        all.push(Range { inside, outside, count });
        inside = next;
    }
    all
}

/// The login name by /etc/passwd; empty if it has none.
fn name_of(uid: u32) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is_it = |line: &&str| line.split(':').nth(2) == Some(uid.to_string().as_str());
    text.lines().find(is_it).and_then(|line| line.split(':').next()).unwrap_or_default().to_owned()
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

fn read(path: &str) -> Result<Vec<Range>> {
    let text = fs::read_to_string(path).with(|| format!("read {path}"))?;
    let line = |line: &str| -> Option<Range> {
        let numbers: Vec<u32> = line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let [inside, outside, count] = *numbers.as_slice() else { return None };
        Some(Range { inside, outside, count })
    };
    text.lines()
        .map(line)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::malformed(format!("{path}: not of the known form")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_user_by_name_or_number() {
        let text = "other:1000:5\nme:100000:65536\n\n1007:300000:10\nme:x:1\nme:5:0\nme:4294967295:2\nme:7\n";
        let range = |inside, outside, count| Range { inside, outside, count };
        assert_eq!(ranges(text, "me", 1007), [range(1, 100_000, 65536), range(65537, 300_000, 10)]);
        assert_eq!(ranges(text, "", 1007), [range(1, 300_000, 10)]);
        assert_eq!(ranges(text, "", 1000), []);
        let map = ranges(text, "me", 1007);
        assert!(has(&map, 1) && has(&map, 65546) && !has(&map, 0) && !has(&map, 65547));
    }

    #[test]
    fn whole_and_single_maps_are_told_apart() {
        let of = |inside, outside, count| {
            let map = vec![Range { inside, outside, count }];
            Maps { uids: map.clone(), gids: map }
        };
        assert!(of(0, 0, u32::MAX).is_whole() && !of(0, 1000, 1).is_whole());
        assert!(of(0, 1000, 1).is_single() && !of(0, 1000, 2).is_single());
    }
}
