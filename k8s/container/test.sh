#!/usr/bin/env bash
# Runs the scripts of the images in roots of Debian 13 that debootstrap makes, with the programs of a debug build in place of
# cargo's release build, and the pod of tests/k8s in the image's root. Needs root, debootstrap and a hone that is built.
#
#   k8s/container/test.sh [FOLDER OF PROGRAMS]      target/release, say, to see the sizes too
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(readlink -f "${1:-${CARGO_TARGET_DIR:-target}/debug}")
scripts=k8s/container
command -v debootstrap >/dev/null || { echo "debootstrap is missing; install it with: apt-get install debootstrap" >&2; exit 1; }

passed=0 failed=0
check() { # name, command...
    local name=$1; shift
    if "$@" >"$work/said" 2>&1; then passed=$((passed + 1)) mark='ok    '; else failed=$((failed + 1)) mark=FAILED; fi
    echo "$mark $name"
    [ "$mark" = FAILED ] && tail -n 5 "$work/said" || true
}

# A new root is put in place whole. minbase is what the slim images are made from.
debian=.cache/debian-13
if [ ! -d "$debian" ]; then
    rm -rf "$debian.partial"
    debootstrap --variant=minbase trixie "$debian.partial" >/dev/null
    mv "$debian.partial" "$debian"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
image=$work/image server=$work/server

echo "       stage runtime: runtime.sh in a new Debian"
cp -a "$debian" "$image"
mkdir -p "$image/opt/hone/bin"
cp $scripts/hone-health "$image/opt/hone/bin/"
cp $scripts/runtime.sh "$image/tmp/"
cp /etc/resolv.conf "$image/etc/resolv.conf"
chroot "$image" sh /tmp/runtime.sh >"$work/runtime.log" 2>&1 || { tail "$work/runtime.log"; exit 1; }

echo "       stage libtorch: libtorch.sh; stage build: install.sh, server.sh"
sh $scripts/libtorch.sh "${LIBTORCH:-.libtorch}" "$image" "$work/build"
sh $scripts/install.sh "$bin" "$image/var/lib/dpkg/status" "$image/opt/hone/torch" "$image"
# In the image, whose libraries it is to take.
cp $scripts/server.sh "$image/tmp/"
mkdir "$image/tmp/server"
chroot "$image" sh /tmp/server.sh / /tmp/server
mv "$image/tmp/server" "$server"

# Debug programs look for LibTorch where they were built; those of build.sh find it by the same way in the image.
# What is loaded is read in /proc, which every container has.
with_proc=(unshare --mount sh -c 'mount --bind /proc "$0/proc"; exec "$@"' "$image")
as_user=("${with_proc[@]}" chroot --userspec=65532:65532 "$image" env -i PATH=/opt/hone/bin:/usr/bin:/bin LD_LIBRARY_PATH=/opt/hone/torch/lib)
missing() { ! "${as_user[@]}" ldd /opt/hone/bin/hone-server /opt/hone/bin/hone-trainer /opt/hone/bin/hone | grep 'not found'; }
doctor() { "${as_user[@]}" hone-trainer doctor --quick >"$work/doctor" && grep "$1" "$work/doctor"; }
in_server() { chroot --userspec=65532:65532 "$server" /opt/hone/bin/"$@"; }
small() { test "$(du -sm "$server" | cut -f1)" -lt 60; }
lists() { grep -q "\"pkg:$1" "$image/opt/hone/sbom.cdx.json"; }
builds() { test -e "$work/build/opt/hone/torch/include/torch/csrc/api/include/torch/torch.h" && test -e "$work/build/opt/hone/torch/lib/libtorch.so"; }

check "the image has every library that the programs are linked with" missing
check "LibTorch is loaded in it, by the image's user" doctor '^LibTorch'
if [ -d "$image/opt/hone/nvidia" ]; then
    check "with CUDA" doctor 'libtorch_cuda'
    check "every library of CUDA is there but the driver's" sh -c "! chroot '$image' ldd /opt/hone/torch/lib/libtorch_cuda.so | grep 'not found' | grep -v libcuda.so.1"
fi
check "the build finds headers and libraries" builds
check "hone-health finds curl" chroot "$image" sh -c 'curl --version | grep -q HTTP2'
for kind in cargo/tonic@ cargo/tch@ pypi/torch@ deb/debian/libc6@; do check "the bill of materials has $kind" lists "$kind"; done
check "the server's root has no shell and no LibTorch" sh -c "! ls '$server/bin/sh' '$server/opt/hone/torch'"
check "its programs run in it" in_server hone --version
check "it makes tokens" in_server hone-server token a --project b --role read
# Of a debug build nothing but the heaviest is optimised, so its size says little.
case $bin in */release) check "it is under 60 MB" small ;; esac
echo "       the image has $(du -sm "$image" | cut -f1) MB, the server's root $(du -sm "$server" | cut -f1) MB"
echo "images: $passed passed, $failed failed"
[ "$failed" = 0 ]
tests/k8s/run.py --bin "$bin" --image-root "$image" drain
