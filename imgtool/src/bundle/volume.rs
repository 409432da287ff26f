//! `-v`, `--mount` and `--tmpfs`.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use super::options::{clean_absolute, parse_size};
use super::userns::mappings;
use crate::error::{Error, Result};
use crate::rights::Maps;

/// A mount that the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: Source,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

impl Volume {
    /// The name of a volume of the store.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.source {
            Source::Named(name) => Some(name),
            _ => None,
        }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or directory of the host, which is there.
    Path(PathBuf),
    /// The same, or a directory to be made: Docker's `-v` makes one, its `--mount` does not.
    MadePath(PathBuf),
    /// A volume of the store that outlives the bundle.
    Named(String),
    /// One that goes with the bundle.
    New,
    Tmpfs,
}

/// A bind mount, with its source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
    /// The user namespace whose owners the files have in the container.
    pub(crate) ids: Option<Maps>,
}

impl Bind {
    pub(super) fn entry(&self) -> Value {
        let mut entry =
            json!({"destination": self.target, "type": "bind", "source": self.source, "options": self.options});
        if let Some(maps) = &self.ids {
            entry["uidMappings"] = mappings(&maps.uids);
            entry["gidMappings"] = mappings(&maps.gids);
        }
        entry
    }
}

impl FromStr for Volume {
    type Err = Error;

    /// `[SOURCE:]TARGET[:OPTIONS]`
    fn from_str(text: &str) -> Result<Self> {
        let form = "want [/HOST/PATH:|./PATH:|NAME:]/CONTAINER/PATH[:ro,...]";
        let bad = |why: &str| Error::malformed(format!("{text:?}: {why} ({form})"));
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => ("", *target, ""),
            [source, target] => (*source, *target, ""),
            [source, target, options] => (*source, *target, *options),
            _ => return Err(bad("too many colons")),
        };
        let source = match source {
            "" if parts.len() == 1 => Source::New,
            path if path.starts_with('/') => Source::MadePath(PathBuf::from(path)),
            path if matches!(path, "." | "..") || path.starts_with("./") || path.starts_with("../") => {
                Source::MadePath(std::path::absolute(path)?)
            }
            name if is_name(name) => Source::Named(name.to_owned()),
            _ => return Err(bad("the source is neither a path that begins with / or . nor a volume's name")),
        };
        let target = target_of(target).map_err(|e| bad(&e))?;
        let options = bind_options(options.split(',')).map_err(|e| bad(&e))?;
        Ok(Self { source, target, options })
    }
}

/// Whether a volume can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn target_of(text: &str) -> std::result::Result<String, String> {
    match clean_absolute(text) {
        None => Err("the target is no absolute path".to_owned()),
        Some(path) if path == "/" => Err("the target is the root directory".to_owned()),
        Some(path) => Ok(path),
    }
}

fn bind_options<'a>(all: impl Iterator<Item = &'a str>) -> std::result::Result<Vec<String>, String> {
    let (mut list, mut propagation) = (vec!["rbind".to_owned()], "rprivate");
    for option in all {
        match option {
            "ro" | "rw" | "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec" => list.push(option.to_owned()),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => propagation = option,
            "bind" => "bind".clone_into(&mut list[0]),
            // Docker relabels for SELinux by z and Z, which means nothing without it; and what rbind already is.
            "" | "z" | "Z" | "rbind" => {}
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    list.push(propagation.to_owned());
    Ok(list)
}

/// `--tmpfs PATH[:OPTIONS]`
pub(crate) fn parse_tmpfs(text: &str) -> Result<Volume> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_of(target).map_err(|e| Error::malformed(format!("{text:?}: {e}")))?;
    tmpfs(text, target, options.split(',').filter(|option| !option.is_empty()))
}

fn tmpfs<'a>(text: &str, target: String, asked: impl Iterator<Item = &'a str>) -> Result<Volume> {
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
    for option in asked {
        let key = option.split('=').next().unwrap_or_default();
        match key {
            "ro" | "rw" | "nosuid" | "nodev" | "noexec" | "noatime" | "relatime" => options.push(option.to_owned()),
            "suid" | "dev" | "exec" => options.retain(|have| *have != format!("no{key}")),
            "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" if option.len() > key.len() + 1 => {
                options.push(option.to_owned());
            }
            _ => return Err(Error::malformed(format!("{text:?}: unknown option {option:?} of a tmpfs"))),
        }
    }
    options.dedup();
    Ok(Volume { source: Source::Tmpfs, target, options })
}

/// `--mount type=TYPE,...`
pub(crate) fn parse_mount(text: &str) -> Result<Volume> {
    let bad = |why: String| Error::malformed(format!("{text:?}: {why}"));
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut options, mut tmpfs_options): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key, value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "destination" | "dst", Some(value)) => target = Some(value),
            ("readonly" | "ro", None | Some("true" | "1")) => options.push("ro"),
            ("readonly" | "ro", Some("false" | "0")) => {}
            ("bind-propagation", Some(value)) => options.push(value),
            ("bind-recursive", Some("disabled")) | ("bind-nonrecursive", None | Some("true")) => options.push("bind"),
            ("tmpfs-size", Some(value)) => tmpfs_options.push(format!("size={}", parse_size(value)?)),
            ("tmpfs-mode", Some(value)) if value.is_empty() || !value.bytes().all(|b| (b'0'..=b'7').contains(&b)) => {
                return Err(bad(format!("mode {value:?}: want an octal number")));
            }
            ("tmpfs-mode", Some(value)) => tmpfs_options.push(format!("mode={value}")),
            _ => return Err(bad(format!("unknown field {field:?}"))),
        }
    }
    let target = target.ok_or_else(|| bad("lacks target=".to_owned()))?;
    let target = target_of(target).map_err(&bad)?;
    let source = match (kind, source) {
        ("tmpfs", None) => {
            let all = tmpfs_options.iter().map(String::as_str).chain(options);
            return tmpfs(text, target, all);
        }
        ("bind", Some(path)) if path.starts_with('/') => Source::Path(PathBuf::from(path)),
        ("bind", _) => return Err(bad("a bind mount wants source=/HOST/PATH".to_owned())),
        ("volume", None | Some("")) => Source::New,
        ("volume", Some(name)) if is_name(name) => Source::Named(name.to_owned()),
        ("volume", Some(name)) => return Err(bad(format!("{name:?} is no name of a volume"))),
        ("tmpfs", Some(_)) => return Err(bad("a tmpfs has no source".to_owned())),
        (kind, _) => return Err(bad(format!("type {kind:?} is none of bind, volume, tmpfs"))),
    };
    let options = bind_options(options.into_iter()).map_err(bad)?;
    Ok(Volume { source, target, options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read_as_docker_reads_them() {
        let volume: Volume = "/data:/srv/../mnt/x/:ro".parse().unwrap();
        assert_eq!((volume.source, volume.target.as_str()), (Source::MadePath("/data".into()), "/mnt/x"));
        assert_eq!(volume.options, ["rbind", "ro", "rprivate"]);
        assert_eq!("/a:/b:rw,rshared".parse::<Volume>().unwrap().options, ["rbind", "rw", "rshared"]);
        assert_eq!("name:/b".parse::<Volume>().unwrap().source, Source::Named("name".into()));
        let here = std::env::current_dir().unwrap();
        for (relative, want) in [("./a/.", here.join("a")), (".", here.clone()), ("../a", here.join("../a"))] {
            assert_eq!(
                format!("{relative}:/b").parse::<Volume>().unwrap().source,
                Source::MadePath(want),
                "{relative}"
            );
        }
        assert_eq!("/b".parse::<Volume>().unwrap().source, Source::New);
        for bad in ["", "a", ".a:/b", "/a:b", "/a:/", "/a:/..", "/a:/b:xx", "/a:/b:ro:x", ":/b", "a/b:/c"] {
            assert!(bad.parse::<Volume>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_and_tmpfs_have_fields() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave").unwrap();
        assert_eq!(mount.options, ["rbind", "ro", "rslave"]);
        assert_eq!(parse_mount("source=v,target=/b").unwrap().source, Source::Named("v".into()));
        let tmpfs = parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777").unwrap();
        assert_eq!(tmpfs.options, ["nosuid", "nodev", "noexec", "size=1048576", "mode=1777"]);
        assert_eq!(parse_tmpfs("/run:exec,size=64m").unwrap().options, ["nosuid", "nodev", "size=64m"]);
        for bad in [
            "type=bind,dst=/b",
            "type=nfs,dst=/b",
            "dst=b",
            "src=a/b,dst=/c",
            "type=tmpfs,src=a,dst=/b",
            "x=y",
            "type=tmpfs,dst=/b,tmpfs-mode=x",
        ] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
        for bad in ["run", "/", "/run:size", "/run:lowerdir=/etc"] {
            assert!(parse_tmpfs(bad).is_err(), "{bad}");
        }
    }
}
