//! What is written for which image and options.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::spec::Context;
use super::super::*;
use super::words;
use crate::oci::{Execution, ImageConfig};

fn image(execution: Value) -> ImageConfig {
    let config = serde_json::from_value::<Execution>(execution).unwrap();
    ImageConfig { architecture: "amd64".into(), os: "linux".into(), config, ..ImageConfig::default() }
}

fn context() -> Context {
    Context {
        hostname: "box".into(),
        identity: user::Identity { uid: 5, gid: 6, groups: vec![7] },
        inherited: [("HOSTVAR".to_owned(), "seen".to_owned())].into(),
        binds: Vec::new(),
        rootfs: "/b/rootfs".into(),
        annotations: BTreeMap::new(),
        capabilities: caps::capabilities(&[], &[]).unwrap(),
        architecture: "amd64".into(),
        kernel: (6, 1),
        devices: security::Devices::default(),
        hooks: None,
        joined: Vec::new(),
        shm: None,
        rootless: None,
    }
}

fn spec_of(execution: Value, options: &Options) -> Value {
    let value = spec::spec(&image(execution), options, &context()).unwrap();
    // Whatever we write must be what the specification's types read.
    serde_json::from_value::<oci_spec::runtime::Spec>(value.clone()).unwrap();
    value
}

#[test]
fn entrypoint_and_command_are_joined_as_in_docker() {
    let both = json!({"Entrypoint": ["e", "1"], "Cmd": ["c"]});
    let args = |execution: &Value, entrypoint: Option<&str>, command: &[&str]| {
        let options =
            Options { entrypoint: entrypoint.map(str::to_owned), command: words(command), ..Options::default() };
        spec::arguments(&image(execution.clone()).config, &options).map(|args| args.join(" "))
    };
    assert_eq!(args(&both, None, &[]).unwrap(), "e 1 c");
    assert_eq!(args(&both, None, &["x", "y"]).unwrap(), "e 1 x y");
    assert_eq!(args(&both, Some("o"), &[]).unwrap(), "o");
    assert_eq!(args(&both, Some("o"), &["x"]).unwrap(), "o x");
    assert_eq!(args(&both, Some(""), &["x"]).unwrap(), "x");
    assert_eq!(args(&json!({"Cmd": ["c"]}), None, &[]).unwrap(), "c");
    assert!(args(&json!({}), None, &[]).unwrap_err().to_string().contains("after --"));
    assert!(args(&both, Some(""), &[]).is_err());
    assert!(args(&json!({"Cmd": ["a\0b"]}), None, &[]).unwrap_err().to_string().contains("NUL"));
}

#[test]
fn the_environment_has_a_path_and_the_users_word_counts_last() {
    let options = Options { env: words(&["A=user", "HOSTVAR", "ABSENT", "NEW=1=2"]), ..Options::default() };
    let spec = spec_of(json!({"Cmd": ["c"], "Env": ["A=image", "B=2", "broken", "=x"]}), &options);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(spec["process"]["env"], json!([path, "HOSTNAME=box", "A=user", "B=2", "HOSTVAR=seen", "NEW=1=2"]));
    let spec = spec_of(json!({"Cmd": ["c"], "Env": ["PATH=/only"]}), &Options::default());
    assert_eq!(spec["process"]["env"][0], "PATH=/only");
    let bad = Options { env: words(&["=x"]), ..Options::default() };
    assert!(spec::spec(&image(json!({"Cmd": ["c"]})), &bad, &context()).is_err());
}

#[test]
fn the_defaults_are_dockers() {
    let spec = spec_of(json!({"Cmd": ["c"]}), &Options::default());
    assert_eq!(spec["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
    assert_eq!(spec["process"]["cwd"], "/");
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(spec["process"]["capabilities"].get("inheritable"), None, "CVE-2022-24769");
    assert_eq!(spec["process"]["capabilities"].get("ambient"), None);
    let kinds: Vec<&str> =
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["mount", "pid", "ipc", "uts", "cgroup", "network"]);
    assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    let sys = spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("ro")));
    for masked in ["/proc/kcore", "/proc/keys", "/sys/firmware"] {
        assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&json!(masked)));
    }
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
}

#[test]
fn options_find_their_places() {
    let options = Options {
        network: Network::Host,
        memory: Some(64 << 20),
        nano_cpus: Some(1_500_000_000),
        pids: Some(-1),
        read_only: true,
        workdir: Some("/a/../b".into()),
        volumes: vec!["/data/x:/srv/deep/er:ro".parse().unwrap(), "/data:/srv".parse().unwrap()],
        ..Options::default()
    };
    let spec = spec_of(json!({"Cmd": ["c"], "WorkingDir": "rel/dir"}), &options);
    assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(spec["linux"]["resources"]["cpu"], json!({"quota": 150_000, "period": 100_000}));
    assert_eq!(spec["linux"]["resources"]["pids"]["limit"], -1);
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["process"]["cwd"], "/b");
    assert!(!spec["linux"]["namespaces"].to_string().contains("network"));
    assert_eq!(spec["linux"].get("sysctl"), None);
    let mounts = spec["mounts"].as_array().unwrap();
    let at = |target: &str| mounts.iter().position(|m| m["destination"] == target).unwrap();
    assert!(at("/srv") < at("/srv/deep/er"), "a mount comes before those below it");
    assert_eq!(mounts[at("/srv/deep/er")]["options"], json!(["rbind", "ro", "rprivate"]));
    let image_dir = image(json!({"Cmd": ["c"], "WorkingDir": "rel/../dir"}));
    assert_eq!(spec::working_directory(&image_dir.config, &Options::default()).unwrap(), "/dir");
    let relative = Options { workdir: Some("rel".into()), ..Options::default() };
    assert!(spec::working_directory(&image_dir.config, &relative).is_err());
}

#[test]
fn labels_become_annotations_but_command_no_runtime() {
    let config = image(json!({
        "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Labels": {
            "team": "a", "org.opencontainers.image.author": "label", "org.tare.image.ref": "forged",
            "run.oci.hooks.stdout": "/etc/cron.d/x", "org.systemd.property.ExecStart": "x", "org.criu.config": "/x",
        },
    }));
    let ours = BTreeMap::from([("org.tare.image.ref".to_owned(), "real".to_owned())]);
    let (all, mut left_out) = spec::annotations(&config, &ours);
    left_out.sort();
    assert_eq!(
        left_out,
        ["org.criu.config", "org.systemd.property.ExecStart", "org.tare.image.ref", "run.oci.hooks.stdout"]
    );
    assert_eq!(all["org.tare.image.ref"], "real");
    assert_eq!(all["team"], "a");
    assert_eq!(all["org.opencontainers.image.author"], "label");
    assert_eq!(all["org.opencontainers.image.stopSignal"], "SIGINT");
    assert_eq!(all["org.opencontainers.image.exposedPorts"], "53/udp,80/tcp");
    assert_eq!(all["org.opencontainers.image.os"], "linux");
    assert!(!all.keys().any(|key| key.starts_with("run.oci") || key.starts_with("org.systemd")));
}

#[test]
fn options_of_docker_run_find_their_places() {
    let options = Options {
        privileged: true,
        tty: true,
        rlimits: vec!["nofile=5:6".parse().unwrap()],
        sysctl: words(&["net.core.somaxconn=9"]),
        shm: Some(1 << 20),
        volumes: vec![parse_tmpfs("/run:size=1m").unwrap(), "/dev/shm".parse().unwrap()],
        security: vec!["no-new-privileges".parse().unwrap(), "apparmor=mine".parse().unwrap()],
        ..Options::default()
    };
    let spec = spec_of(json!({"Cmd": ["c"]}), &options);
    assert_eq!(spec["process"]["terminal"], true);
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["process"]["apparmorProfile"], "mine");
    assert_eq!(spec["process"]["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]));
    assert_eq!(spec["linux"]["sysctl"]["net.core.somaxconn"], "9");
    for absent in ["maskedPaths", "readonlyPaths", "seccomp"] {
        assert_eq!(spec["linux"].get(absent), None, "{absent} of a privileged container");
    }
    let at = |target: &str| spec["mounts"].as_array().unwrap().iter().filter(|m| m["destination"] == target).count();
    assert_eq!((at("/run"), at("/dev/shm")), (1, 1));
    let refused = |options: &Options| spec::check(options).unwrap_err().to_string();
    for bad in ["kernel.hostname=x", "vm.swappiness=1", "net.x"] {
        let options = Options { sysctl: words(&[bad]), ..Options::default() };
        assert!(refused(&options).contains(bad), "{bad}");
    }
    let host = Options { network: Network::Host, sysctl: words(&["net.core.somaxconn=9"]), ..Options::default() };
    assert!(refused(&host).contains("host's"));
}

#[test]
fn the_users_annotations_stand_above_the_images() {
    let options = Options {
        annotations: words(&["a=1", "b", "org.tare.image.ref=forged"]),
        stop_signal: Some("SIGUSR1".into()),
        ..Options::default()
    };
    let mut all = BTreeMap::from([("a".to_owned(), "image".to_owned())]);
    spec::add_annotations(&mut all, &options, Some(&json!({"Test": ["CMD", "x"]})));
    assert_eq!((all["a"].as_str(), all["b"].as_str()), ("1", ""));
    assert_eq!(all["org.opencontainers.image.stopSignal"], "SIGUSR1");
    assert_eq!(all["org.tare.healthcheck"], r#"{"Test":["CMD","x"]}"#);
    assert!(!all.contains_key("org.tare.image.ref"));
}
