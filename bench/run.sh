#!/usr/bin/env bash
# Runs bench/run.py in the project's Python environment with hone's release build. `make bench` calls it; arguments go on.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(scripts/python_env.sh)
[[ " $* " == *" smollm2 "* ]] && python3 scripts/fetch.py model
export HONE_BIN=${HONE_BIN:-${CARGO_TARGET_DIR:-target}/release}
exec "$python" bench/run.py "$@"
