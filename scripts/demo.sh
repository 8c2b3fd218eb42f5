#!/usr/bin/env bash
# Fine-tunes a real model end to end on this machine: server, upload, preview, LoRA SFT, before and after, then DPO, and the three
# models side by side. `make demo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
home=.hone/demo
model_file=.cache/model/SmolLM2-135M-Instruct.Q4_1.gguf
rows=.cache/rows
. scripts/server.sh
start_server "$home"

say "1. Upload the model and the rows (what the server holds already is not sent again)"
model=$("$bin/hone" model upload --reuse "$model_file")
train=$("$bin/hone" data upload --reuse "$rows/train.jsonl")
heldout=$("$bin/hone" data upload --reuse "$rows/heldout.jsonl")

say "2. Preview: what will be trained on"
"$bin/hone" data preview --model "$model" "$train" --rows 2

say "3. Ask three held-out questions before training"
head -n 3 "$rows/heldout.jsonl" | python3 -c 'import json, sys
print(json.dumps([{"messages": json.loads(line)["messages"][:1]} for line in sys.stdin]))' >"$home/prompts.json"
answer() { # file for the answers, further flags
    "$bin/hone-trainer" generate --model "$model_file" --prompts "$home/prompts.json" --max-new-tokens 40 --out "$@" 2>>"$home/server.log"
}
answer "$home/before.jsonl"
echo "kept for the comparison below"

say "4. Train: LoRA SFT, one epoch"
"$bin/hone" train sft --model "$model" --train "$train" --eval "$heldout" --name demo --epochs 1 --job-file "$home/job"
job=$(cat "$home/job")

say "5. What changed"
rm -rf "$home/adapter"
"$bin/hone" checkpoints download "$job" --to "$home/adapter" >/dev/null
answer "$home/after.jsonl" --adapter "$home/adapter"
"$bin/hone" --json jobs get "$job" >"$home/job.json"
python3 - "$home" <<'PYTHON'
import json
import sys
import textwrap

home = sys.argv[1]


def answers(name):
    with open(f"{home}/{name}.jsonl") as file:
        return [json.loads(line) for line in file]


def show(label, text):
    lines = textwrap.wrap(text.strip(), 100) or [""]
    print(f"  {label:7} " + "\n          ".join(lines))


with open(f"{home}/job.json") as file:
    result = json.load(file)["result"]
print(f"held-out loss  before {result['eval_loss_before']:.4f}  after {result['eval_loss_after']:.4f}")
for before, after in zip(answers("before"), answers("after")):
    print()
    show("asked", before["prompt"])
    show("before", before["answer"])
    show("after", after["answer"])
PYTHON

say "6. Train on: DPO on pairs derived from the same rows (the true answer against another question's), from the SFT checkpoint"
for split in train heldout; do
    python3 scripts/make_pairs.py "$rows/$split.jsonl" "$home/$split-pairs.jsonl"
done
pairs_train=$("$bin/hone" data upload --reuse "$home/train-pairs.jsonl")
pairs_heldout=$("$bin/hone" data upload --reuse "$home/heldout-pairs.jsonl")
"$bin/hone" train dpo --model "$model" --train "$pairs_train" --eval "$pairs_heldout" --init-from "$job" --name demo-dpo \
    --epochs 1 --max-train-examples 128 --max-eval-examples 48 --learning-rate 5e-5 --job-file "$home/dpo.job"
dpo=$(cat "$home/dpo.job")

say "7. Base model, SFT and DPO side by side on held-out rows"
"$bin/hone" compare base sft="$job" dpo="$dpo" --data "$heldout" --name demo-compare --max-examples 40 --show 2 \
    --max-new-tokens 24 --job-file "$home/compare.job"

"$bin/hone" plot "$job" -o loss.png >/dev/null
"$bin/hone" plot "$dpo" -o loss-dpo.png >/dev/null

say "8. Where to look"
cat <<TEXT
pictures               loss.png (SFT), loss-dpo.png (DPO)
report                 $home/storage/jobs/$job/report
adapter (PEFT layout)  $home/adapter
in storage             $home/storage/jobs/$job/checkpoints
the three compared     $bin/hone jobs watch $(cat "$home/compare.job")

The server stops with this script. To see all of it in a browser at http://127.0.0.1:7480, start it again:
  $bin/hone-server --data-dir $home --http-listen 127.0.0.1:7480 &
and to look at the job with grpcurl, ask:
  .cache/bin/grpcurl -plaintext -d '{"job_id": "$job"}' 127.0.0.1:7400 hone.v1.JobService/GetJob
Here is how the answer ends:
TEXT
.cache/bin/grpcurl -plaintext -d "{\"job_id\": \"$job\"}" "$address" hone.v1.JobService/GetJob | tail -n 22
