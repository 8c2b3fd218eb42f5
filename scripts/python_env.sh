#!/usr/bin/env bash
# Makes the project's own Python environment in .cache/python: torch, transformers, peft, trl and what they need, pinned in
# tests/interop/requirements.txt. About 0.7 GB of downloads; nothing outside .cache is touched. A finished environment is
# kept until the requirements change. Prints the path of its interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

env=.cache/python
requirements=tests/interop/requirements.txt
stubs=tests/interop/cuda_stubs.py
marker=$env/complete

need() {
    command -v "$1" >/dev/null || { echo "$1 is missing; install it with: apt-get install $2" >&2; exit 1; }
}
need python3 python3
need cc gcc
need readelf binutils
python3 -m pip --version >/dev/null 2>&1 || { echo "pip is missing; install it with: apt-get install python3-pip" >&2; exit 1; }

mkdir -p .cache
exec 9>.cache/python.lock
flock 9

wanted=$(cat "$requirements" "$stubs" scripts/python_env.sh | sha256sum | cut -d' ' -f1)
if [[ $(cat "$marker" 2>/dev/null) != "$wanted" ]]; then
    rm -rf "$env"
    # Debian's python3 comes without ensurepip, so the system's pip installs into the environment.
    python3 -m venv --without-pip "$env"
    python3 -m pip --python "$env/bin/python" install --no-deps --no-warn-conflicts --requirement "$requirements" >&2
    site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$env/bin/python" "$stubs" "$site/torch/lib" >&2
    cat >"$site/sitecustomize.py" <<'EOF'
"""Keeps every program of this environment off the network and its output quiet."""
import os

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)
EOF
    "$env/bin/python" -c 'import torch, transformers, peft, trl, gguf; assert torch.ones(2).sum() == 2'
    echo "$wanted" >"$marker"
fi
echo "$env/bin/python"
