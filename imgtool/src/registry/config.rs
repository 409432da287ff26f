//! registries.conf (containers-registries.conf(5), version 2): mirrors, other locations, blocked registries, short names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::client::Access;
use crate::error::{Error, Result, Step};
use crate::reference::Reference;

/// What the files say, the later ones over the earlier.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Registries {
    #[serde(default, rename = "unqualified-search-registries")]
    search: Option<Vec<String>>,
    #[serde(default, rename = "registry")]
    entries: Vec<Entry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default, rename = "mirror-by-digest-only")]
    by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, Deserialize)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    pull: Option<String>,
}

/// One place that an image may be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) reference: Reference,
    insecure: bool,
}

impl Endpoint {
    /// How it is reached, where the user did not say otherwise.
    pub(crate) fn access(&self, access: &Access) -> Access {
        let tls_verify = access.tls_verify.or(self.insecure.then_some(false));
        Access { tls_verify, ..access.clone() }
    }
}

impl Registries {
    /// Reads the user's files, else the system's.
    pub(crate) fn load() -> Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = var("CONTAINERS_REGISTRIES_CONF") {
            return Self::read(&[file]);
        }
        let user = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config")));
        let user = user.map(|config| config.join("containers"));
        let system = PathBuf::from("/etc/containers");
        let main = |directory: &Path| directory.join("registries.conf");
        let base = user.iter().map(|user| main(user)).find(|file| file.exists()).unwrap_or_else(|| main(&system));
        let mut files = vec![base];
        for directory in [Some(system), user].into_iter().flatten() {
            let Ok(list) = fs::read_dir(directory.join("registries.conf.d")) else { continue };
            let mut found: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
            found.retain(|path| path.extension().is_some_and(|e| e == "conf"));
            found.sort();
            files.extend(found);
        }
        Self::read(&files)
    }

    fn read(files: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for file in files {
            let text = match fs::read_to_string(file) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).with(|| format!("read {}", file.display())),
            };
            let one = Self::parse(&text).with(|| file.display().to_string())?;
            all.search = one.search.or(all.search);
            all.aliases.extend(one.aliases);
            for entry in one.entries {
                all.entries.retain(|have| have.key() != entry.key());
                all.entries.push(entry);
            }
        }
        Ok(all)
    }

    fn parse(text: &str) -> Result<Self> {
        // The parser's message has lines of its own that show the place.
        toml::from_str(text).map_err(|e| Error::malformed(e.message().to_owned()))
    }

    /// What a short name may mean, in the order of trying. A name with a registry means itself.
    pub(crate) fn candidates(&self, reference: &Reference) -> Result<Vec<Reference>> {
        let Some(short) = reference.short_name() else {
            return Ok(vec![reference.clone()]);
        };
        if let Some(alias) = self.aliases.get(short) {
            let target: Reference = alias.parse().with(|| format!("alias {short} of registries.conf"))?;
            return Ok(vec![reference.relocated(target.domain(), target.path())]);
        }
        match self.search.as_deref() {
            None | Some([]) => Ok(vec![reference.clone()]),
            Some(search) => search
                .iter()
                .map(|registry| {
                    let target: Reference = format!("{registry}/{short}").parse().at("registries.conf")?;
                    Ok(reference.relocated(target.domain(), target.path()))
                })
                .collect(),
        }
    }

    /// Where an image is pulled from: the mirrors first, the place itself last.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.name();
        let matching = self.entries.iter().filter_map(|entry| Some((entry.match_length(&name)?, entry)));
        let Some((length, entry)) = matching.max_by_key(|(length, _)| *length) else {
            return Ok(vec![Endpoint { reference: reference.clone(), insecure: false }]);
        };
        if entry.blocked {
            return Err(Error::other(format!("{}: blocked by registries.conf", entry.key())));
        }
        let at = |location: &str, insecure: bool| -> Result<Endpoint> {
            let moved = format!("{location}{}", &name[length..]);
            let target: Reference = moved.parse().with(|| format!("location {location:?} of registries.conf"))?;
            Ok(Endpoint { reference: reference.relocated(target.domain(), target.path()), insecure })
        };
        let mut all = Vec::new();
        for mirror in &entry.mirrors {
            let by_digest = reference.digest().is_some();
            let serves = match mirror.pull.as_deref() {
                Some("digest-only") => by_digest,
                Some("tag-only") => !by_digest,
                _ => by_digest || !entry.by_digest_only,
            };
            if serves {
                all.push(at(&mirror.location, mirror.insecure)?);
            }
        }
        let location = if entry.location.is_empty() { &name[..length] } else { &entry.location };
        all.push(at(location, entry.insecure)?);
        Ok(all)
    }
}

impl Entry {
    fn key(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    /// How much of a repository's name the entry covers; `None`: it is about others.
    fn match_length(&self, name: &str) -> Option<usize> {
        let key = self.key();
        if let Some(domain) = key.strip_prefix("*.") {
            let host = name.split('/').next()?;
            let sub = host.strip_suffix(domain)?.strip_suffix('.')?;
            return (!sub.is_empty()).then_some(host.len());
        }
        let rest = name.strip_prefix(key)?;
        (!key.is_empty() && (rest.is_empty() || rest.starts_with('/'))).then_some(key.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
unqualified-search-registries = ["first.example", "docker.io"]
short-name-mode = "permissive"
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "bad.example/team"
blocked = true
[[registry]]
prefix = "*.inner.example"
location = "outer.example"
"#;

    fn endpoints(text: &str) -> Vec<String> {
        let registries = Registries::parse(TEXT).unwrap();
        let all = registries.endpoints(&text.parse().unwrap()).unwrap();
        all.iter()
            .map(|endpoint| format!("{}{}", endpoint.reference, if endpoint.insecure { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn mirrors_come_before_the_registry_itself() {
        assert_eq!(endpoints("docker.io/a/b:1"), ["mirror.example:5000/hub/a/b:1!", "docker.io/a/b:1"]);
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(endpoints(&format!("docker.io/a/b@{digest}")).len(), 3);
        assert_eq!(endpoints("other.example/a/b:1"), ["other.example/a/b:1"]);
        assert_eq!(endpoints("x.inner.example/a:1"), ["outer.example/a:1"]);
        assert_eq!(endpoints("bad.example/teams/x:1"), ["bad.example/teams/x:1"]);
        let registries = Registries::parse(TEXT).unwrap();
        let error = registries.endpoints(&"bad.example/team/x".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("blocked"), "{error}");
    }

    #[test]
    fn short_names_are_searched_for() {
        let registries = Registries::parse(TEXT).unwrap();
        let names = |text: &str| -> Vec<String> {
            registries.candidates(&text.parse().unwrap()).unwrap().iter().map(Reference::to_string).collect()
        };
        assert_eq!(names("app:1"), ["first.example/app:1", "docker.io/library/app:1"]);
        assert_eq!(names("team/app"), ["first.example/team/app:latest", "docker.io/team/app:latest"]);
        assert_eq!(names("fedora:40"), ["registry.fedoraproject.org/fedora:40"]);
        assert_eq!(names("quay.io/x"), ["quay.io/x:latest"]);
        assert_eq!(names("docker.io/x"), ["docker.io/library/x:latest"]);
        let none = Registries::default();
        assert_eq!(none.candidates(&"app".parse().unwrap()).unwrap()[0].to_string(), "docker.io/library/app:latest");
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.conf");
        fs::write(&file, "[[registry]\n").unwrap();
        let error = Registries::read(&[file]).unwrap_err().to_string();
        assert!(error.contains("registries.conf"), "{error}");
    }
}
