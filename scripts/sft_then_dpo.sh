#!/usr/bin/env bash
# A real run of both methods: SFT on question/answer rows, DPO on pairs derived from them, and the exported result. Writes
# .hone/sft-dpo/results.md. `make sft-dpo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
home=.hone/sft-dpo
model_file=.cache/model/SmolLM2-135M-Instruct.Q4_1.gguf
rows=.cache/rows
. scripts/server.sh
start_server "$home"

say "1. Rows, and pairs derived from them: the true answer against the answer to another question"
for split in train heldout; do
    python3 scripts/make_pairs.py "$rows/$split.jsonl" "$home/$split-pairs.jsonl"
done
wc -l "$rows"/*.jsonl "$home"/*-pairs.jsonl
model=$("$bin/hone" model upload --reuse "$model_file")
upload() { "$bin/hone" data upload --reuse "$1"; }
rows_train=$(upload "$rows/train.jsonl") rows_heldout=$(upload "$rows/heldout.jsonl")
pairs_train=$(upload "$home/train-pairs.jsonl") pairs_heldout=$(upload "$home/heldout-pairs.jsonl")

train() { # name, then the flags
    local name=$1
    shift
    "$bin/hone" train "$@" --model "$model" --name "$name" --job-file "$home/job"
    cp "$home/job" "$home/$name.job"
    "$bin/hone" --json jobs get "$(cat "$home/job")" >"$home/$name.json"
    "$bin/hone" --json jobs watch "$(cat "$home/job")" >"$home/$name.jsonl"
}

say "2. SFT, one epoch"
train sft sft --train "$rows_train" --eval "$rows_heldout" --epochs 1

say "3. DPO on 320 of the pairs, from the SFT checkpoint and compared with it"
train dpo dpo --train "$pairs_train" --eval "$pairs_heldout" --init-from "$(cat "$home/sft.job")" --epochs 1 \
    --max-train-examples 320 --learning-rate 5e-5

say "4. Base model, SFT and DPO side by side on the held-out rows, then on the held-out pairs"
compare() { # name, rows
    "$bin/hone" compare base sft="$(cat "$home/sft.job")" dpo="$(cat "$home/dpo.job")" --data "$2" --name "$1" --show 3 \
        --max-new-tokens 32 --job-file "$home/job"
    "$bin/hone" --json jobs watch "$(cat "$home/job")" >"$home/$1.jsonl"
}
compare compared-rows "$rows_heldout"
compare compared-pairs "$pairs_heldout"

say "5. Export the result: merged, as a Hugging Face folder"
rm -rf "$home/merged"
"$bin/hone" export "$(cat "$home/dpo.job")" --model "$model" --dequantize --to "$home/merged"

say "6. What came out"
python3 scripts/sft_then_dpo_report.py "$home" | tee "$home/results.md"
