//! Namespaces that a bundle shares with the host or with another container.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

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

const USERNS: &str = r#"
printf 'containers:500000:131072\n' >"$PLACE/subid"
for file in /etc/subuid /etc/subgid; do [ -e $file ] || : >$file; mount --bind "$PLACE/subid" $file; done
look='cat /proc/self/uid_map | { read -r a b c; echo $a $b $c; }; cd /; busybox stat -c "%n %u:%g" /mine /data/file /named/file /etc/hosts; id -u'
write='echo x >/mine; echo x >/data/new; echo x >/named/new; echo x >/made; busybox chown 33:44 /made /data/new /named/new'
one=$(imgtool bundle -q --userns auto -v named:/named owned:1 -- sh -c "$look; $write")
run "$one"
echo host $(stat -c %u:%g "$one/rootfs/mine" "$one/rootfs/made" "$one/overlay/upper/made" "$PLACE/store/volumes/named/new")
imgtool diff "$one"
imgtool commit "$one" changed:1 >/dev/null
imgtool export "$one" | tar -tv --numeric-owner | awk '$6 ~ /mine|made/ {print "tar", $2, $6}'
two=$(imgtool bundle -q --userns private -u web -v named:/named owned:1 -- sh -c "$look")
run "$two"
! imgtool bundle -q --userns auto owned:1 -- x 2>"$PLACE/said" && grep -q "65536 ids are not free in the ranges of the user containers in /etc/subuid" "$PLACE/said" && echo all taken
small=$(imgtool bundle -q --uidmap 0:700000:50 --gidmap 0:800000:100 -u 49:99 --device /dev/null:/dev/zilch owned:1 -- \
    sh -c 'busybox stat -c "%n %u:%g" /mine; id -u; id -g; echo x >/dev/zilch && echo written')
run "$small"
refused "user 50 is not in the container's user namespace" --uidmap 0:700000:50 -u 50
refused "lacks id 0" --uidmap 1:700000:50
imgtool umount "$one" >/dev/null && imgtool mount "$one" >/dev/null
run "$one" | head -2
imgtool unbundle "$one"
one=$(imgtool bundle -q --userns auto changed:1 -- sh -c 'cat /proc/self/uid_map | { read -r a b c; echo $b; }; busybox stat -c "%n %u:%g" /made')
run "$one"
plain=$(imgtool bundle -q -v named:/named changed:1 -- sh -c 'busybox stat -c "%n %u:%g" /made /named/new /named/file')
run "$plain"
imgtool unbundle "$one" "$two" "$small" "$plain"
test -z "$(ls "$PLACE/store/bundles")" && ! grep -F "$PLACE/store" /proc/self/mountinfo && echo nothing left
imgtool fsck
"#;

const USERNS_SAID: &str = "\
0 500000 65536\n/mine 33:44\n/data/file 33:44\n/named/file 33:44\n/etc/hosts 0:0\n0\n\
host 500033:500044 500033:500044 33:44 33:44\n\
A /made\nC /mine\n\
tar 33/44 made\ntar 33/44 mine\n\
0 565536 65536\n/mine 33:44\n/data/file 33:44\n/named/file 33:44\n/etc/hosts 0:0\n33\n\
all taken\n\
/mine 33:44\n49\n99\nwritten\n\
0 500000 65536\n/mine 33:44\n\
500000\n/made 33:44\n\
/made 33:44\n/named/new 33:44\n/named/file 33:44\n\
nothing left\n";

#[test]
fn in_a_user_namespace_files_have_the_images_owners_and_no_two_bundles_have_one_range() {
    let place = Place::new();
    integration::peer::image::busybox_tar(&place.dir);
    let root = place.dir.join("small");
    for directory in ["data", "named"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    for file in ["mine", "data/file", "named/file"] {
        fs::write(root.join(file), "the image's").unwrap();
        std::os::unix::fs::chown(root.join(file), Some(33), Some(44)).unwrap();
    }
    let tar = place.dir.join("owned.tar");
    crate::tar(&root, &tar);
    place.ours("imgtool", &["import", "--quiet", "-c", "VOLUME /data", tar.to_str().unwrap(), "owned:1"]).ok();
    let before = BEFORE.replace("small:1", "owned:1");
    let out = in_a_network(&place, &[&before, USERNS].concat(), "userns").ok();
    assert_eq!(out.stdout, USERNS_SAID, "{out}");
}

#[test]
fn any_runtime_runs_a_bundle_with_a_user_namespace() {
    let place = Place::new();
    place.small_image();
    let Some(runc) = integration::programs::find("runc".as_ref()) else { integration::skip!("runc is not installed") };
    // It looks for the root file system as the container's root, who must be let in above.
    let path = place.dir.join("here");
    let path = path.to_str().unwrap();
    let ids = ["--uidmap", "0:700000:65536", "small:1", path, "--", "/bin/sh", "-c", "id -u; echo x >/made; ls /made"];
    crate::bundle(&place, &ids);
    let state = place.dir.join("runc");
    let args = ["--root", state.to_str().unwrap(), "run", "--bundle", path, &place.id];
    assert_eq!(integration::command::tool(runc.to_str().unwrap(), &args).ok().stdout, "0\n/made\n");
    assert_eq!(fs::metadata(format!("{path}/rootfs/made")).unwrap().uid(), 700_000);
    place.ours("imgtool", &["unbundle", path]).ok();
}
