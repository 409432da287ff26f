//! What ADD and contexts take from elsewhere: URLs and git repositories.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::secrets::Secrets;
use super::workspace::Workspace;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, Step};

/// Largest file that ADD fetches.
const FILE_MAX: u64 = 64 << 30;

/// The header that lets one in at a server, of the secrets `KIND_HEADER[SEP HOST]` and `KIND_TOKEN[SEP HOST]`, as BuildKit names
/// them.
fn authorization(secrets: &Secrets, kind: &str, names: &[String]) -> Result<Option<String>> {
    for (form, is_token) in [("HEADER", false), ("TOKEN", true)] {
        for name in names {
            let Some(value) = secrets.read(&format!("{kind}_{form}{name}"))? else { continue };
            let text = String::from_utf8(value)
                .map_err(|_| Error::malformed(format!("secret {kind}_{form}{name}: not UTF-8 text")))?;
            let text = text.trim();
            return Ok(Some(match (is_token, kind) {
                (false, _) => text.to_owned(),
                (true, "GIT_AUTH") => {
                    use base64::Engine as _;
                    let user = format!("x-access-token:{text}");
                    format!("basic {}", base64::engine::general_purpose::STANDARD.encode(user))
                }
                (true, _) => format!("Bearer {text}"),
            }));
        }
    }
    Ok(None)
}

/// The host of a URL, with its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

/// Fetches a file; gives it, and the time that the server says it has. With a checksum it must be that.
pub(crate) fn url(
    url: &str,
    workspace: &Workspace,
    secrets: &Secrets,
    checksum: Option<&Digest>,
) -> Result<(PathBuf, Option<i64>)> {
    let step = || url.to_owned();
    let mut request = ureq::get(url);
    if let Some(header) = authorization(secrets, "HTTP_AUTH", &[format!("_{}", host(url))])? {
        request = request.header("Authorization", header);
    }
    let response = request.call().map_err(|e| Error::other(e.to_string())).with(step)?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let modified = header("last-modified").and_then(|text| crate::time::http_date(&text));
    let path = workspace.directory()?.join("file");
    let mut file = File::create_new(&path)?;
    let mut hasher = Hasher::new(checksum.map_or(crate::digest::Algorithm::Sha256, Digest::algorithm));
    let mut body = response.into_body().into_reader().take(FILE_MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = body.read(&mut buffer).with(step)?;
        if len == 0 {
            break;
        }
        hasher.update(&buffer[..len]);
        std::io::Write::write_all(&mut file, &buffer[..len]).with(step)?;
    }
    let got = hasher.finish();
    if checksum.is_some_and(|want| *want != got) {
        return Err(Error::damaged(format!("{url}: --checksum is not {got}, which the file has")));
    }
    Ok((path, modified))
}

/// A git reference in its parts: `REPOSITORY[?QUERY][#REF[:DIRECTORY]]`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Repository {
    remote: String,
    reference: String,
    directory: String,
    /// The commit that it must be.
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    submodules: Option<bool>,
}

fn repository(text: &str) -> Result<Repository> {
    let bad = |why: String| Error::malformed(format!("{text}: {why}"));
    let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = remote.split_once('?').unwrap_or((remote, ""));
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let remote = if remote.starts_with("github.com/") { format!("https://{remote}") } else { remote.to_owned() };
    let mut all = Repository {
        remote,
        reference: reference.to_owned(),
        directory: directory.to_owned(),
        ..Repository::default()
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let switch = || match value {
            "" | "1" | "t" | "true" => Ok(Some(true)),
            "0" | "f" | "false" => Ok(Some(false)),
            _ => Err(bad(format!("{key}={value}: want true or false"))),
        };
        if value.is_empty() && !matches!(key, "keep-git-dir" | "submodules" | "fetch-by-commit") {
            return Err(bad(format!("{key} has no value")));
        }
        match key {
            "ref" => value.clone_into(&mut all.reference),
            "branch" => all.reference = format!("refs/heads/{value}"),
            "tag" => all.reference = format!("refs/tags/{value}"),
            "commit" | "checksum" => all.checksum = Some(value.to_owned()),
            "subdir" => value.clone_into(&mut all.directory),
            "keep-git-dir" => all.keep_git_dir = switch()?,
            "submodules" => all.submodules = switch()?,
            // How it is fetched and how old its files are changes nothing of what is built.
            "fetch-by-commit" | "mtime" => {}
            _ => return Err(bad(format!("unknown key {key} after the ?"))),
        }
    }
    if all.reference.is_empty() {
        all.reference = all.checksum.clone().unwrap_or_default();
    }
    Ok(all)
}

/// What an instruction says of a checkout.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checkout<'a> {
    pub(crate) keep_git_dir: bool,
    /// A Dockerfile's author has chosen the address, and gets what is there: who builds lets nobody in by being who he is, but
    /// by `--secret` and `--ssh` alone.
    pub(crate) is_foreign: bool,
    pub(crate) checksum: Option<&'a str>,
}

/// By which git and ssh would find out who builds, or be told to do something else.
const OWN: [&str; 9] = [
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "XDG_CONFIG_HOME",
    "GIT_DIR",
    "GIT_WORK_TREE",
];

/// What git says was wrong: the cause comes first, and what it means for git after it.
fn cause(said: &str) -> String {
    const ADVICE: [&str; 2] = ["Please make sure you have the correct access rights", "and the repository exists."];
    const LINES: usize = 6;
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !ADVICE.contains(line));
    let lines: Vec<&str> = lines.collect();
    match lines.as_slice() {
        [] => "failed".to_owned(),
        all => all[all.len().saturating_sub(LINES)..].join("; "),
    }
}

/// Checks a repository out, by the git of this machine; gives the directory. What the repository names is hostile: no hooks,
/// no protocols but the usual ones, and a directory in it is found beneath it (CVE-2024-23651's kind).
pub(crate) fn git(text: &str, workspace: &Workspace, secrets: &Secrets, wanted: &Checkout<'_>) -> Result<PathBuf> {
    let parts = repository(text)?;
    let host = host(&parts.remote);
    let is_http = parts.remote.starts_with("http://") || parts.remote.starts_with("https://");
    let names = [format!(".{host}"), String::new()];
    let header = if is_http { authorization(secrets, "GIT_AUTH", &names)? } else { None };
    let bad = |why: &str| Error::malformed(format!("{text}: {why}"));
    if parts.remote.starts_with('-') || parts.reference.starts_with('-') {
        return Err(bad("begins with a dash"));
    }
    let checkout = workspace.directory()?;
    let agent = if wanted.is_foreign { secrets.agent("default", &workspace.memory()?)? } else { None };
    let run = |args: &[&str]| -> Result<String> {
        let mut command = Command::new("git");
        command
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-C"])
            .arg(&checkout)
            .args(args);
        command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").stdin(Stdio::null());
        if wanted.is_foreign {
            for variable in OWN {
                command.env_remove(variable);
            }
            // No helpers for credentials, no .netrc, no keys of ~/.ssh.
            command.env("HOME", "/dev/null").env("GIT_CONFIG_GLOBAL", "/dev/null");
            command.env("GIT_SSH_COMMAND", "ssh -F none -o IdentityFile=none -o BatchMode=yes");
            if let Some(agent) = &agent {
                command.env("SSH_AUTH_SOCK", agent);
            }
        }
        if let Some(header) = &header {
            // Not among the arguments, which everybody on the machine may read.
            let scheme = parts.remote.split("://").next().unwrap_or_default();
            command
                .env("GIT_CONFIG_COUNT", "2")
                .env("GIT_CONFIG_KEY_0", format!("http.{scheme}://{host}/.extraHeader"));
            command.env("GIT_CONFIG_VALUE_0", format!("Authorization: {header}"));
            // Where a server sends git to another one, git would show that one the header too.
            command.env("GIT_CONFIG_KEY_1", "http.followRedirects").env("GIT_CONFIG_VALUE_1", "false");
        }
        let out = command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::missing("git is not installed on this machine"),
            _ => e.into(),
        })?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
        }
        let mut cause = cause(&String::from_utf8_lossy(&out.stderr));
        if header.is_some() && cause.contains("returned error: 30") {
            cause.push_str(" (the secret is for this server alone: give the address that it sends git to)");
        }
        Err(Error::other(format!("git {}: {cause}", args[0])))
    };
    let clone = || -> Result<()> {
        run(&["init", "-q"])?;
        run(&["remote", "add", "origin", &parts.remote])?;
        let name = if parts.reference.is_empty() { "HEAD" } else { parts.reference.as_str() };
        if let Err(first) = run(&["fetch", "-q", "--depth", "1", "origin", name]) {
            // Not every server gives a commit by its digest alone.
            run(&["fetch", "-q", "--tags", "origin"])?;
            let found = run(&["rev-parse", "-q", "--verify", &format!("{name}^{{commit}}")])
                .or_else(|_| run(&["rev-parse", "-q", "--verify", &format!("origin/{name}^{{commit}}")]))
                .map_err(|_| first)?;
            run(&["checkout", "-q", "--detach", &found])?;
        } else {
            run(&["checkout", "-q", "--detach", "FETCH_HEAD"])?;
        }
        if parts.submodules != Some(false) && checkout.join(".gitmodules").exists() {
            run(&["submodule", "update", "-q", "--init", "--recursive", "--depth", "1"])?;
        }
        for want in wanted.checksum.into_iter().chain(parts.checksum.as_deref()) {
            let have = run(&["rev-parse", "HEAD"])?;
            if want.len() < 7 || !have.starts_with(want) {
                return Err(Error::damaged(format!("the commit is {have}, and not {want}")));
            }
        }
        Ok(())
    };
    clone().with(|| text.to_owned())?;
    if !(wanted.keep_git_dir || parts.keep_git_dir == Some(true)) {
        crate::layer::remove_all(&checkout.join(".git"))?;
    }
    if parts.directory.is_empty() {
        return Ok(checkout);
    }
    let root = super::root::Root::open(&checkout)?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let fd = root.enter(&parts.directory, flags).with(|| format!("{text}: {}", parts.directory))?;
    Ok(checkout.join(root.real(&fd)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_repositories() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, remote, reference, directory) in [
            ("https://x.example/a.git", "https://x.example/a.git", "", ""),
            ("https://x.example/a.git#v1:sub", "https://x.example/a.git", "v1", "sub"),
            ("github.com/a/b#:sub", "https://github.com/a/b", "", "sub"),
            ("https://x.example/a.git?branch=v2&subdir=d", "https://x.example/a.git", "refs/heads/v2", "d"),
            (&format!("https://x.example/a.git?checksum={commit}"), "https://x.example/a.git", commit, ""),
        ] {
            let got = repository(text).unwrap();
            assert_eq!(
                (got.remote.as_str(), got.reference.as_str(), got.directory.as_str()),
                (remote, reference, directory)
            );
        }
        let got = repository("https://x.example/a.git?tag=t&keep-git-dir&submodules=false&commit=0123456").unwrap();
        assert_eq!((got.keep_git_dir, got.submodules), (Some(true), Some(false)));
        assert_eq!((got.reference.as_str(), got.checksum.as_deref()), ("refs/tags/t", Some("0123456")));
        for bad in ["?ref", "?ref=", "?what=1", "?submodules=perhaps"] {
            assert!(repository(&format!("https://x.example/a.git{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_of_urls() {
        for (url, want) in [
            ("https://x.example/a.git", "x.example"),
            ("http://user:word@x.example:8080/a?b#c", "x.example:8080"),
            ("https://x.example", "x.example"),
        ] {
            assert_eq!(host(url), want);
        }
    }
}
