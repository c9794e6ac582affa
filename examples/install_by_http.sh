#!/bin/sh
# Install a model bundle on a device over its HTTP API, with curl (7.76 or newer) and jq. An upload that stopped halfway
# goes on where it stopped. `lantern-quantize push BUNDLE --device DEVICE` does the same.
#
#   LANTERN_API_KEY=sk-lantern-... install_by_http.sh BUNDLE URL [PIN]
#
#   BUNDLE  a folder with manifest.json, manifest.sig and the files that the manifest names
#   URL     https://192.168.1.20:8443, or http://127.0.0.1:8080 on the device itself
#   PIN     of the device's certificate, as `lantern fingerprint` prints it: sha256//...
#
# The key has to be one for administration, and the device has to trust the bundle's signer: `lantern models trust`.
set -eu

bundle=$1 url=$2 pin=${3:-}
piece_bytes=$((32 << 20)) # the server takes at most 64 MiB at once

header=$(mktemp) # readable by its owner alone; a key among curl's arguments would be visible to every user
trap 'rm -f "$header"' EXIT
printf 'Authorization: Bearer %s\n' "$LANTERN_API_KEY" >"$header"

# With a pin, curl compares the certificate's public key and nothing else: the device signs its certificate itself.
api() {
    curl --silent --show-error --fail-with-body ${pin:+--insecure --pinnedpubkey "$pin"} --header @"$header" "$@"
}

# Send exactly the bytes of manifest.json: the signature is over them, and their SHA-256 is the upload's id.
upload=$(
    jq --null-input --rawfile manifest "$bundle/manifest.json" --rawfile signature "$bundle/manifest.sig" \
        '{$manifest, $signature}' |
        api --header 'Content-Type: application/json' --data-binary @- "$url/admin/uploads"
)
if [ "$(printf '%s' "$upload" | jq --raw-output .state)" = installed ]; then
    echo "This bundle is installed already."
    exit
fi
id=$(printf '%s' "$upload" | jq --raw-output .id)

printf '%s' "$upload" | jq --raw-output '.files[] | "\(.name) \(.size_bytes) \(.received)"' |
    while read -r name size first; do
        while [ "$first" -lt "$size" ]; do
            end=$((first + piece_bytes))
            [ "$end" -le "$size" ] || end=$size
            echo "$name: bytes $first to $((end - 1)) of $size"
            tail -c "+$((first + 1))" "$bundle/$name" | head -c "$((end - first))" |
                api --request PUT --header 'Content-Type: application/octet-stream' \
                    --header "Content-Range: bytes $first-$((end - 1))/$size" --data-binary @- \
                    --output /dev/null "$url/admin/uploads/$id/files/$name"
            first=$end
        done
    done

# The device verifies every byte, loads the model once in a confined process, and then serves it.
api --request POST "$url/admin/uploads/$id/install" | jq --raw-output '"Installed: \(.installed)"'
