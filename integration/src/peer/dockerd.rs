//! Debian's dockerd with its own data, its own containerd, and no network of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Service;
use crate::command::{self, Files, Out};
use crate::programs::Runtime;

/// A dockerd that knows the runtime under test as `tare`.
pub struct Dockerd {
    /// The test's id.
    pub id: String,
    dir: PathBuf,
    service: Option<Service>,
    calls: std::cell::Cell<u32>,
}

impl Dockerd {
    /// Starts it with its files in `dir`.
    pub fn start(id: &str, dir: &Path, runtime: &Runtime) -> Self {
        let dir = dir.join("dockerd");
        std::fs::create_dir_all(&dir).expect("a directory");
        let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let mut command = Command::new("dockerd");
        // An empty configuration of its own: /etc/docker/daemon.json belongs to the system's service.
        std::fs::write(dir.join("daemon.json"), "{}").expect("its configuration");
        command.args(["--config-file", &at("daemon.json")]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args([
            "-H",
            &format!("unix://{}", at("sock")),
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        ]);
        command.args(["--storage-driver", "overlay2", "--cgroup-parent", &format!("/{id}")]);
        command.arg("--add-runtime").arg(format!("tare={}", runtime.binary.display()));
        let mut service = Service::start(&mut command, id, &dir.join("log"));
        let mut this = Self { id: id.to_owned(), dir, service: None, calls: std::cell::Cell::new(0) };
        service.ready(|| {
            let mut docker = this.docker_command(&["version"]);
            docker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        });
        this.service = Some(service);
        this
    }

    fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.dir.join("sock").display())).args(args);
        command.env("TARE_TEST", &self.id).env("DOCKER_CONFIG", self.dir.join("client")).stdin(Stdio::null());
        command
    }

    /// Runs `docker` to its end.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Out {
        let n = self.calls.get() + 1;
        self.calls.set(n);
        command::run(&mut self.docker_command(args), &Files::new(&self.dir, &format!("docker{n}")))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- dockerd\n{}", self.service.as_ref().map(Service::said).unwrap_or_default());
        }
        drop(self.service.take());
        super::end_all(&self.id);
    }
}
