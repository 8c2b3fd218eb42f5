#!/usr/bin/env python3
"""Checks that every relative link of every Markdown file leads somewhere: to a file of this repository, and to a heading in it."""

import collections
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")


def main():
    """Says every link that leads nowhere."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pages = [ROOT / name for name in listed.splitlines()]
    broken = [f"{page.relative_to(ROOT)}: {link}" for page in pages for link in links(page) if not leads(page, link)]
    sys.exit("links that lead nowhere:\n" + "\n".join(broken) if broken else 0)


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page):
    """Targets of a page's relative links."""
    text = re.sub(r"`[^`\n]*`", "``", prose(page))
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def leads(page, link):
    """Whether there is what a link names."""
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return target.is_relative_to(ROOT) and target.exists() and (not anchor or anchor in anchors(target))


def anchors(page):
    """The anchors of a page's headings, made as GitHub makes them."""
    seen = collections.Counter()
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose(page), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1


if __name__ == "__main__":
    main()
