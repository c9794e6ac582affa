#!/bin/sh
# Installs the update on a USB stick, if there is one: the last of its lantern-*.raucb by name.
set -u

folder=/run/lantern/usb-$1
mkdir -p "$folder"
mount -o ro,nosuid,nodev,noexec "/dev/$1" "$folder" || exit 0
bundle=$(find "$folder" -maxdepth 1 -name 'lantern-*.raucb' -type f | sort -V | tail -n 1)
[ -z "$bundle" ] || /opt/lantern/bin/python -m appliance.system.install_update "$bundle"
umount "$folder"
