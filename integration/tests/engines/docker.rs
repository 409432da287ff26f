//! dockerd 20.10 with the runtime under test as one of its runtimes.

use integration::cgroups;
use integration::peer::dockerd::Dockerd;
use integration::programs::Runtime;
use integration::skip;
use integration::spec::bits;

use integration::place::Place;

fn docker(place: &Place) -> Dockerd {
    place.small_image();
    let archive = place.dir.join("small.docker.tar");
    place
        .ours("imgtool", &["save", "--quiet", "--format", "docker-archive", "-o", archive.to_str().unwrap(), "small:1"])
        .ok();
    let docker = Dockerd::start(&place.id, &place.dir, Runtime::under_test());
    docker.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    docker
}

/// `docker run` on our runtime.
fn run<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--runtime", "tare", "--network", "none"];
    args.extend(words);
    args
}

#[test]
fn run_gives_output_and_status_under_dockers_own_confinement() {
    let place = Place::new();
    let docker = docker(&place);
    assert_eq!(docker.docker(&run(&["--rm", "small:1", "/probe", "say", "hello"])).ok().stdout, "hello\n");
    docker.docker(&run(&["--rm", "small:1", "/probe", "exit", "42"])).is(42);
    let report = docker.docker(&run(&["--rm", "--hostname", "docked", "small:1", "/probe", "report"])).ok().report();
    assert_eq!(report.pid, 1);
    assert_eq!(report.hostname, "docked");
    assert_eq!(report.seccomp, 2, "Docker's default profile is loaded");
    assert_eq!(report.caps.effective & bits(&[21]), 0, "no CAP_SYS_ADMIN");
    assert_eq!(report.interfaces, ["lo"]);
    let attempts = [
        "mkdir /tmp/x",
        "mount none /tmp/x tmpfs",
        "unshare user",
        "sethostname x",
        "read /proc/keys",
        "openw /proc/sys/kernel/hostname",
    ];
    let mut words = vec!["--rm", "small:1", "/probe", "try"];
    words.extend(attempts);
    let outcomes = docker.docker(&run(&words)).ok().outcomes();
    let errors: Vec<_> = outcomes.iter().map(|o| o.errno.as_deref().unwrap_or("")).collect();
    assert_eq!(errors, ["", "EPERM", "EPERM", "EPERM", "", "EROFS"], "{outcomes:?}");
    assert_eq!(outcomes[4].value, "");
}

#[test]
fn limits_users_volumes_and_init() {
    let place = Place::new();
    let docker = docker(&place);
    let shared = place.dir.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    let volume = format!("{}:/data:ro", shared.display());
    let out = docker.docker(&run(&[
        "--rm",
        "-m",
        "64m",
        "--pids-limit",
        "30",
        "--cpus",
        "0.5",
        "-u",
        "web",
        "-w",
        "/data",
        "-v",
        &volume,
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--cap-drop",
        "ALL",
        "--ulimit",
        "nofile=100:200",
        "--init",
        "-e",
        "EXTRA=1",
        "small:1",
        "/probe",
        "report",
    ]));
    let report = out.ok().report();
    assert_eq!((report.uid[0], report.gid[0]), (33, 33));
    assert!(report.groups.contains(&44), "{:?}", report.groups);
    assert_eq!(report.cwd, "/data");
    assert_eq!(report.caps.bounding, 0);
    assert_eq!(report.limit("Max open files"), (Some(100), Some(200)));
    assert_eq!(report.env["EXTRA"], "1");
    assert!(report.mount("/").unwrap().has("ro"));
    assert!(report.mount("/data").unwrap().has("ro"));
    assert_eq!(report.mount("/scratch").unwrap().kind, "tmpfs");
    assert_ne!(report.pid, 1, "docker-init is 1");
    let out = docker.docker(&run(&["--rm", "-m", "64m", "small:1", "/probe", "try", "memory 200"]));
    assert_eq!(out.code, 137, "{out}");
}

#[test]
fn the_whole_life_of_a_detached_container() {
    let place = Place::new();
    let docker = docker(&place);
    docker.docker(&run(&["-d", "--name", "web", "small:1"])).ok();
    let inspect = |what: &str| docker.docker(&["inspect", "-f", what, "web"]).ok().stdout.trim().to_owned();
    assert_eq!(inspect("{{.State.Status}}"), "running");
    assert_eq!(inspect("{{.HostConfig.Runtime}}"), "tare");
    assert_eq!(docker.docker(&["exec", "web", "/probe", "say", "inside"]).ok().stdout, "inside\n");
    docker.docker(&["exec", "web", "/probe", "exit", "9"]).is(9);
    let report = docker.docker(&["exec", "-u", "33", "-e", "A=b", "web", "/probe", "report"]).ok().report();
    assert_eq!((report.uid[0], report.env["A"].as_str(), report.seccomp), (33, "b", 2));
    let top = docker.docker(&["top", "web"]).ok().stdout;
    assert!(top.contains("/probe hold"), "{top}");
    docker.docker(&["pause", "web"]).ok();
    assert_eq!(inspect("{{.State.Status}}"), "paused");
    docker.docker(&["unpause", "web"]).ok();
    docker.docker(&["stop", "-t", "5", "web"]).ok();
    assert_eq!(inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    let logs = docker.docker(&["logs", "web"]).ok().stdout;
    assert_eq!(logs, "ready\nSIGTERM\n");
    docker.docker(&["start", "web"]).ok();
    assert_eq!(inspect("{{.State.Status}}"), "running");
    docker.docker(&["kill", "web"]).ok();
    docker.docker(&["wait", "web"]).ok();
    assert_eq!(inspect("{{.State.ExitCode}}"), "137");
    docker.docker(&["rm", "web"]).ok();
    docker.docker(&["inspect", "web"]).is(1);
}

#[test]
fn limits_of_a_running_container_are_changed() {
    let place = Place::new();
    if !["memory", "cpu", "pids"].into_iter().all(cgroups::has) {
        skip!("no memory, cpu or pids controller");
    }
    let docker = docker(&place);
    docker.docker(&run(&["-d", "--name", "web", "-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "small:1"])).ok();
    docker
        .docker(&["update", "-m", "96m", "--memory-swap", "128m", "--cpus", "0.25", "--pids-limit", "40", "web"])
        .ok();
    let pid: i32 = docker.docker(&["inspect", "-f", "{{.State.Pid}}", "web"]).ok().stdout.trim().parse().unwrap();
    let value = |controller, names| cgroups::value(pid, controller, names).unwrap();
    assert_eq!(value("memory", ("memory.limit_in_bytes", "memory.max")), (96 << 20).to_string());
    assert_eq!(value("pids", ("pids.max", "pids.max")), "40");
    assert!(value("cpu", ("cpu.cfs_quota_us", "cpu.max")).starts_with("25000"));
    // What is left out stays: here the period, the processors, and memory.
    docker.docker(&["update", "--cpu-shares", "512", "web"]).ok();
    assert_eq!(value("memory", ("memory.limit_in_bytes", "memory.max")), (96 << 20).to_string());
    assert!(value("cpu", ("cpu.cfs_quota_us", "cpu.max")).starts_with("25000"));
    docker.docker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_program_that_is_not_there_has_dockers_statuses() {
    let place = Place::new();
    let docker = docker(&place);
    let out = docker.docker(&run(&["--rm", "small:1", "/no/such/program"])).is(127);
    assert!(out.stderr.contains("/no/such/program"), "{out}");
    docker.docker(&run(&["--rm", "small:1", "/etc/passwd"])).is(126);
    docker.docker(&run(&["-d", "--name", "web", "small:1"])).ok();
    let out = docker.docker(&["exec", "web", "/no/such/program"]);
    assert!(matches!(out.code, 126 | 127), "{out}");
    docker.docker(&["rm", "-f", "web"]).ok();
}
