//! Debian's docker-registry on a free port of 127.0.0.1.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Service;

/// A registry with storage of its own.
pub struct Registry {
    /// `127.0.0.1:PORT`, as references begin.
    pub host: String,
    service: Service,
    home: PathBuf,
}

impl Registry {
    /// Starts it with its files in `dir`.
    pub fn start(id: &str, dir: &Path) -> Self {
        Self::start_as(id, dir, "")
    }

    /// Starts one that wants this user name and password.
    pub fn start_with_login(id: &str, dir: &Path, user: &str, password: &str) -> Self {
        let file = dir.join("htpasswd");
        // The registry takes only bcrypt; the C library of Debian, and so its perl, has that.
        let script = "print crypt($ARGV[0], '$2y$05$abcdefghijklmnopqrstuu')";
        let hash = crate::command::tool("perl", &["-e", script, password]).ok().stdout;
        std::fs::write(&file, format!("{user}:{hash}\n")).expect("a file of passwords");
        Self::start_as(id, dir, &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", file.display()))
    }

    /// Starts one that speaks HTTPS with `server.crt` and `server.key` of the directory `certs`, to clients that show a certificate
    /// of the authority `ca.crt` there.
    pub fn start_with_tls(id: &str, dir: &Path, certs: &Path) -> Self {
        let at = |name: &str| certs.join(name).display().to_string();
        let (certificate, key, authority) = (at("server.crt"), at("server.key"), at("ca.crt"));
        let more =
            format!("  tls:\n    certificate: {certificate}\n    key: {key}\n    clientcas:\n      - {authority}\n");
        Self::start_as(id, dir, &more)
    }

    fn start_as(id: &str, dir: &Path, more: &str) -> Self {
        let home = dir.join("registry");
        std::fs::create_dir_all(home.join("data")).expect("a directory");
        // The port is free at this moment; should another program be faster, the registry says so and the test fails.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{more}",
            home.join("data").display()
        );
        std::fs::write(home.join("config.yml"), config).expect("its configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(home.join("config.yml"));
        let mut service = Service::start(&mut command, id, &home.join("log"));
        service.ready(|| TcpStream::connect(&host).is_ok());
        Self { host, service, home }
    }

    /// The directory of its blobs, documents among them.
    pub fn blobs(&self) -> PathBuf {
        self.home.join("data/docker/registry/v2/blobs")
    }

    /// What it logged.
    pub fn said(&self) -> String {
        self.service.said()
    }
}
