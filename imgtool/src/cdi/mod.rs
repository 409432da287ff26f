//! Devices by name: the Container Device Interface. Who administers a machine writes down, in files of `/etc/cdi` and
//! `/var/run/cdi`, what a container needs for a device that is asked for as `vendor.com/class=name`.
//!
//! Hooks and mounts of these files are done with the rights of who runs the container, so the files are as trusted as that
//! user: nobody but root and the user may be able to write them.

mod apply;
mod edits;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Deserializer, de};

pub(crate) use apply::{apply, mount_points};
use edits::Edits;

use crate::error::{Error, Kind, Result, Step};
use crate::{regular, rights};

/// Where specifications are; what stands in a later one counts before the same in an earlier.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A specification is read up to this size.
const FILE_MAX: u64 = 4 << 20;
/// The newest version of the specification that all is known of.
const NEWEST: (u64, u64) = (1, 1);
/// By BuildKit: a word that several devices may have, and devices that a build gets without being allowed to.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// A file as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "text")]
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "texts")]
    annotations: BTreeMap<String, String>,
    devices: Vec<WrittenDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenDevice {
    #[serde(deserialize_with = "text")]
    name: String,
    #[serde(default, deserialize_with = "texts")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// A text, which people write without quotes where it looks like a number.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde_json::Value;
        match Value::deserialize(from)? {
            Value::String(text) => Ok(Self(text)),
            other @ (Value::Number(_) | Value::Bool(_)) => Ok(Self(other.to_string())),
            other => Err(de::Error::custom(format!("{other}: want a text"))),
        }
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    Text::deserialize(from).map(|text| text.0)
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    let all: BTreeMap<String, Text> = BTreeMap::deserialize(from)?;
    Ok(all.into_iter().map(|(key, text)| (key, text.0)).collect())
}

/// What all devices of a file have in common.
#[derive(Debug)]
struct Common {
    path: PathBuf,
    edits: Edits,
}

/// A device that can be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// `vendor.com/class=name`.
    pub(crate) name: String,
    annotations: BTreeMap<String, String>,
    edits: Edits,
    common: Arc<Common>,
}

impl Device {
    /// Whether a build may have it without being allowed to.
    pub(crate) fn is_free(&self) -> bool {
        self.annotations
            .get(AUTO_ALLOW)
            .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
    }
}

/// All devices of the machine.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    all: BTreeMap<String, Device>,
    directories: Vec<PathBuf>,
    /// What could not be read, and why.
    faults: Vec<String>,
}

impl Devices {
    /// Reads the specifications of these directories; without any, of the usual ones.
    pub(crate) fn read(directories: &[PathBuf]) -> Result<Self> {
        let usual = directories.is_empty();
        let directories = if usual { DIRECTORIES.map(PathBuf::from).to_vec() } else { directories.to_vec() };
        let mut devices = Self { directories: directories.clone(), ..Self::default() };
        let trust = Trust::of(usual)?;
        for directory in &directories {
            match devices.directory(directory, &trust) {
                Err(e) if e.kind() == Kind::Missing && usual => {}
                Err(e) => devices.faults.push(format!("{}: {e}", directory.display())),
                Ok(()) => {}
            }
        }
        Ok(devices)
    }

    fn directory(&mut self, path: &Path, trust: &Trust) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = File::from(openat(CWD, path, flags, Mode::empty())?);
        trust.check(&directory)?;
        // Of what was opened, whatever has its name by now.
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let mut names = fs::read_dir(&own)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        let mut found: BTreeMap<String, Device> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for name in names {
            let form = Path::new(&name).extension().and_then(|form| form.to_str());
            if !matches!(form, Some("json" | "yaml" | "yml")) || name.to_string_lossy().starts_with('.') {
                continue;
            }
            let place = path.join(&name);
            let read = || -> Result<Vec<Device>> {
                let file = regular::open(&own.join(&name))?;
                trust.check(&file)?;
                parse(&regular::read_up_to(&file, FILE_MAX)?, form == Some("json"), &place)
            };
            match read() {
                Err(e) => self.faults.push(format!("{}: {e}", place.display())),
                Ok(devices) => {
                    for device in devices {
                        if let Some(other) = found.get(&device.name) {
                            let (one, two) = (other.common.path.display(), device.common.path.display());
                            self.faults.push(format!("{} is both in {one} and {two}", device.name));
                            twice.insert(device.name.clone());
                        }
                        found.insert(device.name.clone(), device);
                    }
                }
            }
        }
        // Which of two is meant nobody knows.
        found.retain(|name, _| !twice.contains(name));
        self.all.retain(|name, _| !twice.contains(name));
        self.all.extend(found);
        Ok(())
    }

    /// The devices that a name means: one by its whole name, the first or (`=*`) all of a kind, all of a class.
    pub(crate) fn find(&self, name: &str) -> Vec<&Device> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let of_kind = || self.all.values().filter(|have| have.name.split_once('=').is_some_and(|(k, _)| k == kind));
        let found: Vec<&Device> = match device {
            _ if !kind.contains('/') => Vec::new(),
            "" => of_kind().take(1).collect(),
            "*" => of_kind().collect(),
            _ => self.all.get(name).into_iter().collect(),
        };
        if !found.is_empty() {
            return found;
        }
        self.all.values().filter(|have| have.annotations.get(CLASS).is_some_and(|class| class == name)).collect()
    }

    /// The device of exactly this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Device> {
        self.all.get(name).ok_or_else(|| self.missing(name))
    }

    /// There is no such device: where it was looked for, and what could not be read there.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let places: Vec<String> = self.directories.iter().map(|path| path.display().to_string()).collect();
        let mut text = format!("device {name}: not in {}", places.join(", "));
        if !self.faults.is_empty() {
            text = format!("{text} ({})", self.faults.join("; "));
        }
        Error::missing(text)
    }
}

/// Whose files count.
struct Trust {
    own: u32,
    /// In a user namespace the machine's root is nobody.
    nobody: Option<u32>,
}

impl Trust {
    fn of(usual: bool) -> Result<Self> {
        const NOBODY: u32 = 65534;
        let inside = rights::user_namespace()?.is_some();
        // So is everybody else there, but only root can have made the usual directories.
        Ok(Self { own: rustix::process::geteuid().as_raw(), nobody: (inside && usual).then_some(NOBODY) })
    }

    fn check(&self, file: &File) -> Result<()> {
        let meta = file.metadata()?;
        let (uid, gid, mode) = (meta.uid(), meta.gid(), meta.mode());
        if uid != 0 && uid != self.own && Some(uid) != self.nobody {
            return Err(Error::other(format!("belongs to user {uid}: it must be root's, or yours")));
        }
        if mode & 0o002 != 0 || (mode & 0o020 != 0 && gid != 0) {
            return Err(Error::other(format!("may be written by others (mode {:04o})", mode & 0o7777)));
        }
        Ok(())
    }
}

fn parse(bytes: &[u8], json: bool, path: &Path) -> Result<Vec<Device>> {
    let bad = |e: &dyn std::fmt::Display| Error::malformed(e.to_string());
    let text = std::str::from_utf8(bytes).map_err(|e| bad(&e))?;
    let value = if json { serde_json::from_str(text).map_err(|e| bad(&e))? } else { yaml::parse(text)? };
    let written: Written = serde_json::from_value(value).map_err(|e| bad(&e))?;
    version(&written.cdi_version)?;
    let good = |name: &str, more: &[u8]| {
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let bytes = name.bytes();
        ends(bytes.clone().next())
            && ends(bytes.clone().last())
            && bytes.clone().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let (vendor, class) = written.kind.split_once('/').unwrap_or_default();
    if !good(vendor, b".-_") || !good(class, b".-_") {
        return Err(bad(&format!("kind {:?}: want VENDOR/CLASS", written.kind)));
    }
    if written.devices.is_empty() {
        return Err(bad(&"no devices"));
    }
    written.container_edits.check()?;
    let common = Arc::new(Common { path: path.to_owned(), edits: written.container_edits });
    let mut all: Vec<Device> = Vec::new();
    for device in written.devices {
        if !good(&device.name, b".-_:") {
            return Err(bad(&format!("device {:?}: want letters, digits, and .-_: between them", device.name)));
        }
        device.container_edits.check().with(|| format!("device {}", device.name))?;
        let name = format!("{}={}", written.kind, device.name);
        if all.iter().any(|have| have.name == name) {
            return Err(bad(&format!("device {:?} stands here twice", device.name)));
        }
        let mut annotations = written.annotations.clone();
        annotations.extend(device.annotations);
        all.push(Device { name, annotations, edits: device.container_edits, common: Arc::clone(&common) });
    }
    Ok(all)
}

fn version(text: &str) -> Result<()> {
    let plain = text.trim_start_matches('v');
    let mut parts = plain.split(['-', '+']).next().unwrap_or_default().split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) <= NEWEST => Ok(()),
        (Some(_), Some(_)) => Err(Error::malformed(format!("cdiVersion {text}: newer than {}.{}", NEWEST.0, NEWEST.1))),
        _ => Err(Error::malformed(format!("cdiVersion {text:?}: want a version"))),
    }
}

/// Whether a `--device` is one of these and no path: `VENDOR/CLASS=NAME`.
pub(crate) fn is_name(text: &str) -> bool {
    !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SPEC: &str = "\
cdiVersion: 0.6.0
kind: vendor.com/net
annotations: {org.mobyproject.buildkit.device.autoallow: true}
devices:
- name: 0
  containerEdits: {env: [A=0]}
- name: one
  annotations: {org.mobyproject.buildkit.device.class: fast, org.mobyproject.buildkit.device.autoallow: false}
- name: two
  annotations: {org.mobyproject.buildkit.device.class: fast}
";

    fn read(files: &[(&str, &str)]) -> (tempfile::TempDir, Devices) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let devices = Devices::read(&[dir.path().join("a"), dir.path().join("b")]).unwrap();
        (dir, devices)
    }

    #[test]
    fn names_mean_one_or_the_first_or_all_of_a_kind_or_a_class() {
        let (_dir, devices) = read(&[("a/net.yaml", SPEC), ("b/.x.json", "{"), ("b/README", "x")]);
        let find = |name: &str| devices.find(name).iter().map(|device| device.name.clone()).collect::<Vec<_>>();
        assert_eq!(find("vendor.com/net"), ["vendor.com/net=0"]);
        assert_eq!(find("vendor.com/net=two"), ["vendor.com/net=two"]);
        assert_eq!(find("vendor.com/net=*").len(), 3);
        assert_eq!(find("fast"), ["vendor.com/net=one", "vendor.com/net=two"]);
        for absent in ["vendor.com/net=three", "vendor.com/ne", "other.com/net=*", "slow", "net=one", ""] {
            assert!(find(absent).is_empty(), "{absent}");
        }
        assert!(devices.get("vendor.com/net=0").unwrap().is_free() && !devices.find("fast")[0].is_free());
        assert!(devices.get("vendor.com/net").unwrap_err().to_string().contains("vendor.com/net: not in "));
    }

    #[test]
    fn of_two_directories_the_later_counts_and_of_two_files_neither() {
        let json = |name: &str, value: &str| {
            format!(
                r#"{{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{{"name":"{name}","containerEdits":{{"env":["A={value}"]}}}}]}}"#
            )
        };
        let (_dir, devices) = read(&[
            ("a/x.json", &json("x", "1")),
            ("b/x.json", &json("x", "2")),
            ("b/y.json", &json("y", "1")),
            ("b/z.json", &json("y", "2")),
        ]);
        assert!(devices.get("v.com/c=x").unwrap().common.path.to_string_lossy().contains("/b/"));
        let error = devices.get("v.com/c=y").unwrap_err().to_string();
        assert!(error.contains("y.json and") && error.contains("z.json"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_name() {
        for (text, why) in [
            ("cdiVersion: 2.0.0\nkind: a.com/b\ndevices: [{name: x}]\n", "newer than 1.1"),
            ("cdiVersion: new\nkind: a.com/b\ndevices: [{name: x}]\n", "want a version"),
            ("cdiVersion: 0.5.0\nkind: ab\ndevices: [{name: x}]\n", "VENDOR/CLASS"),
            ("cdiVersion: 0.5.0\nkind: a/b/c\ndevices: [{name: x}]\n", "VENDOR/CLASS"),
            ("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: []\n", "no devices"),
            ("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x}, {name: x}]\n", "twice"),
            ("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x y}]\n", "x y"),
            ("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x, contanerEdits: {}}]\n", "contanerEdits"),
            ("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x, containerEdits: {env: [A]}}]\n", "device x: env"),
            ("kind: [\n", "line"),
        ] {
            let (_dir, devices) = read(&[("a/it.yaml", text)]);
            let error = devices.get("a.com/b=x").unwrap_err().to_string();
            assert!(error.contains("it.yaml: ") && error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn what_others_can_write_does_not_count() {
        let (dir, _) = read(&[("a/net.yaml", SPEC)]);
        let file = dir.path().join("a/net.yaml");
        for (path, mode) in [(file.clone(), 0o646), (file.parent().unwrap().to_owned(), 0o757)] {
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error =
                Devices::read(&[dir.path().join("a")]).unwrap().get("vendor.com/net=0").unwrap_err().to_string();
            assert!(error.contains("may be written by others"), "{error}");
            fs::set_permissions(&path, before).unwrap();
        }
        Devices::read(&[dir.path().join("a")]).unwrap().get("vendor.com/net=0").unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(1), None).unwrap();
            let error =
                Devices::read(&[dir.path().join("a")]).unwrap().get("vendor.com/net=0").unwrap_err().to_string();
            assert!(error.contains("belongs to user 1"), "{error}");
        }
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(is_name("vendor.com/class=name") && is_name("vendor.com/class=all"));
        for path in ["/dev/null", "/dev/a=b/c=d", "vendor.com/class", "a=b", "vendor.com/class="] {
            assert!(!is_name(path), "{path}");
        }
    }
}
