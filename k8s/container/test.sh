#!/usr/bin/env bash
# Builds both images from the container file with Buildah, looks into them, and runs the pod of tests/k8s in the larger one's
# root. No registry of images is needed: debootstrap makes the Debian, and stands in for the Rust image too, with this machine's
# toolchain and a cargo that takes the programs of a build that is there, or builds them; all else of the container file is run
# as it stands, the fetching of LibTorch too. Needs root, debootstrap, buildah, a hone that is built, and 10 GB for a while.
#
#   k8s/container/test.sh [FOLDER OF PROGRAMS]      target/release, say, to see the sizes too
#   k8s/container/test.sh build                     builds them in the image, as everybody else does
set -euo pipefail
cd "$(dirname "$0")/../.."
builds=
if [ "${1:-}" = build ]; then builds=yes; shift; fi
bin=$(readlink -f "${1:-${CARGO_TARGET_DIR:-target}/debug}")
for tool in debootstrap buildah; do
    command -v "$tool" >/dev/null || { echo "$tool is missing; install it with: apt-get install $tool" >&2; exit 1; }
done
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
work=$(mktemp -d "$PWD/.cache/images-XXXXXX")
chmod 755 "$work"
bud() { buildah --root "$work/store" --runroot "$work/run" "$@"; }
trap 'bud umount --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

passed=0 failed=0
check() { # name, command...
    local name=$1; shift
    if "$@" >"$work/said" 2>&1; then passed=$((passed + 1)); echo "ok     $name"; return; fi
    failed=$((failed + 1)); echo "FAILED $name"; tail -n 5 "$work/said"
}

# A new root is put in place whole. minbase is what the slim images are made from.
debian=.cache/debian-13
if [ ! -d "$debian" ]; then
    rm -rf "$debian.partial"
    debootstrap --variant=minbase trixie "$debian.partial" >/dev/null
    mv "$debian.partial" "$debian"
fi
base() { sed -n "s/^ARG $1=//p" k8s/container/Containerfile; }
container=$(bud from scratch)
bud add --quiet "$container" "$debian/" / >/dev/null
bud commit --quiet "$container" "$(base DEBIAN)" >/dev/null
cat >"$work/cargo" <<CARGO
#!/bin/sh
builds=$builds
CARGO
cat >>"$work/cargo" <<'CARGO'
if [ "$1" = build ] && [ -z "$builds" ]; then mkdir -p target/release && cp /programs/hone /programs/hone-server /programs/hone-trainer target/release/
else PATH=/toolchain/bin:$PATH CARGO_HOME=/cargo-home exec cargo "$@" --offline; fi
CARGO
chmod 755 "$work/cargo"
bud copy --quiet "$container" "$work/cargo" /usr/local/bin/cargo >/dev/null
# Where this machine has authorities of its own for what it fetches from, pip needs them.
bud config --env PIP_CERT=/authorities.crt "$container"
bud commit --quiet "$container" "$(base RUST)" >/dev/null

given=(--volume "$bin:/programs:ro" --volume "$(dirname "$(dirname "$(rustup which cargo)")"):/toolchain:ro")
given+=(--volume "${CARGO_HOME:-$HOME/.cargo}:/cargo-home" --volume /etc/ssl/certs/ca-certificates.crt:/authorities.crt:ro)
build() { # target: the path of its image's root
    bud bud --pull-never --file k8s/container/Containerfile --ignorefile k8s/container/Containerfile.dockerignore \
        --build-arg "LIBTORCH=${HONE_LIBTORCH:-cpu}" "${given[@]}" --target "$1" --tag "$1" . >"$work/$1.log" 2>&1 ||
        { tail -n 20 "$work/$1.log" >&2; exit 1; }
    bud mount "$(bud from --pull-never "localhost/$1")"
}
echo "       stages runtime, libtorch, build, server"
server=$(build server)
echo "       all stages, to hone"
image=$(build hone)

configured() { bud inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' "localhost/$1" | grep -Fx "$2"; }
# Programs that were built elsewhere look for LibTorch there; those of build.sh find it where it lies. What is loaded is read
# in /proc, which every container has.
as_user=(unshare --mount sh -c 'mount --bind /proc "$0/proc"; exec "$@"' "$image" chroot --userspec=65532:65532 "$image"
    env -i PATH=/opt/hone/bin:/usr/bin:/bin LD_LIBRARY_PATH=/opt/hone/torch/lib)
linked() { # fails where a library is not found, and where nobody can say
    local said
    said=$("${as_user[@]}" ldd /opt/hone/bin/hone-server /opt/hone/bin/hone-trainer /opt/hone/bin/hone) || return 1
    ! grep 'not found' <<<"$said"
}
without() { # root, paths: none of them is in it
    local path root=$1; shift
    for path; do
        if [ -e "$root/$path" ] || [ -L "$root/$path" ]; then echo "there is $path"; return 1; fi
    done
}
doctor() { "${as_user[@]}" hone-trainer doctor --quick >"$work/doctor" && grep "$1" "$work/doctor"; }
in_server() { chroot --userspec=65532:65532 "$server" /opt/hone/bin/"$@"; }
megabytes() { du -sm "$1" | cut -f1; }
packed() { tar -C "$1" -c . | gzip | wc -c | awk '{ printf "%.0f", $1 / 2 ^ 20 }'; } # what a registry moves
lists() { grep "\"pkg:$1" "$image/opt/hone/sbom.cdx.json"; }

check "hone starts as a user without rights" configured hone '65532:65532 [hone-server]'
check "it has every library that its programs are linked with" linked
check "LibTorch is loaded in it" doctor '^LibTorch'
if [ -d "$image/opt/hone/nvidia" ]; then
    check "with CUDA" doctor 'libtorch_cuda'
    check "of which all is there but the driver" sh -c "! chroot '$image' ldd /opt/hone/torch/lib/libtorch_cuda.so | grep 'not found' | grep -v libcuda.so.1"
fi
check "hone-health finds a curl that speaks HTTP/2" chroot "$image" sh -c 'curl --version | grep HTTP2'
check "nothing that it was built with is left in it" without "$image" src usr/bin/gcc usr/bin/python3 opt/hone/bin/runtime.sh
for kind in cargo/tonic@ cargo/tch@ pypi/torch@ deb/debian/libc6@; do check "its bill of materials has $kind" lists "$kind"; done
check "server starts as a user without rights" configured server '65532:65532 [hone]'
check "it has no shell and no LibTorch" without "$server" bin/sh opt/hone/torch
check "its programs run in it" in_server hone --version
check "it makes tokens" in_server hone-server token a --project b --role read
# Of a debug build nothing but the heaviest is optimised, so its size says little.
case $builds$bin in yes*|*/release) check "it is under 60 MB" test "$(megabytes "$server")" -lt 60 ;; esac
echo "       hone has $(megabytes "$image") MB, $(packed "$image") packed; server $(megabytes "$server") MB, $(packed "$server") packed"
echo "images: $passed passed, $failed failed"
[ "$failed" = 0 ]
tests/k8s/run.py --bin "$bin" --image-root "$image" drain
