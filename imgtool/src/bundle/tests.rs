//! Bundles: what is written for which image and options, and the real thing mounted.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::layer::Limits;
use crate::oci::{Execution, ImageConfig};
use crate::platform::Platform;
use crate::pull::Pull;
use crate::registry::{Access, Registries};

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
        rootless: None,
    }
}

fn spec_of(execution: Value, options: &Options) -> Value {
    let value = spec::spec(&image(execution), options, &context()).unwrap();
    // Whatever we write must be what the specification's types read.
    serde_json::from_value::<oci_spec::runtime::Spec>(value.clone()).unwrap();
    value
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
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
    assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
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

/// A store with one imported image, `app`.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new(changes: &[&str], fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("image");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n").unwrap();
        fill(&root);
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.append_dir_all(".", &root).unwrap();
        let file = dir.path().join("image.tar");
        fs::write(&file, tar.into_inner().unwrap()).unwrap();
        let store = Store::at(&dir.path().join("store")).unwrap();
        store.create().unwrap();
        let import = crate::archive::Import {
            input: &file,
            reference: &"app".parse().unwrap(),
            platform: &Platform::host(),
            changes: &words(changes),
            message: None,
            compression: crate::archive::LayerCompression::default(),
            level: None,
            limits: Limits::default(),
        };
        crate::archive::import(&store, &import, &Progress::Quiet).unwrap();
        Self { dir, store }
    }

    fn bundle(&self, name: &str, options: &Options) -> Result<PathBuf> {
        let image = self.store.find("app", &Platform::host())?;
        let access = Access::default();
        let pull = Pull {
            store: &self.store,
            access: &access,
            registries: &Registries::default(),
            platform: Platform::host(),
            limits: Limits::default(),
            parallel: 1,
            progress: &Progress::Quiet,
        };
        let layers = pull.layers(&image)?;
        make(&self.store, &image, &layers, Some(&self.dir.path().join(name)), options, &Progress::Quiet)
    }

    fn mounts(&self) -> usize {
        let here = self.dir.path().to_str().unwrap();
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(here)).count()
    }
}

fn config(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_bundle_is_mounted_writable_and_leaves_nothing_when_it_goes() {
    let changes = [r#"CMD ["sh"]"#, "USER app", "WORKDIR /made/for/it", "VOLUME /data"];
    let place = Place::new(&changes, |root| {
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/seed"), "seed").unwrap();
    });
    let bundle = place.bundle("b", &Options::default()).unwrap();
    let config = config(&bundle);
    assert_eq!(config["process"]["user"]["uid"], 1000);
    assert_eq!(config["root"]["path"], bundle.join("rootfs").to_str().unwrap());
    assert!(bundle.join("rootfs/made/for/it").is_dir());
    fs::write(bundle.join("rootfs/etc/new"), "x").unwrap();
    assert!(bundle.join("overlay/upper/etc/new").exists(), "the image's layers stay as they are");
    assert_eq!(fs::read_to_string(bundle.join("volumes/0/seed")).unwrap(), "seed");
    let volume = config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/data").unwrap();
    assert_eq!(volume["source"], bundle.join("volumes/0").to_str().unwrap());
    assert_eq!(place.store.uses().unwrap().len(), 1);
    assert_eq!(place.mounts(), 1);
    assert!(place.bundle("b", &Options::default()).unwrap_err().to_string().contains("not empty"));
    assert_eq!(remove(&place.store, &bundle).unwrap(), Vec::<PathBuf>::new());
    assert!(!bundle.exists());
    assert_eq!((place.mounts(), place.store.uses().unwrap().len()), (0, 0));
}

#[test]
fn layers_of_a_bundle_outlive_the_images_name() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let bundle = place.bundle("b", &Options::default()).unwrap();
    place
        .store
        .update_index(|index| {
            index.manifests.clear();
            Ok(())
        })
        .unwrap();
    place.store.collect().unwrap();
    assert!(bundle.join("rootfs/etc/passwd").exists());
    assert_eq!(fs::read_dir(place.store.path("blobs/sha256")).unwrap().count(), 0);
    remove(&place.store, &bundle).unwrap();
    place.store.collect().unwrap();
    assert_eq!(fs::read_dir(place.store.path("layers/sha256")).unwrap().count(), 0);
}

#[test]
fn a_layer_of_an_earlier_boot_counts_only_if_it_was_synced() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let layer = fs::read_dir(place.store.path("layers/sha256")).unwrap().next().unwrap().unwrap().path();
    let record = || -> Value { serde_json::from_slice(&fs::read(layer.join("layer.json")).unwrap()).unwrap() };
    let change = |key: &str, value: Value| {
        let mut changed = record();
        changed[key] = value;
        fs::write(layer.join("layer.json"), changed.to_string()).unwrap();
    };
    // Power was lost: the files are not what was written.
    fs::write(layer.join("diff/etc/passwd"), "torn").unwrap();
    change("boot", json!("another"));
    let bundle = place.bundle("b", &Options::default()).unwrap();
    assert!(fs::read_to_string(bundle.join("rootfs/etc/passwd")).unwrap().starts_with("root:"));
    assert_ne!(record()["boot"], "another");
    // Old enough to be on disk: removing the bundle syncs what is left and notes it.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    fs::File::options().write(true).open(layer.join("layer.json")).unwrap().set_modified(long_ago).unwrap();
    remove(&place.store, &bundle).unwrap();
    assert_eq!(record()["synced"], true);
    change("boot", json!("another"));
    fs::write(layer.join("diff/marker"), "").unwrap();
    let bundle = place.bundle("c", &Options::default()).unwrap();
    assert!(bundle.join("rootfs/marker").exists(), "not unpacked again");
    remove(&place.store, &bundle).unwrap();
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let place = Place::new(&[r#"CMD ["sh"]"#, "USER nobody-of-this-name"], |_| {});
    let error = place.bundle("b", &Options::default()).unwrap_err().to_string();
    assert!(error.contains("no such user"), "{error}");
    assert!(!place.dir.path().join("b").exists());
    assert_eq!((place.mounts(), place.store.uses().unwrap().len()), (0, 0));
    // A directory that was there stays, empty.
    fs::create_dir(place.dir.path().join("there")).unwrap();
    place.bundle("there", &Options::default()).unwrap_err();
    assert_eq!(fs::read_dir(place.dir.path().join("there")).unwrap().count(), 0);
    let overflow = Options { user: Some("4294967296".into()), ..Options::default() };
    assert!(place.bundle("c", &overflow).unwrap_err().to_string().contains("4294967296"));
    let absent = Options { volumes: vec!["/no/such/place:/x".parse().unwrap()], ..Options::default() };
    assert!(place.bundle("c", &absent).unwrap_err().to_string().contains("/no/such/place"));
    assert!(!place.dir.path().join("c").exists());
}

#[test]
fn volumes_and_working_directories_stay_in_the_image() {
    // CVE-2022-23648: a volume path that leads out copied the host's files into the container.
    let place =
        Place::new(&[r#"CMD ["sh"]"#, "VOLUME /v/../../../../../outside /link", "WORKDIR /link2/made"], |root| {
            symlink("../../outside", root.join("link")).unwrap();
            symlink("/../../../outside2", root.join("link2")).unwrap();
            fs::create_dir(root.join("outside2")).unwrap();
        });
    for outside in ["outside", "outside2"] {
        fs::create_dir(place.dir.path().join(outside)).unwrap();
        fs::write(place.dir.path().join(outside).join("secret"), "host").unwrap();
    }
    let bundle = place.bundle("b", &Options::default()).unwrap();
    for volume in fs::read_dir(bundle.join("volumes")).unwrap() {
        assert_eq!(fs::read_dir(volume.unwrap().path()).unwrap().count(), 0);
    }
    assert!(bundle.join("rootfs/outside2/made").is_dir());
    assert!(!place.dir.path().join("outside2/made").exists());
    remove(&place.store, &bundle).unwrap();
}

#[test]
fn a_bundle_in_use_is_not_removed() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |root| {
        // Any static program that waits will do.
        fs::create_dir(root.join("bin")).unwrap();
        fs::copy("/usr/bin/busybox", root.join("bin/cat")).expect("busybox-static is installed");
    });
    let bundle = place.bundle("b", &Options::default()).unwrap();
    let mut inside = std::process::Command::new("chroot")
        .arg(bundle.join("rootfs"))
        .args(["/bin/cat", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // An echo shows that it has changed its root.
    inside.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    inside.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let error = remove(&place.store, &bundle).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} still uses it", inside.id())), "{error}");
    drop(inside.stdin.take());
    inside.wait().unwrap();
    fs::write(bundle.join("mine"), "kept").unwrap();
    assert_eq!(remove(&place.store, &bundle).unwrap(), [bundle.join("mine")]);
    assert_eq!(place.mounts(), 0);
    assert!(remove(&place.store, &bundle).unwrap_err().to_string().contains("not a bundle"));
}

#[test]
fn the_root_directory_looks_as_the_image_says() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |root| {
        std::os::unix::fs::chown(root, Some(3), Some(4)).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o1711)).unwrap();
    });
    let bundle = place.bundle("b", &Options::default()).unwrap();
    let meta = fs::metadata(bundle.join("rootfs")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1711, 3, 4));
    remove(&place.store, &bundle).unwrap();
}

#[test]
fn a_bundle_whose_record_was_lost_is_removed_by_the_stores() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let bundle = place.bundle("b", &Options::default()).unwrap();
    fs::write(bundle.join("bundle.json"), "{\"store\":\"/").unwrap();
    let elsewhere = Store::at(&place.dir.path().join("another")).unwrap();
    assert!(remove(&elsewhere, &bundle).unwrap_err().to_string().contains("bundle.json"));
    assert!(bundle.join("rootfs/etc/passwd").exists());
    remove(&place.store, &bundle).unwrap();
    assert_eq!((place.mounts(), place.store.uses().unwrap().len()), (0, 0));
}

#[test]
fn what_a_killed_bundle_left_in_the_store_is_collected() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let begun = place.store.path("bundles/begun");
    fs::create_dir_all(&begun).unwrap();
    fs::write(begun.join(".bundle.json"), "{").unwrap();
    place.store.collect().unwrap();
    assert!(!begun.exists());
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

#[test]
fn named_volumes_stay_and_new_ones_go_with_the_bundle() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |root| {
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/seed"), "seed").unwrap();
    });
    let options =
        Options { volumes: vec!["kept:/data".parse().unwrap(), "/new".parse().unwrap()], ..Options::default() };
    let bundle = place.bundle("b", &options).unwrap();
    let kept = place.store.path("volumes/kept");
    assert_eq!(fs::read_to_string(kept.join("seed")).unwrap(), "seed");
    fs::write(kept.join("seed"), "changed").unwrap();
    let mounts = config(&bundle)["mounts"].clone();
    let source = |target: &str| {
        let mount = mounts.as_array().unwrap().iter().find(|m| m["destination"] == target).unwrap();
        PathBuf::from(mount["source"].as_str().unwrap())
    };
    assert_eq!(source("/data"), kept);
    assert!(source("/new").starts_with(&bundle));
    remove(&place.store, &bundle).unwrap();
    let bundle = place.bundle("b", &options).unwrap();
    assert_eq!(fs::read_to_string(kept.join("seed")).unwrap(), "changed", "filled once");
    remove(&place.store, &bundle).unwrap();
}

#[test]
fn a_copied_bundle_has_the_same_tree_and_no_mount() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |root| {
        fs::write(root.join("file"), "x").unwrap();
        fs::hard_link(root.join("file"), root.join("etc/second")).unwrap();
        symlink("file", root.join("link")).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
    });
    let bundle = place.bundle("b", &Options { copy: true, ..Options::default() }).unwrap();
    assert_eq!(place.mounts(), 0);
    let at = |name: &str| fs::symlink_metadata(bundle.join("rootfs").join(name)).unwrap();
    assert!(at("link").is_symlink());
    assert_eq!(at("etc").mode() & 0o7777, 0o711);
    assert_eq!(fs::read_to_string(bundle.join("rootfs/file")).unwrap(), "x");
    assert_eq!(at("file").nlink(), at("etc/second").nlink());
    assert!(!bundle.join("overlay").exists());
    remove(&place.store, &bundle).unwrap();
    assert!(!bundle.exists());
}
