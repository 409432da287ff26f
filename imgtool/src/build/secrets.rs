//! Secrets and agents of the command line. What is in them goes into a step's memory and nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::parse::{MountKind, csv};
use crate::error::{Error, Result, Step};
use crate::regular;

/// A secret is read up to this size, as BuildKit has it.
const SECRET_MAX: u64 = 500 << 10;

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File(PathBuf),
    Env(String),
}

/// `--secret id=NAME[,src=PATH|,env=VARIABLE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    id: String,
    origin: Origin,
}

impl std::str::FromStr for Secret {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::malformed(format!("{why}: want id=NAME[,src=FILE|,env=VARIABLE]"));
        let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
        for field in csv(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| bad("a field without ="))?;
            match key.to_ascii_lowercase().as_str() {
                "id" => id = Some(value.to_owned()),
                "src" | "source" => source = Some(value.to_owned()),
                "env" => variable = Some(value.to_owned()),
                "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
                other => return Err(bad(&format!("unknown key {other:?}"))),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("no id"))?;
        let origin = match (source, variable, kind.as_deref()) {
            (Some(_), Some(_), _) => return Err(bad("both src and env")),
            (Some(name), None, Some("env")) | (None, Some(name), _) => Origin::Env(name),
            (Some(path), None, _) => Origin::File(path.into()),
            (None, None, Some("env")) => Origin::Env(id.clone()),
            // As docker does: a variable of this name, else a file.
            (None, None, None) if std::env::var_os(&id).is_some() => Origin::Env(id.clone()),
            (None, None, _) => Origin::File(PathBuf::from(&id)),
        };
        Ok(Self { id, origin })
    }
}

/// `--ssh ID[=SOCKET|KEY,...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ssh {
    id: String,
    paths: Vec<PathBuf>,
}

impl std::str::FromStr for Ssh {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(Error::malformed("want default, or ID=SOCKET or ID=KEY[,KEY]"));
        }
        let paths = paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        Ok(Self { id: id.to_owned(), paths })
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets {
    secrets: BTreeMap<String, Origin>,
    agents: BTreeMap<String, Vec<PathBuf>>,
}

impl Secrets {
    pub(crate) fn of(secrets: &[Secret], agents: &[Ssh]) -> Result<Self> {
        let all = Self {
            secrets: secrets.iter().map(|secret| (secret.id.clone(), secret.origin.clone())).collect(),
            agents: agents.iter().map(|agent| (agent.id.clone(), agent.paths.clone())).collect(),
        };
        for (id, origin) in &all.secrets {
            if let Origin::File(path) = origin {
                let meta = std::fs::metadata(path).with(|| format!("--secret id={id}: {}", path.display()))?;
                if meta.len() > SECRET_MAX {
                    return Err(Error::malformed(format!("--secret id={id}: more than {SECRET_MAX} bytes")));
                }
            }
        }
        Ok(all)
    }

    /// Names of the secrets.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.secrets.keys().cloned().collect()
    }

    /// Whether the command line gave what a mount of this id asks for.
    pub(crate) fn has(&self, kind: MountKind, id: &str) -> bool {
        match kind {
            MountKind::Secret => self.secrets.contains_key(id),
            MountKind::Ssh => self.agents.contains_key(id),
            _ => true,
        }
    }

    /// The content of a secret; `None` if the command line has none of this name.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Vec<u8>>> {
        match self.secrets.get(id) {
            None => Ok(None),
            Some(Origin::Env(name)) => {
                use std::os::unix::ffi::OsStringExt as _;
                let value = std::env::var_os(name).ok_or_else(|| Error::missing(format!("variable {name} is not set")));
                value.map(|value| Some(value.into_vec())).with(|| format!("secret {id}"))
            }
            Some(Origin::File(path)) => {
                regular::read(path, SECRET_MAX).with(|| format!("secret {id}: {}", path.display())).map(Some)
            }
        }
    }

    /// The socket of an agent; with keys, of one that has only these. `None` if the command line has none of this name.
    pub(crate) fn agent(&self, id: &str, directory: &Path) -> Result<Option<PathBuf>> {
        use std::os::unix::fs::FileTypeExt as _;
        let Some(paths) = self.agents.get(id) else { return Ok(None) };
        let step = || format!("--ssh {id}");
        match paths.as_slice() {
            [] => match std::env::var_os("SSH_AUTH_SOCK") {
                Some(socket) => Ok(Some(PathBuf::from(socket))),
                None => Err(Error::missing("SSH_AUTH_SOCK is not set: is an agent running?")).with(step),
            },
            [one] if std::fs::metadata(one).with(step)?.file_type().is_socket() => Ok(Some(one.clone())),
            keys => {
                let socket = directory.join("agent");
                let run = |program: &str, args: &[&std::ffi::OsStr]| -> Result<()> {
                    let mut command = std::process::Command::new(program);
                    command.args(args).env("SSH_AUTH_SOCK", &socket).env_remove("SSH_ASKPASS");
                    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
                    let out = command.output().at(program)?;
                    if out.status.success() {
                        return Ok(());
                    }
                    let said = String::from_utf8_lossy(&out.stderr);
                    Err(Error::other(format!("{program}: {}", said.trim().lines().last().unwrap_or("failed"))))
                };
                // It ends with the build's pid namespace.
                run("ssh-agent", &["-a".as_ref(), socket.as_os_str()]).with(step)?;
                for key in keys {
                    run("ssh-add", &["-q".as_ref(), key.as_os_str()]).with(step)?;
                }
                Ok(Some(socket))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_or_variables() {
        let origin = |text: &str| text.parse::<Secret>().map(|secret| secret.origin);
        assert_eq!(origin("id=a,src=/x").unwrap(), Origin::File("/x".into()));
        assert_eq!(origin("id=a,env=B").unwrap(), Origin::Env("B".into()));
        assert_eq!(origin("id=PATH").unwrap(), Origin::Env("PATH".into()));
        assert_eq!(origin("id=no.such.variable").unwrap(), Origin::File("no.such.variable".into()));
        assert_eq!(origin("type=env,id=a,src=B").unwrap(), Origin::Env("B".into()));
        for bad in ["", "src=/x", "id=", "id=a,src=b,env=c", "id=a,x=y", "a"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        assert_eq!("default".parse::<Ssh>().unwrap().paths.len(), 0);
        assert_eq!("k=/a,/b".parse::<Ssh>().unwrap().paths.len(), 2);
    }
}
