//! Builds and stages at the same time.

use std::process::{Child, Command, Stdio};

use integration::programs::{self, Runtime};

use crate::Yard;

/// Starts a build of the yard's context.
fn begin(yard: &Yard, args: &[&str]) -> Child {
    let mut command = Command::new(programs::ours("imgtool"));
    command.arg("--root").arg(yard.place.dir.join("store"));
    command.args(["build", "--progress", "plain", "--network", "none", "--runtime"]);
    command.arg(&Runtime::under_test().binary).args(args).arg(&yard.context).env("TARE_TEST", &yard.place.id);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[track_caller]
fn all_succeed(children: Vec<Child>) {
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn builds_that_begin_at_once_leave_one_another_alone() {
    let yard = Yard::new();
    // Many that do nothing but begin and end.
    yard.file("Dockerfile", "FROM scratch\nLABEL a=b\n");
    for _ in 0..20 {
        let builds = (0..16).map(|n| begin(&yard, &["-t", &format!("quick{n}")])).collect();
        // It removes what is nobody's, if nobody adds to the store.
        yard.place.ours("imgtool", &["prune"]);
        all_succeed(builds);
    }
    yard.file("file", "1").file("Dockerfile", "FROM base\nARG N\nRUN echo $N > /n\nCOPY file /file\n");
    for round in 0..3 {
        let one = |n| begin(&yard, &["--build-arg", &format!("N={round}.{n}"), "-t", &format!("app{n}")]);
        all_succeed((0..8).map(one).collect());
        for n in [0, 7] {
            let image = format!("app{n}");
            assert_eq!(yard.prints(&image, &["/bin/busybox", "cat", "/n"]), format!("{round}.{n}\n"));
        }
    }
    yard.place.ours("imgtool", &["fsck"]).ok();
}

#[test]
fn of_stages_that_fail_one_after_the_other_the_first_is_told_and_nothing_after_it() {
    let yard = Yard::new();
    let each = |line: &str| (0..6).map(|n| line.replace('@', &n.to_string())).collect::<String>();
    let waiting = each("FROM base AS w@\nCOPY --from=broken /x /x\nRUN true\n");
    let dockerfile = format!("FROM base AS broken\nRUN exit 7\n{waiting}FROM w0\n{}", each("COPY --from=w@ /x /x@\n"));
    for _ in 0..5 {
        let out = yard.build(&dockerfile, &[]);
        assert_eq!(out.code, 1, "{out}");
        let last = out.stderr.lines().last().unwrap();
        assert!(last.contains("Dockerfile:2:1") && last.ends_with("exit code: 7"), "{out}");
        let excerpt: Vec<&str> = out.stderr.lines().skip_while(|line| !line.ends_with("Dockerfile:2:1")).collect();
        assert!(excerpt.iter().all(|line| !line.starts_with('#')), "in one piece: {out}");
    }
}
