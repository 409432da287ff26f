//! What is done again, and what is not.

use std::fs;
use std::path::Path;

use integration::command;
use serde_json::{Value, json};

use crate::Yard;

/// Names of the steps that were found in the cache, and of those that were done with the reason.
fn steps(stderr: &str) -> (Vec<String>, Vec<String>) {
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    for line in stderr.lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        let name = stderr.lines().find_map(|l| l.strip_prefix(&format!("{number} [")));
        let name = name.and_then(|name| name.split_once("] ")).map_or("", |(_, name)| name);
        if rest == "CACHED" {
            hit.push(name.to_owned());
        } else if let Some(key) = rest.strip_prefix("key ")
            && let Some((_, why)) = key.split_once(": ")
        {
            missed.push(format!("{name}: {why}"));
        }
    }
    (hit, missed)
}

const DOCKERFILE: &str = "FROM base\nARG V=1\nRUN echo $V > /v\nCOPY one /one\nRUN cat /one > /copy\nCOPY two /two\n";

#[test]
fn a_step_is_done_again_only_if_what_it_depends_on_changed() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let first = yard.build(DOCKERFILE, &[]).ok();
    assert_eq!(steps(&first.stderr).1.len(), 4);
    let digest = first.stdout;
    let again = yard.build(DOCKERFILE, &[]).ok();
    assert_eq!((steps(&again.stderr).0.len(), &again.stdout), (4, &digest), "the same image: {again}");

    // A file that is touched is the same file.
    fs::File::open(yard.context.join("one")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).1.len(), 0);

    yard.file("two", "other");
    let (hit, missed) = steps(&yard.build(DOCKERFILE, &[]).ok().stderr);
    assert_eq!((hit.len(), missed), (3, vec!["COPY two /two: /two changed".to_owned()]));

    yard.file("one", "other");
    let (hit, missed) = steps(&yard.build(DOCKERFILE, &[]).ok().stderr);
    assert_eq!(hit, ["RUN echo $V > /v"]);
    assert_eq!(
        missed,
        ["COPY one /one: /one changed", "RUN cat /one > /copy: layers changed", "COPY two /two: layers changed"]
    );

    let (hit, missed) = steps(&yard.build(DOCKERFILE, &["--build-arg", "V=2"]).ok().stderr);
    assert_eq!((hit.len(), missed[0].as_str()), (0, "RUN echo $V > /v: variable V changed"));

    let edited = DOCKERFILE.replace("cat /one", "cat /one /one");
    let (hit, missed) = steps(&yard.build(&edited, &["--build-arg", "V=2"]).ok().stderr);
    assert_eq!((hit.len(), missed[0].as_str()), (2, "RUN cat /one /one > /copy: command changed"));

    let (hit, missed) = steps(&yard.build(&edited, &["--no-cache"]).ok().stderr);
    assert!(hit.is_empty() && missed[0].contains("--no-cache"), "{missed:?}");
}

#[test]
fn the_same_result_of_another_way_is_the_same_from_there() {
    let yard = Yard::new();
    yard.file("one", "1");
    // The layer of the COPY is the same whatever the stage's name or the file's place.
    yard.build("FROM base AS x\nCOPY one /one\nRUN echo done > /done\n", &[]).ok();
    let (hit, missed) = steps(&yard.build("FROM base\nENV LATER=1\nCOPY one /one\n", &[]).ok().stderr);
    assert_eq!((hit.len(), missed.len()), (1, 0), "variables are none of a COPY's");
}

#[test]
fn the_cache_outlives_rm_and_prune_and_is_cleared_when_asked() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    yard.build(DOCKERFILE, &[]).ok();
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune"]).ok();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).0.len(), 4);
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
    assert_eq!(steps(&yard.build(DOCKERFILE, &[]).ok().stderr).0.len(), 0);
    let whole = yard.place.ours("imgtool", &["fsck"]).ok();
    assert_eq!(whole.code, 0);
}

#[test]
fn a_cache_goes_to_a_directory_or_a_registry_and_comes_back() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let registry = integration::peer::registry::Registry::start(&yard.place.id, &yard.place.dir);
    let directory = yard.place.dir.join("exported");
    let to_directory = format!("type=local,dest={}", directory.display());
    let to_registry = format!("type=registry,ref={}/cache:1,mode=max", registry.host);
    yard.build(DOCKERFILE, &["--cache-to", &to_directory, "--cache-to", &to_registry]).ok();
    for from in
        [format!("type=local,src={}", directory.display()), format!("type=registry,ref={}/cache:1", registry.host)]
    {
        yard.place.ours("imgtool", &["rm", "app"]).ok();
        yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
        let out = yard.build(DOCKERFILE, &["--cache-from", &from]).ok();
        assert_eq!(steps(&out.stderr).0.len(), 4, "{from}: {out}");
        assert_eq!(yard.prints("app", &["/bin/cat", "/copy", "/v"]), "11\n");
    }
    let out = yard.build(DOCKERFILE, &["--cache-from", "type=local,src=/nowhere"]).ok();
    assert!(out.stderr.contains("goes on without"), "{out}");
}

#[test]
fn a_registry_that_lies_about_a_cache_is_gone_on_without() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let registry = integration::peer::registry::Registry::start(&yard.place.id, &yard.place.dir);
    let cache = format!("type=registry,ref={}/cache:1", registry.host);
    yard.build(DOCKERFILE, &["--cache-to", &format!("{cache},mode=max")]).ok();
    // Documents and layers.
    let mut blobs = Vec::new();
    let mut places = vec![registry.blobs()];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut places } else { &mut blobs }.push(path);
        }
    }
    assert!(blobs.len() > 5, "{blobs:?}");
    let lies: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |mut true_one| {
            let middle = true_one.len() / 2;
            true_one[middle] ^= 1;
            true_one
        },
        |true_one| true_one[..true_one.len() / 2].to_vec(),
        |true_one| [true_one, vec![b' '; 32 << 20]].concat(),
        |_| br#"{"schemaVersion": 2, "steps": {"x": {}}, "layers": 7}"#.to_vec(),
    ];
    for lie in lies {
        let mut true_ones = Vec::new();
        for blob in &blobs {
            let bytes = fs::read(blob).unwrap();
            fs::write(blob, lie(bytes.clone())).unwrap();
            true_ones.push(bytes);
        }
        yard.place.ours("imgtool", &["rm", "app"]).ok();
        yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
        let out = yard.build(DOCKERFILE, &["--cache-from", &cache]).ok();
        assert!(out.stderr.contains("goes on without") && steps_of(&out.stderr) == (0, 4), "{out}");
        assert_eq!(yard.prints("app", &["/bin/cat", "/copy", "/v"]), "11\n");
        for (blob, bytes) in blobs.iter().zip(true_ones) {
            fs::write(blob, bytes).unwrap();
        }
    }
    // Layers alone.
    for blob in blobs.iter().filter(|blob| !fs::read(blob).unwrap().starts_with(b"{")) {
        fs::write(blob, "something else").unwrap();
    }
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
    let out = yard.build(DOCKERFILE, &["--cache-from", &cache]).ok();
    assert!(out.stderr.contains("goes on without") && steps_of(&out.stderr) == (0, 4), "{out}");
    yard.place.ours("imgtool", &["fsck"]).ok();
}

#[test]
fn an_image_can_be_its_own_cache() {
    let yard = Yard::new();
    yard.file("one", "1").file("two", "2");
    let registry = integration::peer::registry::Registry::start(&yard.place.id, &yard.place.dir);
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.host);
    let (inline, argument, plain) = (name("inline"), name("argument"), name("plain"));
    // Neither digests of what a build was given nor names of files are in it.
    let push = |args: &[&str], name: &str| {
        yard.build(DOCKERFILE, args).ok();
        yard.place.ours("imgtool", &["tag", "app", name]).ok();
        yard.place.ours("imgtool", &["push", "-q", name]).ok();
    };
    push(&["--cache-to", "type=inline", "--provenance"], &inline);
    let config =
        command::tool("skopeo", &["inspect", "--config", "--raw", "--tls-verify=false", &format!("docker://{inline}")])
            .ok();
    let config: Value = serde_json::from_str(&config.stdout).unwrap();
    let steps = config["org.tare.buildcache.v1"]["steps"].as_object().unwrap();
    assert_eq!(steps.len(), 4, "{config}");
    assert!(
        steps.values().all(|step| step["parts"].is_null() && step["files"].is_null() && step["layer"].is_object()),
        "{config}"
    );
    push(&["--build-arg", "BUILDKIT_INLINE_CACHE=1"], &argument);
    push(&[], &plain);
    let again = |from: &str| {
        for image in ["app", &inline, &argument, &plain] {
            yard.place.ours("imgtool", &["rm", image]);
        }
        yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
        yard.build(DOCKERFILE, &["--cache-from", from]).ok()
    };
    for from in [inline.clone(), argument.clone(), format!("type=registry,ref={inline}")] {
        let out = again(&from);
        assert_eq!(steps_of(&out.stderr), (4, 0), "{from}: {out}");
        assert_eq!(yard.prints("app", &["/bin/cat", "/copy", "/v"]), "11\n");
    }
    let out = again(&plain);
    assert!(
        out.stderr.contains("is an image without a build cache: goes on without") && steps_of(&out.stderr) == (0, 4),
        "{out}"
    );
    // An image that stands on one with a cache does not have that of what is below.
    yard.build(&format!("FROM {inline}\nLABEL a=b\n"), &["-o", "type=store,name=above"]).ok();
    assert!(yard.config("above")["org.tare.buildcache.v1"].is_null());
    let out = yard.build(DOCKERFILE, &["--no-cache", "--cache-from", "type=inline"]).ok();
    assert!(out.stderr.contains("of which image?"), "{out}");
}

fn steps_of(stderr: &str) -> (usize, usize) {
    let (hit, missed) = steps(stderr);
    (hit.len(), missed.len())
}

/// Writes a blob of a layout; gives its descriptor.
fn blob(layout: &Path, kind: &Value, value: &Value) -> Value {
    let path = layout.join("blob");
    fs::write(&path, value.to_string()).unwrap();
    let sum = command::tool("sha256sum", &[path.to_str().unwrap()]).ok().stdout;
    let hex = sum.split(' ').next().unwrap();
    fs::rename(&path, layout.join("blobs/sha256").join(hex)).unwrap();
    json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": value.to_string().len()})
}

#[test]
fn a_cache_from_elsewhere_counts_only_for_builds_that_ask_for_it() {
    let yard = Yard::new();
    let export = |dockerfile: &str, name: &str| {
        let directory = yard.place.dir.join(name);
        yard.build(dockerfile, &["--no-cache", "--cache-to", &format!("type=local,dest={}", directory.display())]).ok();
        let read = |path: &Path| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
        let at =
            |descriptor: &Value| directory.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"));
        let index = read(&directory.join("index.json"));
        let manifest = read(&at(&index["manifests"][0]));
        let config = read(&at(&manifest["config"]));
        (directory, index, manifest, config)
    };
    const GOOD: &str = "FROM base\nRUN echo good > /x\n";
    let (other, _, foreign, evil) = export("FROM base\nRUN echo evil > /x\n", "evil");
    let (directory, mut index, mut manifest, mut config) = export(GOOD, "good");
    // Who writes the cache says that the one step gave what the other did.
    let record = evil["steps"].as_object().unwrap().values().next().unwrap().clone();
    for step in config["steps"].as_object_mut().unwrap().values_mut() {
        step["layer"] = record["layer"].clone();
        step["origin"] = Value::Null;
    }
    let layer = foreign["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
    fs::copy(other.join("blobs").join(&layer), directory.join("blobs").join(&layer)).unwrap();
    manifest["layers"] = foreign["layers"].clone();
    manifest["config"] = blob(&directory, &manifest["config"]["mediaType"], &config);
    let mut entry = blob(&directory, &index["manifests"][0]["mediaType"], &manifest);
    entry["annotations"] = index["manifests"][0]["annotations"].clone();
    index["manifests"] = json!([entry]);
    fs::write(directory.join("index.json"), index.to_string()).unwrap();

    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
    let from = format!("type=local,src={}", directory.display());
    let x = || yard.prints("app", &["/bin/cat", "/x"]);
    let out = yard.build(GOOD, &["--cache-from", &from]).ok();
    assert_eq!(
        (steps_of(&out.stderr), x().as_str()),
        ((1, 0), "evil\n"),
        "the cache is believed where it is asked: {out}"
    );
    let out = yard.build(GOOD, &["--cache-from", "type=local,src=/elsewhere"]).ok();
    assert_eq!((steps_of(&out.stderr), x().as_str()), ((0, 1), "good\n"), "{out}");
    let out = yard.build(GOOD, &[]).ok();
    assert_eq!((steps_of(&out.stderr), x().as_str()), ((1, 0), "good\n"), "{out}");
    // What was made here comes first.
    let out = yard.build(GOOD, &["--cache-from", &from]).ok();
    assert_eq!((steps_of(&out.stderr), x().as_str()), ((1, 0), "good\n"), "{out}");

    // A layer that is not what it says, or not there, is made anew.
    yard.place.ours("imgtool", &["rm", "app"]).ok();
    yard.place.ours("imgtool", &["prune", "--build-cache"]).ok();
    fs::write(directory.join("blobs").join(&layer), "something else").unwrap();
    let out = yard.build(GOOD, &["--cache-from", &from]).ok();
    assert_eq!((steps_of(&out.stderr), x().as_str()), ((0, 1), "good\n"), "{out}");
    assert!(out.stderr.contains("goes on without"), "{out}");
}
