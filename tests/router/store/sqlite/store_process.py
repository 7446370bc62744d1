"""Another process on the store of test_processes.py: `python store_process.py WHAT PATH ...`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from evaluators.base import Answer, Cell
from providers.errors import StoreError
from router.store.sqlite import SqliteStore


def say(*words: object) -> None:
    """Send one line to the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def claim(store: SqliteStore, run_id: str, owner: str) -> None:
    """Print `ready`, wait for a line, claim, print whether that succeeded."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    say(await store.claim_run(run_id, owner, 60.0))


async def write(store: SqliteStore, run_id: str) -> None:
    """Begin and answer cells until killed; each line is a write that was acknowledged."""
    sample_ids = [sample.id async for sample in store.samples(run_id)]
    cells = (Cell("r", sample_id, n) for n in range(1000) for sample_id in sample_ids)

    async def write_cells() -> None:
        for cell in cells:
            await store.begin(run_id, cell, f"hash {cell.sample_id}", "p/m")
            say("begun", cell.sample_id, cell.repeat)
            answer = Answer(text=f"answer {cell.sample_id} {cell.repeat} " + "x" * 500)
            await store.keep_answer(run_id, cell, f"hash {cell.sample_id}", answer, [])
            say("stored", cell.sample_id, cell.repeat)

    await asyncio.gather(*(write_cells() for _ in range(16)))


async def fill(store: SqliteStore, run_id: str) -> None:
    """Answer until the disk is full; print which answers were stored, then the error."""
    try:
        for repeat in range(10_000):
            cell = Cell("r", "s0", repeat)
            answer = Answer(text="y" * 20_000)
            await store.keep_answer(run_id, cell, "hash", answer, [])
            say("stored", repeat)
    except StoreError as error:
        say("refused", error)
    say("progress", (await store.progress(run_id)).answered)


async def main(what: str, path: str, *rest: str) -> None:
    store = SqliteStore(Path(path))
    await store.open()
    await {"claim": claim, "write": write, "fill": fill}[what](store, *rest)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
