#!/bin/sh
# Removes the units and the program; models and keys in /var/lib/lantern stay. Run as root.
set -eu

prefix=${PREFIX:-/opt/lantern}
units=${UNITS:-/etc/systemd/system}

systemctl disable --quiet --now lantern.service lantern.socket lantern-tls.socket lantern-safe.service lantern-firstboot.service 2>/dev/null || true
rm -f "$units"/lantern.service "$units"/lantern.socket "$units"/lantern-tls.socket "$units"/lantern-safe.service \
    "$units"/lantern-recover.service "$units"/lantern-firstboot.service
systemctl daemon-reload
systemctl reset-failed 'lantern*' 2>/dev/null || true
if [ -x "$prefix/bin/lantern" ]; then
    rm -rf "$prefix"
fi
echo "Lantern is removed; its models and keys are still in /var/lib/lantern."
