"""Deletion of requests wherever they are: each part that stores their texts has a step.

    deletion = RequestDeletion([recorded, recordings])
    done = await deletion.delete(TrafficFilter(user="ann"))

A part that copies texts of requests stores, with the copy, what a filter of requests selects by
(id, key, user, route, time and so on), because the requests themselves may be too old to be stored.
Its step deletes by that, and is one more in the list that `services.py` makes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from router.store.traffic import TrafficFilter


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted.

    Attributes:
        deleted: how many requests.
        related: how many rows that were made of requests, or are about them, went with them.
        complete: whether these were all.
        elsewhere: where texts of requests may be that cannot be told apart or recalled: for people
            to look at.
    """

    deleted: int = 0
    related: int = 0
    complete: bool = True
    elsewhere: tuple[str, ...] = ()


class DeletionStep(Protocol):
    """Deletes what one part of the program has of requests."""

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete what it has of the requests that match.

        Args:
            matching: which requests.
            at_most: about how many at a time, where more are left for the next call; None for all.
        """
        ...


async def delete_rows(
    delete: Callable[[int], Awaitable[int]], *, at_most: int | None, at_once: int
) -> Deletion:
    """Delete rows that are related to requests, a limited number at a time.

    Args:
        delete: deletes up to so many rows, and returns how many; fewer when none are left.
        at_most: how many rows in all; None for all there are.
        at_once: how many at a time.
    """
    related = 0
    while at_most is None or related < at_most:
        limit = at_once if at_most is None else min(at_once, at_most - related)
        count = await delete(limit)
        related += count
        if count < limit:
            return Deletion(related=related)
    return Deletion(related=related, complete=False)


class RequestDeletion:
    """Deletes requests wherever they are.

    Args:
        steps: in their order; the next one begins when one is complete.
    """

    def __init__(self, steps: Sequence[DeletionStep]) -> None:
        self._steps = steps

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the requests that match, with their bodies and what was copied of them."""
        deleted = related = 0
        elsewhere: list[str] = []
        complete = True
        for step in self._steps:
            done = await step.delete(matching, at_most=at_most)
            deleted += done.deleted
            related += done.related
            elsewhere += done.elsewhere
            complete = done.complete
            if not complete:
                break
        return Deletion(
            deleted=deleted, related=related, complete=complete, elsewhere=tuple(elsewhere)
        )

    async def delete_named(
        self, name: str, *, key_id: str | None = None, named_by: str = ""
    ) -> Deletion:
        """Delete the request of a record's id, else those that a client gave a name.

        Args:
            name: the id of the record, or the `x-request-id` of the requests.
            key_id: selects requests of one key; None selects all.
            named_by: the key that has sent `x-request-id`, because others may have sent the same.
        """
        deletion = await self.delete(TrafficFilter(id=name, key_id=key_id))
        if deletion.deleted or deletion.related:
            return deletion
        return await self.delete(TrafficFilter(request_id=name, key_id=named_by))


class Recordings:
    """The files that providers record to (`record:` in the config).

    A line there has a request's text, but neither its id nor its key nor its moment: so the files
    are named, for people to delete.

    Args:
        files: for each provider that has one, its name and the file.
    """

    def __init__(self, files: Iterable[tuple[str, Path]]) -> None:
        self._files = list(files)

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete nothing, and name the files that have something."""
        elsewhere = tuple(
            f"providers.{name}.record: {path}" for name, path in self._files if _has_bytes(path)
        )
        return Deletion(elsewhere=elsewhere)


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
