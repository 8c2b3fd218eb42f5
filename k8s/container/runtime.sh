#!/bin/sh
# Makes of a Debian what hone runs on: the libraries that its programs are linked with, authorities for TLS to the object
# store, curl for hone-health, and a user without rights.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl libstdc++6
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
echo 'hone:x:65532:65532:hone:/var/lib/hone:/usr/sbin/nologin' >>/etc/passwd
echo 'hone:x:65532:' >>/etc/group
mkdir -p /etc/hone /var/lib/hone
chown 65532:65532 /var/lib/hone
