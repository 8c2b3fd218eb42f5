#!/usr/bin/env python3
"""What traces and metrics cost training: the same job with and without them, in turns, on one server each.

    bench/telemetry.py [TURNS] [STEPS]

Wants hone built (HONE_BIN says where) and `scripts/fetch.py model rows oteltap`; runs in the Python that
`scripts/python_env.sh` names. The collector is oteltap behind a relay, on the same machine, and its page of metrics is read
every 15 seconds, as Prometheus would. Steps should take longer than a minute together, which is how often metrics are pushed.

Times of steps waver by more than what is looked for, so processor time is counted as well, thread by thread: that of the
threads that compute, for each step, and that of all others of the server and the trainer, for each second of training. The
latter is where telemetry works, but for the spans that are opened around one step in 30 seconds. And since every run has the
same steps, each step is also taken at its quickest of all turns, with and without: what the machine's neighbours did is no
part of that, and what telemetry costs every step is.
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


def words(path):
    """The words of a file of /proc; None where what it tells of has ended."""
    try:
        return path.read_text().split()
    except OSError:
        return None


def processor_seconds():
    """What each of hone's threads has used so far, by whether it computes and which it is."""
    used = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        if words(process / "comm") not in (["hone-server"], ["hone-trainer"]):
            continue
        for thread in process.glob("task/*"):
            name, times = words(thread / "comm"), words(thread / "schedstat")
            if name and times:
                used[name == ["compute"], thread.name] = int(times[0]) / 1e9
    return used


def used_between(before, after, *, computing):
    """What the threads that are still there used meanwhile; one that has ended in between would count as less than nothing."""
    return sum(used - before.get(key, 0.0) for key, used in after.items() if key[0] == computing)


def scrape(address, stopped):
    """Reads the page of metrics now and then."""
    while not stopped.wait(SCRAPE_SECONDS):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read()


def measure(service, steps, page):
    """Of a run: its steps, computing for each step, and all else for each second; the latter in seconds of a processor."""
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
                marks.append((time.monotonic(), processor_seconds()))
    stopped.set()
    (began, before), (ended, after) = marks
    return (
        times[WARM_UP:],
        used_between(before, after, computing=True) / (steps - 1 - WARM_UP),
        used_between(before, after, computing=False) / (ended - began),
    )


def spread(values, form):
    """Their median, and from which to which they are."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def summary(ratios, extra, quickest):
    """What the turns so far say, in a line."""
    steps, computing = (spread([ratio[of] for ratio in ratios], ".4f") for of in (0, 1))
    totals = {way: sum(times) for way, times in quickest.items()}
    return (
        f"with of without: steps {steps}, at their quickest {totals['with'] / totals['without']:.4f},"
        f" computing {computing}; all else {spread([100 * more for more in extra], '+.3f')} % of a processor"
    )


def main():
    """Turns of both, the one that comes first changing."""
    turns, steps = (int(word) for word in (*sys.argv[1:], *("6", "120")[len(sys.argv) - 1 :]))
    ratios, extra = [], []
    quickest = {}
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
                times, compute, others = found[way]
                step = statistics.median(times)
                quickest[way] = [min(both) for both in zip(times, quickest.get(way, times), strict=True)]
                print(
                    f"turn {turn + 1} {way:>7}: step {1000 * step:6.1f} ms, computing {1000 * compute:7.1f} ms a step,"
                    f" all else {1000 * others:5.2f} ms a second",
                    flush=True,
                )
            pairs = zip(found["with"][0], found["without"][0], strict=True)
            ratios.append((statistics.median(a / b for a, b in pairs), found["with"][1] / found["without"][1]))
            extra.append(found["with"][2] - found["without"][2])
            print(summary(ratios, extra, quickest), flush=True)


if __name__ == "__main__":
    main()
