//! What instructions do to the image.

use serde_json::json;

use crate::Yard;

#[test]
fn every_instruction_is_in_the_config_and_the_history_as_docker_writes_them() {
    let yard = Yard::new();
    yard.file("file", "x");
    yard.build(
        "FROM base\nARG WHO=me\nENV GREETING=\"hello $WHO\" EMPTY=\nLABEL one=1 two=\"$GREETING\"\nMAINTAINER somebody\nEXPOSE 80 9000-9001/udp\nVOLUME /data /x\nSTOPSIGNAL SIGINT\nUSER web:web\nWORKDIR /srv\nWORKDIR app\nSHELL [\"/bin/sh\", \"-ec\"]\nHEALTHCHECK --interval=5s CMD true\nCOPY --chmod=600 file .\nRUN echo ran\nENTRYPOINT [\"/bin/echo\"]\nCMD said $WHO\nONBUILD RUN echo later\n",
        &["--label", "flag=yes"],
    )
    .ok();
    let whole = yard.config("app");
    let config = &whole["config"];
    assert_eq!(
        config["Env"],
        json!([
            "BASE=1",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "GREETING=hello me",
            "EMPTY="
        ])
    );
    assert_eq!(config["Labels"], json!({"one": "1", "two": "hello me", "flag": "yes"}));
    assert_eq!(whole["author"], "somebody");
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "9000/udp": {}, "9001/udp": {}}));
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["User"], "web:web");
    assert_eq!(config["WorkingDir"], "/srv/app");
    assert_eq!(config["Shell"], json!(["/bin/sh", "-ec"]));
    assert_eq!(config["Healthcheck"], json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64}));
    assert_eq!(config["Entrypoint"], json!(["/bin/echo"]));
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-ec", "said $WHO"]));
    assert_eq!(config["OnBuild"], json!(["RUN echo later"]));
    let history: Vec<String> = whole["history"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|step| {
            let empty = if step["empty_layer"] == true { "-" } else { "+" };
            format!("{empty} {}", step["created_by"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        history,
        [
            "- ARG WHO=me",
            "- ENV GREETING=hello me EMPTY=",
            "- LABEL one=1 two=hello me",
            "- MAINTAINER somebody",
            "- EXPOSE [80/tcp 9000/udp 9001/udp]",
            "- VOLUME [/data /x]",
            "- STOPSIGNAL SIGINT",
            "- USER web:web",
            "+ WORKDIR /srv",
            "+ WORKDIR /srv/app",
            "- SHELL [/bin/sh -ec]",
            "- HEALTHCHECK {\"Interval\":5000000000,\"Test\":[\"CMD-SHELL\",\"true\"]}",
            "+ COPY --chmod=600 file . # buildkit",
            "- RUN |1 WHO=me /bin/sh -ec echo ran # buildkit",
            "- ENTRYPOINT [\"/bin/echo\"]",
            "- CMD [\"/bin/sh\" \"-ec\" \"said $WHO\"]",
        ]
    );
    assert_eq!(whole["rootfs"]["diff_ids"].as_array().unwrap().len(), 4, "a step that changes nothing has no layer");
    assert_eq!(yard.prints("app", &["-n", "runs"]), "runs");
}

#[test]
fn a_run_is_a_container_with_the_stages_variables_user_and_directory() {
    let yard = Yard::new();
    let out = yard
        .build(
            "FROM base\nARG SET=given\nARG UNSET\nENV KEY=value\nWORKDIR /work\nUSER web\nRUN env && pwd && id && cat /proc/1/comm && ls /dev /proc/1/root\nRUN [\"/probe\", \"report\"]\n",
            &["--build-arg", "SET=other", "--build-arg", "HTTP_PROXY=http://proxy.example"],
        )
        .ok();
    for line in
        ["KEY=value", "SET=other", "BASE=1", "HTTP_PROXY=http://proxy.example", "/work", "uid=33(web) gid=33(web)"]
    {
        assert!(out.stderr.contains(&format!(" {line}")), "{line}: {out}");
    }
    assert!(!out.stderr.contains("UNSET=") && !out.stderr.contains("TARE_TEST="), "nothing of this process: {out}");
    let report =
        out.stderr.lines().find_map(|line| line.split_once(" {").map(|(_, rest)| format!("{{{rest}"))).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["interfaces"], json!(["lo"]), "no network of the host's");
    assert_eq!(report["seccomp"], 2);
    let history = yard.config("app")["history"].to_string();
    assert!(!history.contains("proxy.example"), "a proxy is none of the image: {history}");
    assert_eq!(
        yard.prints("app", &["/bin/ls", "-a", "/etc"]),
        ".\n..\ngroup\nhostname\nhosts\npasswd\n",
        "no file that was only mounted"
    );
}

#[test]
fn heredocs_are_scripts_and_files() {
    let yard = Yard::new();
    let out = yard
        .build(
            "FROM base\nENV NAME=there\nRUN <<EOF\nset -e\necho first $NAME\necho second\nEOF\nRUN <<EOF\n#!/bin/cat\nits own interpreter\nEOF\nRUN cat <<A - <<B /dev/fd/3 3<<C\none\nA\ntwo\nB\nC\nCOPY <<expanded <<-\"raw\" /etc/\nhello $NAME\nexpanded\n\thello $NAME\n\traw\n",
            &[],
        )
        .ok();
    for line in [" first there", " second", " its own interpreter", " two"] {
        assert!(out.stderr.contains(line), "{line}: {out}");
    }
    assert_eq!(yard.prints("app", &["/bin/cat", "/etc/expanded", "/etc/raw"]), "hello there\nhello $NAME\n");
}

#[test]
fn stages_give_files_and_only_what_is_needed_is_built() {
    let yard = Yard::new();
    let dockerfile = "ARG BASE=base\nFROM $BASE AS one\nRUN echo made > /one\nFROM base AS broken\nRUN exit 3\nFROM one AS two\nRUN cat /one > /two\nFROM scratch\nCOPY --from=two /one /two /\nCOPY --from=base /bin/busybox /bin/cat\n";
    yard.build(dockerfile, &[]).ok();
    assert_eq!(yard.prints("app", &["/bin/cat", "/one", "/two"]), "made\nmade\n");
    assert_eq!(yard.config("app")["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    let out = yard.build(dockerfile, &["--target", "broken"]);
    assert!(out.code == 1 && out.stderr.contains("exit code: 3"), "{out}");
    yard.build(dockerfile, &["--target", "one"]).ok();
    assert_eq!(yard.prints("app", &["/bin/ls", "/one"]), "/one\n");
}

#[test]
fn triggers_of_the_base_image_come_first() {
    let yard = Yard::new();
    yard.build("FROM base\nONBUILD COPY file /from-trigger\nONBUILD RUN cat /from-trigger\n", &[]).ok();
    yard.place.ours("imgtool", &["tag", "app", "trigger"]).ok();
    yard.file("file", "triggered\n");
    let out = yard.build("FROM trigger\nRUN echo after\n", &[]).ok();
    assert!(out.stderr.contains("ONBUILD RUN cat") && out.stderr.contains(" triggered"), "{out}");
    assert!(yard.config("app")["config"].get("OnBuild").is_none());
}

#[test]
fn independent_stages_run_side_by_side() {
    let yard = Yard::new();
    // Each waits for the other by a cache that both have: one after the other they would never end.
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/meet echo > /meet/{own}; n=0; until [ -e /meet/{other} ]; do n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done\n"
        )
    };
    let dockerfile = format!(
        "FROM base AS a\n{}FROM base AS b\n{}FROM base\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
        wait("a", "b"),
        wait("b", "a")
    );
    yard.build(&dockerfile, &[]).ok();
}

#[test]
fn a_network_and_privileges_are_given_only_if_allowed() {
    let yard = Yard::new();
    let out = yard.build("FROM base\nRUN --network=host true\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("--allow network.host"), "{out}");
    let out = yard.build("FROM base\nRUN --security=insecure true\n", &[]);
    assert!(out.code == 1 && out.stderr.contains("--allow security.insecure"), "{out}");
    let out = yard
        .build(
            "FROM base\nRUN --network=host --security=insecure [\"/probe\", \"report\"]\n",
            &["--allow", "network.host,security.insecure"],
        )
        .ok();
    assert!(out.stderr.contains("\"seccomp\":0"), "{out}");
}

/// A RUN that reaches a server of the host's network, in a network namespace of the test's own.
const CONNECTED: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
ip link add dummy0 type bridge && ip addr add 198.51.100.1/24 dev dummy0 && ip link set dummy0 up
ip route add default via 198.51.100.2 2>/dev/null || :
busybox httpd -p 198.51.100.1:8000 -h /etc
printf 'FROM base\nRUN busybox wget -q -O - http://198.51.100.1:8000/hostname && echo reached\n' > "$PLACE/context/Dockerfile"
"$IMGTOOL" --root "$PLACE/store" build --progress plain --runtime "$RUNTIME" "$PLACE/context"
iptables -t nat -S 2>/dev/null | grep -c 10.87 || echo undone
ls /var/lib/cni/networks/tare | grep -c ^10.87 || echo freed
"#;

/// A RUN that is interrupted by each signal; after SIGKILL it is the next build that clears away.
const INTERRUPTED: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
networks=/var/lib/cni/networks/tare
build() { exec "$IMGTOOL" --root "$PLACE/store" build --progress plain --runtime "$RUNTIME" "$PLACE/context"; }
for signal in INT TERM KILL; do
    printf 'FROM base\nRUN busybox ip address show eth0 && echo connected && busybox sleep 1000\n' > "$PLACE/context/Dockerfile"
    : >"$PLACE/said" # what the one before said is not waited for
    build 2>"$PLACE/said" & build=$!
    tries=0
    until grep -q " connected$" "$PLACE/said"; do tries=$((tries + 1)); [ $tries -lt 300 ] || { cat "$PLACE/said" >&2; exit 1; }; sleep 0.1; done
    ls $networks | grep -q ^10.87
    iptables -t nat -S | grep -q 10.87
    kill -$signal $build
    wait $build || :
    if [ $signal = KILL ]; then
        printf 'FROM base\nRUN --network=none true\n' > "$PLACE/context/Dockerfile"
        (build)
    fi
    ls $networks | grep ^10.87 || echo "$signal: freed"
    iptables -t nat -S | grep -E 'CNI-[0-9a-f]|10[.]87' || echo "$signal: undone"
    iptables -S | grep 10.87 || echo "$signal: forwards nothing"
done
"#;

#[test]
fn a_build_that_is_interrupted_leaves_nothing_of_its_network() {
    let yard = Yard::new();
    let out = in_a_network(&yard, INTERRUPTED, "interrupted").ok();
    for signal in ["INT", "TERM", "KILL"] {
        for line in ["freed", "undone", "forwards nothing"] {
            assert!(out.stdout.contains(&format!("{signal}: {line}\n")), "{out}");
        }
    }
}

#[test]
fn a_run_has_a_network_by_default_and_gives_it_back() {
    let yard = Yard::new();
    let out = in_a_network(&yard, CONNECTED, "connected").ok();
    assert!(out.stderr.contains(" reached"), "{out}");
    assert!(out.stdout.contains("freed"), "{out}");
}

/// Runs a script in network, mount and pid namespaces of its own.
fn in_a_network(yard: &Yard, script: &str, name: &str) -> integration::command::Out {
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    command.env("TARE_TEST", &yard.place.id).env("PLACE", &yard.place.dir);
    command.env("IMGTOOL", integration::programs::ours("imgtool")).stdin(std::process::Stdio::null());
    command.env("RUNTIME", &integration::programs::Runtime::under_test().binary);
    integration::command::run(&mut command, &integration::command::Files::new(&yard.place.dir, name))
}
