#!/bin/sh
# Installs the appliance and its units on a machine with systemd, and makes a first key; run as root, again to upgrade.
set -eu

cd "$(dirname "$0")/.."
prefix=${PREFIX:-/opt/lantern}
units=${UNITS:-/etc/systemd/system}
python=${PYTHON:-python3}
home=/var/lib/lantern

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed." >&2; exit 1; }
"$python" -m venv "$prefix"
"$prefix/bin/python" -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r appliance/requirements.lock
"$prefix/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall .

# The kernels that `make kernels` built here (docs/kernels.md); without them the stock operators serve.
kernels=appliance/engine/kernels/build
if [ -f "$kernels/liblantern_kernels.so" ]; then
    site=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/$kernels"
    cp "$kernels/liblantern_kernels.so" "$kernels/liblantern_kernels.so.sha256" "$site/$kernels/"
fi

mkdir -p "$units"
for unit in systemd/lantern*.service systemd/lantern*.socket; do
    sed "s|/opt/lantern|$prefix|g" "$unit" >"$units/$(basename "$unit")"
    chmod 644 "$units/$(basename "$unit")"
done
systemctl daemon-reload

if [ ! -d "$home/keys/api" ]; then
    LANTERN_HOME=$home "$prefix/bin/lantern" keys create owner --admin
fi
systemctl enable --quiet lantern.socket lantern-tls.socket lantern-firstboot.service lantern.service
systemctl start lantern.socket lantern-tls.socket
systemctl restart lantern.service
if [ ! -d "$home/bundles" ]; then
    echo "No model is installed. From a workstation: lantern-quantize push BUNDLE --device https://THIS-MACHINE:8443 --trust"
    echo "Or here: LANTERN_HOME=$home $prefix/bin/lantern models trust FILE.pub, then models install FILE."
fi
echo "Lantern runs: see systemctl status lantern and journalctl -u lantern."
