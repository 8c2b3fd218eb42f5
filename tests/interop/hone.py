"""hone as these scripts use it: the trainer's `score`, and a server of one's own driven by the `hone` command line.

Everything that knows hone's commands and flags is in this file.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 30


class HoneError(Exception):
    """A command of hone that failed; the message is what it wrote."""


def binary(name):
    """Path of one of hone's programs: in $HONE_BIN, or where cargo builds by default."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(os.environ.get("HONE_BIN", target / "debug")) / name
    if not path.exists():
        raise HoneError(f"{name} is not built: run `make build`")
    return path


def call(name, *arguments, **environment):
    """Runs a program of hone to its end and returns its standard output."""
    done = subprocess.run(
        [binary(name), *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise HoneError(f"{name} {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def score(model, documents, adapter=None):
    """Log-probabilities of documents' tokens and their NLL, as `reference.score` gives them."""
    with tempfile.TemporaryDirectory() as scratch:
        ids, out = pathlib.Path(scratch, "ids.json"), pathlib.Path(scratch, "out.json")
        ids.write_text(json.dumps({"documents": documents}))
        extra = ["--adapter", adapter] if adapter else []
        call("hone-trainer", "score", "--model", model, *extra, "--ids", ids, "--out", out)
        return json.loads(out.read_text())


def generate(model, prompt, max_new_tokens):
    """hone's greedy answer to a prompt, without the token that ends it."""
    with tempfile.TemporaryDirectory() as scratch:
        prompts, out = pathlib.Path(scratch, "prompts.json"), pathlib.Path(scratch, "out.jsonl")
        prompts.write_text(json.dumps([{"prompt": prompt}]))
        limit = ["--max-new-tokens", max_new_tokens]
        call("hone-trainer", "generate", "--model", model, "--prompts", prompts, *limit, "--out", out)
        return json.loads(out.read_text())["answer"]


def export(model, out, *, trained=None, layout="hugging_face", kind="float32"):
    """Writes a model, with what was trained on it, as files that others load; returns their folder."""
    options = ["--trained", trained] if trained else []
    options += ["--format", layout, "--weight-type", kind, "--dequantize", "--out", out]
    call("hone-trainer", "export", "--model", model, *options)
    return out


@contextlib.contextmanager
def service(data_dir, *flags, listen="127.0.0.1:0"):
    """A running server that keeps everything in `data_dir`; yields a Service and stops the server at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port_file = data_dir / "port"
    port_file.unlink(missing_ok=True)
    log = data_dir / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [binary("hone-server"), "--listen", listen, "--port-file", port_file, "--data-dir", data_dir, *flags],
            stdout=output,
            stderr=output,
        )
    try:
        yield Service(wait_for_address(server, port_file, log), data_dir)
    finally:
        server.terminate()
        server.wait(timeout=START_SECONDS)


def wait_for_address(server, port_file, log):
    """The address that the server listens on, once it does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if port_file.exists() and (address := port_file.read_text().strip()):
            return address
        time.sleep(0.02)
    server.kill()
    raise HoneError(f"hone-server did not start: {log.read_text().strip()}")


class Service:
    """A running server, used through the command line."""

    def __init__(self, address, folder):
        self.url = f"http://{address}"
        self.folder = folder

    def cli(self, *arguments):
        """Runs `hone --json` and returns what it prints."""
        return call("hone", "--json", *arguments, HONE_SERVER=self.url)

    def upload_model(self, path):
        """Uploads a model folder or GGUF file and returns its id."""
        return json.loads(self.cli("model", "upload", path))["model_id"]

    def upload_rows(self, path):
        """Uploads a JSONL file and returns the dataset's id."""
        return json.loads(self.cli("data", "upload", path))["dataset_id"]

    def create(self, spec):
        """Creates a job from a JobSpec (protobuf JSON) and returns its id."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(spec, file)
            file.flush()
            return json.loads(self.cli("jobs", "create", "--spec", file.name))["job_id"]

    def events(self, job_id):
        """Yields the job's events as they happen, until it ends."""
        with subprocess.Popen(
            [binary("hone"), "--json", "jobs", "watch", job_id],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HONE_SERVER": self.url},
        ) as watch:
            yield from map(json.loads, watch.stdout)

    def run(self, spec):
        """Runs a job to its end; returns its id and its events."""
        job_id = self.create(spec)
        events = list(self.events(job_id))
        for event in events:
            if failure := event.get("failure"):
                raise HoneError(f"{job_id}: {failure}")
        return job_id, events

    def train(self, spec):
        """Runs a job to its end; returns its id and its train_step events."""
        job_id, events = self.run(spec)
        return job_id, [event["train_step"] for event in events if "train_step" in event]

    def download(self, job_id, folder):
        """Downloads the job's last checkpoint."""
        self.cli("checkpoints", "download", job_id, "--to", folder)
        return folder

    def export(self, job_id, folder, kind):
        """Exports the job's last checkpoint by a job of its own, and downloads the files."""
        self.cli("export", job_id, "--weight-type", kind, "--to", folder)
        return folder


def dpo_spec(model, rows, **settings):
    """A JobSpec (protobuf JSON) for preference optimisation in float32 with the rows in their own order."""
    return {
        "base_model": {"uri": model},
        "dpo": {
            "data": {"train": [rows]},
            "precision": "PRECISION_FLOAT32",
            "order": "ORDER_SEQUENTIAL",
            **settings,
        },
    }


def sft_spec(model, rows, **settings):
    """A JobSpec (protobuf JSON) for supervised fine-tuning in float32 with the rows in their own order."""
    return {
        "base_model": {"uri": model},
        "sft": {
            "data": {"train": [rows]},
            "precision": "PRECISION_FLOAT32",
            "order": "ORDER_SEQUENTIAL",
            **settings,
        },
    }
