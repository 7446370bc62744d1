"""Regenerates the reference pages, or checks that they are up to date.

    make docs                             # writes docs/reference/*.md
    cd docs && python -m tooling --check  # exit code 1, and the names of outdated pages

The pages are the same on every machine: a process of its own generates them, with none of the
caller's variables and with an empty home folder, so that neither keys nor installed data (WordNet)
show in them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tooling import pages
from tooling.markdown import REFERENCE, ROOT, UndocumentedError

GENERATE = "--in-this-process"


def main(arguments: list[str]) -> int:
    """Run the generator in a clean process and return its exit code."""
    if GENERATE in arguments:
        arguments.remove(GENERATE)
        return generate(arguments)
    with tempfile.TemporaryDirectory() as home:
        environ = {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8", "TZ": "UTC"}
        # On some processors BLAS does not work without one of these.
        blas = ("OPENBLAS_", "NVPL_")
        environ |= {name: os.environ[name] for name in os.environ if name.startswith(blas)}
        command = [sys.executable, "-E", "-X", "utf8", "-m", "tooling", GENERATE, *arguments]
        # A hung generator must not hang CI; it takes some seconds, torch included.
        return subprocess.run(
            command, cwd=ROOT / "docs", env=environ, check=False, timeout=600
        ).returncode


def generate(arguments: list[str]) -> int:
    """Write or check the pages in this process."""
    parser = argparse.ArgumentParser(prog="python -m tooling")
    parser.add_argument("folder", nargs="?", type=Path, default=REFERENCE, help="of the pages")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    try:
        outdated = pages.outdated(options.folder)
    except UndocumentedError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for path, text in outdated.items():
        if options.check:
            sys.stderr.write(f"{path} is out of date: run `make docs`\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    return 1 if outdated and options.check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
