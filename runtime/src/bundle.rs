//! Contract 1: a bundle's directory and its configuration.

use libcontainer::{At, Error, Kind, Result, spec::Spec};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The most that a configuration may have, in bytes: it is kept, and read back by every `exec`.
const MAX: u64 = 16 << 20;

/// Reads a file of configuration, which may be no file at all (`/dev/zero`).
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    read_from(File::open(path)?)
}

/// The same from what is open.
pub(crate) fn read_from(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == MAX {
        return Err(std::io::Error::other(format!("larger than {} MiB", MAX >> 20)));
    }
    Ok(bytes)
}

/// A bundle that was read.
pub(crate) struct Bundle {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// As it stands in the file.
    pub(crate) config: Vec<u8>,
    /// As it is understood.
    pub(crate) spec: Spec,
}

impl Bundle {
    /// Reads `config.json` in `path`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).at_with(|| format!("bundle {}", path.display()))?;
        let file = path.join("config.json");
        let config = match read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("JSON specification file {} not found: `runtime spec` writes one", file.display());
                return Err(Error::new(Kind::Invalid, text));
            }
            config => config.at_with(|| format!("read {}", file.display()))?,
        };
        let spec = Spec::parse(&config).at_with(|| file.display().to_string())?;
        Ok(Self { path, config, spec })
    }
}
