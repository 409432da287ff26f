//! COPY and ADD.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use integration::command;

use crate::Yard;

/// Lists what a Dockerfile makes of /t, as `MODE UID:GID PATH`.
#[track_caller]
fn listing(yard: &Yard, dockerfile: &str, args: &[&str]) -> Vec<String> {
    yard.build(dockerfile, args).ok();
    let find = ["/bin/busybox", "find", "/t", "-exec", "/bin/busybox", "stat", "-c", "%a %u:%g %n", "{}", ";"];
    let mut lines: Vec<String> = yard.prints("app", &find).lines().map(str::to_owned).collect();
    lines.sort_by(|a, b| a.rsplit(' ').next().cmp(&b.rsplit(' ').next()));
    lines
}

fn context(yard: &Yard) {
    for name in ["a.txt", "b.txt", "dir/c.txt", "dir/sub/d.txt", "dir/sub/e.md"] {
        yard.file(name, name);
    }
    fs::set_permissions(yard.context.join("a.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(yard.context.join("dir/sub"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::chown(yard.context.join("b.txt"), Some(1234), Some(1234)).unwrap();
}

#[test]
fn files_directories_and_patterns_go_where_docker_puts_them() {
    let yard = Yard::new();
    context(&yard);
    let list = |copy: &str| listing(&yard, &format!("FROM base\n{copy}\n"), &[]);
    assert_eq!(list("COPY a.txt /t/"), ["755 0:0 /t", "640 0:0 /t/a.txt"]);
    assert_eq!(list("COPY a.txt /t"), ["640 0:0 /t"]);
    assert_eq!(
        list("COPY dir /t"),
        ["755 0:0 /t", "644 0:0 /t/c.txt", "750 0:0 /t/sub", "644 0:0 /t/sub/d.txt", "644 0:0 /t/sub/e.md"]
    );
    assert_eq!(list("COPY *.txt /t/"), ["755 0:0 /t", "640 0:0 /t/a.txt", "644 0:0 /t/b.txt"]);
    assert_eq!(list("COPY di?/s*/d.txt /t/x"), ["755 0:0 /t", "644 0:0 /t/x"]);
    assert_eq!(list("WORKDIR /t\nCOPY a.txt ."), ["755 0:0 /t", "640 0:0 /t/a.txt"]);
    assert_eq!(
        list("COPY --chown=web:12 --chmod=u=rwX,go= a.txt dir/sub /t/"),
        ["755 33:12 /t", "600 33:12 /t/a.txt", "600 33:12 /t/d.txt", "600 33:12 /t/e.md"]
    );
    assert_eq!(list("COPY --chown=55 a.txt /t/"), ["755 55:55 /t", "640 55:55 /t/a.txt"]);
    assert_eq!(
        list("COPY --parents dir/*/d.txt ./dir/./sub/e.md /t/"),
        [
            "755 0:0 /t",
            "755 0:0 /t/dir",
            "750 0:0 /t/dir/sub",
            "644 0:0 /t/dir/sub/d.txt",
            "750 0:0 /t/sub",
            "644 0:0 /t/sub/e.md"
        ]
    );
    assert_eq!(
        list("COPY --exclude=**/*.md --exclude=c.txt dir /t"),
        ["755 0:0 /t", "750 0:0 /t/sub", "644 0:0 /t/sub/d.txt"]
    );
    assert_eq!(list("COPY --link a.txt /t/"), ["755 0:0 /t", "640 0:0 /t/a.txt"]);
    // What is there is merged with, and a directory that is there looks as the source's.
    assert_eq!(
        list("COPY dir /t\nCOPY a.txt /t/sub"),
        [
            "755 0:0 /t",
            "644 0:0 /t/c.txt",
            "750 0:0 /t/sub",
            "640 0:0 /t/sub/a.txt",
            "644 0:0 /t/sub/d.txt",
            "644 0:0 /t/sub/e.md"
        ]
    );
    // From another stage owners are kept.
    assert_eq!(
        listing(&yard, "FROM base AS x\nCOPY --chown=7:8 a.txt /x/\nFROM base\nCOPY --from=x /x /t\n", &[]),
        ["755 7:8 /t", "640 7:8 /t/a.txt"]
    );
}

#[test]
fn ignore_files_hide_files() {
    let yard = Yard::new();
    context(&yard);
    yard.file(".dockerignore", "*.txt\n!b.txt\ndir/**/*.md\n");
    let copy = "FROM base\nCOPY . /t\n";
    let list = listing(&yard, copy, &[]);
    let names: Vec<&str> = list.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "/t",
            "/t/.dockerignore",
            "/t/Dockerfile",
            "/t/b.txt",
            "/t/dir",
            "/t/dir/c.txt",
            "/t/dir/sub",
            "/t/dir/sub/d.txt"
        ]
    );
    let out = yard.build("FROM base\nCOPY a.txt /t\n", &[]);
    assert!(
        out.code == 1 && out.stderr.contains("left out by .dockerignore") && out.stderr.contains("Dockerfile:2:6"),
        "{out}"
    );
    // One beside the Dockerfile counts before it.
    yard.file("Dockerfile.dockerignore", "*\n!a.txt\n");
    let list = listing(&yard, copy, &[]);
    assert_eq!(list.len(), 2, "{list:?}");
}

#[test]
fn archives_are_unpacked_by_add_and_copied_by_copy() {
    let yard = Yard::new();
    context(&yard);
    let dir = yard.context.to_str().unwrap();
    for (flag, name) in [("-cf", "x.tar"), ("-czf", "x.tar.gz"), ("-cjf", "x.tar.bz2"), ("-cJf", "x.tar.xz")] {
        let target = yard.context.join(name);
        command::tool("tar", &["-C", dir, "--owner=9", "--group=9", flag, target.to_str().unwrap(), "a.txt", "dir"])
            .ok();
        let list = listing(&yard, &format!("FROM base\nADD {name} /t/\n"), &[]);
        let all = [
            "755 0:0 /t",
            "640 9:9 /t/a.txt",
            "755 9:9 /t/dir",
            "644 9:9 /t/dir/c.txt",
            "750 9:9 /t/dir/sub",
            "644 9:9 /t/dir/sub/d.txt",
            "644 9:9 /t/dir/sub/e.md",
        ];
        assert_eq!(list, all, "{name}");
        assert_eq!(listing(&yard, &format!("FROM base\nADD --unpack=false {name} /t/\n"), &[]).len(), 2);
    }
    assert_eq!(listing(&yard, "FROM base\nCOPY x.tar /t/\n", &[]), ["755 0:0 /t", "644 0:0 /t/x.tar"]);
}

#[test]
fn links_of_the_image_lead_within_the_image() {
    let yard = Yard::new();
    yard.file("file", "copied");
    let target = yard.place.dir.join("outside");
    fs::create_dir(&target).unwrap();
    let root = yard.place.dir.join("small");
    symlink(&target, root.join("absolute")).unwrap();
    symlink("/real", root.join("dangling")).unwrap();
    symlink("../../../../../../../../..", root.join("up")).unwrap();
    let tar = yard.place.dir.join("links.tar");
    command::tool("tar", &["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]).ok();
    yard.place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "links"]).ok();
    yard.build(
        "FROM links\nCOPY file /absolute/file\nCOPY file /dangling/\nCOPY file /up/tmp/file\nWORKDIR /absolute/made\n",
        &[],
    )
    .ok();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing is written outside");
    assert_eq!(yard.prints("app", &["/bin/cat", "/real/file", "/tmp/file"]), "copiedcopied");
}

#[test]
fn files_come_from_urls_with_a_checksum_and_from_named_contexts() {
    let yard = Yard::new();
    let other = yard.place.dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("o.txt"), "other").unwrap();
    // A server of one file, for as many requests as come.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/path/served.txt?x=y", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut guest in server.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let _ = guest.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\r\n";
            let _ = guest.write_all(format!("{head}served\n").as_bytes());
        }
    });
    let named = format!("named={}", other.display());
    let list = listing(
        &yard,
        &format!("FROM base\nADD {url} /t/\nCOPY --from=named o.txt /t/\n"),
        &["--build-context", &named],
    );
    assert_eq!(list, ["755 0:0 /t", "644 0:0 /t/o.txt", "600 0:0 /t/served.txt"]);
    assert_eq!(yard.prints("app", &["/bin/busybox", "stat", "-c", "%Y", "/t/served.txt"]), "784111777\n");
    let sum = "sha256:".to_owned() + &"0".repeat(64);
    let out = yard.build(&format!("FROM base\nADD --checksum={sum} {url} /t/\n"), &[]);
    assert!(out.code == 1 && out.stderr.contains("--checksum"), "{out}");
    let out = yard.build(&format!("FROM base\nCOPY {url} /t/\n"), &[]);
    assert!(out.code == 1 && out.stderr.contains("use ADD"), "{out}");
}
