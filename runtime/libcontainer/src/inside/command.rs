//! What is executed: the program, found as the container's user sees it, its arguments and its environment.

use crate::{
    error::{At, Error, Result},
    sys::{CStringArray, execve},
};
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    convert::Infallible,
    ffi::CString,
    io::Read,
    path::{Path, PathBuf},
};

/// A program that was found; running it cannot fail for want of memory or of valid strings.
pub(crate) struct Command {
    name: String,
    path: CString,
    args: CStringArray,
    env: CStringArray,
    /// The same, as text.
    pub(crate) variables: Vec<String>,
}

impl Command {
    /// Finds `args[0]` from the present root, directory and user. Docker tells its exit codes 126 and 127 from the texts.
    pub(crate) fn find(args: &[String], env: Vec<String>) -> Result<Self> {
        let Some(name) = args.first() else { return Err(Error::invalid("process.args", "must not be empty")) };
        let search = env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let path = find(name, search)?;
        let nul = |_| Error::invalid("process", "a NUL in args or env");
        Ok(Self {
            name: name.clone(),
            path: CString::new(path.into_os_string().into_encoded_bytes()).map_err(nul)?,
            args: CStringArray::new(args).map_err(nul)?,
            env: CStringArray::new(&env).map_err(nul)?,
            variables: env,
        })
    }

    /// Becomes the program.
    pub(crate) fn execute(&self) -> Result<Infallible> {
        Err(execve(&self.path, &self.args, &self.env)).at_with(|| format!("exec {}", self.name))
    }
}

/// What `env` makes the program's environment, with the home directory of `uid` by the present root.
pub(crate) fn environment(env: &[String], uid: u32) -> Vec<String> {
    let mut env = last_of_each(env);
    // runc takes an empty one for a missing one.
    env.retain(|entry| entry != "HOME=");
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home_of(uid)));
    }
    env
}

/// Later entries of one name win, as runc has it; the order stays that of the last mention.
fn last_of_each(env: &[String]) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> = env.iter().rev().filter(|entry| seen.insert(name(entry))).cloned().collect();
    kept.reverse();
    kept
}

fn find(name: &str, search: Option<&str>) -> Result<PathBuf> {
    let failed = |cause: String| Err(Error::other(format!("exec: {name:?}: {cause}")));
    if name.is_empty() {
        return failed("executable file not found in $PATH".to_owned());
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Errno::NOENT) => failed(format!("stat {name}: no such file or directory")),
            Err(Errno::ISDIR) => failed("is a directory: permission denied".to_owned()),
            Err(error) => failed(Error::from(error).to_string()),
        };
    }
    let mut denied = false;
    for dir in search.unwrap_or_default().split(':') {
        let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) => denied |= error == Errno::ACCESS,
        }
    }
    failed(if denied { "permission denied" } else { "executable file not found in $PATH" }.to_owned())
}

fn executable(path: &Path) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// The home directory of `uid` by the root's `/etc/passwd`, or `/`.
fn home_of(uid: u32) -> String {
    passwd().and_then(|passwd| home_in(&passwd, uid)).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.nth(2)?.parse() == Ok(uid)).then(|| fields.nth(2).unwrap_or_default().to_owned())
        })
        .filter(|home| !home.is_empty())
}

fn passwd() -> Option<String> {
    /// The image wrote the file: neither a fifo nor an endless one may hold us up.
    const MAX: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Read with init's privilege: a link of /proc's may not lead to what is another's.
    let file = rustix::fs::openat2(CWD, "/etc/passwd", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).ok()?;
    FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode).is_file().then_some(())?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Goes to `cwd`, and makes sure that this is below the root: a descriptor of the host's that was left open would be a
/// way out (`/proc/self/fd/7`, CVE-2024-21626).
pub(crate) fn change_directory(cwd: &Path) -> Result<()> {
    rustix::process::chdir(cwd)
        .at_with(|| format!("chdir to cwd ({:?}) set in config.json failed", cwd.display().to_string()))?;
    // The kernel says `(unreachable)/…` for what is outside.
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Error::other(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_entries_win() {
        let env = ["A=1", "B=2", "A=3"].map(str::to_owned);
        assert_eq!(last_of_each(&env), ["B=2", "A=3"]);
    }

    #[test]
    fn texts_are_those_that_engines_match_on() {
        for (name, text) in [
            ("nope", "exec: \"nope\": executable file not found in $PATH"),
            ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
            ("/etc", "exec: \"/etc\": is a directory: permission denied"),
        ] {
            assert_eq!(find(name, Some("/bin")).unwrap_err().to_string(), text);
        }
        assert_eq!(find("sh", Some("/nowhere:/bin")).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn home_is_looked_up_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:7:7::/home/app:/bin/sh\nnone:x:8:8:::\n";
        assert_eq!(home_in(passwd, 7).as_deref(), Some("/home/app"));
        assert_eq!(home_in(passwd, 8), None);
        assert_eq!(home_in(passwd, 9), None);
    }
}
