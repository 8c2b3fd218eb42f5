"""What the container files must hold, and faults that must be seen in them."""

import re
from pathlib import Path

from manifests import ROOT

FOLDER = ROOT / "k8s/container"


def instructions(text):
    """Lines of a container file, continued ones joined, without comments."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [line.split(None, 1) for line in lines if line.strip()]


def bases_have_a_version(text):
    """Every image built upon has a version or a digest, or is a stage of the same file, or is empty."""
    arguments = dict(word.split("=", 1) for name, word in instructions(text) if name == "ARG" and "=" in word)
    stages = {"scratch"}
    for name, rest in instructions(text):
        if name == "FROM":
            image = re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], ""), rest.split()[0])
            if image not in stages and not re.search(r"(:\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})$", image):
                yield image
            stages.add(rest.split()[-1])


def nobody_is_root(text):
    """The stages that are shipped, which have a command, end as a numbered user."""
    for stage in re.split(r"(?m)^FROM ", text)[1:]:
        users = [rest for name, rest in instructions("FROM " + stage) if name == "USER"]
        if re.search(r"(?m)^(CMD|ENTRYPOINT) ", stage) and not (users and re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", users[-1])):
            yield stage.splitlines()[0]


def what_is_copied_is_there(text):
    """Sources of COPY out of the repository exist, and so does every script that is run."""
    for name, rest in instructions(text):
        words = [word for word in rest.split() if not word.startswith("--")]
        if name == "COPY" and "--from=" not in rest:
            yield from (word for word in words[:-1] if not (ROOT / word).exists())
        if name == "RUN":
            yield from (word for word in re.findall(r"k8s/container/[\w.-]+", rest) if not (ROOT / word).exists())


def what_is_copied_is_not_ignored(text):
    """Sources of COPY are let through by the ignore file, which lets nothing else through."""
    let_through = {line[1:] for line in (FOLDER / "Containerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in instructions(text):
        if name == "COPY" and "--from=" not in rest:
            paths = (Path(word) for word in rest.split()[:-1] if not word.startswith("--"))
            yield from (str(path) for path in paths if not let_through & {str(path), *map(str, path.parents)})


POLICIES = (bases_have_a_version, nobody_is_root, what_is_copied_is_there, what_is_copied_is_not_ignored)
MUTATIONS = (
    ("bases_have_a_version", "the newest base", r"(?m)^ARG DEBIAN=.*$", "ARG DEBIAN=docker.io/library/debian:latest"),
    ("bases_have_a_version", "a base without a version", r"(?m)^ARG RUST=.*$", "ARG RUST=docker.io/library/rust"),
    ("nobody_is_root", "root by oversight", r"(?m)^USER .*\n", ""),
    ("nobody_is_root", "root by number", r"(?m)^USER .*$", "USER 0:0"),
    ("what_is_copied_is_there", "a script by another name", r"k8s/container/build\.sh", "k8s/container/make.sh"),
    ("what_is_copied_is_there", "a file that is gone", r"COPY scripts/fetch.py ", "COPY scripts/fetch.py k8s/container/none "),
    ("what_is_copied_is_not_ignored", "a folder that no build sees", r"(?m)^COPY proto ", "COPY docs "),
)


def broken(text):
    """Policies that a container file breaks."""
    found = {policy.__name__: list(policy(text)) for policy in POLICIES}
    return {name: wrong for name, wrong in found.items() if wrong}


def check(report):
    """The file as it is, and with faults."""
    text = (FOLDER / "Containerfile").read_text()
    wrong = broken(text)
    for policy in POLICIES:
        report(f"Containerfile: {policy.__name__}", policy.__name__ not in wrong, wrong.get(policy.__name__))
    for policy, fault, old, new in MUTATIONS:
        changed = re.sub(old, new, text)
        wrong = broken(changed)
        sees = changed != text and set(wrong) == {policy}
        report(f"fault in Containerfile, {fault}: {policy} sees it, no other does", sees, wrong)
