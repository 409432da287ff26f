//! Networks by pasta, a program that is the other side of the container's network device.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::super::network::Plan;
use crate::error::{Error, Result, Step};

const TUN: &str = "/dev/net/tun";
const PASTA_PID: &str = "pasta.pid";
/// Pasta has this time to end.
const PASTA_END: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Whether it is installed.
pub(super) fn is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("pasta").is_file())
}

/// Starts pasta, which goes on in the background as long as the namespace is there.
pub(super) fn start(directory: &Path, plan: &Plan, pid: u32) -> Result<()> {
    // Pasta's own words for it would not say what else can be done.
    openat(CWD, TUN, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        Error::other(format!("pasta: {TUN}: {e}: without it there is --network none, or the host's by --network host"))
    })?;
    let log = directory.join("pasta.log");
    let mut command = Command::new("pasta");
    command.args(["--config-net", "--quiet", "--no-map-gw", "--pid"]).arg(directory.join(PASTA_PID));
    for (flag, protocol) in [("-t", "tcp"), ("-u", "udp")] {
        let ports: Vec<String> = plan
            .ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .map(|port| {
                let address = port.host_ip.map(|ip| format!("{ip}/")).unwrap_or_default();
                format!("{address}{}:{}", port.host, port.container)
            })
            .collect();
        if ports.is_empty() {
            command.args([flag, "none"]);
        }
        for port in ports {
            command.args([flag, &port]);
        }
    }
    command.args(["-T", "none", "-U", "none"]);
    let namespace;
    if rustix::process::geteuid().is_root() {
        // As root it would become nobody. It gives up its capabilities before it looks for the namespace, and could not
        // open it by the path of a process that has more of them: it inherits ours.
        let flags = OFlags::RDONLY; // and not CLOEXEC
        namespace = openat(CWD, format!("/proc/{pid}/ns/net"), flags, Mode::empty()).at("pasta: network namespace")?;
        let inherited = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        command.args(["--runas", "0:0", "--netns-only", "--netns", &inherited]);
    } else {
        command.arg(pid.to_string());
    }
    let mut run = || -> Result<()> {
        let out = fs::File::create(&log)?;
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).status()?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(Error::other(format!("{status}: {}", said.trim())))
    };
    run().at("pasta")
}

/// Ends it, if it still runs.
pub(super) fn end(directory: &Path) -> Result<()> {
    let path = directory.join(PASTA_PID);
    let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // The descriptor first: what it names then cannot become another process any more.
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        if let Ok(process) = process
            && ["pasta", "passt"].iter().any(|ours| name.starts_with(ours))
        {
            match rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM) {
                // Its ports are free once it is gone.
                Ok(()) => drop(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PASTA_END))),
                Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).at("end pasta"),
            }
        }
    }
    let _ = fs::remove_file(&path);
    Ok(())
}
