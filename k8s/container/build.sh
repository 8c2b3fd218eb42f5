#!/bin/sh
# Builds hone's programs against the LibTorch in /opt/hone, into target/release.
set -eu
export LIBTORCH=/opt/hone/torch
# Relocations as bits, which every loader since glibc 2.36 reads, Debian 13's too: 2 MB less of the server's image. Builds that
# must run on older systems do without.
export RUSTFLAGS='-C link-arg=-Wl,-z,pack-relative-relocs'
cargo build --release --locked -p hone-server -p hone-trainer -p hone-client --features hone-client/cli
