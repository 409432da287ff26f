//! The real thing: made, mounted, used and removed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::super::*;
use super::words;
use crate::layer::Limits;
use crate::platform::Platform;
use crate::pull::Pull;
use crate::registry::{Access, Registries};

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
fn what_was_made_in_an_unmounted_root_goes_and_what_is_mounted_there_does_not() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let bundle = place.bundle("b", &Options::default()).unwrap();
    Bundle::open(&place.store, &bundle).unwrap().unmount().unwrap();
    let (kept, at) = (place.dir.path().join("kept"), bundle.join("rootfs/dev/shm"));
    // As a runtime does that is to mount there.
    fs::create_dir_all(&at).unwrap();
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    rustix::mount::mount_bind(&kept, &at).unwrap();
    let refused = remove(&place.store, &bundle).unwrap_err().to_string();
    assert!(refused.contains("shm: something is mounted there"), "{refused}");
    assert!(kept.join("file").exists() && bundle.join("config.json").exists());
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(remove(&place.store, &bundle).unwrap(), Vec::<PathBuf>::new());
    assert!(kept.join("file").exists() && !bundle.exists());
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
    let mount = parse_mount("type=bind,src=/no/such/place,dst=/x").unwrap();
    let absent = Options { volumes: vec![mount], ..Options::default() };
    assert!(place.bundle("c", &absent).unwrap_err().to_string().contains("--mount /no/such/place"));
    assert!(!place.dir.path().join("c").exists());
}

#[test]
fn a_directory_that_volume_names_is_made_and_stays() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let source = place.dir.path().join("new/below");
    let volumes = vec![format!("{}:/x", source.display()).parse().unwrap()];
    let bundle = place.bundle("b", &Options { volumes, ..Options::default() }).unwrap();
    let config = config(&bundle);
    let mount = config["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/x").unwrap();
    assert_eq!(mount["source"], source.to_str().unwrap());
    remove(&place.store, &bundle).unwrap();
    assert!(source.is_dir());
    let below_a_file = place.dir.path().join("image.tar/x");
    let volumes = vec![format!("{}:/x", below_a_file.display()).parse().unwrap()];
    let refused = place.bundle("c", &Options { volumes, ..Options::default() }).unwrap_err().to_string();
    assert!(refused.contains("--volume"), "{refused}");
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
    assert!(place.store.check().unwrap().is_empty());
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
fn what_a_power_cut_left_of_a_bundle_can_be_removed() {
    let place = Place::new(&[r#"CMD ["sh"]"#], |_| {});
    let bundle = place.dir.path().join("cut");
    fs::create_dir_all(bundle.join("overlay/upper")).unwrap();
    for name in ["bundle.json", ".config.json"] {
        fs::write(bundle.join(name), "").unwrap();
    }
    remove(&place.store, &bundle).unwrap();
    assert!(!bundle.exists());
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
