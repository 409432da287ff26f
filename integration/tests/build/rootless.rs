//! Builds of an ordinary user.

use std::fs;
use std::path::Path;

use integration::user::{User, impossible};
use integration::{programs, skip};
use serde_json::Value;

/// Owners, links, deletions and replacements, of another user's process too; and all kinds of mounts.
const DOCKERFILE: &str = r"FROM small:1 AS first
USER 0
RUN mkdir -p /o/p && echo one > /o/p/f && chown -R 33:44 /o

FROM small:1
USER 0
COPY --chown=33:44 file /file
COPY --from=first /o /o
RUN rm /etc/group && ln -s file /link && rm -r /o/p && mkdir /o/p && echo new > /o/p/new
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=first,source=/o,target=/x,rw cat /ctx/file /x/p/f > /both && echo gone > /x/p/f
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t echo x > /t/x && cat /t/x > /cache/x
RUN --mount=type=cache,target=/cache cp /cache/x /kept
RUN --mount=type=secret,id=s cat /run/secrets/s | wc -c
USER web
RUN id -u && ! rm /kept
";

fn steps(stderr: &str, word: &str) -> usize {
    stderr.lines().filter(|line| line.split(' ').nth(1) == Some(word)).count()
}

fn layers(inspected: &str) -> Value {
    let all: Value = serde_json::from_str(inspected).unwrap();
    all[0]["config"]["rootfs"]["diff_ids"].clone()
}

#[test]
fn with_ranges_it_is_the_image_that_root_would_make() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(true);
    user.image();
    let context = user.home.join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    fs::write(context.join("file"), "file\n").unwrap();
    let secret = user.home.join("secret");
    fs::write(&secret, "secret").unwrap();
    let secret = format!("id=s,src={}", secret.display());
    let context = context.to_str().unwrap();
    let args = ["build", "--progress", "plain", "--network", "none", "--secret", &secret];
    let args = [&args[..], &["--build-arg", "SOURCE_DATE_EPOCH=1", "-t", "app", context]].concat();
    let out = user.imgtool(&args).ok();
    assert_eq!(steps(&out.stderr, "CACHED"), 0, "{out}");
    let again = user.imgtool(&args).ok();
    assert_eq!((steps(&again.stderr, "CACHED"), &again.stdout), (9, &out.stdout), "{again}");

    let tar = user.home.join("small.tar");
    user.place.ours("imgtool", &["import", "-q", "-c", "USER web", tar.to_str().unwrap(), "small:1"]).ok();
    user.place.ours("imgtool", &args).ok();
    let by_root = layers(&user.place.ours("imgtool", &["inspect", "app"]).ok().stdout);
    assert_eq!(layers(&user.imgtool(&["inspect", "app"]).ok().stdout), by_root);
    assert_eq!(by_root.as_array().unwrap().len(), 6, "{by_root}");

    let script = "id -u; cat /both /kept /o/p/new; ls -ln /file; ls /o/p /etc/group";
    let bundle = user.bundle(&["app", "--", "/bin/sh", "-c", script]);
    let out = user.container(&bundle);
    assert!(out.stdout.starts_with("33\nfile\none\nx\nnew\n"), "{out}");
    assert!(out.stdout.contains(" 33 ") && out.stdout.contains(" 44 "), "{out}");
    assert!(out.stdout.ends_with("/o/p:\nnew\n"), "{out}");
    user.imgtool(&["unbundle", &bundle]).ok();

    fs::write(user.home.join("context/Dockerfile"), "FROM small:1\nUSER 0\nRUN exit 7\n").unwrap();
    let out = user.imgtool(&["build", "-q", "--network", "none", context]);
    assert!(out.code == 1 && out.stderr.contains("Dockerfile:3") && out.stderr.contains("exit code: 7"), "{out}");
    user.leave();
}

#[test]
fn without_ranges_all_steps_are_the_users() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(false);
    user.image();
    let context = user.home.join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM small:1\nRUN id -u > /id && cat /id\nCMD [\"/bin/cat\", \"/id\"]\n")
        .unwrap();
    let args = ["build", "--progress", "plain", "--network", "none", "-t", "app", context.to_str().unwrap()];
    let out = user.imgtool(&args).ok();
    assert!(out.stderr.contains("/etc/subuid"), "{out}");
    let bundle = user.bundle(&["app"]);
    assert_eq!(user.container(&bundle).stdout, "0\n");
    user.imgtool(&["unbundle", &bundle]).ok();
    user.leave();
}

#[test]
fn a_users_step_has_a_device_by_its_name() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(false);
    user.image();
    let (context, cdi) = (user.home.join("context"), user.home.join("cdi"));
    fs::create_dir(&context).unwrap();
    fs::create_dir(&cdi).unwrap();
    fs::set_permissions(&cdi, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spec = "cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits:\n    deviceNodes: [{path: /dev/other, hostPath: /dev/zero}]\n";
    fs::write(cdi.join("x.yaml"), spec).unwrap();
    let dockerfile = "FROM small:1\nRUN --device=v.com/c,required busybox head -c 3 /dev/other | busybox wc -c\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let build = || {
        let args = ["build", "--progress", "plain", "--no-cache", "--network", "none", "--allow", "device"];
        user.imgtool(&[&args[..], &["--cdi-spec-dir", cdi.to_str().unwrap(), context.to_str().unwrap()]].concat())
    };
    // They are another user's, who could have this one's steps run any program.
    let out = build();
    assert!(out.code == 1 && out.stderr.contains("it must be root's, or yours"), "{out}");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&user.home).unwrap());
    for path in [cdi.join("x.yaml"), cdi.clone()] {
        std::os::unix::fs::chown(path, Some(owner), None).unwrap();
    }
    let out = build().ok();
    assert!(out.stderr.contains(" 3\n"), "{out}");
    user.leave();
}

#[test]
fn on_cgroup_version_2_alone_a_step_is_confined_and_connected_by_pasta() {
    integration::cgroups::enter_v2();
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    if programs::find(Path::new("pasta")).is_none() {
        skip!("pasta is not installed");
    }
    let routes = fs::read_to_string("/proc/net/route").unwrap();
    if !routes.lines().any(|line| line.split('\t').nth(1) == Some("00000000")) {
        skip!("this machine has no way out, which pasta would copy");
    }
    let user = User::new(true);
    user.image();
    let context = user.home.join("context");
    fs::create_dir(&context).unwrap();
    let dockerfile = "FROM small:1\nUSER 0\nRUN cat /proc/net/dev /proc/net/route; cat /proc/self/cgroup; grep cgroup /proc/self/mountinfo; true\nRUN --network=none cat /proc/net/dev\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let context = context.to_str().unwrap();
    let out = user.imgtool(&["build", "--progress", "plain", "-t", "app", context]).ok();
    let lines = |step: &str| -> Vec<&str> {
        let of = |line: &&str| line.split(' ').next() == Some(step);
        out.stderr.lines().filter(of).filter_map(|line| line.splitn(3, ' ').nth(2)).collect()
    };
    let connected = lines("#2");
    let default = connected.iter().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    assert!(default, "a default route: {out}");
    assert!(connected.contains(&"0::/"), "its cgroup is the top of what it sees: {out}");
    let alone = lines("#3");
    let interfaces = alone.iter().filter(|line| line.contains(": ") && !line.starts_with("sha256:"));
    assert!(interfaces.count() == 1 && alone.iter().any(|line| line.contains("lo:")), "loopback alone: {out}");
    // Without a cgroup of the own a limit cannot be had, and none is not what was asked for.
    let out = user.imgtool(&["build", "-q", "--no-cache", "--memory", "64m", context]);
    assert!(out.code == 1 && out.stderr.contains("remove the limit"), "{out}");
    user.leave();
}
