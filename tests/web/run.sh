#!/usr/bin/env bash
# The web page in Chromium. Nothing is installed: python3 and Debian's chromium do, and what is missing is named.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || {
    echo "missing: chromium - install it with: apt-get install chromium" >&2
    exit 1
}
if [ -n "${PICTURES:-}" ]; then
    PICTURES=$(realpath -m "$PICTURES")
    export PICTURES
fi
cd tests/web
exec python3 -m unittest -v test_page test_told test_tokens
