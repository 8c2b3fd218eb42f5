#!/usr/bin/env python3
"""A data folder as an earlier hone left it, for the test that this one takes it over (tests/it/upgrade.rs).

    tests/upgrade/make.py COMMIT     writes tests/fixtures/upgrade/ anew

Builds the commit in a worktree (CARGO_TARGET_DIR is heeded) and has its server run jobs to different places: one has succeeded,
one has failed, one is paused in mid-training, one was in mid-training when the server was told to leave, one never began. What is
kept: the job store as SQL, storage, and each job with its events as the command line of that time told them.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"
KEPT = FIXTURES / "upgrade"
# Paths are part of what is kept, some of them under a digest, so that the folder is called the same wherever it is made.
HOME = Path("/tmp/hone-upgrade")
# A step at which a job is stopped half-way, and what there are.
STEP, STEPS = 4, 30


def build(commit):
    """The folder of that commit's programs."""
    tree = HOME / "tree"
    subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True)
    (tree / ".libtorch").symlink_to((ROOT / ".libtorch").resolve())
    command = ["cargo", "build", "--locked", "--workspace", "--features", "hone-client/cli", "--bins"]
    subprocess.run(command, cwd=tree, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", tree / "target")) / "debug"


class Server:
    """That commit's server, and its command line."""

    def __init__(self, programs):
        self.programs = programs
        port = HOME / "port"
        port.unlink(missing_ok=True)
        flags = ["--listen", "127.0.0.1:0", "--port-file", port, "--data-dir", HOME / "data"]
        self.process = subprocess.Popen([programs / "hone-server", *flags], stderr=subprocess.DEVNULL)
        while not (port.is_file() and port.read_text()):
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.05)
        self.variables = {**os.environ, "HONE_SERVER": f"http://{port.read_text().strip()}"}

    def command(self, *words):
        """A command of `hone`, which tells objects."""
        return [self.programs / "hone", "--json", *map(str, words)]

    def ask(self, *words, text=None):
        """The objects that a command tells."""
        done = subprocess.run(self.command(*words), env=self.variables, input=text, stdout=subprocess.PIPE, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def create(self, name, model="model", **task):
        """The id of a new job."""
        spec = {"display_name": name, "labels": {"team": "a"}, "base_model": {"uri": uri(model)}, "max_retries": 0, **task}
        return self.ask("jobs", "create", "--spec", "-", text=json.dumps(spec))[0]["job_id"]

    def follow(self, job, until):
        """Events of a job up to the first that is so; all of them where none is."""
        watch = subprocess.Popen(self.command("jobs", "watch", job), env=self.variables, stdout=subprocess.PIPE, text=True)
        events = []
        for line in watch.stdout:
            events.append(json.loads(line))
            if until(events[-1]):
                break
        watch.kill()
        watch.wait()
        return events

    def leave(self):
        """Trainers save, jobs wait for the next server."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0


def uri(name):
    """A file in the folder."""
    return f"file://{HOME}/{name}"


def trains(rows, steps, **more):
    """What SFT and DPO have alike."""
    lora = {"rank": 4, "target_modules": ["q_proj", "v_proj"]}
    task = {"data": {"train": [rows], "eval_fraction": 0.1}, "adapter": {"lora": lora}, "max_steps": str(steps)}
    return {**task, "batch": {"examples_per_step": 64}, "evaluation": {"every_steps": "10"}, **more}


def at_step(event):
    """Whether a run is half-way."""
    return int(event.get("train_step", {}).get("step", 0)) >= STEP


def is_paused(event):
    """Whether a job has paused."""
    return event.get("state_changed", {}).get("to") == "JOB_STATE_PAUSED"


def play(server):
    """Jobs in all places: each with the events that were told of it."""
    told = {}
    rows = server.ask("data", "upload", HOME / "rows.jsonl")[0]["dataset_id"]
    stopping = {"early_stopping": {"patience": 5}}
    done = server.create("done", sft=trains(rows, 2, evaluation=stopping))
    told[done] = server.follow(done, lambda _: False)
    checkpoint = server.ask("checkpoints", "list", done)[0]["uri"]
    failed = server.create("failed", model="nothing", sft=trains(rows, 2))
    told[failed] = server.follow(failed, lambda _: False)
    paused = server.create("paused", sft=trains(uri("rows.jsonl"), STEPS, schedule={"type": "SCHEDULE_TYPE_LINEAR"}))
    server.follow(paused, at_step)
    server.ask("jobs", "pause", paused)
    told[paused] = server.follow(paused, is_paused)
    cut = server.create("cut", dpo=trains(uri("pairs.jsonl"), STEPS, init_from=checkpoint))
    waiting = server.create("waiting", export={"checkpoint": checkpoint})
    told[cut] = server.follow(cut, at_step)
    told[waiting] = []
    jobs = {job: server.ask("jobs", "get", job)[0] for job in told}
    server.leave()
    return [{"job": jobs[job], "events": events} for job, events in told.items()]


def keep(told, commit):
    """Leaves the fixture."""
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    store = sqlite3.connect(HOME / "data/hone.db")
    (version,) = store.execute("PRAGMA user_version").fetchone()
    # Tables come in the order of their names, before those that they refer to.
    lines = ["PRAGMA foreign_keys = OFF;", *store.iterdump(), f"PRAGMA user_version = {version};", ""]
    (KEPT / "hone.sql").write_text("\n".join(lines))
    (KEPT / "jobs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    shutil.copytree(HOME / "data/storage", KEPT / "storage")
    revision = subprocess.run(["git", "rev-parse", "--short", commit], cwd=ROOT, capture_output=True, text=True, check=True)
    (KEPT / "commit").write_text(revision.stdout)


def main():
    """All of it."""
    (commit,) = sys.argv[1:]
    shutil.rmtree(HOME, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    HOME.mkdir()
    shutil.copytree(FIXTURES / "models/llama_tied", HOME / "model")
    shutil.copy(FIXTURES / "sft/rows.jsonl", HOME)
    shutil.copy(FIXTURES / "dpo/pairs.jsonl", HOME)
    programs = build(commit)
    keep(play(Server(programs)), commit)
    subprocess.run(["git", "worktree", "remove", "--force", HOME / "tree"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
