#!/bin/sh
# Builds hone's programs against the LibTorch in /opt/hone, into target/release.
set -eu
export LIBTORCH=/opt/hone/torch
cargo build --release --locked -p hone-server -p hone-trainer -p hone-client --features hone-client/cli
