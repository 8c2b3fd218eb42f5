#!/usr/bin/env python3
"""What traces and metrics cost training: the same job with and without them, in turns, on one server each.

    bench/telemetry.py [TURNS] [STEPS]

Wants hone built (HONE_BIN says where) and `scripts/fetch.py model rows oteltap`. The collector is oteltap behind a relay, on
the same machine. Prints the median step of each turn and the median of the turns' ratios.
"""

import pathlib
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/interop"))

import hone  # noqa: E402
import oteltap  # noqa: E402

MODEL = ROOT / ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = ROOT / ".cache/rows/train.jsonl"


def median_step(service, steps):
    """The median step of a run, in seconds; the first ones warm up."""
    spec = hone.sft_spec(service.upload_model(MODEL), service.upload_rows(ROWS), max_steps=steps)
    spec["sft"]["batch"] = {"examples_per_step": 4}
    _, events = service.run(spec)
    return statistics.median([one["train_step"]["step_seconds"] for one in events if "train_step" in one][3:])


def main():
    """Turns of both, the one that comes first changing."""
    turns, steps = (int(word) for word in (*sys.argv[1:], *("6", "20")[len(sys.argv) - 1 :]))
    ratios = []
    with tempfile.TemporaryDirectory() as folder, oteltap.running() as (url, _):
        ways = {"without": [], "with": ["--otlp-endpoint", url, "--metrics-listen", "127.0.0.1:0"]}
        for turn in range(turns):
            seconds = {}
            for way in sorted(ways, reverse=bool(turn % 2)):
                with hone.service(pathlib.Path(folder) / f"{turn}-{way}", *ways[way]) as service:
                    seconds[way] = median_step(service, steps)
            ratios.append(seconds["with"] / seconds["without"])
            print(f"turn {turn + 1}: {1000 * seconds['without']:.1f} ms without, {1000 * seconds['with']:.1f} ms with", flush=True)
    print(f"median of the ratios: {statistics.median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
