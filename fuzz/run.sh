#!/bin/sh
# Fuzzes one target: fuzz/run.sh gguf 60 (seconds); what follows goes to libFuzzer, as -runs=1000000 does. Builds with the coverage that libFuzzer looks at, which needs a nightly
# compiler, into a folder of its own; what is found lies in fuzz/artifacts, new inputs of interest in target/fuzz/found.
set -eu
cd "$(dirname "$0")/.."
target=${1:?one of: $(ls fuzz/corpus | tr '\n' ' ')}
seconds=${2:-60}
shift $(($# > 2 ? 2 : $#))
host=$(rustc -vV | sed -n 's/^host: //p')
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=16'
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz"
# With --target, what runs while compiling is not instrumented. Debug assertions and overflow checks are on.
RUSTFLAGS=$coverage cargo +nightly build -p hone-fuzz --features libfuzzer --bin "$target" --target "$host" \
  --config 'profile.dev.package."*".opt-level=1'
mkdir -p "$CARGO_TARGET_DIR/found/$target" fuzz/artifacts
# Parquet's library makes room for a page before it reads one, and the format allows pages of 2 GiB.
case $target in parquet) malloc=2100 rss=2600 ;; *) malloc=512 rss=2048 ;; esac
exec "$CARGO_TARGET_DIR/$host/debug/$target" "$CARGO_TARGET_DIR/found/$target" "fuzz/corpus/$target" \
  -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=$rss -malloc_limit_mb=$malloc \
  -artifact_prefix="fuzz/artifacts/$target-" -print_final_stats=1 "$@"
