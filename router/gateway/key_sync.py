"""Keeps the keys in memory and the store in step: rows are read, what keys spent is written down.

A task looks at the store every second, and as soon as the store tells of a change: it reads what
keys spent in all processes since the last time, and the keys themselves when they have changed;
beside it, another one writes down what keys spent here. A write that waits or fails holds up no
revocation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from providers.errors import EvalrouterError
from router.gateway.keys import Keys
from router.store.keys import KeyStore

log = logging.getLogger("evalrouter")

EVERY_S = 1.0  # between two looks at the store; also what a kill -9 may lose of a key's spend

_UNWRITTEN = "what keys spent is not written down"


class KeySync:
    """Reads keys from the store, and writes what they spent into it.

    Args:
        keys: the keys in memory.
        store: where they are stored; must be open before `load`.
        every: seconds between two looks at the store.
    """

    def __init__(self, keys: Keys, store: KeyStore, *, every: float = EVERY_S) -> None:
        self._keys = keys
        self._store = store
        self._every = every
        # The database that was read last, and its version.
        self._read_last = (0, -1)
        # `changes` of the state whose spend was taken over last; None before, and to read it all.
        self._spend_read: int | None = None
        self._refreshing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        # How many times the spend was taken away to be written.
        self._writes = 0
        # What fails at present, so that it is logged once and not every second.
        self._failing: set[str] = set()

    @property
    def is_writing(self) -> bool:
        """Whether spend is on its way to the store at this moment."""
        return self._writing is not None and not self._writing.done()

    async def load(self) -> None:
        """Read the keys and begin to watch for changes.

        Raises:
            StoreError: they cannot be read.
        """
        await self.refresh()
        self._watching = asyncio.create_task(self._watch(), name="evalrouter-keys")

    async def close(self) -> None:
        """Write down what was spent, and stop watching."""
        self._stopping.set()
        if self._watching is not None:
            await self._watching
            self._watching = None
            if self._writing is not None:
                await self._writing
            await self._try(_UNWRITTEN, self._write_down)

    async def refresh(self) -> None:
        """Read what changed in the store, and write down what was spent here.

        Raises:
            StoreError: it cannot be read or written; nothing of what was spent here is forgotten.
        """
        async with self._refreshing:
            await self._read()
            await self._write_down()

    async def _read(self) -> None:
        # What is on its way to the store may be in it or not, so sums say nothing meanwhile.
        was_writing = self.is_writing
        writes = self._writes
        generation = self._store.generation
        state = await self._store.key_state(self._spend_read)
        if (generation, state.version) != self._read_last:
            table = await self._store.keys()
            self._keys.replace_rows(table)
            self._read_last = (generation, table.version)
            if self._spend_read is not None:
                # Of other keys than before, or after another history.
                self._spend_read = None
                state = await self._store.key_state()
        if not was_writing and writes == self._writes:
            if self._spend_read is None:
                self._keys.learn_spend(state.spent)
            else:
                self._keys.learn_changes(state.spent)
            self._spend_read = state.changes

    async def _write_down(self) -> None:
        await self._write_spend()
        uses = self._keys.take_unwritten_uses()
        if uses:
            try:
                await self._store.add_key_uses(uses)
            except Exception:
                self._keys.put_back_uses(uses)
                raise

    async def _write_spend(self) -> None:
        """Raise the first error; what was refused stays here, without holding up the rest."""
        unwritten = self._keys.take_unwritten()
        if not unwritten:
            return
        self._writes += 1
        rows = [spend.row(*period) for period, spend in unwritten.items()]
        try:
            await self._store.add_key_spend(rows)
        except Exception:  # noqa: BLE001 - what is refused by itself as well is raised below
            # One that the store refuses must not cost the others. Together, so that a store that
            # refuses all of them is waited for once.
            results = await asyncio.gather(
                *(self._store.add_key_spend([row]) for row in rows), return_exceptions=True
            )
            refused = [
                (period, error)
                for period, error in zip(unwritten, results, strict=True)
                if isinstance(error, BaseException)
            ]
            self._keys.put_back({period: unwritten[period] for period, _ in refused})
            for _, error in refused:
                raise error from None

    async def _watch(self) -> None:
        seen = 0
        while not self._stopping.is_set():
            changed = asyncio.create_task(self._store.changed("keys", seen, self._every))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait([changed, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                stopping.cancel()
            if not self._stopping.is_set():
                seen = changed.result()
                await self._try("keys and budgets are out of date", self._read)
                if not self.is_writing:
                    self._writing = asyncio.create_task(
                        self._try(_UNWRITTEN, self._write_down), name="evalrouter-key-spend"
                    )

    async def _try(self, failing: str, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except Exception as error:  # the watch must outlive whatever happens
            # Keys as last read stay in force, spend stays in memory; logged once, not every second.
            if failing not in self._failing:
                unforeseen = not isinstance(error, EvalrouterError)
                log.error("%s: %s", failing, error, exc_info=unforeseen)
            self._failing.add(failing)
        else:
            self._failing.discard(failing)
