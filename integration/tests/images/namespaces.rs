//! Namespaces that a bundle shares with the host or with another container.

use integration::place::Place;

use crate::network::in_a_network;

/// What all scripts have: the programs, with records where imgtool looks for them, and a container to join.
const BEFORE: &str = r#"
set -e
export XDG_RUNTIME_DIR="$PLACE/xdg-run" XDG_DATA_HOME="$PLACE/xdg-data"
imgtool() { "$IMGTOOL" --root "$PLACE/store" "$@"; }
runtime() { "$RUNTIME" --root "$XDG_RUNTIME_DIR/tare" "$@"; }
mkdir -p "$XDG_RUNTIME_DIR/tare"
kinds="pid ipc uts cgroup net"
of() { for kind in $kinds; do readlink "/proc/$1/ns/$kind"; done; }
show='for kind in pid ipc uts cgroup net; do /bin/busybox readlink /proc/self/ns/$kind; done'
run() { runtime run --bundle "$1" "$ID-run" </dev/null; }
refused() { want=$1; shift; ! imgtool bundle -q "$@" small:1 -- x 2>"$PLACE/said" && grep -q "$want" "$PLACE/said" || { cat "$PLACE/said"; exit 1; }; }
"#;

const JOINED: &str = r#"
donor=$(imgtool bundle -q --ipc shareable --shm-size 1m --hostname donor --add-host db:192.0.2.7 small:1 -- \
    sh -c 'echo shared >/dev/shm/new; mv /dev/shm/new /dev/shm/file; exec sleep 1000')
runtime run -d --bundle "$donor" "$ID-donor" </dev/null >/dev/null
pid=$(runtime state "$ID-donor" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
until [ -s "$donor/shm/file" ]; do sleep 0.05; done
for which in "container:$ID-donor" "container:$donor"; do
    bundle=$(imgtool bundle -q --pid "$which" --ipc "$which" --uts "$which" --cgroupns "$which" --network "$which" small:1 -- \
        sh -c "$show; cat /dev/shm/file; hostname; cat /etc/hosts")
    run "$bundle" >"$PLACE/inside"
    { of "$pid"; echo shared; echo donor; cat "$donor/etc/hosts"; } >"$PLACE/outside"
    diff "$PLACE/inside" "$PLACE/outside" && echo joined
    imgtool unbundle "$bundle"
done
bundle=$(imgtool bundle -q --network "ns:/proc/$pid/ns/net" --ipc "ns:/proc/$pid/ns/ipc" small:1 -- sh -c "$show; ls /dev/shm")
run "$bundle" >"$PLACE/inside"
kinds="ipc net" && of "$pid" | diff - "$PLACE/inside" | grep -c '^>' | grep -qx 3 && echo by path
net=$(readlink "/proc/$pid/ns/net")
runtime delete -f "$ID-donor"
run "$bundle" | grep -qxF "$net" && echo kept
refused 'does not run\|no such container' --network "container:$ID-donor"
refused "no container of this bundle runs" --pid "container:$donor"
umount "$donor/shm" && imgtool mount "$donor" >/dev/null && grep -q "$donor/shm .*size=1024k" /proc/self/mountinfo && echo mounted again
imgtool unbundle "$bundle" "$donor"
! grep -F "$PLACE" /proc/self/mountinfo && ! ls -d "$bundle" "$donor" 2>/dev/null && echo nothing left
"#;

#[test]
fn a_bundle_joins_another_containers_namespaces_and_no_later_ones_of_its_number() {
    let place = Place::new();
    place.small_image();
    let out = in_a_network(&place, &[BEFORE, JOINED].concat(), "joined").ok();
    assert_eq!(out.stdout, "joined\njoined\nby path\nkept\nmounted again\nnothing left\n", "{out}");
}

const SHIMS: &str = r#"
shim() { "$SHIM" --root "$XDG_DATA_HOME/tare/containers" --run-root "$PLACE/run" --runtime "$RUNTIME" --runtime-root "$PLACE/state" "$@"; }
donor=$(imgtool bundle -q small:1 -- sleep 1000)
shim run -d --name web "$donor" >/dev/null
pid=$(shim inspect web | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -1)
bundle=$(imgtool bundle -q --network container:web --pid container:web small:1 -- sh -c "$show")
kinds="pid net" && run "$bundle" >"$PLACE/inside" && of "$pid" | while read -r it; do grep -qxF "$it" "$PLACE/inside"; done && echo joined
refused "non-shareable IPC" --ipc container:web
refused "no such container" --network container:absent
refused "it is this machine's own" --network ns:/proc/self/ns/net
refused "not a namespace" --pid ns:/etc/passwd
refused "hostname" --uts host --hostname x
refused "publish" --network container:web -p 80
shim rm -f web >/dev/null
refused "no such container" --network container:web
imgtool unbundle "$bundle" "$donor"
test -z "$(ls "$PLACE/store/bundles")" && echo nothing left
"#;

#[test]
fn a_container_of_the_shim_is_joined_by_its_name_and_what_cannot_be_joined_is_refused() {
    let place = Place::new();
    place.small_image();
    let out = in_a_network(&place, &[BEFORE, SHIMS].concat(), "shims").ok();
    assert_eq!(out.stdout, "joined\nnothing left\n", "{out}");
}

const HOSTS: &str = r#"
bundle=$(imgtool bundle -q --pid host --ipc host --uts host --cgroupns host --network host small:1 -- \
    sh -c "$show; hostname; echo seen >/dev/shm/$ID")
run "$bundle" >"$PLACE/inside"
{ of self; hostname; } | diff - "$PLACE/inside" && echo shared
test "$(cat "/dev/shm/$ID")" = seen && rm "/dev/shm/$ID" && echo memory
imgtool unbundle "$bundle"
bundle=$(imgtool bundle -q --ipc none small:1 -- sh -c '[ -e /dev/shm ] || echo none')
run "$bundle"
imgtool unbundle "$bundle"
bundle=$(imgtool bundle -q --pid private --ipc private --uts private --cgroupns private small:1 -- sh -c "$show; echo \$\$")
run "$bundle" >"$PLACE/inside"
tail -1 "$PLACE/inside"
of self | while read -r it; do ! grep -qxF "$it" "$PLACE/inside"; done && echo private
imgtool unbundle "$bundle"
"#;

#[test]
fn a_bundle_shares_the_hosts_namespaces_or_has_its_own() {
    let place = Place::new();
    place.small_image();
    let out = in_a_network(&place, &[BEFORE, HOSTS].concat(), "hosts").ok();
    assert_eq!(out.stdout, "shared\nmemory\nnone\n1\nprivate\n", "{out}");
}
