//! Builds of an ordinary user.

use std::fs;

use integration::skip;
use integration::user::{User, impossible};
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
