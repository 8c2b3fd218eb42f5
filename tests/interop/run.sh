#!/usr/bin/env bash
# Compares hone with transformers, PEFT and TRL, and runs the documents' commands. `make interop` calls it, with hone built and
# the model fetched.
# Arguments go to pytest: tests/interop/run.sh -k gguf
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v openssl >/dev/null || { echo "openssl is missing; install it with: apt-get install openssl" >&2; exit 1; }
python=$(scripts/python_env.sh)
# The models are tiny: a second thread costs more than it brings.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest tests/interop -p no:cacheprovider -v --tb=short --show-capture=no --disable-warnings "$@"
