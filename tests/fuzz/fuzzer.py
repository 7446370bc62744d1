"""Fuzzes one property of `properties.py` with atheris.

    python tests/fuzz/fuzzer.py sse --seconds 60

It starts from `corpus/NAME/`; what widens its coverage goes to `found/NAME/`, ignored by Git, for
the next run. When a property fails, it exits with another code than 0, and the input that did it is
in `corpus/NAME/`: with a name that ends in `.seed`, `test_corpus.py` runs it from then on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

with atheris.instrument_imports(include=["providers", "router", "evaluators"]):
    from properties import PROPERTIES

# Longer inputs find nothing that shorter ones do not, and take longer.
MAX_BYTES = 4096


def main() -> None:
    """Fuzz until the time is up or a property fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROPERTIES)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    # A server that is cut in the middle says so; here that is every other one.
    logging.disable(logging.CRITICAL)
    found = HERE / "found" / given.name
    found.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "corpus" / given.name
    seeds.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={given.seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={seeds}/",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(seeds)], PROPERTIES[given.name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
