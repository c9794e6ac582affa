#!/bin/sh
# Shows the device's page on the screen and on the serial line, again whenever an address, a name or the claim changes.
set -u

show() {
    page=$(/opt/lantern/bin/python -m appliance.system.console) || return
    [ "$page" != "${shown:-}" ] || return
    shown=$page
    { printf '\033[2J\033[H%s\n' "$page" >/dev/tty1; } 2>/dev/null
    { printf '\n%s\n' "$page" >/dev/console; } 2>/dev/null
}

# What the page depends on, cheaply: Python is started only when it is not as it was.
facts() {
    ip -oneline address show scope global
    ls -l --time-style=+%s /var/lib/lantern/keys/claimed.json /var/lib/lantern/keys/claim-code \
        /var/lib/lantern/keys/tls.pem /var/lib/lantern/running.json /run/lantern/problems
}

# The claim code is on the card's first partition, too; after a failure it is tried again.
copy_code() {
    code=$(cat /var/lib/lantern/keys/claim-code 2>/dev/null)
    [ "$code" = "${copied-none}" ] && return
    /usr/lib/lantern/claim-code.sh 2>/dev/null && copied=$code
}

known=
while :; do
    now=$(facts 2>/dev/null | sed 's/valid_lft.*//')
    if [ "$now" != "$known" ]; then
        known=$now
        show
    fi
    copy_code
    sleep 5
done
