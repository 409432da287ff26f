//! Where a built image goes.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::process::Command;

use integration::command::{self, Files};
use integration::programs;
use serde_json::Value;

use crate::Yard;

#[test]
fn archives_layouts_directories_and_tars() {
    let yard = Yard::new();
    let out = |name: &str| yard.place.dir.join(name);
    let (oci, docker, layout, local, tar) = (out("a.oci"), out("a.docker"), out("layout"), out("local"), out("a.tar"));
    let outputs = [
        format!("type=oci,dest={}", oci.display()),
        format!("type=docker,dest={}", docker.display()),
        format!("type=oci,tar=false,dest={}", layout.display()),
        format!("type=local,dest={}", local.display()),
        format!("type=tar,dest={}", tar.display()),
        "type=store,name=other:1".to_owned(),
    ];
    let args: Vec<&str> = outputs.iter().flat_map(|output| ["-o", output]).collect();
    let digest = yard.build("FROM base\nRUN echo made > /made\n", &args).ok().stdout.trim().to_owned();
    let second = yard.place.dir.join("second");
    for archive in [&oci, &docker] {
        let imgtool = programs::ours("imgtool");
        let load = ["--root", second.to_str().unwrap(), "load", "-q", "-i", archive.to_str().unwrap()];
        let loaded = command::tool(imgtool.to_str().unwrap(), &load).ok();
        assert_eq!(loaded.stdout.trim(), "docker.io/library/app:latest");
    }
    let index: Value = serde_json::from_str(&fs::read_to_string(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
    assert_eq!(fs::read_to_string(local.join("made")).unwrap(), "made\n");
    let names = command::tool("tar", &["-tf", tar.to_str().unwrap()]).ok().stdout;
    assert!(names.contains("made\n") && names.contains("bin/busybox\n"), "{names}");
    assert_eq!(yard.prints("other:1", &["/bin/cat", "/made"]), "made\n");
    let skopeo = command::tool("skopeo", &["inspect", "--config", &format!("oci:{}", layout.display())]).ok();
    assert!(skopeo.stdout.contains("buildkit.dockerfile.v0"), "{skopeo}");
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    let yard = Yard::new();
    let null = yard.place.dir.join("null");
    command::tool("mknod", &[null.to_str().unwrap(), "c", "1", "3"]).ok();
    for kind in ["tar", "oci"] {
        yard.build("FROM base\nRUN true\n", &["-o", &format!("type={kind},dest={}", null.display())]).ok();
        assert!(fs::metadata(&null).unwrap().file_type().is_char_device(), "{kind}");
    }
}

#[test]
fn a_registry_gets_an_index_of_several_platforms() {
    let yard = Yard::new();
    let registry = integration::peer::registry::Registry::start(&yard.place.id, &yard.place.dir);
    let name = format!("{}/team/app:1", registry.host);
    yard.file("Dockerfile", "FROM scratch\nARG TARGETPLATFORM\nCOPY <<EOF /platform\n$TARGETPLATFORM\nEOF\n");
    let context = yard.context.to_str().unwrap().to_owned();
    let args = [
        "build",
        "--platform",
        "linux/amd64,linux/arm64",
        "--push",
        "--load",
        "-t",
        &name,
        "--annotation",
        "org.example.note=x",
        &context,
    ];
    let out = yard.place.ours("imgtool", &args).ok();
    let raw = command::tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).ok();
    let index: Value = serde_json::from_str(&raw.stdout).unwrap();
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(index["annotations"]["org.example.note"], "x");
    assert!(out.stdout.starts_with("sha256:"), "{out}");
    // By another name it is the same, with all its platforms.
    let other = format!("{}/team/other:2", registry.host);
    yard.place.ours("imgtool", &["tag", &name, &other]).ok();
    let pushed = yard.place.ours("imgtool", &["push", "-q", &other]).ok();
    assert!(pushed.stdout.trim().ends_with(out.stdout.trim()), "{pushed}");
}

#[test]
fn the_same_input_gives_the_same_digest() {
    let digest = |epoch: &str| {
        let yard = Yard::new();
        yard.file("file", "x");
        yard.file("Dockerfile", "FROM scratch AS base\nCOPY --from=base1 / /\nFROM base\nRUN echo now > /now && busybox mkdir /dir\nWORKDIR /work/deep\nCOPY file /copied/\n");
        fs::File::open(yard.context.join("file")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        let root = yard.place.dir.join("small");
        let named = format!("base1={}", root.display());
        let mut command = Command::new(programs::ours("imgtool"));
        command.arg("--root").arg(yard.place.dir.join("store")).args([
            "build",
            "--quiet",
            "--build-context",
            &named,
            "-t",
            "app",
        ]);
        command.arg("--runtime").arg(&programs::Runtime::under_test().binary);
        command.arg(&yard.context).env("TARE_TEST", &yard.place.id).env("SOURCE_DATE_EPOCH", epoch);
        command.stdin(std::process::Stdio::null());
        let digest = command::run(&mut command, &Files::new(&yard.place.dir, "epoch")).ok().stdout;
        assert!(yard.config("app")["created"].as_str().unwrap().starts_with("2001-09-09"), "the epoch is its time");
        digest
    };
    assert_eq!(digest("1000000000"), digest("1000000000"));
}

#[test]
fn without_a_name_it_is_found_by_its_digest() {
    let yard = Yard::new();
    yard.file("Dockerfile", "FROM base\nLABEL x=y\n");
    let file = yard.place.dir.join("id");
    let out = yard
        .place
        .ours("imgtool", &["build", "--quiet", "--iidfile", file.to_str().unwrap(), yard.context.to_str().unwrap()])
        .ok();
    assert_eq!(fs::read_to_string(file).unwrap(), out.stdout.trim());
    assert_eq!(yard.config(out.stdout.trim())["config"]["Labels"]["x"], "y");
}

#[test]
fn programs_are_told_what_was_built_with_the_keys_of_buildx() {
    let yard = Yard::new();
    let file = yard.place.dir.join("metadata.json");
    let build = |dockerfile: &str, args: &[&str]| {
        let args = [&["--metadata-file", file.to_str().unwrap()], args].concat();
        let digest = yard.build(dockerfile, &args).ok().stdout.trim().to_owned();
        (digest, serde_json::from_str::<Value>(&fs::read_to_string(&file).unwrap()).unwrap())
    };
    // What stood there is replaced by a whole file, never written over: who has it open keeps it.
    fs::write(&file, "before").unwrap();
    let mut before = fs::File::open(&file).unwrap();
    let also = ["-o", "type=store,name=other:1", "-o", "type=store", "--build-arg", "V=1"];
    let (digest, told) = build("FROM base\nARG V\nLABEL a=b\n", &also);
    let mut kept = String::new();
    std::io::Read::read_to_string(&mut before, &mut kept).unwrap();
    assert_eq!(kept, "before");
    assert_eq!(told["containerimage.digest"], digest.as_str());
    assert_eq!(told["image.name"], "docker.io/library/app:latest,docker.io/library/other:1");
    let blob = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        fs::read(yard.place.dir.join("store/blobs").join(path)).unwrap()
    };
    let descriptor = &told["containerimage.descriptor"];
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(descriptor["digest"], digest.as_str());
    assert_eq!(descriptor["size"].as_u64().unwrap(), blob(&descriptor["digest"]).len() as u64);
    let config: Value = serde_json::from_slice(&blob(&told["containerimage.config.digest"])).unwrap();
    assert_eq!(config["config"]["Labels"]["a"], "b");
    let provenance = &told["buildx.build.provenance"];
    assert!(provenance["materials"][0]["uri"].as_str().unwrap().contains("base"), "{provenance}");
    assert!(provenance["invocation"]["parameters"]["args"].is_null(), "arguments are told only if asked: {provenance}");

    // Several platforms, or statements beside the image, make an index: it has no config.
    let scratch = "FROM scratch\nCOPY Dockerfile /\n";
    let (_, told) = build(scratch, &["--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(told["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert!(told["containerimage.config.digest"].is_null(), "{told}");
    assert!(told["buildx.build.provenance/linux/arm64"]["builder"]["id"].is_string(), "{told}");
    let (_, told) = build(scratch, &["--provenance"]);
    assert!(told["containerimage.config.digest"].is_null() && told["buildx.build.provenance"].is_object(), "{told}");

    let how = |how: &str| {
        let mut command = Command::new(programs::ours("imgtool"));
        command.arg("--root").arg(yard.place.dir.join("store")).args(["build", "-q", "--build-arg", "V=1"]);
        command.arg("--metadata-file").arg(&file).arg(&yard.context);
        command.env("TARE_TEST", &yard.place.id).env("BUILDX_METADATA_PROVENANCE", how);
        command.stdin(std::process::Stdio::null());
        let out = command::run(&mut command, &Files::new(&yard.place.dir, "how"));
        (out, serde_json::from_str::<Value>(&fs::read_to_string(&file).unwrap()).unwrap())
    };
    let (_, told) = how("max");
    assert_eq!(told["buildx.build.provenance"]["invocation"]["parameters"]["args"]["build-arg:V"], "1");
    let (_, told) = how("disabled");
    assert!(told["buildx.build.provenance"].is_null() && told["containerimage.digest"].is_string(), "{told}");
    let (out, _) = how("perhaps");
    assert!(out.code == 1 && out.stderr.contains("BUILDX_METADATA_PROVENANCE=perhaps"), "{out}");
}

#[test]
fn progress_is_lines_or_objects_or_nothing() {
    let yard = Yard::new();
    yard.file("Dockerfile", "FROM base\nRUN echo out; echo err >&2\n");
    let context = yard.context.to_str().unwrap();
    let runtime = programs::Runtime::under_test().binary.to_str().unwrap();
    let build = |form: &[&str]| {
        yard.place.ours("imgtool", &[&["build", "--no-cache", "--runtime", runtime], form, &[context]].concat()).ok()
    };
    assert_eq!(build(&["-q"]).stderr, "");
    let events: Vec<Value> =
        build(&["--progress", "json"]).stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| events.iter().filter(|e| e["event"] == event).count();
    assert_eq!((of("start"), of("log"), of("key"), of("finish")), (2, 2, 1, 2), "{events:?}");
    let plain = build(&["--progress", "plain"]).stderr;
    assert!(plain.contains("#2 [2/2] RUN echo out; echo err >&2\n") && plain.contains("#2 DONE"), "{plain}");
}

#[test]
fn what_is_in_it_and_how_it_was_built_are_attached_when_asked() {
    let yard = Yard::new();
    yard.file("status", "Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2-3\n");
    let layout = yard.place.dir.join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let dockerfile = "FROM base\nARG V\nCOPY status /var/lib/dpkg/status\n";
    let args = ["--sbom", "--provenance=mode=max", "--build-arg", "V=shown", "-o", &output, "--load"];
    yard.build(dockerfile, &args).ok();
    let blob = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        let text = fs::read_to_string(layout.join("blobs").join(path)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let layout_index: Value = serde_json::from_str(&fs::read_to_string(layout.join("index.json")).unwrap()).unwrap();
    let index = blob(&layout_index["manifests"][0]["digest"]);
    let (image, attestation) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let statements = blob(&attestation["digest"]);
    let (sbom, provenance) = (blob(&statements["layers"][0]["digest"]), blob(&statements["layers"][1]["digest"]));
    assert_eq!(
        sbom["predicate"]["packages"][0]["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/tool@1.2-3?arch=amd64"
    );
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let request = &provenance["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:V"], "shown");
    let materials = provenance["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    assert!(materials[0]["uri"].as_str().unwrap().contains("base"), "{materials:?}");
    assert_eq!(
        provenance["subject"][0]["digest"]["sha256"],
        image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap()
    );
    // Beside the files of an image that are only files: in place of what the image has there.
    let files = yard.place.dir.join("files");
    let linked = format!("{dockerfile}RUN ln -s /planted /sbom.spdx.json\n");
    yard.build(&linked, &["--sbom", "--provenance", "-o", files.to_str().unwrap()]).ok();
    for (name, kind) in [("sbom.spdx.json", &sbom), ("provenance.json", &provenance)] {
        assert!(fs::symlink_metadata(files.join(name)).unwrap().is_file(), "{name}");
        let told: Value = serde_json::from_str(&fs::read_to_string(files.join(name)).unwrap()).unwrap();
        assert_eq!(told["predicateType"], kind["predicateType"]);
    }
    assert!(!std::path::Path::new("/planted").exists());
    let tar = yard.place.dir.join("files.tar");
    yard.build(&linked, &["--sbom", "--provenance", "-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let names = command::tool("tar", &["tvf", tar.to_str().unwrap()]).ok().stdout;
    for name in ["sbom.spdx.json", "provenance.json"] {
        assert!(names.lines().any(|line| line.starts_with("-rw-r--r--") && line.ends_with(name)), "{names}");
    }
    // The long form says the same, and the short ones count above it.
    let of = |args: &[&str]| {
        let told = yard.place.dir.join("told");
        yard.build(dockerfile, &[&["--metadata-file", told.to_str().unwrap()], args].concat()).ok();
        let told: Value = serde_json::from_str(&fs::read_to_string(told).unwrap()).unwrap();
        let top = told["containerimage.digest"].as_str().unwrap().replace(':', "/");
        let top = fs::read_to_string(yard.place.dir.join("store/blobs").join(top)).unwrap();
        let top: Value = serde_json::from_str(&top).unwrap();
        let Some(statements) = top["manifests"][1]["digest"].as_str() else { return 0 };
        let path = yard.place.dir.join("store/blobs").join(statements.replace(':', "/"));
        let statements: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        statements["layers"].as_array().unwrap().len()
    };
    assert_eq!(of(&["--attest", "type=sbom", "--attest", "type=provenance,mode=max"]), 2);
    assert_eq!(of(&["--attest", "type=sbom", "--attest", "type=provenance", "--sbom=false"]), 1);
    assert_eq!(of(&["--attest", "type=sbom", "--attest", "type=sbom,disabled=true"]), 0);
    // The index is an image like any other.
    assert!(yard.prints("app", &["/bin/cat", "/var/lib/dpkg/status"]).contains("tool"));
}
