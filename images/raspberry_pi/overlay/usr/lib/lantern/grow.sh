#!/bin/sh
# Lets the data partition, the last one, fill the card: one entry of the table changes, so a power cut leaves the old
# table or the new one. At every start, since a card may have been copied to a larger one.
set -eu

partition=$(readlink -f /dev/disk/by-partuuid/4c414e54-04)
name=$(basename "$partition")
disk=$(basename "$(readlink -f "/sys/class/block/$name/..")")
end=$(($(cat "/sys/class/block/$name/start") + $(cat "/sys/class/block/$name/size")))
if [ $((end + 8192)) -lt "$(cat "/sys/class/block/$disk/size")" ]; then
    echo ', +' | sfdisk --quiet --no-reread --no-tell-kernel -N 4 "/dev/$disk"
    partx --update --nr 4 "/dev/$disk"
fi
resize2fs "$partition"
