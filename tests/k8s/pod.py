"""A pod without a cluster: what kubelet and container runtime make of the manifests, by this machine's own namespaces.

From the StatefulSet come command line, environment, user, groups, capabilities, read-only root, volumes, probes, preStop and
grace period. The root is read-only where the manifest says so; the volumes are folders that are bound to their mount paths;
processes and network are the pod's own. What a node does beyond that, limits of memory and processors and the seccomp
profile, is not there. Needs root, for namespaces.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from manifests import CACHE, ROOT, container, pod_spec, settings

INIT = Path(__file__).with_name("pod_init.py")
PATH = "/opt/hone/bin:/usr/local/bin:/usr/bin:/bin"


class Image:
    """A root, what is to be mounted into it, and the environment it sets."""

    def __init__(self, root, mounts=(), environment=()):
        self.root, self.mounts = Path(root), list(mounts)
        self.environment = {"PATH": PATH, **dict(environment)}

    @classmethod
    def of_a_build(cls, root):
        """As container/test.sh lays it out. Its programs look for LibTorch where they were built."""
        return cls(root, environment={"LD_LIBRARY_PATH": "/opt/hone/torch/lib"})

    @classmethod
    def of_this_machine(cls, root, binaries):
        """Made up from this machine's own /usr, hone's programs, and LibTorch, laid out as the real image is."""
        root.mkdir()
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "etc").mkdir()
        for name in ("hone-server", "hone-trainer", "hone"):
            if not (binaries / name).is_file():
                raise SystemExit(f"{binaries / name} is missing; run: make build")
        mounts = [("/usr", "/usr", True), ("/etc/ssl", "/etc/ssl", True)]
        mounts += [(str(binaries / name), f"/opt/hone/bin/{name}", True) for name in ("hone-server", "hone-trainer", "hone")]
        mounts.append((str(ROOT / "k8s/container/hone-health"), "/opt/hone/bin/hone-health", True))
        libtorch = (ROOT / ".libtorch").resolve()
        mounts.append((str(libtorch / "lib"), "/opt/hone/torch/lib", True))
        if (libtorch.parent / "nvidia").is_dir():
            mounts.append((str(libtorch.parent / "nvidia"), "/opt/hone/nvidia", True))
        # The programs look for LibTorch where they were built.
        return cls(root, mounts, {"LD_LIBRARY_PATH": "/opt/hone/torch/lib"})


class Network:
    """The network of a pod, held by a process that does nothing else, as in a cluster; pods may follow each other in it."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        if not self.holder.stdout.readline():
            raise SystemExit("this needs namespaces: run it as root, where unshare(1) is allowed")
        subprocess.run(self.enter([sys.executable, str(INIT), "loopback"]), check=True)

    def enter(self, command):
        """A command of this machine in this network."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--", *map(str, command)]

    def close(self):
        """Ends with its holder and those who use it."""
        self.holder.kill()
        self.holder.wait()


class Pod:
    """A pod of the StatefulSet. Pods that follow each other in one home share its volume."""

    def __init__(self, objects, home, image, network, secrets, settings_here=()):
        """`settings_here` are those that must differ on this machine."""
        self.network = network
        self.spec, self.container, self.home, self.image = pod_spec(objects), container(objects), home, image
        self.log = home / "server.log"
        self.context = {**self.spec["securityContext"], **self.container["securityContext"]}
        from_secrets = {
            one["name"]: secrets[one["valueFrom"]["secretKeyRef"]["name"]][one["valueFrom"]["secretKeyRef"]["key"]]
            for one in self.container.get("env", [])
            if "valueFrom" in one
        }
        self.environment = {**image.environment, **settings(objects), **from_secrets, **dict(settings_here)}
        self.mounts = self._mounts(secrets)
        self.process = self.pid = None

    def _mounts(self, secrets):
        volumes = {one["name"]: one for one in self.spec["volumes"]}
        mounts = list(self.image.mounts)
        for one in self.container["volumeMounts"]:
            folder = self.home / "volumes" / one["name"]
            volume = volumes.get(one["name"], {})
            if "secret" in volume:
                self._write_secret(folder, volume["secret"], secrets[volume["secret"]["secretName"]])
            elif "emptyDir" in volume:
                shutil.rmtree(folder, ignore_errors=True)
            # The folders of volumes belong to root and to the pod's fsGroup, with what is created in them.
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, 0, self.context["fsGroup"])
            folder.chmod(0o2775)
            mounts.append((str(folder), one["mountPath"], one.get("readOnly", False)))
        return mounts

    def _write_secret(self, folder, volume, content):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (folder / name).write_text(text)
            os.chown(folder / name, 0, self.context["fsGroup"])
            (folder / name).chmod(volume["defaultMode"])

    def _as_user(self, command):
        """A command with the rights that the manifest gives, and no others."""
        user, group, extra = self.context["runAsUser"], self.context["runAsGroup"], self.context["fsGroup"]
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={extra}"]
        if self.context.get("allowPrivilegeEscalation") is False:
            become.append("--no-new-privs")
        if self.context.get("capabilities", {}).get("drop") == ["ALL"]:
            become += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["/usr/bin/env", "-i", *variables, *become, *command]

    def start(self):
        """Starts the container, and waits until startup and readiness probe pass."""
        order = {
            "root": str(self.image.root),
            "mounts": self.mounts,
            "root_is_read_only": self.context.get("readOnlyRootFilesystem", False),
            "command": self._as_user(self.container["command"] + self.container.get("args", [])),
        }
        apart = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        command = self.network.enter([*apart, sys.executable, INIT, json.dumps(order)])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for name in ("startupProbe", "readinessProbe"):
            self._passes(name)
        return self

    def _passes(self, name):
        """Tries a probe as often as the manifest allows."""
        probe = self.container[name]
        for _ in range(probe.get("failureThreshold", 3)):
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            if self.find() and self.probe(name):
                return
            time.sleep(probe.get("periodSeconds", 10))
        raise SystemExit(f"the {name} never passed:\n{self.tail()}")

    def find(self):
        """The number of the container's first process, once there is one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.pid = int(children[0]) if children else None
        return self.pid

    def probe(self, name):
        """What the kubelet would see."""
        probe = self.container[name]
        if "grpc" in probe:
            ask = json.dumps({"service": probe["grpc"].get("service", "")})
            address = f"127.0.0.1:{probe['grpc']['port']}"
            grpcurl = [CACHE / "bin/grpcurl", "-plaintext", "-d", ask]
            command = self.network.enter([*grpcurl, address, "grpc.health.v1.Health/Check"])
        else:
            command = self.inside(probe["exec"]["command"])
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=probe.get("timeoutSeconds", 1))
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 and ("grpc" not in probe or '"SERVING"' in done.stdout)

    def inside(self, command):
        """A command of the container in it, as kubectl exec runs it."""
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--", *self._as_user(command)]

    def trainers(self):
        """Numbers of the server's child processes."""
        return [int(pid) for path in Path(f"/proc/{self.pid}/task").glob("*/children") for pid in path.read_text().split()]

    def signal_trainers(self, number):
        """Sends all of them a signal."""
        for pid in self.trainers():
            os.kill(pid, number)

    def stop(self, then=lambda: None):
        """What the kubelet does to a pod that has to go; `then` comes after the SIGTERM. Gives the seconds it took, and
        whether the pod left by itself before they were over."""
        grace = self.spec["terminationGracePeriodSeconds"]
        began = time.monotonic()
        time.sleep(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        os.kill(self.pid, signal.SIGTERM)
        then()
        try:
            status = self.process.wait(timeout=grace - (time.monotonic() - began))
        except subprocess.TimeoutExpired:
            self.kill()
            status = None
        return time.monotonic() - began, status == 0

    def kill(self):
        """Ends everything in the pod at once: with its first process go all others."""
        if self.process and self.process.poll() is None:
            os.kill(self.find() or self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self):
        """The end of the log."""
        return "\n".join(self.log.read_text().splitlines()[-15:])
