//! One test's container: bundle, state directory, the calls to the runtime, and the check that nothing stays behind.

mod verbs;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::command::{self, Files, Out};
use crate::programs::{self, Kind, Runtime};
use crate::report::{HookCall, Report};
use crate::{cgroups, leak, spec, wait};

/// A container to be. Dropping it deletes what is there by force and fails the test if anything is left then.
pub struct Case {
    /// Id of the container, unique on the machine; everything that the test makes bears it.
    pub id: String,
    /// Directory of the test.
    pub dir: PathBuf,
    /// The runtime under test.
    pub runtime: Runtime,
    /// config.json, as it will be written.
    pub spec: Value,
    /// Flags that go before every verb, after `--root`.
    pub global: Vec<String>,
    /// Further environment of the runtime.
    pub env: Vec<(String, String)>,
    calls: Cell<u32>,
    console: RefCell<Option<Files>>,
    pid: Cell<Option<i32>>,
    reapers: RefCell<Vec<std::thread::JoinHandle<()>>>,
}

impl Default for Case {
    fn default() -> Self {
        Self::new()
    }
}

impl Case {
    /// An ordinary container over the runtime under test, whose process is the probe in `hold`.
    pub fn new() -> Self {
        Self::with(Runtime::under_test().clone())
    }

    /// The same, in a mount namespace with cgroup v2 alone.
    pub fn on_v2() -> Self {
        cgroups::enter_v2();
        Self::new()
    }

    /// The same over another runtime.
    pub fn with(runtime: Runtime) -> Self {
        cgroups::enter_asked();
        let id = unique();
        let dir = Path::new("/tmp").join(&id);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut case = Self {
            spec: spec::ordinary(&id, &["/probe", "hold"]),
            id,
            dir,
            runtime,
            global: Vec::new(),
            env: Vec::new(),
            calls: Cell::new(0),
            console: RefCell::new(None),
            pid: Cell::new(None),
            reapers: RefCell::new(Vec::new()),
        };
        fill(&case.rootfs());
        if cgroups::by_systemd() {
            case.systemd();
        }
        case
    }

    /// Has systemd make the cgroup: a scope in `system.slice` that bears the id.
    pub fn systemd(&mut self) -> &mut Self {
        self.global.push("--systemd-cgroup".to_owned());
        self.spec["linux"]["cgroupsPath"] = json!(format!("system.slice:test:{}", self.id));
        self
    }

    /// Where the container's cgroup is, from the root of a hierarchy, when the spec's path has not been changed.
    pub fn cgroup(&self) -> String {
        let by_systemd = self.global.iter().any(|flag| flag == "--systemd-cgroup");
        if by_systemd { format!("/system.slice/test-{}.scope", self.id) } else { format!("/{}", self.id) }
    }

    /// Its directory, on version 2.
    pub fn cgroup_dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.cgroup()[1..])
    }

    /// The bundle's directory.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// The root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// The runtime's `--root`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Sets the container's command.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        let mount = json!({ "destination": destination, "type": kind, "source": source, "options": options });
        self.spec["mounts"].as_array_mut().expect("a list of mounts").push(mount);
        self
    }

    /// Leaves out a namespace, so that the container shares the host's.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        self.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|n| n["type"] != kind);
        self
    }

    /// Joins the namespace at this path, or makes a new one.
    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Self {
        self.without_namespace(kind);
        let namespace = path.map_or_else(|| json!({ "type": kind }), |p| json!({ "type": kind, "path": p }));
        self.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(namespace);
        self
    }

    /// A new user namespace: container ids from 0 are host ids from 100000 on; the root file system is given to them.
    pub fn user_namespace(&mut self) -> &mut Self {
        self.namespace("user", None);
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        give(&self.rootfs(), 100_000);
        // The mapped root has to be able to walk to its own root file system.
        self
    }

    /// Writes config.json.
    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.spec).expect("JSON");
        fs::write(self.bundle().join("config.json"), text).expect("write config.json");
    }

    /// The runtime with its global flags.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime.binary);
        command.arg("--root").arg(self.state_dir()).args(&self.global).env("TARE_TEST", &self.id).stdin(self.stdin());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// An empty stdin that is no device: runtimes give the standard streams to the container's user, and some of them do
    /// so even with the host's /dev/null.
    pub fn stdin(&self) -> Stdio {
        let path = self.dir.join("stdin");
        if !path.exists() {
            fs::write(&path, "").expect("an empty file");
        }
        Stdio::from(fs::File::open(path).expect("the empty file"))
    }

    /// Where the output of the next call goes.
    pub fn files(&self) -> Files {
        self.calls.set(self.calls.get() + 1);
        Files::new(&self.dir, &format!("call{}", self.calls.get()))
    }

    /// Runs the runtime with these arguments.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Out {
        self.finish(self.command().args(args), &self.files())
    }

    /// Runs a command of this case's runtime.
    #[track_caller]
    pub fn finish(&self, command: &mut Command, files: &Files) -> Out {
        let mut out = command::run(command, files);
        out.peer = self.runtime.kind != Kind::Tare;
        out
    }

    /// What a process of this container sees.
    #[track_caller]
    pub fn report(&mut self) -> Report {
        self.args(&["/probe", "report"]);
        self.run().ok().report()
    }

    /// Runs a container that makes these attempts and checks how each of them went: `Ok("")` for any success,
    /// `Ok(text)` for one that read this text, `Err(name)` for this error.
    #[track_caller]
    pub fn attempts(&mut self, attempts: &[(&str, Result<&str, &str>)]) {
        let mut args = vec!["/probe", "try"];
        args.extend(attempts.iter().map(|(attempt, _)| *attempt));
        self.args(&args);
        check(&self.run().ok(), attempts);
    }

    /// The same by `exec` in the running container.
    #[track_caller]
    pub fn exec_attempts(&self, attempts: &[(&str, Result<&str, &str>)]) {
        let mut args = vec!["/probe", "try"];
        args.extend(attempts.iter().map(|(attempt, _)| *attempt));
        check(&self.exec(&args).ok(), attempts);
    }

    /// Registers the probe as a hook that records its call, and ends with this status.
    pub fn hook(&mut self, point: &str, name: &str, code: u8) -> &mut Self {
        // createContainer and startContainer hooks start in the container's mounts: the record has to be there too.
        let (file, program) = if point == "startContainer" {
            ("/hooks.jsonl".to_owned(), "/probe".to_owned())
        } else {
            (
                self.dir.join("hooks.jsonl").to_string_lossy().into_owned(),
                self.rootfs().join("probe").to_string_lossy().into_owned(),
            )
        };
        let hook = json!({
            "path": program,
            "args": ["probe", "hook", file, name, code.to_string()],
            "env": ["HOOK=yes", format!("TARE_TEST={}", self.id)],
        });
        let hooks = &mut self.spec["hooks"][point];
        if hooks.is_null() {
            *hooks = json!([]);
        }
        hooks.as_array_mut().expect("a list").push(hook);
        self
    }

    /// The calls of hooks so far: those on the host's files, then those on the container's.
    pub fn hook_calls(&self) -> Vec<HookCall> {
        let mut calls = Vec::new();
        for file in [self.dir.join("hooks.jsonl"), self.rootfs().join("hooks.jsonl")] {
            let text = fs::read_to_string(file).unwrap_or_default();
            calls.extend(text.lines().map(|line| serde_json::from_str::<HookCall>(line).expect("a hook's record")));
        }
        calls
    }

    /// Requires that nothing on the machine bears the id and that the runtime has no record: after a failed call.
    #[track_caller]
    pub fn nothing_left(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    fn left(&self) -> Vec<String> {
        let mut left = leak::find(&self.id);
        if self.runtime.kind != Kind::Tare {
            // crun leaves the cgroup when a creation fails halfway, runc when its first stage is not gone in time.
            left.retain(|l| !l.starts_with("cgroup"));
        }
        if let Ok(entries) = fs::read_dir(self.state_dir()) {
            left.extend(
                entries
                    .flatten()
                    // crun keeps an empty directory there for masks, which belongs to no container.
                    .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
                    .map(|e| format!("state {}", e.path().display())),
            );
        }
        left
    }
}

#[track_caller]
fn check(out: &Out, attempts: &[(&str, Result<&str, &str>)]) {
    let outcomes = out.outcomes();
    assert_eq!(outcomes.len(), attempts.len(), "{out}");
    let wrong: Vec<String> = outcomes
        .iter()
        .zip(attempts)
        .filter(|(outcome, (_, expected))| match (&outcome.errno, expected) {
            (None, Ok(value)) => !value.is_empty() && outcome.value.trim_end() != *value,
            (Some(errno), Err(name)) => errno != name,
            _ => true,
        })
        .map(|(outcome, (_, expected))| {
            format!("{}: {:?} {:?}, expected {expected:?}", outcome.attempt, outcome.errno, outcome.value)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Drop for Case {
    fn drop(&mut self) {
        let recorded = fs::read_dir(self.state_dir()).is_ok_and(|mut entries| entries.next().is_some());
        if recorded || !leak::find(&self.id).is_empty() {
            command::quietly(self.command().args(["delete", "--force", &self.id]));
        }
        if let Some(pid) = self.pid.get() {
            wait::exited(pid, std::time::Duration::from_secs(5));
            leak::reap(pid);
        }
        for reaper in self.reapers.take() {
            // One that still runs waits for a process that outlived the container, which is reported below.
            if reaper.is_finished() {
                let _ = reaper.join();
            }
        }
        let left = self.left();
        leak::remove(&self.id);
        // A mount that could not be removed may lead to the host's files: its directory is not to be emptied then.
        if leak::mounts(&self.id).is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
        }
        if self.runtime.kind != Kind::Tare {
            // What a peer forgets was removed above: it is not what is tested here.
            return;
        }
        assert!(std::thread::panicking() || left.is_empty(), "left behind after delete --force:\n{}", left.join("\n"));
    }
}

/// Containers outlive `create`: their processes come to us then, so that we learn how they end. Only tests that create
/// containers themselves ask for it: orphans of others belong to the machine's init.
fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper"));
}

/// An id that no other test has, and that is no part of another one.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{:03}", mark(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The beginning of all ids that this process gives.
pub fn mark() -> String {
    // The run of hack/test that we belong to, so that it finds what is left when we are killed.
    let run = std::env::var("TARE_TEST_RUN").unwrap_or_else(|_| "0".to_owned());
    format!("tare-test-{run}-{}-", std::process::id())
}

/// A minimal root file system with the probe in it.
pub fn fill(rootfs: &Path) {
    for dir in ["proc", "dev", "sys", "tmp", "etc", "root", "home/user", "mnt"] {
        fs::create_dir_all(rootfs.join(dir)).expect("a directory");
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/probe\nuser:x:1000:1000::/home/user:/probe\n")
        .expect("passwd");
    fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n").expect("group");
    // By a process of its own: a descriptor that writes it, inherited for a moment by what another test starts just then, would
    // make it busy when it is executed (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(programs::probe()).arg(rootfs.join("probe")).status();
    assert!(copied.is_ok_and(|status| status.success()), "copy the probe");
}

/// Gives a directory and what is in it to this user and group.
pub fn give(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).expect("chown");
    if path.symlink_metadata().expect("its type").is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            give(&entry.path(), id);
        }
    }
}
