#!/bin/sh
# server.sh IMAGE ROOT: the server and the command line below a root of nothing else but the libraries that they are linked
# with, the authorities of TLS, and a user.
set -eu
mkdir -p "$2/opt/hone/bin" "$2/etc/ssl/certs" "$2/tmp"
cp "$1/opt/hone/bin/hone-server" "$1/opt/hone/bin/hone" "$2/opt/hone/bin/"
cp "$1/opt/hone/sbom.cdx.json" "$2/opt/hone/"
cp /etc/ssl/certs/ca-certificates.crt "$2/etc/ssl/certs/"
echo 'hone:x:65532:65532:hone:/:/sbin/nologin' >"$2/etc/passwd"
# The loader is a path of its own; the rest are "name => path (address)". They are copied to the paths they are looked up at.
ldd "$2/opt/hone/bin/hone-server" "$2/opt/hone/bin/hone" | sed -nE 's/.*(=> |^[[:space:]]+)(\/[^ ]+) \(.*/\2/p' | sort -u |
    while read -r library; do
        mkdir -p "$2$(dirname "$library")"
        cp -L "$library" "$2$library"
    done
