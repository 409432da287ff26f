//! Logins that are kept: in Docker's config.json, in an auth.json of containers tools (the same form), or by a helper.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::client::{Access, Ask, Registry};
use super::credentials::{Credential, check_helper};
use crate::error::{Error, Result, Step};
use crate::reference::Reference;

/// Docker Hub's name in files of logins.
const HUB: &str = "https://index.docker.io/v1/";

/// Asks the registry whether it takes the credentials.
pub(crate) fn check(server: &str, access: &Access) -> Result<()> {
    let reference: Reference = format!("{server}/login").parse().map_err(|_| bad(server))?;
    let registry = Registry::new(&reference, access, Arc::default()).without_repository();
    registry.send(&Ask::of("GET", "/v2/")).map(drop)
}

/// The registry's name as it is kept, of what people type: `registry.example:5000`, also with `https://` in front.
pub(crate) fn server_name(text: &str) -> Result<String> {
    let name = text.trim_start_matches("https://").trim_start_matches("http://");
    let name = name.split('/').next().unwrap_or_default();
    let name = if name == "index.docker.io" || name == "registry-1.docker.io" { "docker.io" } else { name };
    let reference: Reference = format!("{name}/login").parse().map_err(|_| bad(text))?;
    // A word without a dot would be a repository of Docker Hub.
    if reference.domain() == name { Ok(name.to_owned()) } else { Err(bad(text)) }
}

fn bad(text: &str) -> Error {
    Error::malformed(format!("{text:?}: want a registry, as registry.example or localhost:5000"))
}

fn key(server: &str) -> &str {
    if server == "docker.io" { HUB } else { server }
}

/// Keeps a login; says where.
pub(crate) fn keep(server: &str, credential: &Credential, authfile: Option<&Path>) -> Result<String> {
    let Credential::Password { user, password } = credential else {
        return Err(Error::other("only a user name and password can be kept"));
    };
    let file = file(authfile)?;
    let mut config = read(&file)?;
    if let Some(helper) = helper(&config, key(server)) {
        let said = json!({"ServerURL": key(server), "Username": user, "Secret": password}).to_string();
        ask_helper(&helper, "store", &said)?;
        return Ok(format!("docker-credential-{helper}"));
    }
    let auths = section(&mut config, "auths", &file)?;
    auths.insert(key(server).to_owned(), json!({"auth": STANDARD.encode(format!("{user}:{password}"))}));
    write(&file, &config)?;
    Ok(file.display().to_string())
}

/// Forgets a login; says whether there was one.
pub(crate) fn forget(server: &str, authfile: Option<&Path>) -> Result<bool> {
    let file = file(authfile)?;
    let mut config = read(&file)?;
    if let Some(helper) = helper(&config, key(server)) {
        ask_helper(&helper, "erase", key(server))?;
        return Ok(true);
    }
    let auths = section(&mut config, "auths", &file)?;
    let had = auths.remove(key(server)).is_some();
    if had {
        write(&file, &config)?;
    }
    Ok(had)
}

fn file(authfile: Option<&Path>) -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = || {
        let directory = var("DOCKER_CONFIG").or_else(|| Some(var("HOME")?.join(".docker")))?;
        Some(directory.join("config.json"))
    };
    let file = authfile.map(Path::to_owned).or_else(|| var("REGISTRY_AUTH_FILE")).or_else(docker);
    file.ok_or_else(|| Error::other("HOME is not set: name the file with --authfile"))
}

fn read(file: &Path) -> Result<Map<String, Value>> {
    match fs::read(file) {
        Ok(bytes) if bytes.is_empty() => Ok(Map::new()),
        Ok(bytes) => crate::oci::json(&bytes).with(|| file.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(e).with(|| format!("read {}", file.display())),
    }
}

fn section<'a>(config: &'a mut Map<String, Value>, name: &str, file: &Path) -> Result<&'a mut Map<String, Value>> {
    let value = config.entry(name).or_insert_with(|| json!({}));
    value.as_object_mut().ok_or_else(|| Error::malformed(format!("{}: {name} is no object", file.display())))
}

/// The program that keeps the logins of this registry, if one is configured.
fn helper(config: &Map<String, Value>, key: &str) -> Option<String> {
    let of_registry = config.get("credHelpers").and_then(|all| all.get(key));
    let name = of_registry.or_else(|| config.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn ask_helper(helper: &str, verb: &str, input: &str) -> Result<()> {
    check_helper(helper)?;
    let name = format!("docker-credential-{helper}");
    let run = || -> Result<()> {
        let mut child = Command::new(&name)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // Not every helper reads what it knows already; how it ends is what counts.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        let out = child.wait_with_output()?;
        if out.status.success() {
            return Ok(());
        }
        // Helpers say what is wrong on stdout.
        let said = if out.stdout.is_empty() { out.stderr } else { out.stdout };
        Err(Error::other(format!("{}: {}", out.status, String::from_utf8_lossy(&said).trim())))
    };
    run().with(|| format!("{name} {verb}"))
}

/// Writes the file whole, for its owner alone.
fn write(file: &Path, config: &Map<String, Value>) -> Result<()> {
    // A link to where the user keeps the file stays one.
    let link = fs::read_link(file).ok().map(|target| file.with_file_name(target));
    let file = link.as_deref().unwrap_or(file);
    let temporary = file.with_extension(format!("{}.tmp", crate::layout::random_hex(8)?));
    let write = || -> Result<()> {
        if let Some(parent) = file.parent() {
            use std::os::unix::fs::DirBuilderExt as _;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        out.write_all(&serde_json::to_vec_pretty(config).map_err(|e| Error::other(e.to_string()))?)?;
        out.write_all(b"\n")?;
        out.sync_data()?;
        Ok(fs::rename(&temporary, file)?)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).with(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_kept_and_forgotten_and_the_rest_of_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/config.json");
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(&file, r#"{"psFormat":"x","auths":{"other":{"auth":"YTpi"}}}"#).unwrap();
        keep("h:5000", &"user:pa:ss".parse().unwrap(), Some(&file)).unwrap();
        let found = super::super::credentials::find("h:5000", "any/thing", Some(&file)).unwrap();
        assert_eq!(found, Some(Credential::Password { user: "user".into(), password: "pa:ss".into() }));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(forget("h:5000", Some(&file)).unwrap());
        assert!(!forget("h:5000", Some(&file)).unwrap());
        let left: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(left, json!({"psFormat": "x", "auths": {"other": {"auth": "YTpi"}}}));
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
    }

    #[test]
    fn registries_are_known_by_their_names() {
        for (text, want) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://r.example:5000/", "r.example:5000"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(server_name(text).unwrap(), want);
        }
        for bad in ["", "word", "a b.c", "../x"] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }
}
