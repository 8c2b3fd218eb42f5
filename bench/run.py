"""Runs the same LoRA SFT and DPO in hone and in TRL + PEFT, in turns, and writes a table of medians and ratios to
bench/report.md, with a chart beside it.

Same model folder, same rows in the same order, same LoRA, batch, length, precision and threads; rows longer than the limit
are left out beforehand, so that both sides train on the very same tokens. hone is measured through its service, from
`hone` creating the job. TRL is measured as it comes and, beside it, without activation checkpointing, and at its best here:
without it and, for SFT, with rows grouped by length, so that little is padded; for DPO with the reference asked beforehand.

    tokens/s            real tokens (padding does not count; of a pair both answers do, each behind the prompt) over the time
                        of all steps but the first, and their share of the time that asking the reference took beforehand
    first step          hone: from creating the job to the first step's event; TRL: from starting the process to the same
    peak memory         of the training process

What a case gave is kept in .cache/bench/measured as soon as it is there, and the report shows everything kept there, each
with its day: one case can be measured anew by itself.
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
MEASURED = CACHE / "measured"
BATCH = 4
ACCUMULATION = 4
EXAMPLES_PER_STEP = BATCH * ACCUMULATION
MAX_LENGTH = 1024
LEARNING_RATE = 2e-4

STEPS = {"small": 8, "smollm2": 3}
RUNS = {"small": 3, "smollm2": 1}

SIDES = {
    "hone": "hone",
    "trl": "TRL, defaults",
    "trl_no_checkpointing": "TRL, no activation checkpointing",
    "trl_best": "TRL, at its best",
}

FLAGS = {
    "trl": [],
    "trl_no_checkpointing": ["--no-gradient-checkpointing"],
    "trl_best": ["--no-gradient-checkpointing"],
}
BEST = {"sft": ["--group-by-length"], "dpo": ["--precompute-reference"]}


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison."""

    method: str
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
        return CACHE / f"{self.method}-{self.shape}-{self.steps}-steps.jsonl"

    @property
    def name(self):
        """What the report calls it."""
        return f"{self.method.upper()}, {self.shape}, {self.precision}"


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
    """Writes the first rows that fit, as many as the steps need; pairs have the next row's completion as rejected answer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(case.model)

    def fits(*texts):
        return len(tokenizer("".join(texts) + tokenizer.eos_token)["input_ids"]) <= MAX_LENGTH

    rows = [json.loads(line) for line in all_rows.read_text().splitlines()]
    chosen = []
    for row, other in zip(rows, rows[1:], strict=False):
        if case.method == "dpo":
            answers = {"chosen": row["completion"], "rejected": other["completion"]}
            row = {"prompt": row["prompt"], **answers}
        if all(fits(row["prompt"], text) for name, text in row.items() if name != "prompt"):
            chosen.append(json.dumps(row) + "\n")
        if len(chosen) == case.steps * EXAMPLES_PER_STEP:
            break
    case.rows.write_text("".join(chosen))


def run_trl(case, *flags):
    """One run of TRL in a process of its own."""
    output = script(
        "peer_trl.py", case.model, case.rows, "--precision", case.precision, "--steps", case.steps,
        "--batch", BATCH, "--accumulation", ACCUMULATION, "--max-length", MAX_LENGTH,
        "--learning-rate", LEARNING_RATE, "--threads", case.threads, "--method", case.method, *flags,
    )  # fmt: skip
    return json.loads(output.splitlines()[-1])


def run_hone(case):
    """One run of hone: a job on a server that is up and has the model and the rows, as a service is used."""
    with tempfile.TemporaryDirectory() as scratch, hone.service(pathlib.Path(scratch)) as service:
        make_spec = {"sft": hone.sft_spec, "dpo": hone.dpo_spec}[case.method]
        spec = make_spec(
            service.upload_model(case.model),
            service.upload_rows(case.rows),
            precision={"float32": "PRECISION_FLOAT32", "bfloat16": "PRECISION_BFLOAT16"}[case.precision],
            adapter={"lora": {"rank": 16, "alpha": 32, "target_modules": ["all-linear"]}},
            batch={"examples_per_step": EXAMPLES_PER_STEP},
            optimizer={"learning_rate": LEARNING_RATE},
            schedule={"type": "SCHEDULE_TYPE_COSINE", "warmup_steps": 0},
            max_steps=case.steps,
        )
        spec[case.method]["data"]["max_length"] = MAX_LENGTH
        start = time.monotonic()
        first_step_seconds, asked, reference_seconds, steps = None, None, 0.0, []
        for event in service.events(service.create(spec)):
            if "failure" in event:
                raise hone.HoneError(str(event["failure"]))
            if "phase" in event:
                if asked:
                    reference_seconds += time.monotonic() - asked
                asked = time.monotonic() if event["phase"]["name"] == "scoring_reference" else None
            if "train_step" in event:
                first_step_seconds = first_step_seconds or time.monotonic() - start
                steps.append(event["train_step"])
    tokens = [int(step["tokens"]) for step in steps]
    seconds = [step["step_seconds"] for step in steps]
    return {
        "first_step_seconds": first_step_seconds,
        "reference_seconds": reference_seconds,
        "peak_memory_bytes": int(steps[-1]["peak_memory_bytes"]),
        "tokens": tokens,
        "step_seconds": seconds,
        "losses": [step["loss"] for step in steps],
    }


def run_side(case, side):
    """One run of one side."""
    if side == "hone":
        run = run_hone(case)
    else:
        run = run_trl(case, *FLAGS[side], *(BEST[case.method] if side == "trl_best" else []))
    tokens, seconds = run["tokens"], run["step_seconds"]
    reference_share = run["reference_seconds"] * sum(tokens[1:]) / sum(tokens)
    return {**run, "tokens_per_second": sum(tokens[1:]) / (sum(seconds[1:]) + reference_share)}


def compare(case, num_runs, sides):
    """Runs the sides in turns, so that a slow spell of the machine meets them all; returns the runs by side."""
    runs = {side: [] for side in sides}
    for index in range(num_runs):
        for side in sides:
            runs[side].append(run_side(case, side))
            latest = runs[side][-1]
            print(
                f"{case.name} run {index + 1}/{num_runs} {side}: "
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
    ordered = [run for side, side_runs in runs.items() if side != "trl_best" for run in side_runs]
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


def keep(case, runs):
    """Writes down what a case gave."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    number = f"{list(STEPS).index(case.shape)}-{case.method != 'sft':d}-{case.precision != 'float32':d}"
    file = MEASURED / f"{number}-{case.shape}-{case.method}-{case.precision}.json"
    kept = {"case": dataclasses.asdict(case), "date": str(datetime.date.today()), "runs": runs}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(kept))
    partial.rename(file)


def kept():
    """What every case gave last, in the order of the report: case, day, runs."""
    for file in sorted(MEASURED.glob("*.json")):
        one = json.loads(file.read_text())
        yield Case(**one["case"]), one["date"], one["runs"]


def section(case, date, runs):
    """The report of one case: what was run, and the table."""
    tokens = next(iter(runs.values()))[0]["tokens"]
    digest = hashlib.sha256(case.rows.read_bytes()).hexdigest()[:12]
    num_runs = len(next(iter(runs.values())))
    counted = "One run of each side." if num_runs == 1 else f"Median of {num_runs} runs, the sides taking turns."
    return (
        f"## {case.name}\n\n"
        f"{case.steps} steps of {BATCH} x {ACCUMULATION} {'pairs' if case.method == 'dpo' else 'rows'} "
        f"({sum(tokens)} tokens, rows {digest}), LoRA r = 16 on all linear layers, at most {MAX_LENGTH} tokens a row, "
        f"{case.threads} threads.\n{date}. {counted}\n\n{table(runs)}\n"
    )


def draw(cases, path):
    """A chart of tokens/s as a multiple of TRL's defaults."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sides = [side for side in SIDES if any(side in runs for _, _, runs in cases)]
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.28 * len(cases) * len(sides)))
    for place, (_, _, runs) in enumerate(cases):
        base = summarise(runs["trl"])["tokens_per_second"][0]
        for number, side in enumerate(side for side in sides if side in runs):
            speed = summarise(runs[side])["tokens_per_second"][0]
            row = place * (len(sides) + 1) + number
            axes.barh(row, speed / base, color=f"C{sides.index(side)}", label=SIDES[side] if place == 0 else None)
            axes.text(speed / base, row, f" {speed / base:.1f}  ({speed:.0f} tokens/s)", va="center", fontsize=8)
    middles = [place * (len(sides) + 1) + (len(sides) - 1) / 2 for place in range(len(cases))]
    axes.set_yticks(middles, [case.name for case, _, _ in cases])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("tokens/s as a multiple of TRL's defaults")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def cpu_name():
    """The processor's own name for itself."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def report(sections, chart):
    """The whole report; `chart` is the name of the picture beside it, if there is one."""
    import peft
    import torch
    import transformers
    import trl

    return (
        "# Benchmark\n\n"
        "Written by `make bench`; bench/run.py says what is measured and how.\n"
        "TRL's first step counts from the start of its process, hone's from creating the job on a server that is up.\n"
        f"{cpu_name()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, TRL {trl.__version__}, PEFT {peft.__version__}, "
        f"transformers {transformers.__version__}.\n\n"
        + (f"![tokens/s as a multiple of TRL's defaults]({chart})\n\n" if chart else "")
        + "\n".join(sections)
    )


def main():
    """Compares the chosen cases and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=("sft", "dpo"), default=["sft", "dpo"])
    parser.add_argument("--shapes", nargs="+", choices=("small", "smollm2"), default=["small"])
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["hone", "trl", "trl_best"])
    parser.add_argument("--runs", type=int, help="runs of each side; default 3, of smollm2 1")
    parser.add_argument("--steps", type=int, help="steps of a run; default 8, of smollm2 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/report.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    for shape in arguments.shapes:
        for method in arguments.methods:
            for precision in arguments.precisions:
                case = Case(method, shape, precision, arguments.steps or STEPS[shape], arguments.threads)
                prepare(case)
                runs = compare(case, arguments.runs or RUNS[shape], arguments.sides)
                print(section(case, str(datetime.date.today()), runs), flush=True)
                keep(case, runs)
    chart = arguments.out.with_suffix(".png")
    compared = [one for one in kept() if "trl" in one[2]]
    if compared:
        draw(compared, chart)
    sections = [section(*one) for one in kept()]
    arguments.out.write_text(report(sections, chart.name if compared else None))


if __name__ == "__main__":
    main()
