//! Trying: one system call (or a few) per attempt, with the error that it gave.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;

use integration::report::Outcome;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, SFlag};

/// Runs one attempt: a verb and its arguments with blanks between them.
pub(crate) fn run(attempt: &str) -> Outcome {
    let words: Vec<&str> = attempt.split(' ').collect();
    let (errno, value) = match act(&words) {
        Ok(value) => (None, value),
        Err(errno) => (Some(format!("{errno:?}")), String::new()),
    };
    Outcome { attempt: attempt.to_owned(), errno, value }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn errno(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or_else(|| panic!("an error without a number: {e}"), Errno::from_raw)
}

fn act(words: &[&str]) -> Result<String, Errno> {
    let none: Option<&str> = None;
    let done = |()| String::new();
    match words {
        ["read", path] => {
            let mut bytes = Vec::new();
            fs::File::open(path).map_err(errno)?.take(65536).read_to_end(&mut bytes).map_err(errno)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        ["write", path, text @ ..] => {
            let mut file = fs::OpenOptions::new().write(true).open(path).map_err(errno)?;
            file.write_all(text.join(" ").as_bytes()).map_err(errno).map(done)
        }
        ["create", path] => fs::File::create(path).map_err(errno).map(|_| String::new()),
        ["mkdir", path] => fs::create_dir(path).map_err(errno).map(done),
        ["unlink", path] => fs::remove_file(path).map_err(errno).map(done),
        ["symlink", target, path] => std::os::unix::fs::symlink(target, path).map_err(errno).map(done),
        ["readlink", path] => fs::read_link(path).map(|p| p.to_string_lossy().into_owned()).map_err(errno),
        ["list", path] => {
            let mut names = fs::read_dir(path)
                .map_err(errno)?
                .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(errno)?;
            names.sort();
            Ok(names.join(" "))
        }
        ["stat", path] => stat(path),
        ["chdir", path] => std::env::set_current_dir(path).map_err(errno).map(done),
        ["chown", path, uid] => nix::unistd::chown(*path, Some(number(uid).into()), None).map(done),
        ["mknod", path, kind, major, minor] => {
            let kind = if *kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            let device = nix::sys::stat::makedev(number(major).into(), number(minor).into());
            nix::sys::stat::mknod(*path, kind, Mode::from_bits_truncate(0o666), device).map(done)
        }
        // Opens for reading and writing and says which refused; a device that has no driver answers ENXIO, a filter EPERM.
        ["open", path] => fs::OpenOptions::new().read(true).open(path).map_err(errno).map(|_| String::new()),
        ["openw", path] => fs::OpenOptions::new().write(true).open(path).map_err(errno).map(|_| String::new()),
        ["mount", source, target, kind] => {
            nix::mount::mount(Some(*source), *target, Some(*kind), MsFlags::empty(), none).map(done)
        }
        ["bind", source, target] => nix::mount::mount(Some(*source), *target, none, MsFlags::MS_BIND, none).map(done),
        ["remount-rw", target] => {
            nix::mount::mount(none, *target, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, none).map(done)
        }
        ["umount", target] => nix::mount::umount2(*target, MntFlags::MNT_DETACH).map(done),
        ["unshare", namespace] => nix::sched::unshare(match *namespace {
            "user" => CloneFlags::CLONE_NEWUSER,
            "mount" => CloneFlags::CLONE_NEWNS,
            "network" => CloneFlags::CLONE_NEWNET,
            "uts" => CloneFlags::CLONE_NEWUTS,
            other => panic!("unshare {other}?"),
        })
        .map(done),
        ["chroot", path] => nix::unistd::chroot(*path).map(done),
        ["sethostname", name] => nix::unistd::sethostname(name).map(done),
        ["setuid", uid] => nix::unistd::setuid(number(uid).into()).map(done),
        ["setgid", gid] => nix::unistd::setgid(number(gid).into()).map(done),
        ["personality", bits] => {
            let bits = nix::sys::personality::Persona::from_bits_retain(number(bits) as i32);
            nix::sys::personality::set(bits).map(|_| String::new())
        }
        ["kill", pid] => nix::sys::signal::kill(nix::unistd::Pid::from_raw(number(pid) as i32), None).map(done),
        ["limit-files", soft, hard] => nix::sys::resource::setrlimit(
            nix::sys::resource::Resource::RLIMIT_NOFILE,
            number(soft).into(),
            number(hard).into(),
        )
        .map(done),
        ["exec", path, rest @ ..] => Err(errno(std::process::Command::new(path).args(rest).exec())),
        // A raw socket is what NET_RAW is for; it fails in its absence.
        ["raw-socket"] => rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::RAW,
            Some(rustix::net::ipproto::ICMP),
        )
        .map(|_| String::new())
        .map_err(|e| Errno::from_raw(e.raw_os_error())),
        ["threads", count] => Ok(threads(number(count)).to_string()),
        ["memory", mebibytes] => {
            let mut taken = vec![0_u8; number(mebibytes) as usize * 1024 * 1024];
            for page in taken.chunks_mut(4096) {
                page[0] = 1;
            }
            Ok(std::hint::black_box(&taken).len().to_string())
        }
        other => panic!("probe: no such attempt: {other:?}"),
    }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("probe: not a number: {text}"))
}

/// Type, mode in octal, owner, group, and the device number of a device.
fn stat(path: &str) -> Result<String, Errno> {
    let meta = fs::symlink_metadata(path).map_err(errno)?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => "char",
        t if t.is_block_device() => "block",
        t if t.is_fifo() => "fifo",
        t if t.is_symlink() => "link",
        t if t.is_dir() => "dir",
        t if t.is_socket() => "socket",
        _ => "file",
    };
    let device = meta.rdev();
    Ok(format!(
        "{kind} {:o} {} {} {}:{}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    ))
}

/// Starts threads that wait until all were started, and says how many there came to be: each counts as a task.
fn threads(count: u32) -> u32 {
    let gate = std::sync::RwLock::new(());
    let closed = gate.write();
    std::thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..count {
            let thread = std::thread::Builder::new().stack_size(65536);
            if thread.spawn_scoped(scope, || drop(gate.read())).is_err() {
                break;
            }
            started += 1;
        }
        drop(closed);
        started
    })
}
