#!/usr/bin/env python3
"""What traces and metrics cost training: the same job with and without them, in turns, on one server each.

    bench/telemetry.py [TURNS] [STEPS]

Wants hone built (HONE_BIN says where) and `scripts/fetch.py model rows oteltap`; runs in the Python that
`scripts/python_env.sh` names. The collector is oteltap behind a relay, on the same machine, and its page of metrics is read
every 15 seconds, as Prometheus would. Steps should take longer than a minute together, which is how often metrics are pushed.

Times of steps waver by more than what is looked for, so processor time is counted as well, thread by thread: that of the
threads that compute, for each step, and that of all others of the server and the trainer, for each second of training. The
latter is where telemetry works, but for the spans that are opened around one step in 30 seconds.
"""

import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/interop"))

import hone  # noqa: E402
import oteltap  # noqa: E402

MODEL = ROOT / ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = ROOT / ".cache/rows/train.jsonl"
WARM_UP = 3
SCRAPE_SECONDS = 15


def processor_seconds():
    """What hone's threads have used so far: those that compute, and the others."""
    used = {True: 0.0, False: 0.0}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("comm").read_text().strip() not in ("hone-server", "hone-trainer"):
                continue
            for thread in process.glob("task/*"):
                is_compute = thread.joinpath("comm").read_text().strip() == "compute"
                used[is_compute] += int(thread.joinpath("schedstat").read_text().split()[0]) / 1e9
        except OSError:  # It has ended.
            continue
    return used[True], used[False]


def scrape(address, stopped):
    """Reads the page of metrics now and then."""
    while not stopped.wait(SCRAPE_SECONDS):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read()


def measure(service, steps, page):
    """Of a run: the median step, computing for each step, and all else for each second, in seconds of a processor."""
    spec = hone.sft_spec(service.upload_model(MODEL), service.upload_rows(ROWS), max_steps=steps)
    spec["sft"]["batch"] = {"examples_per_step": 4}
    stopped = threading.Event()
    if page.exists():
        threading.Thread(target=scrape, args=(page.read_text().strip(), stopped), daemon=True).start()
    times, marks = [], []
    for event in service.events(service.create(spec)):
        if "failure" in event:
            raise hone.HoneError(str(event["failure"]))
        if "train_step" in event:
            times.append(event["train_step"]["step_seconds"])
            if len(times) in (WARM_UP, steps - 1):
                marks.append((time.monotonic(), *processor_seconds()))
    stopped.set()
    (began, compute, others), (ended, compute_after, others_after) = marks
    return (
        statistics.median(times[WARM_UP:]),
        (compute_after - compute) / (steps - 1 - WARM_UP),
        (others_after - others) / (ended - began),
    )


def main():
    """Turns of both, the one that comes first changing."""
    turns, steps = (int(word) for word in (*sys.argv[1:], *("6", "120")[len(sys.argv) - 1 :]))
    ratios, extra = [], []
    with tempfile.TemporaryDirectory() as folder, oteltap.running() as (url, _):
        page = pathlib.Path(folder) / "page"
        flags = ["--otlp-endpoint", url, "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", page]
        ways = {"without": [], "with": flags}
        for turn in range(turns):
            found = {}
            for way in sorted(ways, reverse=bool(turn % 2)):
                page.unlink(missing_ok=True)
                with hone.service(pathlib.Path(folder) / f"{turn}-{way}", *ways[way]) as service:
                    found[way] = measure(service, steps, page)
                step, compute, others = found[way]
                print(
                    f"turn {turn + 1} {way:>7}: step {1000 * step:6.1f} ms, computing {1000 * compute:7.1f} ms a step,"
                    f" all else {1000 * others:5.2f} ms a second",
                    flush=True,
                )
            ratios.append([found["with"][n] / found["without"][n] for n in (0, 1)])
            extra.append(found["with"][2] - found["without"][2])
    for name, of in (("steps", 0), ("computing", 1)):
        values = [ratio[of] for ratio in ratios]
        print(f"{name}: with is {statistics.median(values):.4f} of without, {min(values):.4f} to {max(values):.4f}")
    values = [100 * value for value in extra]
    print(f"all else: {statistics.median(values):+.3f}% of a processor more, {min(values):+.3f} to {max(values):+.3f}")


if __name__ == "__main__":
    main()
