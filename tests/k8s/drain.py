"""The real server and trainer in a pod of the rendered manifests: drained in mid-training, killed, over TLS, on S3."""

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from manifests import CACHE, ROOT, pod_spec, render, settings
from pod import Image, Network, Pod

MODEL = ROOT / "tests/fixtures/models/llama_tied"
ROWS = ROOT / "tests/fixtures/sft/rows.jsonl"
STEPS, DRAINED_AT = 600, 20
# Of SeaweedFS, in the pod's own network: master, volume, filer, S3.
S3_PORTS = (9333, 8080, 8888, 8333)
S3_PORT = S3_PORTS[-1]


class Cluster:
    """One overlay, its secrets and its volume; pods come and go."""

    def __init__(self, overlay, home, binaries, root, settings_here=()):
        self.objects, self.home, self.hone = render(overlay), home, binaries / "hone"
        self.image = Image.of_a_build(root) if root else Image.of_this_machine(home / "root", binaries)
        # Of a tiny model's threads most of the time goes into waiting for each other.
        self.settings_here = {"OMP_NUM_THREADS": "1", **dict(settings_here)}
        self.network, self.pod = Network(), None
        made = subprocess.run(
            [binaries / "hone-server", "token", "ops", "--project", "default", "--role", "admin"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.secrets = {"hone-tokens": {"tokens": made.stderr}}
        self.client = {"PATH": os.environ["PATH"], "HONE_TOKEN": made.stdout.strip()}

    def start(self):
        """A pod that is ready."""
        self.pod = Pod(self.objects, self.home, self.image, self.network, self.secrets, self.settings_here).start()
        return self.pod

    def call(self, *words, check=True):
        """The command line, in the network of the pod."""
        command = self.network.enter([self.hone, *words])
        done = subprocess.run(command, env=self.client, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SystemExit(f"hone {' '.join(map(str, words))}: {done.stderr}\n{self.pod.tail()}")
        return done.stdout

    def train(self, steps=STEPS, save_every=0, seed=42):
        """A new job's id."""
        file = self.home / "job"
        more = ["--max-steps", steps, "--seed", seed, "--save-every", save_every, "--examples-per-step", 8]
        inputs = ["--model", MODEL, "--train", ROWS, "--learning-rate", "1e-2"]
        self.call("train", "sft", "--detach", "--job-file", file, *inputs, *more)
        return file.read_text().strip()

    def watch(self, job):
        """A job's events as they come."""
        command = self.network.enter([self.hone, "--json", "jobs", "watch", job])
        with subprocess.Popen(command, env=self.client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
            try:
                yield from map(json.loads, watch.stdout)
            finally:
                watch.kill()

    def adapter(self, job):
        """Digest of the weights that a job ended with."""
        folder = self.home / f"adapter-{job}"
        if not folder.exists():
            self.call("checkpoints", "download", job, "--to", folder)
        return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()

    def close(self):
        """Nothing is left."""
        if self.pod:
            self.pod.kill()
        self.network.close()


@contextmanager
def cluster(overlay, binaries, root, settings_here=()):
    """A cluster in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hone-k8s-") as folder:
        Path(folder).chmod(0o755)
        made = Cluster(overlay, Path(folder), binaries, root, settings_here)
        try:
            yield made
        finally:
            made.close()


def steps_of(events):
    """Numbers of the steps that a job told of, in order."""
    return [int(event["train_step"]["step"]) for event in events if "train_step" in event]


def held_in_mid_training(there, job):
    """Waits until a job has taken some steps, and holds its trainer: what follows must not depend on how fast it is."""
    for event in there.watch(job):
        if "train_step" in event and int(event["train_step"]["step"]) >= DRAINED_AT:
            there.pod.signal_trainers(signal.SIGSTOP)
            return
    raise SystemExit(f"{job} ended before it could be drained")


def drained(check, there):
    """Runs a job to its end, then another whose pod is drained in the middle; both must end with the same bytes."""
    pod = there.start()
    unbroken = there.train()
    events = list(there.watch(unbroken))
    check("an unbroken run takes all its steps", steps_of(events) == list(range(1, STEPS + 1)))

    job = there.train()
    held_in_mid_training(there, job)
    check("liveness and readiness pass in mid-training", pod.probe("livenessProbe") and pod.probe("readinessProbe"))
    watch = health_watch(there)
    took, by_itself = pod.stop(then=lambda: pod.signal_trainers(signal.SIGCONT))
    grace = pod_spec(there.objects)["terminationGracePeriodSeconds"]
    check(f"the drained pod leaves by itself, in {took:.1f} of {grace} s", by_itself and took < grace, pod.tail())
    told = health_told(watch)
    check("health turns to NOT_SERVING before it leaves", told[0] == "SERVING" and "NOT_SERVING" in told, told)

    there.start()
    check("the next pod takes the same volume", [one["job_id"] for one in jobs(there)] == [job, unbroken], jobs(there))
    events = list(there.watch(job))
    saved = [int(event["checkpoint_saved"]["step"]) for event in events if "checkpoint_saved" in event]
    check("the drain saved in mid-training", len(saved) == 2 and DRAINED_AT <= saved[0] < STEPS, saved)
    check("no step is lost or taken twice", steps_of(events) == list(range(1, STEPS + 1)))
    attempts = [events[-1]["attempt"], failures(events)]
    check("the next pod needed one more attempt and no retry", attempts == [2, ["PREEMPTED"]], attempts)
    check("the final adapter is that of the unbroken run, byte for byte", there.adapter(job) == there.adapter(unbroken))
    return unbroken, events


def jobs(there):
    """All jobs, newest first."""
    return [json.loads(line) for line in there.call("--json", "jobs", "list").splitlines()]


def failures(events):
    """Reasons of the failures that a job told of."""
    return [event["failure"]["reason"].removeprefix("FAILURE_REASON_") for event in events if "failure" in event]


def health_watch(there):
    """Starts to follow the server's health, and waits for its first word."""
    ask = [CACHE / "bin/grpcurl", "-plaintext", "-d", "{}", "127.0.0.1:7400", "grpc.health.v1.Health/Watch"]
    watch = subprocess.Popen(there.network.enter(ask), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watch.first = "".join(watch.stdout.readline() for _ in range(3))
    return watch


def health_told(watch):
    """All that it told, once the server has gone."""
    lines = (watch.first + watch.communicate()[0]).splitlines()
    return [line.split('"')[3] for line in lines if "status" in line]


def on_cpu(check, binaries, root):
    """The overlay cpu: rights, drain, and a kill."""
    with cluster("cpu", binaries, root) as there:
        unbroken, events = drained(check, there)
        pod = there.pod
        status = Path(f"/proc/{pod.pid}/status").read_text()
        rights = {line.split(":")[0]: line.split(":")[1].split() for line in status.splitlines()}
        check("the server runs as the manifest's user", set(rights["Uid"] + rights["Gid"]) == {"65532"}, rights)
        capabilities = {rights[name][0] for name in ("CapEff", "CapPrm", "CapBnd")}
        has_none = capabilities == {"0" * 16} and rights["NoNewPrivs"] == ["1"]
        check("it has no capabilities and gets no new rights", has_none, rights)
        write = pod.inside(["sh", "-c", "touch /x /opt/hone/x /usr/x"])
        wrote = subprocess.run(write, capture_output=True, text=True).stderr
        check("its root is read-only", wrote.count("Read-only file system") == 3, wrote)
        lines = "\n".join(map(json.dumps, events))
        told = subprocess.run([ROOT / "k8s/grace.py"], input=lines, capture_output=True, text=True)
        check("the manifest's grace covers what saves took", covers(there, told.stdout), told.stdout + told.stderr)
        killed(check, there, unbroken)
        other = there.train(seed=43)
        list(there.watch(other))
        check("another seed ends with other bytes", there.adapter(other) != there.adapter(unbroken))


def covers(there, told):
    """Whether the settings of the manifest are no smaller than those that grace.py computed."""
    stop, termination = (int("".join(filter(str.isdigit, line))) for line in told.splitlines())
    wanted = float(settings(there.objects)["HONE_STOP_GRACE"].removesuffix("s"))
    return stop <= wanted and termination <= pod_spec(there.objects)["terminationGracePeriodSeconds"]


def killed(check, there, unbroken):
    """A pod that is not given the time: what it had saved is gone on from, and the end is the same."""
    job = there.train(save_every=5)
    held_in_mid_training(there, job)
    there.pod.spec["terminationGracePeriodSeconds"] = 6
    took, by_itself = there.pod.stop()
    check("a pod that does not leave within its grace period is seen, and killed", not by_itself and took < 10)
    there.start()
    events = list(there.watch(job))
    went_on = set(steps_of(events)) == set(range(1, STEPS + 1)) and events[-1]["attempt"] == 2
    check("a killed pod's job goes on from its last checkpoint", went_on, events[-1])
    check("and ends with the same bytes", there.adapter(job) == there.adapter(unbroken))


def over_tls(check, binaries, root):
    """The overlay tls: probes, callers and trainers over TLS, by a certificate for the Service's name."""
    with cluster("tls", binaries, root) as there:
        there.secrets["hone-tls"] = certificate(there.home, "hone.hone.svc")
        there.client |= {"HONE_SERVER": "https://127.0.0.1:7400", "HONE_SERVER_NAME": "hone.hone.svc"}
        there.client["HONE_CA_FILE"] = str(there.home / "ca.crt")
        pod = there.start()
        job = there.train(steps=5)
        taken = steps_of(there.watch(job))
        check("a trainer dials over TLS, by the name in the certificate", taken == [1, 2, 3, 4, 5], pod.tail())
        asked = subprocess.run(pod.inside(["hone-health", "hone.v1.Nothing"]), capture_output=True, text=True)
        refused = asked.returncode == 1 and "not SERVING" in asked.stderr
        check("hone-health fails for a service that is not there", refused, asked)
        there.client["HONE_SERVER"] = "http://127.0.0.1:7400"
        check("plain HTTP is not served", there.call("info", check=False) == "")
        os.kill(pod.pid, signal.SIGSTOP)
        check("the liveness probe fails where the server hangs", not pod.probe("livenessProbe"))
        os.kill(pod.pid, signal.SIGCONT)
        took, by_itself = pod.stop()
        check("it leaves by itself", by_itself, pod.tail())


def certificate(home, name):
    """An authority of its own and what it signed for a name, with the keys of cert-manager's secrets."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca, key, cert = (str(home / one) for one in ("ca.crt", "tls.key", "tls.crt"))
    subprocess.run([*new, "-subj", "/CN=test", "-keyout", home / "ca.key", "-out", ca], check=True, capture_output=True)
    signed = ["-subj", "/CN=hone", "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
    signed += ["-CA", ca, "-CAkey", home / "ca.key", "-keyout", key, "-out", cert]
    subprocess.run([*new, *signed], check=True, capture_output=True)
    return {one: (home / one).read_text() for one in ("ca.crt", "tls.key", "tls.crt")}


def on_s3(check, binaries, root):
    """The overlay s3 with a real S3 server in the pod's network: drain with everything large in a bucket."""
    here = {"HONE_S3_ENDPOINT": f"http://127.0.0.1:{S3_PORT}"}
    with cluster("s3", binaries, root, here) as there, s3_server(there) as keys:
        there.secrets["hone-s3"] = keys
        drained(check, there)
        left = [path.name for path in (there.home / "volumes/data").iterdir()]
        check("the bucket holds what is large, the volume only jobs, logs and the cache", "storage" not in left, left)


@contextmanager
def s3_server(there):
    """SeaweedFS; gives the keys that it knows."""
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    credentials = {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "tests", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (there.home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (there.home / "s3").mkdir()
    flags = [f"-dir={there.home / 's3'}", f"-s3.config={there.home / 's3.json'}", "-s3", "-filer"]
    flags += [f"-{name}port={port}" for name, port in zip(("master.", "volume.", "filer.", "s3."), S3_PORTS, strict=True)]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    flags += ["-volume.max=200", "-master.volumeSizeLimitMB=64"]
    command = [CACHE / "bin/weed", "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    with open(there.home / "s3.log", "wb") as log:
        server = subprocess.Popen(there.network.enter(command), stdout=log, stderr=log)
    try:
        wait_for_s3(there, keys)
        yield keys
    finally:
        server.kill()
        server.wait()
        # It leaves sockets beside its own folder, for each port and its gRPC port, 10000 higher.
        for port in (*S3_PORTS, *(port + 10000 for port in S3_PORTS)):
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink()


def wait_for_s3(there, keys):
    """Its port opens long before it can write; a write needs a signature, which curl makes."""
    put = ["curl", "--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", ":".join(keys.values())]
    put += ["--upload-file", there.home / "s3.json", f"http://127.0.0.1:{S3_PORT}/hone/started"]
    for _ in range(240):
        if subprocess.run(there.network.enter(put), stdout=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.25)
    raise SystemExit(f"SeaweedFS does not serve: {(there.home / 's3.log').read_text()[-2000:]}")


SCENARIOS = (on_cpu, over_tls, on_s3)
