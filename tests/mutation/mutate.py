"""Mutates one module and counts the mutants that its tests kill.

    python tests/mutation/mutate.py routing --count 120

It prints the score and the survivors as diffs. It fails when a survivor is not explained in
`survivors.toml`, when an explained one no longer exists, and below the lowest score. Nothing in the
working tree changes unless `--add` asks for survivors to be added to that file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import survivors  # noqa: E402
from copies import Copy, Outcome, copy_tree, source_path  # noqa: E402
from modules import MODULES  # noqa: E402
from mutants import Mutant, drawn  # noqa: E402

PROCESSES = 2
LOWEST_SCORE = 0.9

_copy: Copy | None = None


def _start(folder: str, module: str, tests: Sequence[str]) -> None:
    global _copy  # noqa: PLW0603 - a process of the pool has one
    own = Path(tempfile.mkdtemp(dir=folder))
    copy_tree(ROOT, own)
    _copy = Copy(own, module, tests)


def _outcome(source: str) -> Outcome:
    assert _copy is not None
    return _copy.outcome(source)


def outcomes(name: str, mutants: Sequence[Mutant]) -> list[Outcome]:
    """Return what the tests of a module make of each of its mutants."""
    module, tests = MODULES[name]
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ProcessPoolExecutor(
            PROCESSES,
            mp_context=get_context("spawn"),
            initializer=_start,
            initargs=(folder, module, tests),
        ) as pool,
    ):
        for outcome in pool.map(_outcome, [one.source for one in mutants]):
            found.append(outcome)
            if len(found) % 20 == 0:
                print(f"{len(found)} of {len(mutants)}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Print what survives; the exit code is 1 when that is too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", choices=MODULES)
    parser.add_argument("--count", type=int, default=300, help="mutants at most")
    parser.add_argument("--seed", type=int, default=0, help="which of them are drawn")
    parser.add_argument("--add", action="store_true", help="add survivors to survivors.toml")
    given = parser.parse_args()
    path = source_path(MODULES[given.module].name)
    source = (ROOT / path).read_text()
    chosen, total = drawn(str(path), source, count=given.count, seed=given.seed)
    known = survivors.explained(given.module)
    ends = outcomes(given.module, chosen)
    alive = [one for one, end in zip(chosen, ends, strict=True) if end == "survived"]
    new = [mutant for mutant in alive if mutant.change not in known]
    for mutant in new:
        print(f"{mutant.diff}\n")
    score = 1 - len(alive) / len(chosen)
    print(
        f"{given.module}: {len(chosen) - len(alive)} of {len(chosen)} mutants killed, {score:.1%}, "
        f"{ends.count('stopped')} of them because they took too long ({total} mutations, seed "
        f"{given.seed}); of {len(alive)} survivors, {len(alive) - len(new)} are explained in "
        f"{survivors.FILE.name}"
    )
    gone = [change for change in known if not survivors.may_exist(change, source)]
    for change in gone:
        print(f"{survivors.FILE.name} explains what is no mutant any more:\n{change}\n")
    if given.add and new:
        survivors.add(given.module, dict.fromkeys(mutant.change for mutant in new))
    return 1 if new or gone or score < LOWEST_SCORE else 0


if __name__ == "__main__":
    sys.exit(main())
