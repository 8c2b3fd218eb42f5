"""Rows to examples in hone and in `datasets.map` with the same tokenizer, side by side: rows a second, and memory.

What both do: read a JSONL file of prompt and completion, tokenise prompt and answer, say which tokens are trained on, leave
out what is too long. `datasets` runs the function that TRL runs on such rows, one row at a time as TRL does, and at its best:
batches of rows and a process for each thread. Every run is a process of its own; memory is the most that it and its children
had above what they had before the first row.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/bench"
MAX_LENGTH = 1024
SIDES = ("hone", "map", "map_best")
NAMES = {"hone": "hone", "map": "datasets.map, as TRL calls it", "map_best": "datasets.map, batched, a process a thread"}


def rows_file(num_rows):
    """A file of so many rows: those of Python's standard library, again and again, each numbered so that none is another."""
    distinct = CACHE / "rows.jsonl"
    if not distinct.exists():
        subprocess.run([sys.executable, ROOT / "bench/make_rows.py", distinct], check=True, capture_output=True)
    path = CACHE / f"rows-{num_rows}.jsonl"
    if not path.exists():
        rows = [json.loads(line) for line in distinct.read_text().splitlines()]
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            for number in range(num_rows):
                row = rows[number % len(rows)]
                file.write(json.dumps({**row, "prompt": f"# {number}\n{row['prompt']}"}) + "\n")
        partial.rename(path)
    return path


def run_hone(model, rows, threads):
    """hone's own reading, through `cargo bench`."""
    command = [
        "cargo", "bench", "--quiet", "-p", "hone-data", "--bench", "read", "--",
        "--model", model, "--rows", rows, "--max-length", MAX_LENGTH, "--threads", threads,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"hone's bench failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_map(model, rows, threads, *, best):
    """One run of datasets.map, in a process of its own."""
    command = [sys.executable, __file__, "--peer", "best" if best else "trl", model, rows, "--threads", threads]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"datasets.map failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peer(model, rows, threads, best):
    """Runs datasets.map and prints what it took."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def one(row):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        return {"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))}

    def many(batch):
        prompts = tokenizer(batch["prompt"])["input_ids"]
        pairs = zip(batch["prompt"], batch["completion"], strict=True)
        texts = tokenizer([prompt + completion + tokenizer.eos_token for prompt, completion in pairs])["input_ids"]
        masks = [[0] * len(p) + [1] * (len(ids) - len(p)) for p, ids in zip(prompts, texts, strict=True)]
        return {"input_ids": texts, "completion_mask": masks}

    before = memory_bytes()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        dataset = datasets.load_dataset("json", data_files=str(rows), split="train", cache_dir=scratch)
        options = {"batched": True, "num_proc": threads} if best else {}
        dataset = dataset.map(many if best else one, remove_columns=["prompt", "completion"], **options)
        keep = (lambda batch: [len(ids) <= MAX_LENGTH for ids in batch]) if best else (lambda ids: len(ids) <= MAX_LENGTH)
        dataset = dataset.filter(keep, input_columns="input_ids", **options)
        seconds = time.monotonic() - start
        num_rows = sum(1 for _ in pathlib.Path(rows).open())
        memory = memory_bytes() - before
        print(json.dumps({"rows": num_rows, "examples": len(dataset), "seconds": seconds, "memory_bytes": memory}))


def memory_bytes():
    """The most that this process and the largest of its children had."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * (own + children)


def compare(model, num_rows, runs, threads, sides):
    """Runs the sides in turns and prints a table of medians."""
    rows = rows_file(num_rows)
    found = {side: [] for side in sides}
    for _ in range(runs):
        for side in sides:
            run = run_hone(model, rows, threads) if side == "hone" else run_map(model, rows, threads, best=side == "map_best")
            found[side].append(run)
            print(f"{side}: {run['rows'] / run['seconds']:.0f} rows/s", file=sys.stderr, flush=True)
    examples = {run["examples"] for runs in found.values() for run in runs}
    if len(examples) != 1:
        raise SystemExit(f"the sides did not keep the same rows: {sorted(examples)}")
    print(f"{num_rows} rows, {examples.pop()} kept, {threads} threads, median of {runs}\n")
    print("| | rows/s | ratio | memory |\n| --- | ---: | ---: | ---: |")
    rate = {side: statistics.median(run["rows"] / run["seconds"] for run in runs) for side, runs in found.items()}
    for side, runs in found.items():
        ratio = f"{rate[side] / rate['map']:.1f}" if "map" in rate else ""
        memory = statistics.median(run["memory_bytes"] for run in runs) / 2**20
        print(f"| {NAMES[side]} | {rate[side]:.0f} | {ratio} | {memory:.0f} MiB |")


def main():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=("trl", "best"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=pathlib.Path, help="folder with a tokenizer; default: the small model of make bench")
    parser.add_argument("--rows", type=int, default=20_000, help="rows; default 20000")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; default 3")
    parser.add_argument("--threads", type=int, default=2, help="threads; default 2")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    arguments = parser.parse_args()
    if arguments.peer:
        model, rows = arguments.files
        return peer(model, rows, arguments.threads, arguments.peer == "best")
    model = arguments.model or CACHE / "small"
    if not (model / "tokenizer.json").exists():
        raise SystemExit(f"{model} has no tokenizer.json; run `make bench` first, or give --model")
    return compare(model, arguments.rows, arguments.runs, arguments.threads, arguments.sides)


if __name__ == "__main__":
    main()
