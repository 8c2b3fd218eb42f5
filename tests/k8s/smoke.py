"""smoke.sh against a cluster that is played: its pod is that of pod.py, its hone is real, the rest is said as a cluster would.

What it shows is that the script does what it says; what it says of a cluster only a cluster can make true.
"""

import json
import os
import signal
import socketserver
import subprocess
import threading
from pathlib import Path

from drain import MODEL, ROWS, cluster
from manifests import ROOT, container

PLAYED = Path(__file__).with_name("kubectl.py")


class Played:
    """Answers kubectl's commands."""

    def __init__(self, there, keeps_callers_out):
        self.there, self.keeps_callers_out, self.leaving = there, keeps_callers_out, None

    def answer(self, words, text):
        """(exit status, output) of a command."""
        line = " ".join(words)
        if "apply" in words and "--dry-run=server" not in words:
            self.there.start()
        elif "exec" in words:
            command = self.there.pod.inside(words[words.index("--") + 1 :])
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            return done.returncode, done.stdout
        elif "--raw" in words:
            assert json.loads(text)["kind"] == "Eviction", text
            self.leaving = threading.Thread(target=self.evict)
            self.leaving.start()
        elif "delete" in line and "--for" in words:
            self.leaving.join()
        elif "jsonpath={.spec.containers[0].image}" in words:
            return 0, container(self.there.objects)["image"]
        elif line.endswith("{.status.phase}"):
            outside = words[words.index("-n") + 1] != "hone"
            return 0, "Failed" if outside and self.keeps_callers_out else "Succeeded"
        return 0, ""

    def evict(self):
        """The pod leaves and another one comes. Its trainer is held, so that it is in mid-training whatever the machine."""
        pod = self.there.pod
        pod.signal_trainers(signal.SIGSTOP)
        pod.stop(then=lambda: pod.signal_trainers(signal.SIGCONT))
        self.there.start()


def smoke(there, keeps_callers_out):
    """What smoke.sh says: {name of a check: whether it passed}, and its exit status."""
    played = Played(there, keeps_callers_out)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            order = json.loads(self.rfile.read())
            code, said = played.answer(order["words"], order["input"])
            self.wfile.write(json.dumps({"code": code, "said": said}).encode())

    (there.home / "bin").mkdir()
    (there.home / "bin/kubectl").symlink_to(PLAYED)
    (there.home / "bin/hone").symlink_to(there.hone)
    (there.home / "token").write_text(there.client["HONE_TOKEN"])
    (there.home / "rows.jsonl").write_text(ROWS.read_text() * 100)
    door = str(there.home / "cluster")
    environment = {
        "PATH": f"{there.home / 'bin'}:{os.environ['PATH']}",
        "PLAYED_CLUSTER": door,
        "HONE_TOKEN_FILE": str(there.home / "token"),
    }
    with socketserver.ThreadingUnixStreamServer(door, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = [ROOT / "k8s/smoke.sh", ROOT / "k8s/overlays/cpu", MODEL, there.home / "rows.jsonl"]
        done = subprocess.run(there.network.enter(script), env=environment, capture_output=True, text=True, timeout=300)
        server.shutdown()
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok  ", "FAILED"))]
    return {line[7:]: line.startswith("ok") for line in lines}, done.returncode, done.stdout + done.stderr


def plays(check, binaries, root):
    """k8s/smoke.sh against a played cluster, which lets every caller in, and has no seccomp profile but this machine's."""
    with cluster("cpu", binaries, root) as there:
        said, status, output = smoke(there, keeps_callers_out=False)
        failed = {name for name, passed in said.items() if not passed}
        lacking = {"a pod of another namespace does not"}
        if "Seccomp:\t2" not in Path("/proc/self/status").read_text():
            lacking.add("the runtime's seccomp profile is on")
        check("smoke.sh sees what this cluster lacks, and nothing else", failed == lacking and status == 1, output)
        compared = said.get("it ends with the bytes of the unbroken one")
        check("it evicts in mid-training, and compares the bytes", compared, output)
