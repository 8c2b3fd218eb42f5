"""Makes tests/fixtures/dynamic_map.json: the 256 numbers that bitsandbytes' 8-bit optimizers round moments to.

The function that makes them is taken out of the pinned wheel's source and run by itself: importing bitsandbytes would look for
CUDA, and the function needs nothing of it but torch.
"""

import argparse
import ast
import pathlib
import tempfile
import zipfile

import torch

import packages
import reference

PACKAGE = "bitsandbytes==0.50.2"
SHA256 = "55348a9a4a21bfd99cf8c7b32fe67b4030ae5c2a05738e03c1747f65fa6ec283"
# The wheel is for one platform; its Python files are the same in all.
OPTIONS = ("--only-binary", ":all:", "--platform", "manylinux_2_24_x86_64")
FUNCTION = "create_dynamic_map"


def create_dynamic_map():
    """The function of bitsandbytes."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        zipfile.ZipFile(packages.fetch(PACKAGE, SHA256, scratch, *OPTIONS)) as wheel,
    ):
        tree = ast.parse(wheel.read("bitsandbytes/functional.py"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == FUNCTION)
    names = {"torch": torch}
    exec(compile(ast.Module([function], []), PACKAGE, "exec"), names)
    return names[FUNCTION]


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "fixtures/dynamic_map.json")
    dynamic_map = create_dynamic_map()
    numbers = {name: reference.exact(dynamic_map(signed=name == "signed")) for name in ("signed", "unsigned")}
    parser.parse_args().out.write_text(reference.layout({"package": PACKAGE, **numbers}, 1) + "\n")


if __name__ == "__main__":
    main()
