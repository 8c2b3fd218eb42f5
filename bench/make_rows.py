"""Makes prompt and completion rows of mixed length from the functions of Python's standard library.

A prompt is a function's signature with its docstring, the completion is its body. Real text with the long tail that makes
padding expensive. The rows depend on the Python version, so the digest is printed: compare runs with the same one only.
"""

import argparse
import ast
import hashlib
import json
import pathlib
import random
import sys
import sysconfig

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}


def source_files():
    """The library's own modules, in a fixed order."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts))


def function_rows(source):
    """One row for every documented function of a module that has a body beside its docstring."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            start = node.body[0].end_lineno
            yield {
                "prompt": "".join(lines[node.lineno - 1 : start]),
                "completion": "".join(lines[start : node.end_lineno]),
            }


def make_rows(seed):
    """All distinct rows in a shuffled order."""
    rows = {}
    for path in source_files():
        for row in function_rows(path.read_text(encoding="utf-8", errors="replace")):
            rows[row["prompt"] + row["completion"]] = row
    rows = [rows[key] for key in sorted(rows)]
    random.Random(seed).shuffle(rows)
    return rows


def write_rows(path, rows):
    """Writes rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    """Writes the rows and says what they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="JSONL file to write")
    parser.add_argument("--seed", type=int, default=0, help="order of the rows")
    arguments = parser.parse_args()
    write_rows(arguments.out, make_rows(arguments.seed))
    content = arguments.out.read_bytes()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"{content.count(10)} rows from Python {version}, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
