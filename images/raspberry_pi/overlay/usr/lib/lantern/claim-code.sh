#!/bin/sh
# Keeps claim-code.txt on the FAT partition: the code that a claim needs while the device can be claimed, else no file.
# The partition is mounted for that moment only, and written only if the file differs.
set -u

: "${LANTERN_CODE:=/var/lib/lantern/keys/claim-code}" # where a test has files of its own
: "${LANTERN_FIRMWARE:=/dev/disk/by-partuuid/4c414e54-01}"
: "${LANTERN_RUN:=/run/lantern}"
folder=$LANTERN_RUN/claim-code

mkdir -p "$folder"
mount -t vfat -o ro,nosuid,nodev,noexec "$LANTERN_FIRMWARE" "$folder" || exit 1
# A firmware partition that an update is writing is mounted by it: then the remount fails, and console.sh comes again.
status=0
if [ -s "$LANTERN_CODE" ]; then
    wanted=$(cat "$LANTERN_CODE")
    if [ "$(tr -d '\r' <"$folder/claim-code.txt" 2>/dev/null)" != "$wanted" ]; then
        mount -o remount,rw "$folder" &&
            printf '%s\r\n' "$wanted" >"$folder/claim-code.new" && sync -f "$folder/claim-code.new" &&
            mv "$folder/claim-code.new" "$folder/claim-code.txt" || status=1
    fi
elif [ -e "$folder/claim-code.txt" ]; then
    mount -o remount,rw "$folder" && rm -f "$folder/claim-code.txt" "$folder/claim-code.new" || status=1
fi
umount "$folder"
exit $status
