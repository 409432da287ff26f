//! What a hostile Dockerfile, image or step might do to the host. Each test is named after the attack that it repeats.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::command;
use integration::leak;
use integration::programs::{self, Runtime};

use crate::Yard;

const MARK: &str = "of-the-host-and-no-step-may-see-it";

/// A directory of the host with a file that must be neither seen nor lost.
fn host(yard: &Yard) -> std::path::PathBuf {
    let dir = yard.place.dir.join("host");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mark"), MARK).unwrap();
    dir
}

/// An image with links to the host's directory in it.
fn hostile_image(yard: &Yard, host: &Path) {
    let root = yard.place.dir.join("small");
    symlink(host, root.join("evil")).unwrap();
    symlink("../../../../../../../../../../..", root.join("top")).unwrap();
    symlink(format!("../../../../../../../../..{}", host.display()), root.join("relative")).unwrap();
    let tar = yard.place.dir.join("evil.tar");
    command::tool("tar", &["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]).ok();
    yard.place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "evil"]).ok();
}

#[test]
fn a_heredocs_name_leads_out_of_the_image() {
    let yard = Yard::new();
    let host = host(&yard);
    let up = "../".repeat(16);
    for dir in [host.display().to_string(), format!("{up}{}", host.strip_prefix("/").unwrap().display())] {
        for (name, mark) in [("new", "#!/bin/sh\necho evil\n"), ("mark", "#!/bin/sh\necho evil\n")] {
            let path = format!("{dir}/{name}");
            for instruction in ["RUN", "COPY", "ADD --chmod=4755", "ONBUILD COPY"] {
                let target = if instruction == "RUN" { "" } else { " /x/" };
                let dockerfile = format!("FROM base\n{instruction} <<{path}{target}\n{mark}{path}\n");
                let out = yard.build(&dockerfile, &["--no-cache"]);
                assert!(out.code == 0 || out.stderr.contains("Dockerfile:2"), "{out}");
                let left: Vec<_> = fs::read_dir(&host).unwrap().flatten().map(|entry| entry.file_name()).collect();
                assert_eq!(left, ["mark"], "{instruction}: {out}");
                assert_eq!(fs::read_to_string(host.join("mark")).unwrap(), MARK, "{instruction}: {out}");
            }
        }
    }
    let out = yard.build("FROM base\nRUN <</a/b\n#!/bin/sh\necho $0\n/a/b\n", &[]).ok();
    assert!(out.stderr.contains("/dev/pipes/"), "it is a script nevertheless: {out}");
}

#[test]
fn a_dockerfile_that_would_fill_the_memory_or_make_an_image_that_nobody_reads() {
    let yard = Yard::new();
    let double = |number: usize| format!("ARG A{0}=$A{1}$A{1}\n", number + 1, number);
    let large = "ARG A0=0123456789abcdef\n".to_owned() + &(0..14).map(double).collect::<String>();
    let many = |word: &str| (0..1000).map(|number| word.replace('#', &number.to_string())).collect::<String>();
    for (what, want) in [
        // 256 KiB, a thousand times.
        (format!("FROM scratch\n{large}LABEL{}\n", many(" l#=$A14")), "makes more than"),
        (format!("FROM scratch\n{large}VOLUME{}\n", many(" $A14/#")), "makes more than"),
        (format!("FROM scratch\n{large}ARG{}\n", many(" B#=$A14")), "makes more than"),
        (format!("FROM scratch\n{large}{}", many("ARG B#=$A14\n")), "config has"),
        (format!("{large}{}FROM scratch\n", many("ARG B#=$A14\n")), "all variables together"),
        (format!("{large}FROM scratch\n{}", many("ARG A14\n")), "config has"),
        (format!("FROM scratch\nEXPOSE{}\n", many(" 1-65535")), "makes more than"),
        (format!("FROM scratch\n{large}LABEL a={}\n", "$A14".repeat(40)), "config has"),
        // Longer as JSON than it is.
        (
            format!("FROM scratch\n{}LABEL a=$A14 b=$A14\n", large.replace("0123456789abcdef", &"\x01".repeat(64))),
            "config has",
        ),
    ] {
        let out = yard.build(&what, &["--no-cache"]);
        let shown: String = out.stderr.lines().last().unwrap_or_default().chars().take(300).collect();
        let begins: String = what.lines().rev().take(2).map(|line| line.chars().take(60).collect::<String>()).collect();
        assert!(out.code == 1 && shown.contains(want), "{begins}: {} {shown}", out.code);
        // Nothing that the store's other commands cannot read.
        yard.place.ours("imgtool", &["images"]).ok();
    }
}

#[test]
fn a_link_of_an_image_is_where_the_next_build_has_its_directory_of_a_platform() {
    let yard = Yard::new();
    let host = host(&yard);
    let out = yard.place.dir.join("out");
    let output = format!("type=local,dest={}", out.display());
    yard.file("links/file", "");
    for name in ["linux_amd64", "linux_arm64"] {
        symlink(&host, yard.context.join("links").join(name)).unwrap();
    }
    yard.build("FROM scratch\nCOPY links/ /\n", &["-o", &output]).ok();
    let args = ["-o", output.as_str(), "--platform", "linux/amd64,linux/arm64", "--provenance"];
    let next = yard.build("FROM scratch\nCOPY Dockerfile /mark\n", &args);
    assert!(next.code == 1 && next.stderr.contains(": is a link"), "{next}");
    let names: Vec<_> = fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["mark"]);
    assert_eq!(fs::read_to_string(host.join("mark")).unwrap(), MARK);
}

#[test]
fn cve_2024_1753_the_source_of_a_bind_is_a_link_to_the_hosts_root() {
    let yard = Yard::new();
    let host = host(&yard);
    hostile_image(&yard, &host);
    for source in ["/evil", "/relative", "../../../../../../..", "/evil/../../.."] {
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=bind,from=evil,source={source},target=/m,rw ls -R /m; cat /m/mark; echo x > /m/mark; true\n"
        );
        let out = yard.build(&dockerfile, &["--no-cache"]);
        assert!(!out.stderr.contains(MARK), "{source}: {out}");
    }
    let out = yard.build(
        &format!("FROM base\nRUN --mount=type=bind,from=evil,source=/top,target=/m ls -d /m{}; true\n", host.display()),
        &[],
    );
    assert!(out.stderr.contains("No such file"), "the root that a link leads to is the image's: {out}");
    for copy in [
        "COPY --from=evil /evil/mark /x",
        "COPY --from=evil /relative/mark /x",
        "COPY --from=evil /top/../../etc/shadow /x",
    ] {
        let out = yard.build(&format!("FROM base\n{copy}\n"), &[]);
        assert!(out.code == 1, "{copy}: {out}");
    }
    // The whole of it: links are copied as links.
    yard.build("FROM scratch\nCOPY --from=evil / /\n", &[]).ok();
    assert!(yard.prints("app", &["/bin/busybox", "readlink", "/evil"]).contains("/host"));
    assert_eq!(fs::read_to_string(host.join("mark")).unwrap(), MARK);
}

#[test]
fn cve_2024_9407_a_bind_asks_for_propagation_to_the_host() {
    let yard = Yard::new();
    let out = yard.build("FROM base\nRUN --mount=type=bind,source=.,target=/m,bind-propagation=shared true\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("unknown key \"bind-propagation\""), "{out}");
    let out = yard
        .build(
            "FROM base\nRUN --security=insecure --mount=target=/m,rw busybox mkdir /m/deep && busybox mount -t tmpfs planted /m/deep && busybox grep ' /m' /proc/self/mountinfo\n",
            &["--allow", "security.insecure"],
        )
        .ok();
    assert!(!out.stderr.contains("shared:"), "{out}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains("planted"), "a mount of a step came out");
}

#[test]
fn cve_2024_9675_the_id_or_target_of_a_cache_climbs_out_of_the_caches() {
    let yard = Yard::new();
    let host = host(&yard);
    // Where a cache might begin below the directory that its id names.
    fs::create_dir(host.join("0")).unwrap();
    fs::write(host.join("0/mark"), MARK).unwrap();
    let up = "../".repeat(20);
    for mount in [
        format!("type=cache,id={up}{},target=/m", host.display()),
        format!("type=cache,id={},target=/m", host.display()),
        format!("type=cache,target=/m/{up}{}/m", host.display()),
        format!("type=cache,id=x,source={up}{},target=/m", host.display()),
        format!("type=cache,from=base,source={up}{},target=/m", host.display()),
    ] {
        let out = yard
            .build(&format!("FROM base\nRUN --mount={mount} cat /m/mark; busybox rm -rf /m/mark /m/*; true\n"), &[]);
        assert!(!out.stderr.contains(MARK), "{mount}: {out}");
        for mark in ["mark", "0/mark"] {
            assert_eq!(fs::read_to_string(host.join(mark)).unwrap(), MARK, "{mount}");
        }
        assert_eq!(fs::read_dir(&host).unwrap().count(), 2, "{mount}: something was made there");
    }
}

#[test]
fn cve_2024_11218_and_23651_a_step_swaps_a_mounts_source_for_a_link_while_another_mounts_it() {
    let yard = Yard::new();
    let host = host(&yard);
    let swap = format!(
        "FROM base AS swap\nRUN --mount=type=cache,id=c,target=/c busybox rm -f /c/stop; until [ -e /c/stop ]; do busybox rm -rf /c/x; busybox ln -s {} /c/x; busybox rm -rf /c/x; busybox mkdir /c/x; done\n",
        host.display()
    );
    let look: Vec<String> = (0..20)
        .map(|n| format!("RUN --mount=type=cache,id=c,source=x,target=/m cat /m/mark; echo {n}; true\n"))
        .collect();
    let look = format!("FROM base AS look\n{}", look.concat());
    let look = look + "RUN --mount=type=cache,id=c,target=/c echo > /c/stop\n";
    let dockerfile = format!("{swap}{look}FROM base\nCOPY --from=swap /etc/group /1\nCOPY --from=look /etc/group /2\n");
    // It may fail, where the source is no directory at that moment; then the other stage ends with the build.
    for _ in 0..5 {
        let out = yard.build(&dockerfile, &["--no-cache"]);
        assert!(!out.stderr.contains(MARK), "{out}");
    }
    assert_eq!(fs::read_to_string(host.join("mark")).unwrap(), MARK);
}

#[test]
fn cve_2024_23652_a_step_makes_the_place_of_a_mount_a_link_before_it_is_cleared_away() {
    let yard = Yard::new();
    let host = host(&yard);
    fs::write(host.join("empty"), "").unwrap();
    fs::create_dir(host.join("dir")).unwrap();
    // A link is what a step can replace although something is mounted behind it.
    let dockerfile = format!(
        "FROM base\nRUN busybox mkdir /x && busybox ln -s x /a\nRUN --mount=type=tmpfs,target=/a/dir --mount=type=secret,id=s,target=/a/empty busybox rm /a && busybox ln -s {} /a && ! busybox cat /a/mark\n",
        host.display()
    );
    let secret = yard.place.dir.join("s");
    fs::write(&secret, "s").unwrap();
    yard.build(&dockerfile, &["--secret", &format!("id=s,src={}", secret.display())]).ok();
    assert_eq!(yard.prints("app", &["/bin/busybox", "readlink", "/a"]).trim(), host.to_str().unwrap());
    assert!(host.join("empty").exists() && host.join("dir").exists() && host.join("mark").exists());
}

#[test]
fn the_context_leads_out_by_its_dockerfile_its_ignore_file_or_its_links() {
    let yard = Yard::new();
    let host = host(&yard);
    fs::write(host.join("Dockerfile"), format!("FROM base\nRUN echo {MARK}\n")).unwrap();
    symlink(host.join("Dockerfile"), yard.context.join("Dockerfile")).unwrap();
    let runtime = Runtime::under_test().binary.to_str().unwrap();
    let out = yard.place.ours("imgtool", &["build", "--runtime", runtime, yard.context.to_str().unwrap()]);
    assert!(out.code == 1 && !out.stderr.contains(MARK), "{out}");
    fs::remove_file(yard.context.join("Dockerfile")).unwrap();
    symlink(host.join("mark"), yard.context.join("link")).unwrap();
    symlink(&host, yard.context.join("dir")).unwrap();
    for copy in
        ["COPY link /x", "COPY dir/mark /x", "COPY dir /x", "COPY ../host/mark /x", "COPY li*k /x/", "ADD link /x"]
    {
        let out = yard.build(&format!("FROM base\n{copy}\nRUN cat /x /x/*; true\n"), &[]);
        assert!(!out.stderr.contains(MARK), "{copy}: {out}");
    }
    // A fifo in the place of a file that is read holds nobody.
    for name in ["Dockerfile", ".dockerignore"] {
        let path = yard.context.join(name);
        let _ = fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let out = yard.place.ours("imgtool", &["build", yard.context.to_str().unwrap()]);
        assert!(out.code == 1, "{name}: {out}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn an_archive_of_the_context_leads_out_of_the_image() {
    let yard = Yard::new();
    let host = host(&yard);
    let script = "import tarfile, io, sys\nt = tarfile.open(sys.argv[1], 'w')\ndef add(name, kind, link='', data=b''):\n    i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(data)\n    t.addfile(i, io.BytesIO(data))\nadd('out', tarfile.SYMTYPE, sys.argv[2])\nadd('out/planted', tarfile.REGTYPE, data=b'x')\nadd('hard', tarfile.LNKTYPE, 'out/mark')\n";
    let tar = yard.context.join("x.tar");
    command::tool("python3", &["-c", script, tar.to_str().unwrap(), host.to_str().unwrap()]).ok();
    let out = yard.build("FROM base\nADD x.tar /t/\nRUN cat /t/hard; true\n", &[]);
    assert!(!out.stderr.contains(MARK), "{out}");
    assert!(!host.join("planted").exists());
}

#[test]
fn a_step_sees_nothing_of_the_host() {
    let yard = Yard::new();
    let host = host(&yard);
    let out = yard
        .build(
            &format!("FROM base\nRUN env; cat /proc/*/environ /proc/*/cmdline; ls -la / /proc/1/root/ /proc/1/cwd/ {} /proc/self/fd; cat /proc/self/mountinfo; true\n", host.display()),
            &[],
        )
        .ok();
    assert!(!out.stderr.contains(MARK) && !out.stderr.contains("--progress"), "{out}");
    assert!(!out.stderr.contains("TARE_TEST="), "an environment of the host's: {out}");
}

/// Starts a build whose step sleeps, and waits until it does.
fn sleeping(yard: &Yard) -> std::process::Child {
    yard.file(
        "Dockerfile",
        "FROM base\nRUN echo before > /before\nRUN --mount=type=cache,id=s,target=/s echo > /s/sleeps && sleep 1000\n",
    );
    let mut command = Command::new(programs::ours("imgtool"));
    command.arg("--root").arg(yard.place.dir.join("store")).args([
        "build",
        "--progress",
        "plain",
        "--network",
        "none",
        "-t",
        "app",
        "--runtime",
    ]);
    command.arg(&Runtime::under_test().binary).arg(&yard.context).env("TARE_TEST", &yard.place.id);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(yard.place.dir.join("log")).unwrap());
    let child = command.spawn().unwrap();
    let caches = yard.place.dir.join("store/cache/mounts");
    let sleeps = || {
        let found = fs::read_dir(&caches).ok()?.flatten().any(|entry| entry.path().join("0/sleeps").exists());
        found.then_some(())
    };
    let came = integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, sleeps);
    assert!(came.is_some(), "{}", fs::read_to_string(yard.place.dir.join("log")).unwrap());
    child
}

#[test]
fn a_build_that_is_interrupted_leaves_no_process_no_mount_and_a_sound_store() {
    for signal in
        [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGKILL]
    {
        let yard = Yard::new();
        let mut child = sleeping(&yard);
        let builds = under_way(&yard);
        assert!(!cgroups_of(&builds).is_empty(), "its step has one");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let code = command::code(child.wait().unwrap());
        assert_eq!(code, 128 + signal as i32);
        let gone = || leak::processes(&yard.place.id).is_empty().then_some(());
        assert!(
            integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, gone).is_some(),
            "{signal}"
        );
        assert!(leak::mounts(&yard.place.id).is_empty());
        if signal != nix::sys::signal::Signal::SIGKILL {
            assert!(cgroups_of(&builds).is_empty(), "{signal}: {:?}", cgroups_of(&builds));
        }
        // What a guard that was killed could not clear away, the next build does; what was done before counts.
        let out = yard.build("FROM base\nRUN echo before > /before\n", &[]).ok();
        assert!(out.stderr.contains("CACHED"), "{signal}: {out}");
        assert!(cgroups_of(&builds).is_empty(), "{signal}: {:?}", cgroups_of(&builds));
        yard.place.ours("imgtool", &["fsck"]).ok();
    }
}

#[test]
fn a_runtime_that_never_deletes_what_a_killed_build_left_keeps_no_build_waiting() {
    let yard = Yard::new();
    let mut child = sleeping(&yard);
    let builds = under_way(&yard);
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || leak::processes(&yard.place.id).is_empty().then_some(());
    assert!(integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, gone).is_some());
    let (runtime, hangs) = (yard.place.dir.join("runtime"), yard.place.dir.join("hangs"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' delete '*) > {}; exec sleep 1000;; esac\nexec {} \"$@\"\n",
        hangs.display(),
        Runtime::under_test().binary.display()
    );
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    yard.file("Dockerfile", "FROM base\nRUN echo done > /done\n");
    let context = yard.context.to_str().unwrap();
    let mut command = Command::new(programs::ours("imgtool"));
    command.arg("--root").arg(yard.place.dir.join("store")).args(["build", "-q", "--network", "none", "--runtime"]);
    command.arg(&runtime).arg(context).env("TARE_TEST", &yard.place.id);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(yard.place.dir.join("log")).unwrap());
    let mut clearing = command.spawn().unwrap();
    let begun = || hangs.exists().then_some(());
    assert!(integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, begun).is_some());
    // Another build goes on meanwhile, and lets alone what is being cleared away.
    let sound = Runtime::under_test().binary.to_str().unwrap();
    yard.place.ours("imgtool", &["build", "-q", "--network", "none", "--runtime", sound, "-t", "app", context]).ok();
    assert_eq!(yard.prints("app", &["/bin/cat", "/done"]), "done\n");
    assert_eq!(command::code(clearing.wait().unwrap()), 0, "it does without");
    let told = fs::read_to_string(yard.place.dir.join("log")).unwrap();
    assert!(told.contains("delete") && told.contains("not done in"), "{told}");
    assert!(under_way(&yard).is_empty() && cgroups_of(&builds).is_empty(), "{:?}", cgroups_of(&builds));
    yard.build("FROM base\n", &[]).ok();
}

#[test]
fn what_a_killed_build_left_goes_with_prune_too() {
    let yard = Yard::new();
    let mut child = sleeping(&yard);
    let builds = under_way(&yard);
    // Its guard first, which would clear up.
    for pid in leak::processes(&yard.place.id) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    child.wait().unwrap();
    let gone = || leak::processes(&yard.place.id).is_empty().then_some(());
    assert!(integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, gone).is_some());
    assert!(!cgroups_of(&builds).is_empty(), "nobody has cleared up yet");
    yard.place.ours("imgtool", &["prune", "-f"]).ok();
    assert!(under_way(&yard).is_empty());
    assert!(cgroups_of(&builds).is_empty(), "{:?}", cgroups_of(&builds));
}

/// Names of the builds that have a directory.
fn under_way(yard: &Yard) -> BTreeSet<String> {
    let all = fs::read_dir(yard.place.dir.join("store/tmp")).unwrap().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("build-")).collect()
}

/// Cgroups of these builds' containers, wherever they are.
fn cgroups_of(builds: &BTreeSet<String>) -> Vec<String> {
    // Others come and go meanwhile, which find complains about.
    let all = command::tool("find", &["/sys/fs/cgroup", "-maxdepth", "9", "-type", "d", "-name", "build-*"]).stdout;
    let name = |path: &&str| path.rsplit('/').next().is_some_and(|name| builds.iter().any(|b| name.starts_with(b)));
    all.lines().filter(name).map(str::to_owned).collect()
}

#[test]
fn a_build_that_is_killed_at_any_moment_leaves_no_cgroup_and_no_file_to_the_next() {
    let yard = Yard::new();
    let dockerfile = "FROM base\nRUN busybox dd if=/dev/urandom of=/1 bs=1M count=2\nCOPY . /x/\nRUN busybox dd if=/dev/urandom of=/2 bs=1M count=2\n";
    yard.file("Dockerfile", dockerfile);
    let mut builds = BTreeSet::new();
    for round in 0..24 {
        let mut command = Command::new(programs::ours("imgtool"));
        command.arg("--root").arg(yard.place.dir.join("store")).args([
            "build",
            "-q",
            "--no-cache",
            "--network",
            "none",
        ]);
        command.arg("--runtime").arg(&Runtime::under_test().binary).arg(&yard.context);
        command.env("TARE_TEST", &yard.place.id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let moment = std::time::Duration::from_millis(12 * round);
        integration::wait::until(std::time::Duration::from_millis(4), moment, || child.try_wait().unwrap());
        builds.extend(under_way(&yard));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(!builds.is_empty(), "none of them had begun");
    let gone = || leak::processes(&yard.place.id).is_empty().then_some(());
    assert!(integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, gone).is_some());
    // A process that ends lets go of what it locked a moment after it can be seen no more.
    let lock = fs::File::open(yard.place.dir.join("store/locks/collect")).unwrap();
    let free = || lock.try_lock().is_ok().then_some(());
    assert!(integration::wait::until(std::time::Duration::from_millis(20), command::LIMIT, free).is_some());
    drop(lock);
    // A file that had no name of its own yet, as a kill leaves it on file systems without nameless ones.
    fs::write(yard.place.dir.join("store/tmp/.imgtool-left"), "").unwrap();
    // It looks for what is left in tmp, too.
    yard.build("FROM base\nRUN true\n", &[]).ok();
    assert!(cgroups_of(&builds).is_empty(), "{:?}", cgroups_of(&builds));
    yard.place.ours("imgtool", &["fsck"]).ok();
}
