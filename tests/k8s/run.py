#!/usr/bin/env python3
"""Checks of k8s/, without a cluster. `make k8s` calls it, with hone built and what it needs fetched.

    run.py [--bin FOLDER] [--image-root FOLDER] [check | drain]

check: every overlay against the schemas and the policies, and every policy against faults that it must see.
drain: the real server and trainer in a pod of the manifests, on this machine's /usr or in the root of an image; smoke.sh.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import containers
import drain
import manifests
import policies
import smoke
import telemetry
from manifests import OVERLAYS, ROOT
from mutations import MUTATIONS


# What a pod is made with.
TOOLS = {"curl": "curl", "openssl": "openssl", "nsenter": "util-linux", "setpriv": "util-linux"}


class Report:
    """Counts, and says what failed."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, name, ok, detail=""):
        self.passed += bool(ok)
        self.failed += not ok
        print(f"{'ok    ' if ok else 'FAILED'} {name}" + ("" if ok else f"\n       {detail}"), flush=True)


def check(report, binaries, _root):
    """Overlays, faults, container files."""
    server = binaries / "hone-server"
    for overlay in OVERLAYS:
        wrong = policies.broken(policies.case(overlay, server))
        for policy in policies.POLICIES:
            report(f"{overlay}: {policy.__name__}", policy.__name__ not in wrong, wrong.get(policy.__name__))
    for policy, overlay, fault, change in MUTATIONS:
        case = policies.case(overlay, server)
        change(case)
        wrong = policies.broken(case)
        report(f"fault in {overlay}, {fault}: {policy} sees it, no other does", set(wrong) == {policy}, wrong)
    unseen = {policy.__name__ for policy in policies.POLICIES} - {mutation[0] for mutation in MUTATIONS}
    report("there is a fault for every policy", not unseen, unseen)
    containers.check(report)
    telemetry.check(report, binaries)
    readme_overlays(report)


def readme_overlays(report):
    """The overlay that the README tells to write, on CPUs and, with its second block, on a bucket."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "k8s/README.md").read_text(), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("ours", blocks[0]), ("bucket", blocks[0].replace("../cpu", "../s3") + blocks[1])):
            copy = Path(folder) / name
            shutil.copytree(ROOT / "k8s", copy)
            (copy / "overlays/ours").mkdir()
            (copy / "overlays/ours/kustomization.yaml").write_text(text)
            objects = manifests.build(copy / "overlays/ours")
            image = manifests.container(objects)["image"]
            taken = image == "registry.example/hone:0.1.0-cpu"
            report(f"the README's overlay, {name}: it takes the image from elsewhere", taken, image)
        root = manifests.settings(objects)["HONE_STORAGE_ROOT"]
        report("the README's overlay, bucket: it names another bucket", root == "s3://bucket/hone", root)


def drains(report, binaries, root):
    """Every scenario, each in a folder and a network of its own."""
    for scenario in (*drain.SCENARIOS, smoke.plays):
        print(f"       {scenario.__doc__}")
        try:
            scenario(report, binaries, root)
        except Exception as error:  # one that broke off must not hide what the others find
            report(f"{scenario.__name__} comes to its end", False, repr(error))


def main():
    """Runs what is named."""
    parts = {"check": check, "drain": drains}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--bin", type=Path, default=target / "debug", help="folder of hone-server, hone-trainer and hone")
    parser.add_argument("--image-root", type=Path, help="root of an image that has them")
    parser.add_argument("part", nargs="?", choices=parts, help="both by default")
    args = parser.parse_args()
    wanted = [args.part] if args.part else list(parts)
    for tool, package in TOOLS.items() if "drain" in wanted else ():
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing; install it with: apt-get install {package}")
    report = Report()
    for name in wanted:
        parts[name](report, args.bin.resolve(), args.image_root)
    print(f"k8s: {report.passed} passed, {report.failed} failed")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
