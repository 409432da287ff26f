//! Networks of bundles: ports that are published, and what is left of a connection.

use integration::place::Place;

/// What a container of this bundle is asked from the outside, in a network namespace of the test's own, so that the bridge
/// and its rules are nobody else's.
const PUBLISHED: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
bundle=$("$IMGTOOL" --root "$PLACE/store" bundle --quiet -p 8080:80 --hostname web web:1 -- /bin/busybox httpd -f -p 80 -h /bin)
"$RUNTIME" --root "$PLACE/state" run -d --bundle "$bundle" "$ID" </dev/null >/dev/null
grep -q "^10.87.*web$" "$bundle/etc/hosts" && echo named
tries=0 # the server may not listen yet
until busybox wget -q -O /dev/null http://10.87.0.1:8080/busybox; do tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 0.1; done
echo reached
"$RUNTIME" --root "$PLACE/state" delete -f "$ID"
iptables -t nat -S | grep -qE '8080|CNI-[0-9a-f]|10\.87' || echo undone
! grep "$bundle/network" /proc/self/mountinfo
ls /var/lib/cni/networks/tare | grep -q ^10.87 || echo freed
"$IMGTOOL" --root "$PLACE/store" unbundle "$bundle"
"#;

/// Runs a script in a network of its own, with names for what the tests have.
pub(crate) fn in_a_network(place: &Place, script: &str, name: &str) -> integration::command::Out {
    let mut command = std::process::Command::new("unshare");
    // A pid namespace too: with it ends what the container leaves to be waited for.
    command
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script])
        .stdin(std::process::Stdio::null());
    command.env("TARE_TEST", &place.id).env("ID", &place.id).env("PLACE", &place.dir);
    command.env("IMGTOOL", integration::programs::ours("imgtool")).env("SHIM", integration::programs::ours("shim"));
    command.env("RUNTIME", &integration::programs::Runtime::under_test().binary);
    integration::command::run(&mut command, &integration::command::Files::new(&place.dir, name))
}

#[test]
fn a_published_port_is_reached_over_the_bridge_and_undone_at_delete() {
    let place = Place::new();
    let tar = integration::peer::image::busybox_tar(&place.dir);
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "web:1"]).ok();
    let out = in_a_network(&place, PUBLISHED, "published").ok();
    assert_eq!(out.stdout, "named\nreached\nundone\nfreed\n", "{out}");
}

/// Who may have a port, one after the other: another container by any address, a program, the heir of a dead container.
const ONE_PORT: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
make() { "$IMGTOOL" --root "$PLACE/store" bundle --quiet "$@" web:1 -- /bin/busybox sleep 1000; }
run() { "$RUNTIME" --root "$PLACE/state" run -d --bundle "$2" "$ID-$1" </dev/null >/dev/null 2>"$PLACE/said"; }
first=$(make -p 8080:80) second=$(make -p 127.0.0.1:8079-8080:80-81) other=$(make -p 8080:80/udp)
run 1 "$first"
! run 2 "$second" && grep -q "Bind for 127.0.0.1:8080 failed: port is already allocated (by the container $ID-1 of $first)" "$PLACE/said" && echo refused
test ! -e "$second/network-state.json" && echo nothing left
run 3 "$other" && echo udp
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-1"
run 2 "$second" && echo freed by delete
kill -9 "$("$RUNTIME" --root "$PLACE/state" state "$ID-2" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')"
tries=0 # it dies in its own time
until run 1 "$first"; do tries=$((tries + 1)); [ $tries -lt 50 ]; sleep 0.1; done && echo freed by death
test ! -e "$second/network-state.json" && echo disconnected
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-2"
iptables -t nat -S | grep -q 8080 && echo still connected
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-1"
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-3"
iptables -t nat -S | grep -q 8080 || echo undone
busybox nc -l -p 8080 127.0.0.1 >/dev/null & listener=$!
until grep -q ":1F90 00000000:0000 0A" /proc/net/tcp; do sleep 0.1; done
! run 1 "$first" && grep -q "Bind for 0.0.0.0:8080 failed: port is already allocated (a program" "$PLACE/said" && echo a program has it
kill $listener
"$IMGTOOL" --root "$PLACE/store" unbundle "$first" "$second" "$other"
"#;

#[test]
fn a_port_is_published_by_one_container_at_a_time() {
    let place = Place::new();
    let tar = integration::peer::image::busybox_tar(&place.dir);
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "web:1"]).ok();
    let out = in_a_network(&place, ONE_PORT, "one-port").ok();
    let want = "refused\nnothing left\nudp\nfreed by delete\nfreed by death\ndisconnected\nstill connected\nundone\na program has it\n";
    assert_eq!(out.stdout, want, "{out}");
}

/// The image exposes 80, 90 and 53/udp, and the user gave one of them a port.
const ALL: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
imgtool() { "$IMGTOOL" --root "$PLACE/store" "$@"; }
bundle=$(imgtool bundle --quiet -P --expose 81-82 -p 127.0.0.1:8090:90 web:1 -- /bin/busybox httpd -f -p 80 -h /bin)
test "$(imgtool port "$bundle" | sed 's/:[0-9]*$//' | sort)" = "53/udp -> 0.0.0.0
80/tcp -> 0.0.0.0
81/tcp -> 0.0.0.0
82/tcp -> 0.0.0.0
90/tcp -> 127.0.0.1" && echo listed
test "$(imgtool port "$bundle" 90)" = 127.0.0.1:8090 && echo asked
! imgtool port "$bundle" 90/udp 2>"$PLACE/said" && grep -q "no public port 90/udp is published" "$PLACE/said" && echo refused
test "$(imgtool port --format json "$bundle" 80-82 | grep -c hostPort)" = 3 && echo json
port=$(imgtool port "$bundle" 80) port=${port##*:}
grep -q "0.0.0.0:$port->80/tcp" "$bundle/config.json" && echo annotated
"$RUNTIME" --root "$PLACE/state" run -d --bundle "$bundle" "$ID" </dev/null >/dev/null
tries=0 # the server may not listen yet
until busybox wget -q -O /dev/null "http://10.87.0.1:$port/busybox"; do tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 0.1; done
echo reached
"$RUNTIME" --root "$PLACE/state" delete -f "$ID"
iptables -t nat -S | grep -q "$port" || echo undone
imgtool unbundle "$bundle"
! imgtool bundle --quiet -P --network none web:1 -- x 2>"$PLACE/said" && grep -q "no ports to publish" "$PLACE/said" && echo unreachable
bundle=$(imgtool bundle --quiet -P plain:1 -- x)
test -z "$(imgtool port "$bundle")" && echo none exposed
imgtool unbundle "$bundle"
"#;

#[test]
fn each_exposed_port_is_published_at_a_free_one_that_can_be_asked_for() {
    let place = Place::new();
    let tar = integration::peer::image::busybox_tar(&place.dir);
    let tar = tar.to_str().unwrap();
    let expose = ["import", "--quiet", "-c", "EXPOSE 80 90/tcp", "-c", "EXPOSE 53/udp", tar, "web:1"];
    place.ours("imgtool", &expose).ok();
    place.ours("imgtool", &["import", "--quiet", tar, "plain:1"]).ok();
    let out = in_a_network(&place, ALL, "all").ok();
    let want = "listed\nasked\nrefused\njson\nannotated\nreached\nundone\nunreachable\nnone exposed\n";
    assert_eq!(out.stdout, want, "{out}");
}

/// A machine that was started anew has no containers: what they had is free, whatever is left of them on a disk.
const ANEW: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
mkdir -p /run/imgtool && mount -t tmpfs tmpfs /run/imgtool
make() { "$IMGTOOL" --root "$PLACE/store" bundle --quiet "$@" web:1 -- /bin/busybox sleep 1000; }
run() { "$RUNTIME" --root "$PLACE/state" run -d --bundle "$2" "$ID-$1" </dev/null >/dev/null 2>"$PLACE/said"; }
first=$(make -p 8080:80) second=$(make -p 8080:80)
run 1 "$first"
! run 2 "$second" && grep -q "port is already allocated" "$PLACE/said" && echo taken
# The reservation is of another start of the machine, with /run on a disk.
sed -i 's/"boot":"[^"]*"/"boot":"another"/' /run/imgtool/ports/*.json
run 2 "$second" && echo free
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-2"
# And with /run in memory: the processes, the network and the reservation are gone, the rest is as it was.
kill -9 "$("$RUNTIME" --root "$PLACE/state" state "$ID-1" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')"
umount /run/imgtool "$first/network-namespace"
sed -i 's/"boot":"[^"]*"/"boot":"another"/' "$first/network-state.json"
export first second
ls /var/lib/cni/networks/tare | grep -c '^10.87'
unshare --net sh -ec '
    ip link set lo up
    "$RUNTIME" --root "$PLACE/state" run -d --bundle "$second" "$ID-3" </dev/null >/dev/null && echo taken anew
    "$RUNTIME" --root "$PLACE/state" delete -f "$ID-3"
    "$RUNTIME" --root "$PLACE/state" run -d --bundle "$first" "$ID-4" </dev/null >/dev/null && echo run again
    "$RUNTIME" --root "$PLACE/state" delete -f "$ID-4"'
ls /var/lib/cni/networks/tare | grep -q '^10.87' || echo addresses free
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-1"
"$IMGTOOL" --root "$PLACE/store" unbundle "$first" "$second"
"#;

#[test]
fn ports_and_addresses_are_free_after_a_restart_of_the_machine() {
    let place = Place::new();
    let tar = integration::peer::image::busybox_tar(&place.dir);
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "web:1"]).ok();
    let out = in_a_network(&place, ANEW, "anew").ok();
    assert_eq!(out.stdout, "taken\nfree\n1\ntaken anew\nrun again\naddresses free\n", "{out}");
}

/// The first plugin does its work and has whoever waits for it killed: the hook, or the hook and the runtime.
const CUT: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
cp -a /usr/lib/cni "$PLACE/cni" && mv "$PLACE/cni/bridge" "$PLACE/cni/bridge.real"
cat >"$PLACE/cni/bridge" <<'END'
#!/bin/sh
"$0.real"
code=$?
kill=$(cat "${0%/*}/kill")
if [ "$CNI_COMMAND" = ADD ] && [ -n "$kill" ]; then
    iptables -t nat -S | grep -q MASQUERADE && : >"${0%/*}/done"
    read -r stat <"/proc/$PPID/stat"
    set -- ${stat##*)}
    [ "$kill" = hook ] || kill -9 "$2"
    kill -9 "$PPID"
fi
exit $code
END
chmod +x "$PLACE/cni/bridge"
mount --bind "$PLACE/cni" /usr/lib/cni
left() { iptables -t nat -S | grep -E 'CNI-[0-9a-f]|10[.]87' || ls /var/lib/cni/networks/tare | grep '^10.87' || echo "$1: nothing left"; }
bundle=$("$IMGTOOL" --root "$PLACE/store" bundle --quiet -p 8080:80 web:1 -- /bin/busybox sleep 1000)
for kill in hook runtime; do
    echo $kill >"$PLACE/cni/kill"
    ! "$RUNTIME" --root "$PLACE/state" run -d --bundle "$bundle" "$ID-$kill" </dev/null >/dev/null 2>&1
    rm "$PLACE/cni/done"
    "$RUNTIME" --root "$PLACE/state" delete -f "$ID-$kill" >/dev/null 2>&1 || :
    : >"$PLACE/cni/kill"
    "$RUNTIME" --root "$PLACE/state" run -d --bundle "$bundle" "$ID-again" </dev/null >/dev/null
    "$RUNTIME" --root "$PLACE/state" delete -f "$ID-again"
    left "$kill, run again"
done
echo runtime >"$PLACE/cni/kill"
! "$RUNTIME" --root "$PLACE/state" run -d --bundle "$bundle" "$ID-last" </dev/null >/dev/null 2>&1
rm "$PLACE/cni/done"
"$RUNTIME" --root "$PLACE/state" delete -f "$ID-last" >/dev/null 2>&1 || :
"$IMGTOOL" --root "$PLACE/store" unbundle "$bundle"
left "unbundled"
"#;

#[test]
fn whoever_is_killed_in_the_first_plugin_leaves_no_rule_behind_the_next_delete() {
    if !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        integration::skip!("CNI's plugins are not in /usr/lib/cni");
    }
    let place = Place::new();
    let tar = integration::peer::image::busybox_tar(&place.dir);
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "web:1"]).ok();
    let out = in_a_network(&place, CUT, "cut").ok();
    let want = "hook, run again: nothing left\nruntime, run again: nothing left\nunbundled: nothing left\n";
    assert_eq!(out.stdout, want, "{out}");
}
