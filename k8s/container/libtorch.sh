#!/bin/sh
# libtorch.sh FETCHED SHIP [BUILD]: lays out the LibTorch of scripts/fetch.py below a root: what a trainer loads, in
# opt/hone/torch/lib, and with CUDA opt/hone/nvidia beside it, where the wheel's libraries look. Below BUILD come the headers,
# and a link to the libraries.
set -eu
torch=$(readlink -f "$1")
mkdir -p "$2/opt/hone/torch/lib"
ship=$(readlink -f "$2/opt/hone")
# Python's own binding is the one library of the wheel that needs Python.
find "$torch/lib" -maxdepth 1 -name '*.so*' ! -name libtorch_python.so -exec cp -a {} "$ship/torch/lib/" \;
if [ -d "$torch/../nvidia" ]; then
    cd "$torch/.."
    find nvidia -path '*/lib/*' -name '*.so*' -exec cp -a --parents {} "$ship/" \;
    # For sbom.py: of these the wheel came with its own choice.
    find . -maxdepth 1 -name 'torch-*.dist-info' -o -maxdepth 1 -name 'nvidia_*.dist-info' |
        sed 's|^\./||; s|\.dist-info$||; s|_|-|g' | sort >"$ship/torch/packages"
    cd - >/dev/null
fi
if [ -n "${3:-}" ]; then
    mkdir -p "$3/opt/hone/torch"
    cp -a "$torch/include" "$3/opt/hone/torch/"
    ln -s "$ship/torch/lib" "$3/opt/hone/torch/lib"
fi
