//! The runtime options that containerd passes along with a container.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::rt::skip_field_for_tag;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Message};
use containerd_shim_protos::shim::oci::Options as RuncOptions;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::io::file;
use crate::runtime::{self, Runtime};

/// Where runtime state is kept when no option says otherwise; each containerd namespace has a directory of its own.
const DEFAULT_ROOT: &str = "/run/containerd/tare";
/// The file in the bundle that keeps the options for the `delete` helper.
const OPTIONS_FILE: &str = "options.json";
/// What `ctr` sends, and everybody else who knows runc.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// What containerd 1's client sends to runtimes that it does not know.
const LEGACY_OPTIONS: &str = "containerd.linux.runc.CreateOptions";
/// What CRI sends to runtimes that it does not know: a TOML table, or a file that has one.
const GENERIC_OPTIONS: &str = "runtimeoptions.v1.Options";

/// `containerd.runc.v1.Options`, as far as a shim that starts runtimes needs them. In TOML the names are those that
/// containerd's configuration uses for runc.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    #[serde(alias = "NoPivotRoot")]
    pub(crate) no_pivot_root: bool,
    #[serde(alias = "NoNewKeyring")]
    pub(crate) no_new_keyring: bool,
    /// A cgroup to put the resident shim into.
    #[serde(alias = "ShimCgroup")]
    pub(crate) shim_cgroup: String,
    /// Owner of the container's stdio pipes.
    #[serde(alias = "IoUid")]
    pub(crate) io_uid: u32,
    #[serde(alias = "IoGid")]
    pub(crate) io_gid: u32,
    /// The runtime binary: a path, or a name on PATH.
    #[serde(alias = "BinaryName")]
    pub(crate) binary_name: String,
    /// The runtime's state root; the namespace is appended.
    #[serde(alias = "Root")]
    pub(crate) root: String,
    #[serde(alias = "SystemdCgroup")]
    pub(crate) systemd_cgroup: bool,
    #[serde(alias = "CriuWorkPath")]
    pub(crate) criu_work_path: String,
}

impl Options {
    /// Decodes an options message of the kinds that containerd sends.
    pub(crate) fn from_any(any: &Any) -> Result<Self> {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if any.value.is_empty() {
            return Ok(Self::default());
        }
        if name == GENERIC_OPTIONS {
            return Self::from_generic(&any.value);
        }
        if name == LEGACY_OPTIONS {
            return Self::from_legacy(&any.value);
        }
        if name != RUNC_OPTIONS {
            let text = format!("runtime options of type {:?} are unknown: use {RUNC_OPTIONS}", any.type_url);
            return Err(Error::invalid(text));
        }
        let parsed = RuncOptions::parse_from_bytes(&any.value);
        let parsed = parsed.map_err(|error| Error::invalid(format!("decode {RUNC_OPTIONS}: {error}")))?;
        Ok(Self {
            no_pivot_root: parsed.no_pivot_root,
            no_new_keyring: parsed.no_new_keyring,
            shim_cgroup: parsed.shim_cgroup,
            io_uid: parsed.io_uid,
            io_gid: parsed.io_gid,
            binary_name: parsed.binary_name,
            root: parsed.root,
            systemd_cgroup: parsed.systemd_cgroup,
            criu_work_path: parsed.criu_work_path,
        })
    }

    /// Decodes `containerd.linux.runc.CreateOptions`, of which the other fields are for checkpoints: `{no_pivot_root = 1,
    /// no_new_keyring = 8, shim_cgroup = 9, io_uid = 10, io_gid = 11, criu_work_path = 12}`.
    fn from_legacy(value: &[u8]) -> Result<Self> {
        let decode = |error| Error::invalid(format!("decode {LEGACY_OPTIONS}: {error}"));
        let mut options = Self::default();
        let mut fields = CodedInputStream::from_bytes(value);
        while let Some(tag) = fields.read_raw_tag_or_eof().map_err(decode)? {
            match tag >> 3 {
                1 => options.no_pivot_root = fields.read_bool().map_err(decode)?,
                8 => options.no_new_keyring = fields.read_bool().map_err(decode)?,
                9 => options.shim_cgroup = fields.read_string().map_err(decode)?,
                10 => options.io_uid = fields.read_uint32().map_err(decode)?,
                11 => options.io_gid = fields.read_uint32().map_err(decode)?,
                12 => options.criu_work_path = fields.read_string().map_err(decode)?,
                _ => skip_field_for_tag(tag, &mut fields).map_err(decode)?,
            }
        }
        Ok(options)
    }

    /// Decodes `runtimeoptions.v1.Options`, which is `{type_url = 1, config_path = 2, config_body = 3}`.
    fn from_generic(value: &[u8]) -> Result<Self> {
        let decode = |error| Error::invalid(format!("decode {GENERIC_OPTIONS}: {error}"));
        let (mut path, mut body) = (String::new(), Vec::new());
        let mut fields = CodedInputStream::from_bytes(value);
        while let Some(tag) = fields.read_raw_tag_or_eof().map_err(decode)? {
            match tag >> 3 {
                2 => path = fields.read_string().map_err(decode)?,
                3 => body = fields.read_bytes().map_err(decode)?,
                _ => skip_field_for_tag(tag, &mut fields).map_err(decode)?,
            }
        }
        if body.is_empty() && !path.is_empty() {
            body = file::read(path.as_ref()).context(|| format!("read the runtime options in {path}"))?;
        }
        let source = if path.is_empty() { "the runtime options" } else { path.as_str() };
        let text = String::from_utf8(body).map_err(|_| Error::invalid(format!("{source}: not UTF-8")))?;
        toml::from_str(&text).map_err(|error| Error::invalid(format!("{source}: {}", error.message())))
    }

    /// Keeps the options in `bundle` for whoever must clean up after this shim.
    pub(crate) fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(OPTIONS_FILE);
        let text = serde_json::to_vec(self)?;
        fs::write(&path, text).context(|| format!("write {}", path.display()))
    }

    /// Reads the options kept in `bundle`; none kept means the defaults.
    pub(crate) fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(OPTIONS_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).context(|| format!("read {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(|| format!("read {}", path.display())),
        }
    }

    /// The runtime for containers of `namespace` whose bundle is `bundle`.
    pub(crate) fn runtime(&self, namespace: &str, bundle: &Path) -> Result<Runtime> {
        let chosen = Some(self.binary_name.as_ref()).filter(|_| !self.binary_name.is_empty());
        let root = if self.root.is_empty() { Path::new(DEFAULT_ROOT) } else { Path::new(&self.root) };
        Ok(Runtime {
            binary: runtime::locate(chosen)?,
            root: Some(root.join(namespace)),
            systemd_cgroup: self.systemd_cgroup,
            log_dir: PathBuf::from(bundle),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    #[test]
    fn runc_options_survive_the_bundle() {
        let sent = RuncOptions {
            binary_name: "crun".into(),
            root: "/r".into(),
            systemd_cgroup: true,
            io_uid: 5,
            shim_cgroup: "/x".into(),
            ..RuncOptions::default()
        };
        let any = any("types.containerd.io/containerd.runc.v1.Options", sent.write_to_bytes().unwrap());
        let options = Options::from_any(&any).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), Options::default(), "none kept yet");
        options.save(dir.path()).unwrap();
        let loaded = Options::load(dir.path()).unwrap();
        assert_eq!((loaded.binary_name.as_str(), loaded.io_uid, loaded.systemd_cgroup), ("crun", 5, true));
        assert_eq!(loaded, options);
    }

    /// `runtimeoptions.v1.Options` with fields of at most 127 bytes.
    fn generic(path: &str, body: &str) -> Any {
        let mut value = vec![10, 1, b'x'];
        for (tag, text) in [(18, path), (26, body)] {
            value.extend([tag, u8::try_from(text.len()).unwrap()]);
            value.extend(text.as_bytes());
        }
        any("types.containerd.io/runtimeoptions.v1.Options", value)
    }

    #[test]
    fn cri_sends_toml() {
        assert_eq!(Options::from_any(&generic("", "")).unwrap(), Options::default());
        let body = "BinaryName = \"/usr/bin/crun\"\nSystemdCgroup = true\nFuture = 1\n";
        let options = Options::from_any(&generic("", body)).unwrap();
        assert_eq!((options.binary_name.as_str(), options.systemd_cgroup), ("/usr/bin/crun", true));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("options.toml");
        fs::write(&path, "Root = \"/r\"").unwrap();
        assert_eq!(Options::from_any(&generic(path.to_str().unwrap(), "")).unwrap().root, "/r");
        assert!(Options::from_any(&generic("/absent", "")).unwrap_err().text().contains("/absent"));
        assert!(Options::from_any(&generic("", "BinaryName = 7")).is_err());
        assert!(Options::from_any(&any(GENERIC_OPTIONS, vec![18, 100, 1])).is_err());
    }

    #[test]
    fn clients_of_containerd_1_send_what_they_sent_before_shims() {
        // Fields 1, 3 (of no use), 8, 9, 10, 11, 12.
        let mut value = vec![8, 1, 24, 1, 64, 1, 74, 2, b'/', b'c', 80, 0xe8, 7, 88, 5];
        let options = Options::from_any(&any(LEGACY_OPTIONS, value.clone())).unwrap();
        let expected = Options {
            no_pivot_root: true,
            no_new_keyring: true,
            shim_cgroup: "/c".into(),
            io_uid: 1000,
            io_gid: 5,
            ..Options::default()
        };
        assert_eq!(options, expected);
        value.extend([98, 9]);
        assert!(Options::from_any(&any(LEGACY_OPTIONS, value)).is_err(), "cut short");
    }

    #[test]
    fn other_messages() {
        assert_eq!(Options::from_any(&any("", vec![])).unwrap(), Options::default());
        assert!(Options::from_any(&any("windows.v1.Options", vec![1])).is_err());
        assert!(Options::from_any(&any(RUNC_OPTIONS, vec![0xff])).is_err());
    }
}
