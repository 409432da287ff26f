# Makes $1/gzip and $1/zstd: OCI layouts of the image "big" in both compressions, of Debian as debootstrap and apt-get
# make it, with what is hard for an unpacker: 8,000 small files, hardlinks, a fifo, file capabilities, set-user-ID,
# whiteouts, opaque directories. The mirror is the one that this machine's apt uses.
work=$1
mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian Debian //p' | head -n1)
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
	tail -n 3 "$work/debootstrap.log" >&2
	exit 1
}
rm -rf "$work/root/var/cache/apt/archives/"*.deb "$work/root/var/lib/apt/lists/"*
tar -C "$work/root" -cf "$work/base.tar" --exclude=./dev/* .
rm -rf "$work/root"
storage="--root $work/storage --runroot $work/run --storage-driver overlay"
at=$(buildah $storage from scratch)
buildah $storage add -q "$at" "$work/base.tar" / >/dev/null
rm "$work/base.tar"
buildah $storage config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$at"
n=0
# layer COMMANDS: makes a layer of what the commands change.
layer() {
	n=$((n + 1))
	buildah $storage commit -q "$at" "step$n" >/dev/null
	at=$(buildah $storage from "step$n")
	buildah $storage run --isolation chroot --network host --env DEBIAN_FRONTEND=noninteractive "$at" -- sh -ec "$1" >"$work/layer.log" 2>&1 || {
		tail -n 3 "$work/layer.log" >&2
		exit 1
	}
}
layer 'apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-pip python3-setuptools ca-certificates && apt-get clean'
layer 'apt-get install -y -q --no-install-recommends gcc g++ make libc6-dev && apt-get clean && rm -rf /var/lib/apt/lists/deb*'
layer 'rm -rf /usr/share/doc/* /usr/share/man /usr/share/locale/[a-d]*
	rm -rf /etc/apt/apt.conf.d && mkdir /etc/apt/apt.conf.d && echo "x \"1\";" >/etc/apt/apt.conf.d/zz'
layer 'mkdir -p /opt/small && cd /opt/small
	python3 -c "
import os
for d in range(200):
    os.makedirs(f\"d{d}/sub\")
    for i in range(40):
        with open(f\"d{d}/sub/f{i}.txt\", \"w\") as out:
            out.write(f\"line {d} {i}\\n\" * (1 + i * 37 % 97))
"
	for i in 1 2 3 4 5; do ln d0/sub/f$i.txt d1/hl$i; done
	ln -s ../../../etc/passwd d2/lnk
	mkfifo d3/fifo'
layer 'cp /usr/bin/python3 /opt/py-cap && chmod 4755 /opt/py-cap
	python3 -c "import os; os.setxattr(\"/opt/py-cap\", \"security.capability\", bytes.fromhex(\"0100000200040000000000000000000000000000\"))"
	cp -r /usr/lib/python3 /opt/pylib
	groupadd -g 60000 app && useradd -u 60000 -g 60000 -m app && chown -R 60000:60000 /opt/pylib
	mkdir -m 1777 /opt/sticky && mkdir -m 2775 /opt/sgid
	python3 -c "import os; os.setxattr(\"/opt/sticky\", \"user.test\", b\"v1\")"'
layer 'rm -rf /opt/small/d[0-4] /opt/small/d10 && mkdir /opt/small/d10 && touch /opt/small/d10/new
	chmod 0750 /opt/small/d11 && cp -r /usr/include /opt/include2'
buildah $storage commit -q --disable-compression=false "$at" "oci:$work/gzip:big" >/dev/null
buildah $storage rm --all >/dev/null
buildah $storage rmi --all --force >/dev/null
rm -rf "$work/storage" "$work/run"
skopeo --insecure-policy copy -q --dest-compress-format zstd "oci:$work/gzip:big" "oci:$work/zstd:big"
