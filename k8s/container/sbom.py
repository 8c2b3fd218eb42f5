#!/usr/bin/env python3
"""A bill of materials of the images, CycloneDX 1.6 as JSON: crates that are built in, LibTorch's packages, Debian's.

Crates are those that cargo would build, with their digests from Cargo.lock; LibTorch's are the pins of scripts/fetch.py, or,
with CUDA, what the wheel brought along, which libtorch.sh has listed; Debian's are read from dpkg's status file.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("hone-server", "hone-trainer", "hone-client")


def component(kind, name, version, licence=None, sha256=None):
    """One component, named by its package URL."""
    one = {"type": "library", "name": name, "version": version, "purl": f"pkg:{kind}/{name}@{version.replace('+', '%2B')}"}
    one["bom-ref"] = one["purl"]
    if licence:
        one["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    if sha256:
        one["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    return one


def crates():
    """What cargo builds into the programs, hone's own crates included."""
    tree = ["cargo", "tree", "--locked", "--edges", "normal", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none"]
    tree += ["--no-dedupe", "--format", "{p}|{l}", "--features", "hone-client/cli"]
    tree += [word for name in PROGRAMS for word in ("-p", name)]
    lines = subprocess.run(tree, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    digests = {(one["name"], one["version"]): one.get("checksum") for one in lock}
    found = {re.match(r"(\S+) v(\S+)[^|]*\|(.*)", line).groups() for line in lines if line}
    return [component("cargo", name, version, licence, digests[name, version]) for name, version, licence in sorted(found)]


def libtorch(folder):
    """The packages of LibTorch."""
    brought = Path(folder) / "lib/../packages"
    if brought.is_file():
        return [component("pypi", *line.rsplit("-", 1)) for line in brought.read_text().split()]
    sys.path.insert(0, str(ROOT / "scripts"))
    from fetch import PINS

    pins = [(*pin.split("=="), digest) for pin, digest in PINS.items() if re.match(r"torch=|nvidia-", pin)]
    return [component("pypi", name, version, sha256=digest) for name, version, digest in pins]


def debian(status):
    """The packages that dpkg has installed."""
    for paragraph in Path(status).read_text().split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version|Status): (.*)$", paragraph))
        if fields.get("Status", "").endswith(" installed"):
            yield component("deb/debian", fields["Package"], fields["Version"])


def main():
    """Prints the bill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpkg-status", required=True)
    parser.add_argument("--libtorch", required=True, help="folder that libtorch.sh laid out")
    args = parser.parse_args()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    hone = {"type": "application", "name": "hone", "version": version, "bom-ref": "hone"}
    parts = [*crates(), *libtorch(args.libtorch), *debian(args.dpkg_status)]
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": hone}, "components": parts}
    json.dump(bill, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
