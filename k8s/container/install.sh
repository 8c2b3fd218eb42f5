#!/bin/sh
# install.sh PROGRAMS DPKG_STATUS LIBTORCH ROOT: puts hone's programs, stripped, and what they are made of below a root.
set -eu
mkdir -p "$4/opt/hone/bin"
for name in hone-server hone-trainer hone; do
    strip -o "$4/opt/hone/bin/$name" "$1/$name"
done
python3 "$(dirname "$0")/sbom.py" --dpkg-status "$2" --libtorch "$3" >"$4/opt/hone/sbom.cdx.json"
