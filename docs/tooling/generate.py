"""Writes or checks the pages in this process; `__main__` gives it a clean one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tooling import pages
from tooling.markdown import REFERENCE, UndocumentedError


def main() -> int:
    """Write or check the pages and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tooling")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=REFERENCE, help="the folder of the pages"
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
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
    sys.exit(main())
