"""A process that spends on a key (given on stdin) until killed: `python keys_process.py PATH`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from router.gateway.key_sync import KeySync
from router.gateway.keys import Keys
from router.store.sqlite import SqliteStore


def say(*words: object) -> None:
    """One line to the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(path: str) -> None:
    authorization = b"Bearer " + sys.stdin.readline().strip().encode()
    store = SqliteStore(Path(path))
    await store.open()
    keys = Keys()
    sync = KeySync(keys, store, every=1e6)
    await sync.load()

    def spend(times: int) -> None:
        for _ in range(times):
            keys.admit(keys.recognise({b"authorization": authorization}), "r").settle(10, 0.25)

    spend(40)
    await sync.refresh()
    say("written")
    spend(3)
    say("spent")
    await asyncio.sleep(1e6)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
