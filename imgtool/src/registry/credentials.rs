//! Where user names and passwords come from: `--creds`, or the files of Docker and of containers tools.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};

use serde::Deserialize;

use crate::error::{Error, Result, Step};

/// What is shown to a registry or to its token server. Its Debug form does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token, which only a token server takes.
    Identity(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "password of {user}"),
            Self::Identity(_) => write!(f, "identity token"),
        }
    }
}

impl FromStr for Credential {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() => {
                Ok(Self::Password { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err(Error::malformed("want USER:PASSWORD")),
        }
    }
}

/// The credential for a repository, if any file has one. `authfile` replaces the usual files.
pub(super) fn find(domain: &str, path: &str, authfile: Option<&Path>) -> Result<Option<Credential>> {
    let files = match authfile {
        Some(file) if !file.exists() => {
            return Err(Error::missing(format!("{}: no such file", file.display())));
        }
        Some(file) => vec![file.to_owned()],
        None => usual_files(),
    };
    for file in files {
        // Once: it may be a pipe.
        let Ok(bytes) = read(&file) else {
            continue;
        };
        check_helpers(&bytes).with(|| file.display().to_string())?;
        for key in keys(domain, path) {
            match get_credential_from_reader(bytes.as_slice(), &key) {
                Ok(DockerCredential::UsernamePassword(user, token)) if user == "<token>" => {
                    return Ok(Some(Credential::Identity(token)));
                }
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(Some(Credential::Password { user, password }));
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Credential::Identity(token)));
                }
                // A helper that has nothing for this registry says so by failing.
                Err(
                    CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::HelperFailure { .. },
                ) => {}
                Err(e) => {
                    return Err(Error::other(format!("credentials for {key} in {}: {e}", file.display())));
                }
            }
        }
    }
    Ok(None)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    /// A file of logins is read up to this size.
    const MOST: u64 = 16 << 20;
    let mut bytes = Vec::new();
    File::open(file)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Requires that helpers are programs of PATH: what has a slash in its name is wherever who wrote the file wants.
fn check_helpers(bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Helpers {
        creds_store: Option<String>,
        cred_helpers: Option<BTreeMap<String, String>>,
    }
    let Ok(helpers) = crate::oci::json::<Helpers>(bytes) else {
        return Ok(()); // and no helper is found in it
    };
    let all = helpers.cred_helpers.into_iter().flatten().map(|(_, name)| name).chain(helpers.creds_store);
    all.filter(|name| !name.is_empty()).try_for_each(|name| check_helper(&name))
}

/// Whether a credential helper may have this name.
pub(super) fn check_helper(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.bytes().all(good) {
        return Ok(());
    }
    Err(Error::malformed(format!("credential helper {name:?}: want the name of a program on PATH")))
}

fn usual_files() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = var("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = var("HOME");
    let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let runtime = var("XDG_RUNTIME_DIR").or_else(|| {
        let uid = crate::rights::outer_uid();
        Some(PathBuf::from(if uid == 0 { "/run".to_owned() } else { format!("/run/user/{uid}") }))
    });
    [
        runtime.map(|dir| dir.join("containers/auth.json")),
        var("XDG_CONFIG_HOME").or_else(|| below_home(".config")).map(|dir| dir.join("containers/auth.json")),
        var("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .filter(|file| file.is_file())
    .collect()
}

/// The names under which a file may have the credential: the repository, its parents, the registry.
fn keys(domain: &str, path: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut full = format!("{domain}/{path}");
    while full.len() > domain.len() {
        keys.push(full.clone());
        full.truncate(full.rfind('/').unwrap_or(0));
    }
    keys.push(domain.to_owned());
    if domain == "docker.io" {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        // a:b, c:d, e:f
        let text = r#"{"auths":{"h:5000":{"auth":"YTpi"},"h:5000/team/app":{"auth":"Yzpk"},"https://index.docker.io/v1/":{"auth":"ZTpm"}}}"#;
        std::fs::write(&file, text).unwrap();
        let user = |domain, path| match find(domain, path, Some(&file)).unwrap() {
            Some(Credential::Password { user, .. }) => user,
            other => format!("{other:?}"),
        };
        assert_eq!(user("h:5000", "team/app"), "c");
        assert_eq!(user("h:5000", "team/other"), "a");
        assert_eq!(user("docker.io", "library/x"), "e");
        assert_eq!(user("other.org", "x"), "None");
        assert!(find("h", "x", Some(&dir.path().join("absent"))).is_err());
    }

    #[test]
    fn helpers_are_programs_of_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        for name in ["x/../../evil", "../evil", "/bin/evil", "a b", "a\nb"] {
            for text in [
                serde_json::json!({"credsStore": name}),
                serde_json::json!({"credHelpers": {"other.org": "pass", "h:5000": name}}),
            ] {
                std::fs::write(&file, text.to_string()).unwrap();
                let refused = find("h:5000", "x", Some(&file)).unwrap_err().to_string();
                assert!(refused.contains("want the name of a program on PATH"), "{refused}");
            }
        }
        for name in ["", "pass", "ecr-login", "osxkeychain", "secretservice_2.0"] {
            check_helper(name).unwrap();
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let credential: Credential = "user:s3cret:x".parse().unwrap();
        assert_eq!(format!("{credential:?}"), "password of user");
        assert!("nopassword".parse::<Credential>().is_err());
    }
}
