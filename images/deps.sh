#!/bin/sh
# Installs what building and trying images needs (host-packages.txt), and lets this machine run arm64 programs; as root.
# On bookworm its backports are asked for this one run; the machine's own apt sources stay as they are.
set -eu

cd "$(dirname "$0")"
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
release=
set -- -q

if [ "$codename" = bookworm ]; then
    release=/bookworm-backports
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/sources" "$scratch/lists"
    cp /etc/apt/sources.list.d/* "$scratch/sources/" 2>/dev/null || true
    # shellcheck disable=SC2016  # apt-get's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)
    echo "deb $mirror bookworm-backports main" >"$scratch/sources/lantern-backports.list"
    set -- "$@" -o "Dir::Etc::SourceParts=$scratch/sources" -o "Dir::State::Lists=$scratch/lists"
fi
apt-get "$@" update >/dev/null
packages=$(awk -v release="$release" '/^[^#]/ { print $1 ($2 == "backports" ? release : "") }' host-packages.txt)
# shellcheck disable=SC2086  # one package a word
DEBIAN_FRONTEND=noninteractive apt-get "$@" install -y --no-install-recommends $packages

binfmt=/proc/sys/fs/binfmt_misc
[ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt"
[ -e "$binfmt/qemu-aarch64" ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$binfmt/register"
