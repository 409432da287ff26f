//! Contract 1: a bundle's directory and its configuration.

use libcontainer::{At, Error, Kind, Result, spec::Spec};
use std::path::{Path, PathBuf};

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
        let config = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text =
                    format!("JSON specification file {} not found: name the bundle with --bundle", file.display());
                return Err(Error::new(Kind::Invalid, text));
            }
            config => config.at_with(|| format!("read {}", file.display()))?,
        };
        let spec = Spec::parse(&config).at_with(|| file.display().to_string())?;
        Ok(Self { path, config, spec })
    }
}
