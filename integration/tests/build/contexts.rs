//! Contexts besides the main one, and the arguments that say how they are treated.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

use integration::command::tool;
use integration::skip;

use crate::Yard;

#[test]
fn a_directory_by_name_has_an_ignore_file_of_its_own() {
    let yard = Yard::new();
    let other = yard.place.dir.join("other");
    fs::create_dir(&other).unwrap();
    for (name, text) in [("seen", "s"), ("hidden", "h"), (".dockerignore", "hidden\n")] {
        fs::write(other.join(name), text).unwrap();
    }
    yard.file("hidden", "of the main context");
    let named = format!("named={}", other.display());
    let dockerfile = "FROM base\nCOPY --from=named / /n/\nRUN --mount=from=named,target=/m ls -a /n /m && ! cat /m/hidden\nCOPY hidden /hidden\n";
    yard.build(dockerfile, &["--build-context", &named]).ok();
    assert_eq!(yard.prints("app", &["/bin/busybox", "ls", "-A", "/n"]), ".dockerignore\nseen\n");
    let out = yard.build("FROM base\nCOPY --from=named hidden /x\n", &["--build-context", &named]);
    assert!(out.code == 1 && out.stderr.contains("left out by .dockerignore"), "{out}");
}

fn repository(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    fs::write(at.join("Dockerfile"), "FROM base\nCOPY . /src/\n").unwrap();
    fs::write(at.join("sub/file"), "of the repository").unwrap();
    let git = |args: &[&str]| {
        let own = ["-C", at.to_str().unwrap(), "-c", "user.name=n", "-c", "user.email=e@example.com"];
        tool("git", &[&own[..], args].concat()).ok();
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "m"]);
}

#[test]
fn a_repository_is_a_context_with_its_git_directory_if_asked() {
    let path = std::process::Command::new("git").arg("--exec-path").output();
    let path = path.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    let program = Path::new(&path).join("git-daemon");
    if !program.exists() {
        skip!("git and its daemon are not here");
    }
    let yard = Yard::new();
    let at = yard.place.dir.join("repository.git");
    repository(&at);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = std::process::Command::new(program);
    daemon.args(["--reuseaddr", "--listen=127.0.0.1", "--export-all"]);
    daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", yard.place.dir.display()));
    daemon.env("TARE_TEST", &yard.place.id).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    let there = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
    let came = integration::wait::until(std::time::Duration::from_millis(20), integration::command::LIMIT, there);
    assert!(came.is_some());
    let url = format!("git://127.0.0.1:{port}/repository.git");
    let build = |args: &[&str], context: &str| {
        let mut all = vec!["build", "-q", "--network", "none", "-t", "app"];
        all.extend(args);
        all.push(context);
        yard.place.ours("imgtool", &all)
    };
    let list = |path: &str| yard.prints("app", &["/bin/busybox", "ls", "-A", path]);
    build(&[], &url).ok();
    assert_eq!(list("/src"), "Dockerfile\nsub\n");
    build(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"], &url).ok();
    assert_eq!(list("/src"), ".git\nDockerfile\nsub\n");
    build(&[], &format!("{url}?branch=main&keep-git-dir=true")).ok();
    assert_eq!(list("/src"), ".git\nDockerfile\nsub\n");
    let out = build(&[], &format!("{url}?commit=0123456789"));
    assert_eq!(out.code, 1, "{out}");
    let out = build(&[], &format!("{url}#no-such-branch"));
    assert!(out.code == 1 && out.stderr.contains("git fetch: fatal: couldn't find remote ref no-such-branch"), "{out}");
    let out = build(&[], &format!("{url}?colour=red"));
    assert!(out.code == 1 && out.stderr.contains("unknown key colour"), "{out}");
    let named = format!("named={url}#main:sub");
    yard.build("FROM base\nCOPY --from=named file /n/\n", &["--build-context", &named]).ok();
    assert_eq!(list("/n"), "file\n");
    // What the user's own git knows of servers is for contexts that the user names, and not for those of a Dockerfile.
    let home = yard.place.dir.join("home");
    fs::create_dir(&home).unwrap();
    let config = format!("[url \"git://127.0.0.1:{port}/\"]\ninsteadOf = git://mine.invalid/\n");
    fs::write(home.join(".gitconfig"), config).unwrap();
    let at_home = |args: &[&str]| {
        let mut command = std::process::Command::new(integration::programs::ours("imgtool"));
        command.arg("--root").arg(yard.place.dir.join("store")).env("TARE_TEST", &yard.place.id);
        command.args(["build", "-q", "--network", "none", "-t", "app"]).args(args).env("HOME", &home);
        integration::command::run(&mut command, &integration::command::Files::new(&home, "call"))
    };
    at_home(&["git://mine.invalid/repository.git"]).ok();
    for (address, code) in [(&*url, 0), ("git://mine.invalid/repository.git", 1)] {
        yard.file("Dockerfile", &format!("FROM base\nADD {address} /added/\n"));
        let out = at_home(&["--no-cache", yard.context.to_str().unwrap()]);
        assert_eq!(out.code, code, "{out}");
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// A server that gives everybody the same answer, and what it hears, in small letters.
fn server(answer: String) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (send, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for mut guest in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match guest.read(&mut buffer) {
                    Ok(len) if len > 0 => request.extend_from_slice(&buffer[..len]),
                    _ => break,
                }
            }
            let _ = send.send(String::from_utf8_lossy(&request).to_lowercase());
            let _ = guest.write_all(format!("HTTP/1.1 {answer}").as_bytes());
        }
    });
    (host, heard)
}

#[test]
fn git_shows_a_server_the_secret_that_lets_it_in_and_nobody_else() {
    let yard = Yard::new();
    let (other, heard_there) = server("404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned());
    // It sends git on to the other, which may then ask for whatever it wants.
    let (host, heard) = server(format!(
        "302 Found\r\nlocation: http://{other}/repository.git/info/refs?service=git-upload-pack\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    ));
    let secret = yard.place.dir.join("token");
    fs::write(&secret, "open-sesame\n").unwrap();
    let authorized = |heard: &mpsc::Receiver<String>| -> Vec<Option<String>> {
        let line = |request: String| request.lines().find(|line| line.starts_with("authorization:")).map(str::to_owned);
        heard.try_iter().map(line).collect()
    };
    let build = |at: &str, id: &str| {
        let given = format!("id={id},src={}", secret.display());
        let dockerfile = format!("FROM base\nADD http://{at}/repository.git /x\n");
        let out = yard.build(&dockerfile, &["--no-cache", "--secret", &given]);
        assert!(out.code == 1 && out.stderr.contains("Dockerfile:2:") && !out.stderr.contains("sesame"), "{out}");
        out
    };
    for (id, word) in [
        (format!("GIT_AUTH_TOKEN.{host}"), "basic "),
        (format!("GIT_AUTH_HEADER.{host}"), "open-sesame"),
        ("GIT_AUTH_TOKEN".to_owned(), "basic "),
    ] {
        let out = build(&host, &id);
        assert!(out.stderr.contains("give the address that it sends git to"), "{out}");
        let shown = authorized(&heard);
        let word = format!("authorization: {word}");
        assert!(
            !shown.is_empty() && shown.iter().all(|line| line.as_ref().is_some_and(|l| l.starts_with(&word))),
            "{shown:?}"
        );
        assert_eq!(heard_there.try_iter().count(), 0, "git's second question would have the secret: {id}");
    }
    // Nor does a secret that has a host reach another by itself. Without one git may go where it is sent.
    for (at, id) in [(&other, format!("GIT_AUTH_TOKEN.{host}")), (&host, format!("GIT_AUTH_TOKEN.{other}.example"))] {
        build(at, &id);
        let shown = authorized(&heard_there);
        assert!(!shown.is_empty() && shown.iter().all(Option::is_none), "{at}: {shown:?}");
    }
    assert!(authorized(&heard).iter().all(Option::is_none));
    // The cause is told: who did not answer, and what.
    assert!(build(&other, "ANY").stderr.contains("not found"), "{}", build(&other, "ANY"));
    let out = build("127.0.0.1:1", "ANY");
    assert!(out.stderr.contains("git fetch: fatal: unable to access") && out.stderr.contains("connect"), "{out}");
    let out = yard.build("FROM base\nADD git@127.0.0.1:none.git /x\n", &[]);
    let last = out.stderr.lines().last().unwrap();
    assert!(
        out.code == 1 && last.contains("git fetch: ") && last.contains("; fatal: "),
        "what ssh says comes first: {out}"
    );
    assert!(!last.contains("Please make sure"), "{out}");
}

#[test]
fn add_shows_a_server_the_secret_that_lets_it_in_and_nobody_else() {
    let yard = Yard::new();
    let (host, heard) = server("200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody".to_owned());
    let secret = yard.place.dir.join("token");
    fs::write(&secret, "open-sesame\n").unwrap();
    let dockerfile = format!("FROM base\nADD http://{host}/file /file\n");
    for (id, want) in [
        (format!("HTTP_AUTH_TOKEN_{host}"), Some("authorization: bearer open-sesame")),
        (format!("HTTP_AUTH_HEADER_{host}"), Some("authorization: open-sesame")),
        ("HTTP_AUTH_TOKEN_other.example".to_owned(), None),
    ] {
        let given = format!("id={id},src={}", secret.display());
        let out = yard.build(&dockerfile, &["--no-cache", "--secret", &given]).ok();
        let request = heard.recv().unwrap();
        let line = request.lines().find(|line| line.starts_with("authorization:"));
        assert_eq!(line, want, "{request}");
        assert!(!out.stderr.contains("sesame"), "{out}");
    }
}

#[test]
fn arguments_name_the_host_and_the_space_of_the_caches() {
    let yard = Yard::new();
    let dockerfile =
        "FROM base\nRUN busybox hostname\nRUN --mount=type=cache,target=/c busybox ls /c; echo > /c/made\n";
    let out = yard.build(dockerfile, &[]).ok();
    assert!(out.stderr.contains(" buildkitsandbox"), "{out}");
    let out = yard.build(dockerfile, &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]).ok();
    assert!(out.stderr.contains(" other"), "{out}");
    let space = ["--no-cache", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=space"];
    assert!(yard.build(dockerfile, &["--no-cache"]).ok().stderr.contains(" made"));
    assert!(!yard.build(dockerfile, &space).ok().stderr.contains(" made"));
    assert!(yard.build(dockerfile, &space).ok().stderr.contains(" made"));
}
