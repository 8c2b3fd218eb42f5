"""The documents in the hands of a reader who pastes their commands into a shell, one after the other."""

import os
import pathlib
import re
import subprocess
import sys

import hone


def read(name):
    """The text of a document."""
    return (hone.ROOT / name).read_text()


def blocks(name, language):
    """A document's blocks of code in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), flags=re.DOTALL | re.MULTILINE)


def paste(commands, **environment):
    """Runs commands as bash would, from the repository's root; returns what they print, errors too."""
    paths = [str(hone.binary("hone").parent), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=hone.ROOT,
        env={**os.environ, **environment, "PATH": ":".join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
