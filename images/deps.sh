#!/bin/sh
# Installs what building and trying images needs (host-packages.txt), and lets this machine run arm64 programs; as root.
# On bookworm its backports are asked for this one run; the machine's own apt sources stay as they are.
set -eu

cd "$(dirname "$0")"
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
set -- -q

if [ "$codename" = bookworm ]; then
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
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2046  # one package a word
apt-get "$@" install -y --no-install-recommends $(awk '/^[^#]/ && $2 != "backports" { print $1 }' host-packages.txt)
# By their release, and with it what they depend on: a package asked for by NAME/RELEASE keeps older dependencies.
[ "$codename" != bookworm ] || set -- "$@" -t bookworm-backports
# shellcheck disable=SC2046
apt-get "$@" install -y --no-install-recommends $(awk '/^[^#]/ && $2 == "backports" { print $1 }' host-packages.txt)

binfmt=/proc/sys/fs/binfmt_misc
[ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt"
[ -e "$binfmt/qemu-aarch64" ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$binfmt/register"
