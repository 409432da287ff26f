//! With the kernel, as root: on the host's own hierarchies, and on pure v2 in a private mount namespace. Each test makes
//! cgroups below one of its own and removes them, also where it fails.

mod limits;

use super::*;
use crate::spec::{Cpu, DeviceRule, HugepageLimit, Memory, Pids};
use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Tells why a test cannot run, where it cannot, and has hack/test count it.
fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("cgroup");
    eprintln!("skipped {test}: {why}");
    if let Some(file) = std::env::var_os("TARE_TEST_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(file).unwrap();
        // In one write: tests skip at the same time.
        file.write_all(format!("{test}\t{why}\n").as_bytes()).unwrap();
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("cgroups need root");
    }
    root
}

/// Runs a test again as a process that sees pure v2. True in that process.
fn in_pure_v2<T>(_: T) -> bool {
    if std::env::var_os("TARE_TEST_PURE_V2").is_some() {
        return true;
    }
    if is_root() {
        let test = std::any::type_name::<T>().split_once("::").unwrap().1;
        let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let status = Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("TARE_TEST_PURE_V2", "1")
            .status()
            .unwrap();
        assert!(status.success(), "{test} in pure v2: {status}");
    }
    false
}

/// Whether the host has v1 hierarchies, beside v2 or not.
fn on_v1() -> bool {
    if !is_root() {
        return false;
    }
    let v1 = Path::new("/sys/fs/cgroup/devices/devices.list").exists();
    if !v1 {
        skip("the host has no cgroup v1");
    }
    v1
}

/// A cgroup of a test's own, and its processes, gone at the end.
struct Scene {
    placement: Placement,
    children: Vec<Child>,
}

fn made(placement: Placement, resources: &Resources, privileged: bool) -> Result<Cgroup> {
    let mut cgroup = Cgroup::make(placement, resources, privileged, Driver::Fs)?;
    match cgroup.restrict() {
        Ok(()) => Ok(cgroup),
        Err(error) => {
            cgroup.undo()?;
            Err(error)
        }
    }
}

impl Scene {
    fn new(name: &str) -> Self {
        let path = format!("/tare-test-{}-{name}/leaf", std::process::id());
        let placement = place(&path, "unused", &Host::look(&path, &Driver::Fs).unwrap()).unwrap();
        Self { placement, children: Vec::new() }
    }

    fn make(&self, resources: &Resources) -> Result<Cgroup> {
        made(self.placement.clone(), resources, true)
    }

    fn dir(&self, controller: &str) -> PathBuf {
        self.placement.paths().find(|(name, _)| *name == controller).unwrap().1
    }

    fn value(&self, controller: &str, file: &str) -> String {
        fs::read_to_string(self.dir(controller).join(file)).unwrap().trim().to_owned()
    }

    fn run(&mut self, cgroup: &Cgroup, script: &str) -> u32 {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        for dir in cgroup.placement().hierarchies.iter().filter(|it| it.is_v2()) {
            fs::write(dir.dir().join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        cgroup.join(child.id()).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// The exit code of a script that runs inside.
    fn status(&mut self, cgroup: &Cgroup, script: &str) -> Option<i32> {
        self.run(cgroup, script);
        self.children.pop().unwrap().wait().unwrap().code()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.placement.hierarchies.iter().flat_map(|it| [it.dir(), it.dir().parent().unwrap().to_owned()]).collect()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.dirs().into_iter().filter(|it| it.exists()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::open(&self.placement) {
            let _ = cgroup.thaw();
            for child in &mut self.children {
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
            for dir in self.dirs() {
                let _ = rustix::fs::rmdir(dir);
            }
        }
    }
}

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>) -> DeviceRule {
    DeviceRule { allow, kind: kind.into(), major, minor, access: "rwm".into() }
}

fn alive(pid: u32) -> bool {
    // A zombie is dead.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|it| !it.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Waits for what the processes of a test do.
fn until(done: impl Fn() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_mins(3), "it never came");
        std::thread::yield_now();
    }
}

/// Kills a fork bomb with nested cgroups, in the way that both versions share.
fn kills_everything(scene: &mut Scene) {
    let cgroup = scene.make(&Resources::default()).unwrap();
    // A new cpuset admits nobody.
    let nested = scene.placement.hierarchies.iter().filter(|it| !it.has("cpuset"));
    let nested: Vec<PathBuf> = nested.map(|it| it.dir().join("a/b")).collect();
    for dir in &nested {
        fs::create_dir_all(dir).unwrap();
    }
    let moving: Vec<_> = nested.iter().map(|dir| format!("echo $$ > {}/cgroup.procs; ", dir.display())).collect();
    let moving = moving.concat();
    scene.run(&cgroup, &format!("{moving} trap '' TERM; while :; do sleep 100 & sleep 0.01; done"));
    scene.run(&cgroup, "sleep 100 & exec sleep 100");
    until(|| cgroup.pids().unwrap().len() >= 6);
    let pids = cgroup.pids().unwrap();

    assert!(cgroup.remove().unwrap_err().to_string().contains("still in it"));
    cgroup.kill_all().unwrap();
    assert!(pids.into_iter().all(|pid| !alive(pid)));
    assert_eq!(cgroup.pids().unwrap(), Vec::<u32>::new());
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(Cgroup::open(&scene.placement).unwrap().pids().unwrap(), Vec::<u32>::new());
    Cgroup::open(&scene.placement).unwrap().kill_all().unwrap();
    assert!(!Cgroup::open(&scene.placement).unwrap().is_frozen().unwrap());
}

fn freezes_and_signals(scene: &mut Scene) {
    let cgroup = scene.make(&Resources::default()).unwrap();
    let mark = tempfile::tempdir().unwrap();
    let (ready, file) = (mark.path().join("ready"), mark.path().join("got"));
    let script = format!(
        "trap 'touch {}; exit 7' USR1; touch {}; while :; do sleep 0.01; done",
        file.display(),
        ready.display()
    );
    let pid = scene.run(&cgroup, &script);
    until(|| ready.exists());
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.signal_all(libc::SIGUSR1).unwrap();
    assert!(cgroup.is_frozen().unwrap(), "a signal does not resume");
    assert!(alive(pid) && !file.exists());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    assert_eq!(scene.children.pop().unwrap().wait().unwrap().code(), Some(7));
    assert!(file.exists());

    // Killing works on a frozen container as well.
    let pid = scene.run(&cgroup, "while :; do sleep 0.01; done");
    cgroup.freeze().unwrap();
    cgroup.kill_all().unwrap();
    assert!(!alive(pid));
    cgroup.thaw().unwrap();
    cgroup.remove().unwrap();
}

fn refuses_lived_in_and_frozen(scene: &mut Scene) {
    let first = scene.make(&Resources::default()).unwrap();
    scene.run(&first, "exec sleep 100");
    let text = scene.make(&Resources::default()).unwrap_err().to_string();
    assert!(text.contains("container's cgroup is not empty: 1 process(es) found"), "{text}");
    first.kill_all().unwrap();
    first.freeze().unwrap();
    let text = scene.make(&Resources::default()).unwrap_err().to_string();
    assert!(text.ends_with("container's cgroup unexpectedly frozen"), "{text}");
    first.thaw().unwrap();
    // What a dead container left is taken over, and not removed where that fails.
    scene.make(&Resources::default()).unwrap().undo().unwrap();
    assert!(first.placement().hierarchies.iter().all(|it| it.dir().exists()));
    first.undo().unwrap();
    scene.assert_nothing_left();
}

fn filters_devices(scene: &mut Scene) {
    // Opening is what is filtered; 9 says that it was refused.
    const OPEN_KMSG: &str = "(: < /dev/kmsg) 2> /dev/null || exit 9";
    let resources = |devices| Resources { devices, ..Resources::default() };
    let deny = || rule(false, "a", None, None);
    let cgroup = scene.make(&resources(vec![deny()])).unwrap();
    assert_eq!(scene.status(&cgroup, "head -c1 /dev/zero > /dev/null && head -c1 /dev/urandom > /dev/null"), Some(0));
    assert_eq!(scene.status(&cgroup, OPEN_KMSG), Some(9));
    // Without a rule of its own a container gets no more.
    cgroup.undo().unwrap();
    let cgroup = scene.make(&resources(vec![])).unwrap();
    assert_eq!(scene.status(&cgroup, OPEN_KMSG), Some(9));
    assert_eq!(scene.status(&cgroup, "d=$(mktemp -d) && mknod $d/x c 1 11 && rm -r $d"), Some(0));
    // The next container in the same directory is not bound by the last one's filter.
    let cgroup = scene.make(&resources(vec![deny(), rule(true, "c", Some(1), Some(11))])).unwrap();
    assert_eq!(scene.status(&cgroup, OPEN_KMSG), Some(0));
    let cgroup = scene.make(&resources(vec![])).unwrap();
    assert_eq!(scene.status(&cgroup, OPEN_KMSG), Some(9));
    // A right that was taken back stays away, also from one who asks for more than that.
    let read = DeviceRule { access: "r".into(), ..rule(false, "c", Some(1), Some(11)) };
    let cgroup = scene.make(&resources(vec![rule(true, "c", Some(1), Some(11)), read])).unwrap();
    assert_eq!(scene.status(&cgroup, "(: <> /dev/kmsg) 2> /dev/null || exit 9"), Some(9));
    assert_eq!(scene.status(&cgroup, ": > /dev/kmsg"), Some(0));
    cgroup.remove().unwrap();
}

#[test]
fn v2_kills_everything() {
    if in_pure_v2(v2_kills_everything) {
        kills_everything(&mut Scene::new("kill"));
    }
}

#[test]
fn v1_kills_everything() {
    if on_v1() {
        kills_everything(&mut Scene::new("kill"));
        // As on a host without v2 beside v1.
        let mut scene = Scene::new("kill-v1-only");
        scene.placement.hierarchies.retain(|it| !it.is_v2());
        kills_everything(&mut scene);
    }
}

#[test]
fn v2_freezes_and_signals() {
    if in_pure_v2(v2_freezes_and_signals) {
        freezes_and_signals(&mut Scene::new("freeze"));
    }
}

#[test]
fn v1_freezes_and_signals() {
    if on_v1() {
        freezes_and_signals(&mut Scene::new("freeze"));
    }
}

#[test]
fn v2_refuses_lived_in_and_frozen() {
    if in_pure_v2(v2_refuses_lived_in_and_frozen) {
        refuses_lived_in_and_frozen(&mut Scene::new("lived-in"));
    }
}

#[test]
fn v1_refuses_lived_in_and_frozen() {
    if on_v1() {
        refuses_lived_in_and_frozen(&mut Scene::new("lived-in"));
    }
}

#[test]
fn v2_filters_devices() {
    if in_pure_v2(v2_filters_devices) {
        filters_devices(&mut Scene::new("devices"));
    }
}

#[test]
fn v1_filters_devices() {
    if on_v1() {
        filters_devices(&mut Scene::new("devices"));
    }
}

#[test]
fn a_chain_of_cgroups_deeper_than_the_descriptor_limit_is_removed() {
    if !in_pure_v2(a_chain_of_cgroups_deeper_than_the_descriptor_limit_is_removed) {
        return;
    }
    let scene = Scene::new("deep");
    let cgroup = scene.make(&Resources::default()).unwrap();
    let mut dir = rustix::fs::open(scene.dir(""), rustix::fs::OFlags::PATH, 0o755.into()).unwrap();
    for _ in 0..1100 {
        rustix::fs::mkdirat(&dir, "d", 0o755.into()).unwrap();
        dir = rustix::fs::openat(&dir, "d", rustix::fs::OFlags::PATH, 0o755.into()).unwrap();
    }
    drop(dir);
    assert_eq!(cgroup.pids().unwrap(), Vec::<u32>::new());
    cgroup.undo().unwrap();
    scene.assert_nothing_left();
}

#[test]
fn an_unprivileged_caller_goes_without_or_is_told_what_to_do() {
    if rustix::process::geteuid().is_root() {
        // Again with the credentials of nobody, in a process of its own.
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "outside::cgroup::tests::an_unprivileged_caller_goes_without_or_is_told_what_to_do"])
            .uid(65534)
            .gid(65534)
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let make = |path: &str, resources: &Resources| {
        made(place(path, "tare-test-nobody", &Host::look(path, &Driver::Fs).unwrap()).unwrap(), resources, false)
    };
    let none = make("", &Resources::default()).unwrap();
    assert!(none.placement().hierarchies.is_empty() && none.clone_into().is_none());
    none.join(1).unwrap();
    none.kill_all().unwrap();
    none.undo().unwrap();

    let limits = Resources { pids: Some(Pids { limit: Some(5) }), ..Resources::default() };
    let text = make("", &limits).unwrap_err().to_string();
    assert!(
        text.starts_with(
            "linux.resources.pids.limit: cannot set pids limit: container could not join or create cgroup"
        ),
        "{text}"
    );
    let text = make("/tare-test-nobody", &Resources::default()).unwrap_err().to_string();
    assert!(
        text.starts_with("unable to apply cgroup configuration: mkdir ") && text.ends_with("permission denied"),
        "{text}"
    );
}
