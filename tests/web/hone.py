"""The server under test, small runs of real trainers, and a network before the server that breaks on command."""

import json
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
MODEL = ROOT / "tests/fixtures/models/llama_tied"
PATIENCE = 60


class Server:
    """A server with a page, in a folder of its own. With `scripts`, one for each attempt, its trainers are fake and
    play these."""

    def __init__(self, *flags, scripts=None):
        self.folder = tempfile.TemporaryDirectory(prefix="hone-web-", ignore_cleanup_errors=True)
        self.home = Path(self.folder.name)
        command = [BIN / "hone-server", "--listen", "127.0.0.1:0", "--port-file", self.home / "port"]
        command += [
            "--http-listen",
            "127.0.0.1:0",
            "--http-port-file",
            self.home / "page",
            "--data-dir",
            self.home / "data",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HONE_", "AWS_"))}
        # Of a tiny model's threads most of the time goes into waiting for each other.
        environment["OMP_NUM_THREADS"] = "1"
        if scripts:
            # Trainers that play what is written; tests/src/script.rs has what can be.
            (self.home / "scripts.json").write_text(
                json.dumps(
                    [
                        {"hello": {"never": False, "heartbeat_first": False}, "acts": acts, "deaf": False}
                        for acts in scripts
                    ]
                )
            )
            environment["HONE_FAKE_SCRIPTS"] = str(self.home / "scripts.json")
            flags = [*flags, "--trainer", BIN / "fake_trainer", "--trainer-env", "HONE_FAKE_SCRIPTS"]
        self.log = open(self.home / "log", "w")
        self.process = subprocess.Popen([*command, *flags], stdout=self.log, stderr=self.log, env=environment)
        self.environment = environment
        self.grpc, self.page = self._port("port"), self._port("page")

    def _port(self, name):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # The file appears whole, by a rename.
            if (self.home / name).exists():
                return (self.home / name).read_text().strip()
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError((self.home / "log").read_text())

    def _as(self, token):
        who = {"HONE_TOKEN": token} if token else {}
        return {**self.environment, "HONE_SERVER": f"http://{self.grpc}", **who}

    def hone(self, *arguments, token="", check=True):
        """The command line against this server; what it prints."""
        environment = self._as(token)
        done = subprocess.run([BIN / "hone", *map(str, arguments)], capture_output=True, text=True, env=environment)
        if check and done.returncode != 0:
            raise AssertionError(f"hone {arguments}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def job(self, job_id, token=""):
        """A job as it stands."""
        return json.loads(self.hone("--json", "jobs", "get", job_id, token=token))

    def train(self, *arguments, token=""):
        """Starts a job and gives its id at once."""
        job_file = self.home / f"job-{time.monotonic_ns()}"
        flags = [*map(str, arguments), "--job-file", str(job_file)]
        environment = self._as(token)
        follower = subprocess.Popen(
            [BIN / "hone", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if job_file.exists() and job_file.read_text().strip():
                return Run(self, job_file.read_text().strip(), follower)
            if follower.poll() is not None and not job_file.exists():
                break
            time.sleep(0.02)
        raise AssertionError(follower.stderr.read())

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


class Run:
    """A job, and the command line that follows it."""

    def __init__(self, server, job_id, follower):
        self.server, self.job_id, self.follower = server, job_id, follower

    def ended(self, token=""):
        """Waits for its end, and gives the job."""
        self.follower.wait()
        self.follower.stderr.close()
        return self.server.job(self.job_id, token)


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(numbers):
    """Conversations about sums, which a tiny model can learn something of."""
    for a in numbers:
        for b in range(1, 9):
            question = {"role": "user", "content": f"What is {a} and {b}?"}
            yield {"messages": [question, {"role": "assistant", "content": f"{a} and {b} is {a + b}."}]}


def pairs(numbers):
    """The same with a wrong answer each."""
    for a in numbers:
        for b in range(1, 9):
            yield {
                "prompt": f"What is {a} and {b}?",
                "chosen": f"{a} and {b} is {a + b}.",
                "rejected": f"{a} and {b} is not known to me.",
            }


class Network:
    """A TCP proxy before `target`, which can cut its connections and refuse new ones."""

    def __init__(self, target):
        self.target = target
        self.lock = threading.Lock()
        self.refusing = False
        self.open = []
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Cuts every connection, and refuses those to come until `mend`."""
        with self.lock:
            self.refusing = True
            cut, self.open = self.open, []
        for pair in cut:
            for end in pair:
                _close(end)

    def mend(self):
        with self.lock:
            self.refusing = False

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.refusing:
                    client.close()
                    continue
                host, port = self.target.rsplit(":", 1)
                server = socket.create_connection((host, int(port)))
                self.open.append((client, server))
                self.accepted += 1
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client, server):
        try:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            for end in (client, server):
                _close(end)


def _close(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
