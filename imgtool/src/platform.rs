//! Platforms of images: `os/architecture[/variant]`, in the names that Go and the OCI image specification use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A platform, normalized: `x86_64` is `amd64`, `arm64/v8` is `arm64`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub(crate) os_version: Option<String>,
    #[serde(default, rename = "os.features", skip_serializing_if = "Option::is_none")]
    pub(crate) os_features: Option<Vec<String>>,
}

impl Platform {
    /// The platform of the machine that this runs on.
    pub(crate) fn host() -> Self {
        let variant = if cfg!(target_arch = "arm") { Some("v7") } else { None };
        Self::of("linux", std::env::consts::ARCH, variant)
    }

    pub(crate) fn of(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" | "amd64" => ("amd64", None),
            "aarch64" | "arm64" => ("arm64", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "i386" | "i686" | "x86" | "386" => ("386", None),
            "powerpc64" => (if cfg!(target_endian = "little") { "ppc64le" } else { "ppc64" }, None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        let variant = match (architecture, variant.or(implied)) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) | (_, Some("")) => None,
            ("arm", Some("7")) => Some("v7"),
            ("arm", Some("6")) => Some("v6"),
            (_, variant) => variant,
        };
        Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
            os_features: None,
        }
    }

    /// How well an image for `candidate` serves a user who asked for `self`: the higher the better, `None` not at all.
    pub(crate) fn score(&self, candidate: &Self) -> Option<u32> {
        let wanted = Self::of(&self.os, &self.architecture, self.variant.as_deref());
        let have = Self::of(&candidate.os, &candidate.architecture, candidate.variant.as_deref());
        if wanted.os != have.os || wanted.architecture != have.architecture {
            return None;
        }
        if wanted.variant == have.variant {
            return Some(100);
        }
        // A machine runs what older variants of its architecture need: v7 runs v6, amd64/v3 runs v2.
        let level = |variant: &Option<String>| match variant {
            Some(v) => v.trim_start_matches('v').parse::<u32>().ok(),
            None => Some(if wanted.architecture == "arm" { 7 } else { 0 }),
        };
        let (want, have) = (level(&wanted.variant)?, level(&have.variant)?);
        (have <= want).then_some(have.min(99))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(word) => Ok(Self::of(os, architecture, None)),
            [os, architecture, variant] if parts.iter().all(word) => Ok(Self::of(os, architecture, Some(variant))),
            _ => Err(Error::malformed(format!("platform {text:?}: want OS/ARCHITECTURE[/VARIANT], as linux/arm64"))),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variant_wins() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        assert_eq!(p("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(p("linux/arm64").score(&p("linux/arm64/v8")), Some(100));
        assert_eq!(p("linux/amd64").score(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").score(&p("windows/amd64")), None);
        assert!(p("linux/arm/v7").score(&p("linux/arm/v6")) > p("linux/arm/v7").score(&p("linux/arm/v5")));
        assert_eq!(p("linux/arm/v6").score(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").score(&p("linux/amd64/v3")), None);
        assert_eq!(p("linux/amd64").score(&Platform::of("unknown", "unknown", None)), None);
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/am d64", "../x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
