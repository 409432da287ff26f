# Makes $1/layout: an OCI layout with Debian's minbase and a layer of python3, called "debian". The mirror is the one
# that this machine's apt uses.
work=$1
mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian Debian //p' | head -n1)
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
	tail -n 3 "$work/debootstrap.log" >&2
	exit 1
}
rm -rf "$work/root/var/cache/apt/archives/"*.deb "$work/root/var/lib/apt/lists/"*
# buildah keeps what the packages' installation changes as a layer of its own. Its storage is a directory of ours.
tar -C "$work/root" -cf "$work/base.tar" --exclude=./dev/* .
storage="--root $work/storage --runroot $work/run --storage-driver vfs"
base=$(buildah $storage from scratch)
buildah $storage add -q "$base" "$work/base.tar" / >/dev/null
buildah $storage config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
buildah $storage commit -q "$base" base >/dev/null
second=$(buildah $storage from base)
buildah $storage run --isolation chroot --network host --env DEBIAN_FRONTEND=noninteractive "$second" -- sh -ec '
	apt-get update -q
	apt-get install -y -q --no-install-recommends python3-minimal
	apt-get clean
	rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
	python3 -c ""' >"$work/apt.log" 2>&1 || {
	tail -n 3 "$work/apt.log" >&2
	exit 1
}
buildah $storage config --label org.example.test=pipeline --workingdir /root "$second"
buildah $storage commit -q "$second" "oci:$work/layout:debian" >/dev/null
buildah $storage rm --all >/dev/null
rm -rf "$work/root" "$work/base.tar"
