//! What ADD and contexts take from elsewhere: URLs and git repositories.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::workspace::Workspace;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, Step};

/// Largest file that ADD fetches.
const FILE_MAX: u64 = 64 << 30;

/// Fetches a file; gives it, and the time that the server says it has. With a checksum it must be that.
pub(crate) fn url(url: &str, workspace: &Workspace, checksum: Option<&Digest>) -> Result<(PathBuf, Option<i64>)> {
    let step = || url.to_owned();
    let response = ureq::get(url).call().map_err(|e| Error::other(e.to_string())).with(step)?;
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
#[derive(Debug, PartialEq, Eq)]
struct Repository {
    remote: String,
    reference: String,
    directory: String,
}

fn repository(text: &str) -> Repository {
    let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = remote.split_once('?').unwrap_or((remote, ""));
    let (mut reference, mut directory) = match fragment.split_once(':') {
        Some((reference, directory)) => (reference.to_owned(), directory.to_owned()),
        None => (fragment.to_owned(), String::new()),
    };
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("ref" | "branch" | "tag" | "commit", value)) => value.clone_into(&mut reference),
            Some(("subdir", value)) => value.clone_into(&mut directory),
            _ => {}
        }
    }
    let remote = if remote.starts_with("github.com/") { format!("https://{remote}") } else { remote.to_owned() };
    Repository { remote, reference, directory }
}

/// Checks a repository out, by the git of this machine; gives the directory. What the repository names is hostile: no hooks,
/// no protocols but the usual ones, and a directory in it is found beneath it (CVE-2024-23651's kind).
pub(crate) fn git(text: &str, workspace: &Workspace, keep_git_dir: bool, checksum: Option<&str>) -> Result<PathBuf> {
    let parts = repository(text);
    let bad = |why: &str| Error::malformed(format!("{text}: {why}"));
    if parts.remote.starts_with('-') || parts.reference.starts_with('-') {
        return Err(bad("begins with a dash"));
    }
    let checkout = workspace.directory()?;
    let run = |args: &[&str]| -> Result<String> {
        let mut command = Command::new("git");
        command
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-C"])
            .arg(&checkout)
            .args(args);
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").stdin(Stdio::null());
        let out = command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::missing("git is not installed on this machine"),
            _ => e.into(),
        })?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("failed");
        Err(Error::other(format!("git {}: {last}", args[0])))
    };
    let clone = || -> Result<()> {
        run(&["init", "-q"])?;
        run(&["remote", "add", "origin", &parts.remote])?;
        let wanted = if parts.reference.is_empty() { "HEAD" } else { parts.reference.as_str() };
        if run(&["fetch", "-q", "--depth", "1", "origin", wanted]).is_err() {
            // Not every server gives a commit by its digest alone.
            run(&["fetch", "-q", "--tags", "origin"])?;
            let found = run(&["rev-parse", "-q", "--verify", &format!("{wanted}^{{commit}}")])
                .or_else(|_| run(&["rev-parse", "-q", "--verify", &format!("origin/{wanted}^{{commit}}")]))?;
            run(&["checkout", "-q", "--detach", &found])?;
        } else {
            run(&["checkout", "-q", "--detach", "FETCH_HEAD"])?;
        }
        if checkout.join(".gitmodules").exists() {
            run(&["submodule", "update", "-q", "--init", "--recursive", "--depth", "1"])?;
        }
        if let Some(want) = checksum {
            let have = run(&["rev-parse", "HEAD"])?;
            if want.len() < 7 || !have.starts_with(want) {
                return Err(Error::damaged(format!("--checksum={want}: the commit is {have}")));
            }
        }
        Ok(())
    };
    clone().with(|| text.to_owned())?;
    if !keep_git_dir {
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
        for (text, remote, reference, directory) in [
            ("https://x.example/a.git", "https://x.example/a.git", "", ""),
            ("https://x.example/a.git#v1:sub", "https://x.example/a.git", "v1", "sub"),
            ("github.com/a/b#:sub", "https://github.com/a/b", "", "sub"),
            ("https://x.example/a.git?branch=v2&subdir=d", "https://x.example/a.git", "v2", "d"),
        ] {
            let got = repository(text);
            assert_eq!(
                (got.remote.as_str(), got.reference.as_str(), got.directory.as_str()),
                (remote, reference, directory)
            );
        }
    }
}
