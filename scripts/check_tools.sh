#!/bin/sh
# Says which tools are missing and how to install them, before anything long starts.
missing=0
need() { # command, what installs it
    command -v "$1" >/dev/null 2>&1 || { echo "missing: $1 - install it with: $2" >&2; missing=1; }
}
need cargo "rustup (Rust 1.95 or newer)"
need g++ "apt-get install g++"
need python3 "apt-get install python3"
command -v python3 >/dev/null 2>&1 && ! python3 -m pip --version >/dev/null 2>&1 &&
    { echo "missing: pip - install it with: apt-get install python3-pip" >&2; missing=1; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "unsupported: $(uname -sm) - hone's LibTorch build is for Linux x86_64" >&2; missing=1; }
exit $missing
