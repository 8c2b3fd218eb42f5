"""Runs the same LoRA SFT in hone and in TRL + PEFT, in turns, and writes a table of medians and ratios to bench/report.md.

Same model folder, same rows in the same order, same LoRA, batch, length, precision and threads; rows longer than the limit
are left out beforehand, so that both sides train on the very same tokens. hone is measured through its service, from
`hone` creating the job. TRL is measured as it comes and, beside it, without activation checkpointing, and at its best here:
without it and with rows grouped by length, so that little is padded.

    tokens/s            real tokens (padding does not count) over the time of all steps but the first
    first step          hone: from creating the job to the first step's event; TRL: from starting the process to the same
    peak memory         of the training process
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/interop"))

import hone  # noqa: E402

CACHE = ROOT / ".cache/bench"
BATCH = 4
ACCUMULATION = 4
EXAMPLES_PER_STEP = BATCH * ACCUMULATION
MAX_LENGTH = 1024
LEARNING_RATE = 2e-4

SIDES = {
    "hone": "hone",
    "trl": "TRL, defaults",
    "trl_no_checkpointing": "TRL, no activation checkpointing",
    "trl_grouped": "TRL, that and rows grouped by length",
}

FLAGS = {
    "trl": [],
    "trl_no_checkpointing": ["--no-gradient-checkpointing"],
    "trl_grouped": ["--no-gradient-checkpointing", "--group-by-length"],
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison."""

    shape: str
    precision: str
    steps: int
    threads: int

    @property
    def model(self):
        """Folder of the model."""
        return CACHE / self.shape

    @property
    def rows(self):
        """The rows of exactly these steps."""
        return CACHE / f"{self.shape}-{self.steps}-steps.jsonl"


def prepare(case):
    """Makes the rows and the model, once."""
    all_rows = CACHE / "rows.jsonl"
    if not all_rows.exists():
        script("make_rows.py", all_rows)
    if not (case.model / "tokenizer.json").exists():
        script("make_model.py", case.shape, case.model, "--rows", all_rows)
    if not case.rows.exists():
        select_rows(case, all_rows)


def script(name, *arguments):
    """Runs a sibling script and returns what it printed; what it wrote to stderr is shown only when it fails."""
    command = [sys.executable, ROOT / "bench" / name, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return done.stdout


def select_rows(case, all_rows):
    """Writes the first rows that fit, as many as the steps need."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(case.model)
    chosen = []
    for line in all_rows.read_text().splitlines(keepends=True):
        row = json.loads(line)
        if len(tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]) <= MAX_LENGTH:
            chosen.append(line)
        if len(chosen) == case.steps * EXAMPLES_PER_STEP:
            break
    case.rows.write_text("".join(chosen))


def run_trl(case, *flags):
    """One run of TRL in a process of its own."""
    output = script(
        "peer_trl.py", case.model, case.rows, "--precision", case.precision, "--steps", case.steps,
        "--batch", BATCH, "--accumulation", ACCUMULATION, "--max-length", MAX_LENGTH,
        "--learning-rate", LEARNING_RATE, "--threads", case.threads, *flags,
    )  # fmt: skip
    return json.loads(output.splitlines()[-1])


def run_hone(case):
    """One run of hone: a job on a server that is up and has the model and the rows, as a service is used."""
    with tempfile.TemporaryDirectory() as scratch, hone.service(pathlib.Path(scratch)) as service:
        spec = hone.sft_spec(
            service.upload_model(case.model),
            service.upload_rows(case.rows),
            precision={"float32": "PRECISION_FLOAT32", "bfloat16": "PRECISION_BFLOAT16"}[case.precision],
            adapter={"lora": {"rank": 16, "alpha": 32, "target_modules": ["all-linear"]}},
            batch={"examples_per_step": EXAMPLES_PER_STEP},
            optimizer={"learning_rate": LEARNING_RATE},
            schedule={"type": "SCHEDULE_TYPE_COSINE", "warmup_steps": 0},
            max_steps=case.steps,
        )
        spec["sft"]["data"]["max_length"] = MAX_LENGTH
        start = time.monotonic()
        first_step_seconds, steps = None, []
        for event in service.events(service.create(spec)):
            if "failure" in event:
                raise hone.HoneError(str(event["failure"]))
            if "train_step" in event:
                first_step_seconds = first_step_seconds or time.monotonic() - start
                steps.append(event["train_step"])
    tokens = [int(step["tokens"]) for step in steps]
    seconds = [step["step_seconds"] for step in steps]
    return {
        "tokens_per_second": sum(tokens[1:]) / sum(seconds[1:]),
        "first_step_seconds": first_step_seconds,
        "peak_memory_bytes": int(steps[-1]["peak_memory_bytes"]),
        "tokens": tokens,
        "step_seconds": seconds,
        "losses": [step["loss"] for step in steps],
    }


def run_side(case, side):
    """One run of one side."""
    if side == "hone":
        return run_hone(case)
    return run_trl(case, *FLAGS[side])


def compare(case, num_runs, sides):
    """Runs the sides in turns, so that a slow spell of the machine meets them all; returns the runs by side."""
    runs = {side: [] for side in sides}
    for index in range(num_runs):
        for side in sides:
            runs[side].append(run_side(case, side))
            latest = runs[side][-1]
            print(
                f"{case.shape} {case.precision} run {index + 1}/{num_runs} {side}: "
                f"{latest['tokens_per_second']:.0f} tokens/s, first step {latest['first_step_seconds']:.2f} s",
                file=sys.stderr,
                flush=True,
            )
    check_same_work(runs)
    return runs


def check_same_work(runs):
    """Every run saw the same tokens, in the same steps where rows are in order; and then it began with the same loss, since
    a fresh adapter changes nothing."""
    if len({sum(run["tokens"]) for side_runs in runs.values() for run in side_runs}) > 1:
        raise SystemExit(f"the sides trained on different tokens: { {side: r[0]['tokens'] for side, r in runs.items()} }")
    ordered = [run for side, side_runs in runs.items() if side != "trl_grouped" for run in side_runs]
    if len({tuple(run["tokens"]) for run in ordered}) > 1:
        raise SystemExit(f"the sides trained on different steps: { {side: r[0]['tokens'] for side, r in runs.items()} }")
    first_losses = [run["losses"][0] for run in ordered]
    if first_losses and max(first_losses) - min(first_losses) > 0.02:
        raise SystemExit(f"the sides began with different losses: {first_losses}")


def summarise(runs):
    """Median and range of each measure."""
    return {
        measure: (statistics.median(values), min(values), max(values))
        for measure in ("tokens_per_second", "first_step_seconds", "peak_memory_bytes")
        for values in [[run[measure] for run in runs]]
    }


def table(runs):
    """The Markdown table of one case."""
    lines = [
        "| | tokens/s (range) | ratio to TRL | first step | peak memory |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    summaries = {side: summarise(side_runs) for side, side_runs in runs.items()}
    base = summaries["trl"]["tokens_per_second"][0] if "trl" in summaries else None
    for side, summary in summaries.items():
        speed, low, high = summary["tokens_per_second"]
        ratio = f"{speed / base:.2f}" if base else ""
        lines.append(
            f"| {SIDES[side]} | {speed:.0f} ({low:.0f} to {high:.0f}) | {ratio} "
            f"| {summary['first_step_seconds'][0]:.2f} s | {summary['peak_memory_bytes'][0] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def section(case, runs):
    """The report of one case: what was run, and the table."""
    tokens = next(iter(runs.values()))[0]["tokens"]
    digest = hashlib.sha256(case.rows.read_bytes()).hexdigest()[:12]
    return (
        f"## {case.shape}, {case.precision}\n\n"
        f"{case.steps} steps of {BATCH} x {ACCUMULATION} rows ({sum(tokens)} tokens, rows {digest}), LoRA r = 16 on all "
        f"linear layers, at most {MAX_LENGTH} tokens a row, {case.threads} threads.\n"
        f"Median of {len(next(iter(runs.values())))} runs, the sides taking turns.\n\n{table(runs)}\n"
    )


def cpu_name():
    """The processor's own name for itself."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def report(sections):
    """The whole report."""
    import peft
    import torch
    import transformers
    import trl

    return (
        "# Benchmark\n\n"
        "Written by `make bench`; bench/run.py says what is measured and how.\n"
        "TRL's first step counts from the start of its process, hone's from creating the job on a server that is up.\n"
        f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, TRL {trl.__version__}, PEFT {peft.__version__}, "
        f"transformers {transformers.__version__}.\n\n" + "\n".join(sections)
    )


def main():
    """Compares the chosen cases and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=("small", "smollm2"), default=["small"])
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/report.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    sections = []
    for shape in arguments.shapes:
        for precision in arguments.precisions:
            case = Case(shape, precision, arguments.steps, arguments.threads)
            prepare(case)
            sections.append(section(case, compare(case, arguments.runs, arguments.sides)))
            print(sections[-1])
    arguments.out.write_text(report(sections))


if __name__ == "__main__":
    main()
