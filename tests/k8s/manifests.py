"""The manifests as kustomize renders them, and questions to them."""

import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache"
# Where scripts/fetch.py put kubernetes-validate and its YAML.
sys.path.insert(0, str(CACHE / "kubernetes"))
import yaml  # noqa: E402

OVERLAYS = sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())


def render(overlay):
    """All objects of an overlay; the caller may change them."""
    return build(ROOT / "k8s/overlays" / overlay)


def build(folder):
    """All objects of a folder with a kustomization."""
    return list(yaml.safe_load_all(kustomized(folder)))


@functools.cache
def kustomized(folder):
    """They as text."""
    done = subprocess.run([CACHE / "bin/kubectl", "kustomize", folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"kubectl kustomize {folder}: {done.stderr}")
    return done.stdout


def of_kind(objects, kind):
    """The objects of a kind."""
    return [one for one in objects if one["kind"] == kind]


def only(objects, kind):
    """The one object of a kind."""
    (one,) = of_kind(objects, kind)
    return one


def pod_spec(objects):
    """What the StatefulSet makes pods from."""
    return only(objects, "StatefulSet")["spec"]["template"]["spec"]


def container(objects):
    """The one container of the pod."""
    (one,) = pod_spec(objects)["containers"]
    return one


def settings(objects):
    """The environment of the container, as far as the manifests hold it: name -> value, or None for one from a secret."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    found = {}
    for source in container(objects).get("envFrom", []):
        found.update(maps.get(source.get("configMapRef", {}).get("name"), {}))
    found.update({one["name"]: one.get("value") for one in container(objects).get("env", [])})
    return found


def seconds(text):
    """A duration as hone-server writes it."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def quantity(text):
    """A number of bytes or processors, as Kubernetes or hone-server writes it."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 0.001}
    text = str(text).removesuffix("B")
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)
