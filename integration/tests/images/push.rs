//! The way back to registries: push, copy, tags, delete, referrers, login.

use std::fs;
use std::process::Command;

use integration::command::{Files, Out, run, tool};
use integration::peer::registry::Registry;
use integration::place::Place;

fn digest(place: &Place, image: &str) -> String {
    place.ours("imgtool", &["inspect", image]).ok().json()[0]["digest"].as_str().unwrap().to_owned()
}

/// Checks a repository of the registry with skopeo, which proves every blob as it copies.
fn skopeo_takes(place: &Place, reference: &str, name: &str) {
    let target = format!("dir:{}", place.dir.join(name).display());
    let source = format!("docker://{reference}");
    tool("skopeo", &["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &source, &target]).ok();
}

#[test]
fn a_pushed_image_is_what_others_pull() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    let reference = format!("{}/team/app:1", registry.host);
    let out = place.ours("imgtool", &["push", "--quiet", "small:1", &reference]).ok();
    let want = digest(&place, "small:1");
    assert_eq!(out.stdout.trim(), format!("{}/team/app@{want}", registry.host));
    skopeo_takes(&place, &reference, "theirs");
    let second = place.ours("imgtool", &["push", "small:1", &reference]).ok();
    assert!(second.stderr.contains("up to date"), "{second}");
    // Lines where there is no terminal, and nothing where that is asked for.
    let other = Place::new();
    let told = other.ours("imgtool", &["pull", &reference]).ok().stderr;
    assert!(told.starts_with("layer ") && told.contains(": pulled (") && !told.contains('\u{1b}'), "{told:?}");
    assert_eq!(other.ours("imgtool", &["pull", "--quiet", &reference]).ok().stderr, "");
    // In chunks, and into a repository that has nothing yet; told to a machine.
    let chunked = format!("{}/other/app:1", registry.host);
    let out = place.ours("imgtool", &["push", "--progress", "json", "--chunk-size", "300k", "small:1", &chunked]).ok();
    let events: Vec<serde_json::Value> = out
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let ended = |event: &&serde_json::Value| event["event"] == "finish" && event["total"].as_u64().is_some();
    assert_eq!(events.iter().filter(ended).count(), 2, "{out}");
    skopeo_takes(&place, &chunked, "chunked");
    assert_eq!(digest_of(&chunked), want);
    // What the registry has is not read here: nobody notices that it is not what it was.
    let layer = place.ours("imgtool", &["inspect", "small:1"]).ok().json()[0]["layers"][0]["digest"].clone();
    let blob = place.dir.join("store/blobs/sha256").join(&layer.as_str().unwrap()[7..]);
    let size = fs::metadata(&blob).unwrap().len();
    fs::write(&blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
    for tag in ["1", "2"] {
        let reference = format!("{}/team/app:{tag}", registry.host);
        place.ours("imgtool", &["push", "--quiet", "small:1", &reference]).ok();
        skopeo_takes(&place, &reference, &format!("again{tag}"));
    }
}

fn digest_of(reference: &str) -> String {
    let source = format!("docker://{reference}");
    let out = tool("skopeo", &["inspect", "--tls-verify=false", &source]).ok();
    out.json()["Digest"].as_str().unwrap().to_owned()
}

#[test]
fn blobs_of_another_repository_are_mounted() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    let (one, two) = (format!("{}/one:1", registry.host), format!("{}/two:1", registry.host));
    place.ours("imgtool", &["push", "--quiet", "small:1", &one]).ok();
    let out = place.ours("imgtool", &["copy", &one, &two]).ok();
    assert_eq!(out.stderr.matches("mounted").count(), 2, "{out}");
    skopeo_takes(&place, &two, "two");
    assert_eq!(place.ours("imgtool", &["tags", &two]).ok().stdout, "1\n");
}

#[test]
fn tags_are_listed_and_images_deleted() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    let repository = format!("{}/app", registry.host);
    for tag in ["b", "a"] {
        place.ours("imgtool", &["push", "--quiet", "small:1", &format!("{repository}:{tag}")]).ok();
    }
    assert_eq!(place.ours("imgtool", &["tags", &repository]).ok().stdout, "a\nb\n");
    place.ours("imgtool", &["delete", &format!("{repository}:a")]).ok();
    let out = place.ours("imgtool", &["pull", "--quiet", &format!("{repository}:b")]);
    assert!(out.code == 1 && out.stderr.contains("not found"), "{out}");
    let out = place.ours("imgtool", &["delete", &format!("{repository}:a")]);
    assert!(out.code == 1 && out.stderr.lines().count() == 1, "{out}");
}

#[test]
fn copies_between_registry_layout_and_archives_are_the_same() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    let want = digest(&place, "small:1");
    let at = |name: &str| place.dir.join(name).to_str().unwrap().to_owned();
    let copy = |from: &str, to: &str| {
        let out = place.ours("imgtool", &["copy", "--quiet", from, to]).ok();
        assert_eq!(out.stdout.trim(), want, "{from} to {to}");
    };
    let (first, second) = (format!("{}/x:1", registry.host), format!("docker://{}/y:1", registry.host));
    copy("store:small:1", &first);
    copy(&first, &format!("oci:{}:tag", at("layout")));
    copy(&format!("oci:{}:tag", at("layout")), &format!("oci-archive:{}:name:1", at("one.tar")));
    copy(&format!("oci-archive:{}", at("one.tar")), &second);
    assert_eq!(digest_of(second.trim_start_matches("docker://")), want);
    // Others read the layout and the archive, and we read umoci's.
    tool("umoci", &["stat", "--image", &format!("{}:tag", at("layout"))]).ok();
    let target = format!("dir:{}", at("from-archive"));
    tool("skopeo", &["--insecure-policy", "copy", "-q", &format!("oci-archive:{}", at("one.tar")), &target]).ok();
    let out = place.ours("imgtool", &["copy", "--quiet", &first, &format!("oci-archive:{}", at("one.tar"))]);
    assert!(out.code == 1 && out.stderr.contains("exists"), "nothing is overwritten: {out}");
    let left: Vec<_> = fs::read_dir(&place.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".imgtool")), "{left:?}");
}

#[test]
fn what_refers_to_an_image_is_listed_and_copied_along() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    let want = digest(&place, "small:1");
    // A layout with the image and something that says of it; docker-registry has no referrers API, so by the tag schema.
    let layout = place.dir.join("layout");
    let layout = layout.to_str().unwrap();
    place.ours("imgtool", &["copy", "--quiet", "store:small:1", &format!("oci:{layout}:app")]).ok();
    let blob = |bytes: &[u8]| {
        let path = place.dir.join("blob");
        fs::write(&path, bytes).unwrap();
        let sum = tool("sha256sum", &[path.to_str().unwrap()]).ok().stdout[..64].to_owned();
        fs::rename(&path, format!("{layout}/blobs/sha256/{sum}")).unwrap();
        serde_json::json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{sum}"), "size": bytes.len()})
    };
    let size = fs::metadata(format!("{layout}/blobs/sha256/{}", &want[7..])).unwrap().len();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let sbom = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type, "artifactType": "application/vnd.example.sbom",
        "config": blob(b"{}"), "layers": [blob(b"the bill of materials")],
        "subject": {"mediaType": manifest_type, "digest": want, "size": size},
        "annotations": {"org.example.note": "kept"},
    });
    let mut entry = blob(sbom.to_string().as_bytes());
    entry["mediaType"] = manifest_type.into();
    let path = format!("{layout}/index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(&path, index.to_string()).unwrap();

    let (one, two) = (format!("{}/one:1", registry.host), format!("{}/two:1", registry.host));
    place.ours("imgtool", &["copy", "--quiet", "--referrers", &format!("oci:{layout}:app"), &one]).ok();
    let listed = place.ours("imgtool", &["referrers", "--format", "json", &one]).ok().json();
    assert_eq!(listed[0]["artifactType"], "application/vnd.example.sbom", "{listed}");
    assert_eq!(listed[0]["annotations"]["org.example.note"], "kept", "{listed}");
    place.ours("imgtool", &["copy", "--quiet", "--referrers", &one, &two]).ok();
    assert_eq!(place.ours("imgtool", &["referrers", "--format", "json", &two]).ok().json(), listed);
    place.ours("imgtool", &["copy", "--quiet", &one, &format!("{}/three:1", registry.host)]).ok();
    let none = place.ours("imgtool", &["referrers", "--format", "json", &format!("{}/three:1", registry.host)]).ok();
    assert_eq!(none.json(), serde_json::json!([]), "only when it is asked for");
}

/// imgtool with an authfile and registries.conf of the test's own.
#[track_caller]
fn with_files(place: &Place, args: &[&str], stdin: &str) -> Out {
    let input = place.dir.join("stdin");
    fs::write(&input, stdin).unwrap();
    let mut command = Command::new(integration::programs::ours("imgtool"));
    command.arg("--root").arg(place.dir.join("store")).args(args).stdin(fs::File::open(&input).unwrap());
    command.env("TARE_TEST", &place.id).env("HOME", &place.dir).env_remove("XDG_CONFIG_HOME");
    command.env("CONTAINERS_REGISTRIES_CONF", place.dir.join("registries.conf"));
    command.env_remove("REGISTRY_AUTH_FILE").env_remove("DOCKER_CONFIG").env("XDG_RUNTIME_DIR", place.dir.join("run"));
    run(&mut command, &Files::new(&place.dir, &format!("with{}", args.join("").len())))
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let place = Place::new();
    let registry = Registry::start_with_login(&place.id, &place.dir, "user", "secret");
    place.small_image();
    let reference = format!("{}/private:1", registry.host);
    let push = ["push", "--quiet", "small:1", &reference];
    let out = with_files(&place, &push, "");
    assert!(out.code == 1 && out.stderr.contains("login"), "{out}");
    let login = ["login", "-u", "user", "--password-stdin", &registry.host];
    let out = with_files(&place, &login, "wrong\n");
    assert!(out.code == 1 && out.stderr.lines().count() == 1, "{out}");
    assert!(!place.dir.join(".docker/config.json").exists());
    with_files(&place, &login, "secret\n").ok();
    with_files(&place, &push, "").ok();
    // The file is Docker's: skopeo takes it.
    let authfile = place.dir.join(".docker/config.json");
    let source = format!("docker://{reference}");
    tool("skopeo", &["inspect", "--tls-verify=false", "--authfile", authfile.to_str().unwrap(), &source]).ok();
    with_files(&place, &["logout", &registry.host], "").ok();
    let out = with_files(&place, &["pull", "--quiet", &reference], "");
    assert!(out.code == 1 && out.stderr.contains("login"), "{out}");
}

#[test]
fn registries_conf_has_mirrors_and_short_names() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    place.small_image();
    place.ours("imgtool", &["push", "--quiet", "small:1", &format!("{}/hub/app:1", registry.host)]).ok();
    let host = &registry.host;
    let conf = format!(
        "unqualified-search-registries = [\"{host}\"]\n[aliases]\n\"nick\" = \"{host}/hub/app\"\n\
         [[registry]]\nlocation = \"far.invalid\"\n[[registry.mirror]]\nlocation = \"{host}/hub\"\n\
         [[registry]]\nlocation = \"bad.invalid\"\nblocked = true\n"
    );
    fs::write(place.dir.join("registries.conf"), conf).unwrap();
    let want = digest(&place, "small:1");
    for (name, full) in [
        ("far.invalid/app:1", "far.invalid/app".to_owned()),
        ("nick:1", format!("{host}/hub/app")),
        ("hub/app:1", format!("{host}/hub/app")),
    ] {
        let out = with_files(&place, &["pull", "--quiet", name], "").ok();
        assert_eq!(out.stdout.trim(), format!("{full}@{want}"), "{name}");
        with_files(&place, &["inspect", name], "").ok();
    }
    let out = with_files(&place, &["pull", "--quiet", "bad.invalid/app:1"], "");
    assert!(out.code == 1 && out.stderr.contains("blocked"), "{out}");
}
