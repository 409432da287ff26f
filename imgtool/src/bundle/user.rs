//! Who the process runs as: `USER[:GROUP]` of the image or of `--user`, by the image's own /etc/passwd and /etc/group.

use super::rootfs::RootFs;
use crate::error::{Error, Result, Step};

/// A user database is read up to this size.
const DATABASE_MAX: u64 = 8 << 20;
/// Greatest ID that is accepted. Greater ones overflow in programs that take IDs for signed numbers: an image with
/// `USER 4294967296` ran as root (CVE-2024-40635).
const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// Numbers for `process.user`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, without the primary one.
    pub(super) groups: Vec<u32>,
}

/// Looks `text` up in the image.
pub(super) fn resolve(root: &RootFs, text: &str) -> Result<Identity> {
    let read = |path: &str| -> Result<String> { Ok(root.read(path, DATABASE_MAX)?.unwrap_or_default()) };
    lookup(text, &read("etc/passwd")?, &read("etc/group")?).with(|| format!("user {text:?}"))
}

/// Adds the groups of `--group-add`.
pub(super) fn add_groups(root: &RootFs, identity: &mut Identity, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let text = root.read("etc/group", DATABASE_MAX)?.unwrap_or_default();
    let groups: Vec<Vec<&str>> = entries(&text, 3);
    for name in names {
        let step = || format!("--group-add {name:?}");
        let gid = match groups.iter().find(|line| line[0] == name) {
            Some(line) => id(line[2], "gid").with(step)?,
            None => number(name)
                .with(step)?
                .ok_or_else(|| Error::missing(format!("--group-add: no group {name:?} in the image's /etc/group")))?,
        };
        if gid != identity.gid && !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(())
}

fn lookup(text: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    if text.contains('\0') || wanted_group.is_some_and(|g| g.contains(':')) {
        return Err(Error::malformed("want USER[:GROUP]"));
    }
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    // A name counts before a number: there may be a user whose name is all digits.
    let by_name = |line: &&[&str]| line[0] == user;
    let lines: Vec<Vec<&str>> = entries(passwd, 4);
    let lines: Vec<&[&str]> = lines.iter().map(Vec::as_slice).collect();
    let entry = lines
        .iter()
        .find(|line| by_name(line))
        .or_else(|| lines.iter().find(|line| number.is_some() && line[2].parse().ok() == number));
    let mut identity = match (entry, number) {
        (Some(line), _) => Identity { uid: id(line[2], "uid")?, gid: id(line[3], "gid")?, groups: Vec::new() },
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => return Err(Error::missing("no such user in the image's /etc/passwd")),
    };
    let groups: Vec<Vec<&str>> = entries(group, 3);
    match wanted_group {
        Some(wanted) => {
            let found = groups.iter().find(|line| line[0] == wanted);
            identity.gid = match (found, self::number(wanted)?) {
                (Some(line), _) => id(line[2], "gid")?,
                (None, Some(gid)) => gid,
                (None, None) => {
                    return Err(Error::missing(format!("no group {wanted:?} in the image's /etc/group")));
                }
            };
        }
        None => {
            if let Some(name) = entry.map(|line| line[0]) {
                let member =
                    |line: &&Vec<&str>| line.get(3).is_some_and(|list| list.split(',').any(|m| m.trim() == name));
                for line in groups.iter().filter(member) {
                    let gid = id(line[2], "gid")?;
                    if gid != identity.gid && !identity.groups.contains(&gid) {
                        identity.groups.push(gid);
                    }
                }
            }
        }
    }
    Ok(identity)
}

/// The lines of a database that have at least `fields` fields and a name.
fn entries(text: &str, fields: usize) -> Vec<Vec<&str>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|line| line.len() >= fields && !line[0].is_empty())
        .collect()
}

/// A number, or `None` for what is a name. A number that is too great is an error, never a name.
fn number(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    id(text, "ID").map(Some)
}

fn id(text: &str, what: &str) -> Result<u32> {
    let value = text.parse::<u32>().ok().filter(|&id| id <= ID_MAX && !text.starts_with('+'));
    value.ok_or_else(|| Error::malformed(format!("{what} {text}: not a number from 0 to {ID_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken\napp:x:1000:1001:App:/home/app:/bin/sh\n7:x:42:43::/:\nbad:x:-1:0::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:app\nwheel:x:10:root,app\nvideo:x:44:app, other\n9:x:99:\n";

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let Identity { uid, gid, groups } = lookup(text, PASSWD, GROUP).unwrap_or_else(|e| panic!("{text}: {e}"));
        (uid, gid, groups)
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        assert_eq!(ids(""), (0, 0, vec![10]));
        assert_eq!(ids("root"), (0, 0, vec![10]));
        assert_eq!(ids("app"), (1000, 1001, vec![10, 44]));
        assert_eq!(ids("1000"), (1000, 1001, vec![10, 44]));
        assert_eq!(ids("app:wheel"), (1000, 10, vec![]));
        assert_eq!(ids("app:5"), (1000, 5, vec![]));
        assert_eq!(ids("1234"), (1234, 0, vec![]));
        assert_eq!(ids("1234:app"), (1234, 1001, vec![]));
        assert_eq!(ids("7"), (42, 43, vec![]));
        assert_eq!(ids("app:9"), (1000, 99, vec![]));
        assert_eq!(ids(":app"), (0, 1001, vec![]));
    }

    #[test]
    fn numbers_that_overflow_never_become_root() {
        for bad in [
            "4294967296",
            "4294967295",
            "2147483648",
            "-1",
            "99999999999999999999",
            "0:4294967296",
            "+0",
            "bad",
            "a:b:c",
        ] {
            assert!(lookup(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
        assert!(lookup("nobody", PASSWD, GROUP).unwrap_err().to_string().contains("/etc/passwd"));
        assert!(lookup("app:nogroup", PASSWD, GROUP).unwrap_err().to_string().contains("/etc/group"));
        assert_eq!(lookup("0", "", "").unwrap(), Identity::default());
    }
}
