//! Names: `slice:prefix:name` makes a scope, and the scope's slice makes its place.

use crate::error::{Error, Result};
use std::path::PathBuf;

const FIELD: &str = "linux.cgroupsPath";
/// `UNIT_NAME_MAX` of systemd.
const MAX: usize = 255;

/// The scope and its slice. Without a path the scope bears the container's id, and the slice is the manager's usual one.
pub(super) fn parse(cgroups_path: &str, id: &str, user: bool) -> Result<(String, String)> {
    let (slice, prefix, name) = if cgroups_path.is_empty() {
        ("", "tare", id)
    } else {
        let mut parts = cgroups_path.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
            _ => {
                return Err(Error::invalid(
                    FIELD,
                    format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \
                         {cgroups_path:?} instead"
                    ),
                ));
            }
        }
    };
    let slice = match slice {
        "" if user => "user.slice",
        "" => "system.slice",
        slice => slice,
    };
    if name.is_empty() {
        return Err(Error::invalid(FIELD, format!("{cgroups_path:?} has no name for the scope")));
    }
    let scope = format!("{prefix}-{name}.scope");
    // Part of paths, too: a slash or a dot of its own would leave the slice.
    let allowed = |it: char| it.is_ascii_alphanumeric() || ":-_.\\@".contains(it);
    if scope.len() > MAX || !scope.chars().all(allowed) {
        return Err(Error::invalid(
            FIELD,
            format!("{scope:?} is no name of a unit: use at most {MAX} letters, digits and :-_.\\@"),
        ));
    }
    if name.strip_suffix(".slice").is_some() {
        return Err(Error::invalid(FIELD, format!("{name:?} is a slice: a container is a scope in a slice")));
    }
    expand(slice)?;
    Ok((slice.to_owned(), scope))
}

/// Where a slice is beneath the manager's root: `a-b.slice` is `a.slice/a-b.slice`.
pub(super) fn expand(slice: &str) -> Result<PathBuf> {
    let invalid = || Error::invalid(FIELD, format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let allowed = |it: char| it.is_ascii_alphanumeric() || ":_.\\@".contains(it);
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || !part.chars().all(allowed) {
            return Err(invalid());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn three_parts_are_a_scope_in_a_slice() {
        for (path, user, expected) in [
            ("", false, ("system.slice", "tare-web.scope")),
            ("", true, ("user.slice", "tare-web.scope")),
            ("system.slice:docker:1234", false, ("system.slice", "docker-1234.scope")),
            (":libpod:x", true, ("user.slice", "libpod-x.scope")),
            ("kubepods-pod1.slice:cri-containerd:a", false, ("kubepods-pod1.slice", "cri-containerd-a.scope")),
            ("a.slice::name", false, ("a.slice", "-name.scope")),
            ("-.slice:p:n", false, ("-.slice", "p-n.scope")),
        ] {
            let (slice, scope) = parse(path, "web", user).unwrap();
            assert_eq!((&*slice, &*scope), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for (path, word) in [
            ("/sys/fs", "expected cgroupsPath to be of format \"slice:prefix:name\""),
            ("a:b", "slice:prefix:name"),
            ("a.slice:b:c:d", "slice:prefix:name"),
            ("a.slice:b:", "no name"),
            ("a.slice:b:../x", "no name of a unit"),
            ("a.slice:b/:x", "no name of a unit"),
            ("a.slice:b:x y", "no name of a unit"),
            ("a.slice:b:x.slice", "is a slice"),
            ("a:b:c", "invalid slice name: a"),
            ("../a.slice:b:c", "invalid slice name"),
            (".slice:b:c", "invalid slice name"),
            ("a--b.slice:b:c", "invalid slice name"),
            ("-a.slice:b:c", "invalid slice name"),
        ] {
            let error = parse(path, "web", false).unwrap_err().to_string();
            assert!(error.starts_with(FIELD) && error.contains(word), "{path}: {error}");
        }
        assert!(parse(&format!("a.slice:b:{}", "x".repeat(250)), "web", false).is_err());
    }

    #[test]
    fn slices_nest_by_their_names() {
        for (slice, path) in
            [("system.slice", "system.slice"), ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"), ("-.slice", "")]
        {
            assert_eq!(expand(slice).unwrap(), Path::new(path));
        }
    }
}
