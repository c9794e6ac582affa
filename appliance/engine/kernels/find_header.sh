#!/bin/sh
# Write into BUILD/header the folder with onnxruntime's C API header: that of ORT_INCLUDE or of the system, else the one of
# Debian's libonnxruntime-dev, taken from the mirror that this machine's apt uses and held to a hash.
#
#   find_header.sh BUILD
set -eu

# Version 1.21.0: the API only ever grows, so a library built with it runs in every later onnxruntime.
package=libonnxruntime-dev
codename=trixie
sha256=7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882

mkdir -p "$1"
build=$(cd "$1" && pwd)

for folder in ${ORT_INCLUDE:+"$ORT_INCLUDE"} /usr/include/onnxruntime /usr/local/include/onnxruntime; do
    if [ -f "$folder/onnxruntime_c_api.h" ]; then
        echo "$folder" >"$build/header"
        exit 0
    fi
done

tree=$build/$package-1.21
include=$tree/usr/include/onnxruntime
if [ ! -f "$include/onnxruntime_c_api.h" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "Set ORT_INCLUDE to a folder with onnxruntime_c_api.h of 1.21 or newer" >&2
        exit 1
    fi
    # In a folder of its own, and then moved: several builds may share BUILD.
    fresh=$(mktemp -d "$build/fresh.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    # shellcheck disable=SC2016  # apt-get's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | head -n 1)
    mkdir -p "$fresh/state/lists/partial" "$fresh/cache/archives/partial"
    echo "deb $mirror $codename main" >"$fresh/sources.list"
    in_fresh() {
        apt-get -qq -o Dir::Etc::SourceList="$fresh/sources.list" -o Dir::Etc::SourceParts=- \
            -o Dir::State="$fresh/state" -o Dir::Cache="$fresh/cache" -o Dir::State::status=/dev/null \
            -o APT::Sandbox::User= "$@"
    }
    in_fresh update
    (cd "$fresh" && in_fresh download "$package")
    mkdir "$fresh/tree"
    dpkg-deb -x "$fresh/$package"_*.deb "$fresh/tree"
    mv -T "$fresh/tree" "$tree" 2>/dev/null || [ -f "$include/onnxruntime_c_api.h" ] # another build was first
fi
if ! echo "$sha256  $include/onnxruntime_c_api.h" | sha256sum --check --quiet; then
    rm "$include/onnxruntime_c_api.h"
    echo "$package of $codename is not the one that was tried: compare it and change the hash in $0" >&2
    exit 1
fi
echo "$include" >"$build/header.$$"
mv "$build/header.$$" "$build/header"
