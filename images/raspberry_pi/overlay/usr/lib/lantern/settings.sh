#!/bin/sh
# Reads the user's settings from the FAT partition, which is mounted for that moment only.
set -u

folder=/run/lantern/boot
mkdir -p "$folder"
mount -t vfat -o ro,nosuid,nodev,noexec /dev/disk/by-partuuid/4c414e54-01 "$folder" || echo "the boot partition cannot be read"
python3 -m appliance.system.apply_settings "$folder"
umount "$folder"
exit 0
