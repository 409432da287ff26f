//! Debian's containerd with its own root, state and socket, and `ctr` to talk to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Service;
use crate::command::{self, Files, Out};
use crate::programs;

/// A containerd that finds our shim, and over it the runtime under test.
pub struct Containerd {
    /// The test's id.
    pub id: String,
    dir: PathBuf,
    service: Option<Service>,
    calls: AtomicU32,
}

impl Containerd {
    /// Starts it with its files in `dir`.
    pub fn start(id: &str, dir: &Path) -> Self {
        let dir = dir.join("containerd");
        std::fs::create_dir_all(dir.join("bin")).expect("a directory");
        std::os::unix::fs::symlink(programs::ours("shim"), dir.join("bin/containerd-shim-tare-v2"))
            .expect("name the shim");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{0}/sock\"\n[ttrpc]\n  address = \"{0}/sock.ttrpc\"\n",
            dir.display()
        );
        std::fs::write(dir.join("config.toml"), config).expect("its configuration");
        let mut this = Self { id: id.to_owned(), dir, service: None, calls: AtomicU32::new(0) };
        this.up();
        this
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the daemon (again).
    pub fn up(&mut self) {
        let path = format!("{}:{}", self.dir.join("bin").display(), crate::criu::path().display());
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.dir.join("config.toml")).env("PATH", path);
        command.env("TARE_RUNTIME", &programs::Runtime::under_test().binary);
        let n = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut service = Service::start(&mut command, &self.id, &self.dir.join(format!("log{n}")));
        service.ready(|| {
            let mut ctr = self.ctr_command(&["version"]);
            ctr.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        });
        self.service = Some(service);
    }

    /// Kills the daemon, as a crash does. Containers go on.
    pub fn crash(&mut self) {
        self.service.take().expect("a running daemon").crash();
    }

    /// The runtime to ask for: ours, or the stock shim, by which the tests themselves are proven.
    pub fn runtime() -> String {
        std::env::var("TARE_TEST_SHIM").unwrap_or_else(|_| "io.containerd.tare.v2".to_owned())
    }

    /// `ctr` with these arguments.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("sock"));
        // Containers of the same name in other tests are in other namespaces.
        command.args(["--namespace", &self.id]).args(args).env("TARE_TEST", &self.id).stdin(Stdio::null());
        command
    }

    /// Runs `ctr` to its end.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Out {
        let n = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        command::run(&mut self.ctr_command(args), &Files::new(&self.dir, &format!("ctr{n}")))
    }

    /// What the daemon logged.
    pub fn said(&self) -> String {
        self.service.as_ref().map(Service::said).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- containerd\n{}", self.said());
        }
        // The shims outlive the daemon by design.
        drop(self.service.take());
        // Shims give the runtime a state directory per namespace here, wherever containerd itself has its state. It is empty
        // once they have cleaned up, which one may still be at: it is not to be ended in the middle.
        let gone = || {
            let removed = |shim| std::fs::remove_dir(Path::new("/run/containerd").join(shim).join(&self.id));
            let full = |result: std::io::Result<()>| {
                result.is_err_and(|error| error.kind() == std::io::ErrorKind::DirectoryNotEmpty)
            };
            (!["tare", "runc"].into_iter().any(|shim| full(removed(shim)))).then_some(())
        };
        let _ = crate::wait::until(Duration::from_millis(10), Duration::from_secs(5), gone);
        super::end_all(&self.id);
        if gone().is_none() {
            for shim in ["tare", "runc"] {
                let dir = Path::new("/run/containerd").join(shim).join(&self.id);
                for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                    println!("--- left in {}: {}", dir.display(), entry.file_name().display());
                }
            }
        }
    }
}
