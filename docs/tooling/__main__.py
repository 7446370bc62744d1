"""Regenerates the reference pages, or checks that they are up to date.

    make docs                             # writes docs/reference/*.md
    cd docs && python -m tooling --check  # exit code 1, and the names of outdated pages

The pages are the same on every machine: a process of its own generates them, with none of the
caller's variables and with an empty home folder, so that neither keys nor installed data (WordNet)
show in them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from tooling.markdown import ROOT

# On some processors BLAS does not work without one of these.
_PASSED_ON = ("OPENBLAS_", "NVPL_")
# A generator that hangs must not hang CI; it takes some seconds, torch included.
_TIMEOUT_S = 600


def main(arguments: list[str]) -> int:
    """Run the generator in a clean process and return its exit code."""
    with tempfile.TemporaryDirectory() as home:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            # The code beside these pages, which is not always the code that is installed.
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "docs")]),
        }
        environ |= {name: os.environ[name] for name in os.environ if name.startswith(_PASSED_ON)}
        command = [sys.executable, "-X", "utf8", "-m", "tooling.generate", *arguments]
        return subprocess.run(command, env=environ, check=False, timeout=_TIMEOUT_S).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
