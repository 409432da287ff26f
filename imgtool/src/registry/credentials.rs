//! Where user names and passwords come from: `--creds`, or the files of Docker and of containers tools.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};

use crate::error::{Error, Result};

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
        for key in keys(domain, path) {
            let Ok(open) = File::open(&file) else {
                continue;
            };
            match get_credential_from_reader(BufReader::new(open), &key) {
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
    fn debug_output_hides_the_secret() {
        let credential: Credential = "user:s3cret:x".parse().unwrap();
        assert_eq!(format!("{credential:?}"), "password of user");
        assert!("nopassword".parse::<Credential>().is_err());
    }
}
