#!/bin/sh
# Puts the appliance into the root file system of a Jetson before it is flashed; run as root on the flashing machine.
#
#     provision-l4t.sh Linux_for_Tegra/rootfs lantern_VERSION+py312_arm64.deb [LANTERN_HOME]
#
# LANTERN_HOME is a folder with bundles and trusted keys (`lantern-quantize starter` makes one); without it the device
# starts without a model. Can be run again, with a newer package.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
die() {
    echo "provision-l4t: $*" >&2
    exit 1
}

[ $# -ge 2 ] || die "say: provision-l4t.sh ROOTFS PACKAGE.deb [LANTERN_HOME]"
root=$1 package=$2 models=${3:-}
[ "$(id -u)" = 0 ] || die "needs root, to keep the owners of the files in $root"
[ -d "$root/etc" ] && [ -x "$root/usr/bin/dpkg" ] || die "$root is no root file system of a Debian or an Ubuntu"
[ "$(dpkg-deb --field "$package" Architecture)" = arm64 ] || die "$package is not for arm64"

wanted=$(dpkg-deb --field "$package" Version | sed -n 's/.*+py3\([0-9]*\)$/3.\1/p')
[ -x "$root/usr/bin/python$wanted" ] || die "$package needs Python $wanted, and $root has none; build it with DEB_PYTHON"

if [ "$(uname -m)" != aarch64 ] && [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
    die "this machine does not run arm64 programs: install qemu-user-static (make image-deps)"
fi

cp "$package" "$root/tmp/lantern.deb"
# Mounted for this one program: were /dev left behind, whoever removed the root file system would empty this machine's.
# shellcheck disable=SC2016  # the inner shell's own words
unshare --mount --propagation private sh -c 'mount --bind /proc "$0/proc" && mount --rbind /dev "$0/dev" &&
    exec chroot "$0" env DEBIAN_FRONTEND=noninteractive dpkg --install /tmp/lantern.deb' "$root"
rm "$root/tmp/lantern.deb"

install -D -m 755 "$here/gpu-access.sh" "$root/usr/lib/lantern/gpu-access.sh"
install -D -m 644 "$here/lantern-gpu.service" "$root/usr/lib/systemd/system/lantern-gpu.service"
systemctl --root="$root" --quiet enable lantern-gpu.service lantern-tls.socket

home=$root/var/lib/lantern
mkdir -p "$home"
chmod 700 "$home"
[ -e "$home/lantern.toml" ] || install -m 600 "$here/lantern.toml" "$home/lantern.toml"
if [ -n "$models" ]; then
    mkdir -p "$home/bundles" "$home/keys/trusted"
    chmod 700 "$home/bundles" "$home/keys" "$home/keys/trusted"
    for active in "$models"/bundles/*/active; do
        [ -e "$active" ] || die "there is no bundle in $models/bundles"
        name=$(basename "$(dirname "$active")")
        version=$(readlink "$active")
        mkdir -p "$home/bundles/$name"
        cp -R --no-preserve=ownership "$models/bundles/$name/$version" "$home/bundles/$name/"
        ln -sfn "$version" "$home/bundles/$name/active"
    done
    cp --no-preserve=ownership "$models"/keys/trusted/*.pub "$home/keys/trusted/"
fi
echo "$root has Lantern $(dpkg-deb --field "$package" Version); flash it as NVIDIA describes."
