"""What a run costs beside its steps, through the service: its start, what it waits for data, and its checkpoints, for which the
same steps are taken with and without them, in turns.

The start is the time from creating the job on a server that is up to the beginning of its first step. A save copies what is trained to host memory and writes it beside the steps that follow. What it costs is the time that the
run with checkpoints takes longer, from its first step to its last, over their number; the last save, which nothing runs
beside, is in neither. `make bench` makes the model and the rows.
"""

import argparse
import datetime
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/interop"))

import hone  # noqa: E402

CACHE = ROOT / ".cache/bench"
EXAMPLES_PER_STEP = 16


def run(service, model, rows, steps, every_steps):
    """Seconds from the first step's event to the last one's, of each save in the background, before the first step, and the
    share of data in the steps."""
    spec = hone.sft_spec(
        model,
        rows,
        precision="PRECISION_FLOAT32",
        adapter={"lora": {"rank": 16, "alpha": 32, "target_modules": ["all-linear"]}},
        batch={"examples_per_step": EXAMPLES_PER_STEP},
        optimizer={"learning_rate": 2e-4},
        checkpoints={"every_steps": every_steps, "every_minutes": 0},
        max_steps=steps,
    )
    times, steps_taken, saves = [], [], []
    created = time.time()
    for event in service.events(service.create(spec)):
        if "failure" in event:
            raise hone.HoneError(str(event["failure"]))
        if "train_step" in event:
            times.append(datetime.datetime.fromisoformat(event["time"]).timestamp())
            steps_taken.append(event["train_step"])
        if "checkpoint_saved" in event:
            saves.append(event["checkpoint_saved"]["seconds"])
    start = times[0] - steps_taken[0]["step_seconds"] - created
    data = sum(step["time"].get("data_seconds", 0) for step in steps_taken)
    return times[-1] - times[0], saves, start, data / sum(step["step_seconds"] for step in steps_taken)


def main():
    """Runs both in turns and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("small", "smollm2"), default="small")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run; default 40")
    parser.add_argument("--every-steps", type=int, default=4, help="steps between checkpoints; default 4")
    parser.add_argument("--runs", type=int, default=5, help="runs of each; default 5")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    num_saves = (arguments.steps - 1) // arguments.every_steps
    costs, saves, starts, shares_of_data = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch, hone.service(pathlib.Path(scratch)) as service:
        model = service.upload_model(CACHE / arguments.shape)
        rows = service.upload_rows(CACHE / "rows.jsonl")
        for number in range(arguments.runs):
            without, _, start, share_of_data = run(service, model, rows, arguments.steps, 0)
            with_saves, took, *_ = run(service, model, rows, arguments.steps, arguments.every_steps)
            saves += took
            starts.append(start)
            shares_of_data.append(share_of_data)
            costs.append((with_saves - without) / num_saves)
            print(f"run {number + 1}: {without:.1f} s without, {with_saves:.1f} s with {num_saves} checkpoints", flush=True)
    print(
        f"a checkpoint costs {1e3 * statistics.median(costs):.0f} ms (median; {1e3 * min(costs):.0f} to "
        f"{1e3 * max(costs):.0f}), {100 * statistics.median(costs) / 60:.2f}% of training at one a minute; "
        f"it is durable after {statistics.median(saves):.2f} s"
    )
    print(f"the first step begins {statistics.median(starts):.2f} s after the job was created, model in the page cache")
    print(f"steps wait for data {100 * statistics.median(shares_of_data):.3f}% of their time")


if __name__ == "__main__":
    main()
