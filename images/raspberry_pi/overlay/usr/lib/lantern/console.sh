#!/bin/sh
# Shows the device's page on the screen and on the serial line, again whenever an address changes or it is claimed.
set -u

show() {
    page=$(/opt/lantern/bin/python -m appliance.image.console) || return
    [ "$page" != "${shown:-}" ] || return
    shown=$page
    { printf '\033[2J\033[H%s\n' "$page" >/dev/tty1; } 2>/dev/null
    { printf '\n%s\n' "$page" >/dev/console; } 2>/dev/null
}

# What the page depends on, cheaply: Python is started only when it is not as it was.
facts() {
    ip -oneline address show scope global
    ls -l --time-style=+%s /var/lib/lantern/keys/claimed.json /var/lib/lantern/keys/tls.pem /run/lantern/problems
}

known=
while :; do
    now=$(facts 2>/dev/null | sed 's/valid_lft.*//')
    if [ "$now" != "$known" ]; then
        known=$now
        show
    fi
    sleep 5
done
