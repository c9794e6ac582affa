#!/bin/sh
# Which of the two systems runs. In the initramfs (choose) it counts attempts and falls back; later it is what RAUC
# calls as its bootloader: get-primary, set-primary, get-state, set-state, get-current.
#
# The state lies before the first partition in two copies, sectors 2048 and 4096, written in turn, so that a power cut
# while one is written leaves the other: "LANTERN1 sequence primary attempts_a attempts_b confirmed_a confirmed_b sum".
# A slot is confirmed once its system was healthy. The firmware reads slot.txt on the FAT partition, which names the
# folder with the slot's kernels; it follows the state, never the other way round.
set -u

disk_id=4c414e54
attempts=3         # of a system on trial
lasting_attempts=9 # of one that was healthy: somebody may switch it off and on before it is again
firmware=/run/lantern/firmware
system=/run/lantern/system

: "${LANTERN_CMDLINE:=/proc/cmdline}" "${LANTERN_LOG:=/dev/kmsg}" # where a test has files of its own

say() { echo "lantern-slot: $*" >>"$LANTERN_LOG"; }
partition() { readlink -f "/dev/disk/by-partuuid/$disk_id-$1"; }
number_of() { [ "$1" = a ] && echo 05 || echo 06; }
other() { [ "$1" = a ] && echo b || echo a; }
booted() { sed -n 's/.*lantern\.slot=\([ab]\).*/\1/p' "$LANTERN_CMDLINE"; }
sum() { printf %s "$1" | sha256sum | cut -c1-16; }

if [ -n "${LANTERN_DISK:-}" ]; then
    disk=$LANTERN_DISK
    direct=
else
    first=$(partition 01)
    disk=/dev/$(basename "$(readlink -f "/sys/class/block/${first##*/}/..")")
    direct=yes
fi

load() {
    # Without any state this is a new card: slot a was written with it.
    sequence=0 primary=a attempts_a=$attempts attempts_b=0 confirmed_a=1 confirmed_b=0
    for sector in 2048 4096; do
        # shellcheck disable=SC2046  # the words of the line
        set -- $(dd if="$disk" bs=512 skip=$sector count=1 ${direct:+iflag=direct} 2>/dev/null | tr -d '\0')
        [ "${1:-}" = LANTERN1 ] && [ $# = 8 ] || continue
        [ "$(sum "$1 $2 $3 $4 $5 $6 $7")" = "$8" ] || continue
        if [ "$2" -ge "$sequence" ]; then
            sequence=$2 primary=$3 attempts_a=$4 attempts_b=$5 confirmed_a=$6 confirmed_b=$7
        fi
    done
}

save() {
    sequence=$((sequence + 1))
    line="LANTERN1 $sequence $primary $attempts_a $attempts_b $confirmed_a $confirmed_b"
    staged=$(mktemp)
    printf '%s %s' "$line" "$(sum "$line")" | dd bs=512 conv=sync iflag=fullblock of="$staged" 2>/dev/null
    dd if="$staged" of="$disk" bs=512 seek=$((2048 * (1 + sequence % 2))) conv=notrunc,fsync \
        ${direct:+oflag=direct} 2>/dev/null || say "the state cannot be written"
    rm -f "$staged"
    say "state $line"
}

attempts_of() { [ "$1" = a ] && echo "$attempts_a" || echo "$attempts_b"; }
set_attempts() { if [ "$1" = a ]; then attempts_a=$2; else attempts_b=$2; fi; }
is_confirmed() { [ "$1" = a ] && [ "$confirmed_a" = 1 ] || { [ "$1" = b ] && [ "$confirmed_b" = 1 ]; }; }
set_confirmed() { if [ "$1" = a ]; then confirmed_a=$2; else confirmed_b=$2; fi; }

best() {
    for slot in "$primary" "$(other "$primary")"; do
        if [ "$(attempts_of "$slot")" -gt 0 ]; then
            echo "$slot"
            return
        fi
    done
    echo none
}

open_firmware() {
    [ -z "${LANTERN_FIRMWARE:-}" ] || { firmware=$LANTERN_FIRMWARE; return 0; }
    mkdir -p "$firmware"
    mount -t vfat -o rw,flush "$(partition 01)" "$firmware"
}
close_firmware() { [ -n "${LANTERN_FIRMWARE:-}" ] || umount "$firmware"; }

# Of the same length and written in place: one sector changes, and nothing of the file system but a time.
point_firmware() {
    [ "$(cat "$firmware/slot.txt")" = "os_prefix=$1/" ] && return
    printf 'os_prefix=%s/\n' "$1" | dd of="$firmware/slot.txt" conv=notrunc,fsync 2>/dev/null
    say "the firmware takes $1 from now on"
}

# The kernels of a slot, out of its system, which RAUC has verified, into the slot's folder on the FAT partition.
stage() {
    if [ -n "${LANTERN_SYSTEM:-}" ]; then
        system=$LANTERN_SYSTEM
    else
        mkdir -p "$system"
        mount -t squashfs -o ro "$(partition "$(number_of "$1")")" "$system" || return 1
    fi
    say "kernels of $1"
    boot=$system/usr/lib/lantern/boot
    rm -rf "${firmware:?}/$1"
    cp -r "$boot" "$firmware/$1" &&
        sed "s/@SLOT@/$1/; s/@PARTITION@/$(number_of "$1")/" "$boot/cmdline.txt" >"$firmware/$1/cmdline.txt"
    staged_well=$?
    sync
    for file in "$boot"/vmlinuz* "$boot"/initrd*; do
        cmp "$file" "$firmware/$1/${file##*/}" || staged_well=1
    done
    [ -n "${LANTERN_SYSTEM:-}" ] || umount "$system"
    return $staged_well
}

set_primary() {
    open_firmware || return 1
    if [ "$1" != "$(booted)" ]; then
        stage "$1" || { close_firmware; return 1; }
        set_confirmed "$1" 0
    fi
    primary=$1
    set_attempts "$1" $attempts
    save
    point_firmware "$1"
    close_firmware
}

set_state() {
    case $2 in
    good) set_attempts "$1" $lasting_attempts && set_confirmed "$1" 1 ;;
    bad) set_attempts "$1" 0 && set_confirmed "$1" 0 ;;
    *) return 2 ;;
    esac
    save
}

# Only what was confirmed gets new attempts: a half-written slot must never come back, unless there is nothing else.
renew_attempts() {
    for slot in a b; do
        if is_confirmed $slot || [ "$confirmed_a$confirmed_b" = 00 ]; then
            set_attempts $slot $lasting_attempts
        fi
    done
    say "no attempts are left, they begin again"
}

choose() {
    current=$(booted)
    wanted=$(best)
    if [ "$wanted" = none ]; then
        renew_attempts
        wanted=$(best)
    fi
    if [ "$wanted" != "$current" ] && open_firmware; then
        if [ "$(cat "$firmware/slot.txt")" != "os_prefix=$wanted/" ] && [ -s "$firmware/$wanted/vmlinuz" ]; then
            point_firmware "$wanted"
            close_firmware
            say "not $current but $wanted: starting again"
            ${LANTERN_REBOOT:-restart}
            return
        fi
        close_firmware
        say "the firmware does not follow to $wanted, so $current stays"
    fi
    left=$(attempts_of "$current")
    set_attempts "$current" $((left > 0 ? left - 1 : 0))
    save
    say "starting $current"
}

restart() {
    sync
    sleep 1
    echo b >/proc/sysrq-trigger
    sleep 60
}

load
case ${1:-} in
choose) choose ;;
get-primary) best ;;
get-current) booted ;;
get-state) [ "$(attempts_of "$2")" -gt 0 ] && echo good || echo bad ;;
set-primary) set_primary "$2" ;;
set-state) set_state "$2" "$3" ;;
is-confirmed) is_confirmed "$(booted)" ;;
show)
    echo "sequence=$sequence primary=$primary booted=$(booted)" \
        "attempts_a=$attempts_a attempts_b=$attempts_b confirmed_a=$confirmed_a confirmed_b=$confirmed_b"
    ;;
*) exit 2 ;;
esac
