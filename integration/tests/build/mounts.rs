//! RUN --mount.

use std::fs;

use crate::Yard;

const SECRET: &str = "the-secret-that-nobody-may-keep";

/// Whether any file of a directory has these bytes.
fn found_in(dir: &std::path::Path, bytes: &[u8]) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if let Some(found) = found_in(&path, bytes) {
                return Some(found);
            }
        } else if kind.is_file() && fs::read(&path).is_ok_and(|have| have.windows(bytes.len()).any(|w| w == bytes)) {
            return Some(path);
        }
    }
    None
}

#[test]
fn secrets_reach_the_step_and_nothing_that_is_kept() {
    let yard = Yard::new();
    let file = yard.place.dir.join("secret-file");
    fs::write(&file, SECRET).unwrap();
    let secret = format!("id=s,src={}", file.display());
    let run = "--mount=type=secret,id=s --mount=type=secret,id=s,target=/etc/s,mode=0440,uid=33 --mount=type=secret,id=s,env=TOKEN";
    let dockerfile = format!(
        "FROM base\nRUN {run} cat /run/secrets/s | wc -c; busybox stat -c '%a %u' /etc/s; [ \"$TOKEN\" = \"$(cat /etc/s)\" ] && echo same\nRUN ls /run /etc/s; true\n"
    );
    let out = yard.build(&dockerfile, &["--secret", &secret, "--compression", "none"]).ok();
    for line in
        [format!(" {}", SECRET.len()), " 440 33".into(), " same".into(), " ls: /run: No such file or directory".into()]
    {
        assert!(out.stderr.contains(&line), "{line}: {out}");
    }
    assert_eq!(found_in(&yard.place.dir.join("store"), SECRET.as_bytes()), None, "in no layer, record, config or key");
    assert!(!out.stderr.contains(SECRET));
    // Another secret is no reason to do the step again.
    fs::write(&file, "another").unwrap();
    let out = yard.build(&dockerfile, &["--secret", &secret, "--compression", "none"]).ok();
    assert_eq!(out.stderr.matches("CACHED").count(), 2, "{out}");
    let out = yard.build("FROM base\nRUN --mount=type=secret,id=none,required cat /run/secrets/none\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("--secret id=none"), "{out}");
    let out = yard.build("FROM base\nRUN --mount=type=secret,id=none ls /run/secrets/none\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("exit code"), "a secret that is not required may be absent: {out}");
}

#[test]
fn binds_show_the_context_stages_and_images() {
    let yard = Yard::new();
    yard.file("dir/file", "context").file("secret", "ignored").file(".dockerignore", "secret\n");
    let dockerfile = "FROM base AS one\nRUN echo stage > /made\nFROM base\nRUN --mount=target=/ctx ls /ctx && ! cat /ctx/secret\nRUN --mount=source=dir/file,target=/f cat /f\nRUN --mount=from=one,source=/made,target=/m cat /m\nRUN --mount=target=/ctx ! echo x > /ctx/file\nRUN --mount=target=/ctx,rw echo x > /ctx/new && cat /ctx/new\nRUN ls /ctx /f /m; true\n";
    let out = yard.build(dockerfile, &[]).ok();
    assert!(out.stderr.contains(" context") && out.stderr.contains(" stage"), "{out}");
    assert!(!yard.context.join("new").exists());
    assert_eq!(yard.config("app")["rootfs"]["diff_ids"].as_array().unwrap().len(), 1, "no place of a mount is left");
    // What a mount shows counts.
    yard.file("dir/file", "changed");
    let out = yard.build(dockerfile, &[]).ok();
    assert!(out.stderr.contains("changed"), "{out}");
}

#[test]
fn what_a_step_writes_to_a_file_that_it_binds_is_forgotten() {
    let yard = Yard::new();
    yard.file("file", "context\n");
    let dockerfile = "FROM base AS one\nRUN echo stage > /made\nFROM base\nRUN --mount=source=file,target=/f,rw echo written >> /f && cat /f\nRUN --mount=from=one,source=/made,target=/m,rw echo written > /m\nRUN --mount=from=one,source=/made,target=/m cat /m\n";
    let out = yard.build(dockerfile, &[]).ok();
    assert_eq!(out.stderr.matches(" written\n").count(), 1, "the step itself sees it: {out}");
    assert!(out.stderr.contains(" stage\n"), "another step does not: {out}");
    assert_eq!(fs::read_to_string(yard.context.join("file")).unwrap(), "context\n");
}

#[test]
fn caches_stay_and_are_shared_as_asked() {
    let yard = Yard::new();
    let count = |sharing: &str, salt: &str| {
        format!(
            "FROM base\nRUN --mount=type=cache,target=/c,id=n,sharing={sharing} echo {salt} >> /c/log; wc -l < /c/log\n"
        )
    };
    yard.build(&count("shared", "1"), &[]).ok();
    let out = yard.build(&count("locked", "2"), &[]).ok();
    assert!(out.stderr.contains(" 2\n"), "{out}");
    // A locked cache: two stages at a time never see each other half way.
    let one = |n: u32| {
        format!(
            "FROM base AS s{n}\nRUN --mount=type=cache,target=/c,id=l,sharing=locked for i in $(seq 20); do [ ! -e /c/busy ] || exit 9; echo > /c/busy; busybox usleep 2000; busybox rm /c/busy; done\n"
        )
    };
    let dockerfile =
        format!("{}{}FROM base\nCOPY --from=s1 /etc/group /1\nCOPY --from=s2 /etc/group /2\n", one(1), one(2));
    yard.build(&dockerfile, &[]).ok();
    let out = yard
        .build("FROM base\nRUN --mount=type=cache,target=/c,mode=0711,uid=5,gid=6 busybox stat -c '%a %u:%g' /c\nRUN --mount=type=tmpfs,target=/t,size=1m busybox df -k /t && ! busybox dd if=/dev/zero of=/t/x bs=1M count=2\n", &[])
        .ok();
    assert!(out.stderr.contains(" 711 5:6") && out.stderr.contains("1024"), "{out}");
}

#[test]
fn an_agent_is_passed_on() {
    let yard = Yard::new();
    let socket = yard.place.dir.join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut guest in listener.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let mut buffer = [0; 64];
            let len = guest.read(&mut buffer).unwrap_or(0);
            let _ = guest.write_all(&[b"agent heard ", &buffer[..len]].concat());
        }
    });
    let ssh = format!("default={}", socket.display());
    let dockerfile = "FROM base\nUSER web\nRUN --mount=type=ssh,uid=33 /probe ask $SSH_AUTH_SOCK question && busybox stat -c '%a %u' $SSH_AUTH_SOCK\nRUN env\n";
    let out = yard.build(dockerfile, &["--ssh", &ssh]).ok();
    assert!(out.stderr.contains("agent heard question") && out.stderr.contains(" 600 33"), "{out}");
    assert_eq!(out.stderr.matches("SSH_AUTH_SOCK=").count(), 0, "only that step has it: {out}");
    let out = yard.build("FROM base\nRUN --mount=type=ssh,required true\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("--ssh default"), "{out}");
}
