"""Reads what the pages need after the start, in a thread: no browser waits for it, nor the start.

    preparation = PagePreparation()
    await preparation.open()    # and requests are answered meanwhile

A template is compiled when it is read, 10 to 60 ms each, and the first reading of a report imports
scipy, a fifth of a second. Without this, the first load of a page takes that long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial

from evaluators.metrics import registry
from evaluators.stats.intervals import t_quantile
from router.api.page_layout import read_template, template_names
from router.api.static_files import version

log = logging.getLogger("evalrouter")


class PagePreparation:
    """Prepares the pages of a process once, a piece at a time."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(_prepare(), name="preparation of pages")

    @property
    def is_complete(self) -> bool:
        """Whether everything is read."""
        task = self._task
        return task is not None and task.done() and not task.cancelled()

    async def close(self) -> None:
        """Stop after the piece that is being read."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


async def _prepare() -> None:
    for read in pieces():
        try:
            await asyncio.to_thread(read)
        except Exception as error:  # noqa: BLE001  # the page that needs it will say so
            log.warning("a part of the pages could not be prepared: %s", error)


def pieces() -> Iterator[Callable[[], object]]:
    """Yield functions that each read a piece of what pages need."""
    yield version
    for name in template_names():
        yield partial(read_template, name)
    yield _import_statistics
    for name in registry.METRICS:
        yield partial(registry.constructor, name)


@cache
def _import_statistics() -> None:
    # The first call imports scipy, as the first interval of a report does.
    t_quantile(0.975, 9.0)
