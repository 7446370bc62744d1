"""Which versions of which targets have answered the requests of a run.

    versions = AnsweringVersions()
    for result in results:
        versions.add(result)
    versions.rows()

Requests without an answer are not counted.
"""

from __future__ import annotations

from router.loop.bundles.contents import AnsweredBy
from router.store.results import ScoredAnswer


class AnsweringVersions:
    """Counts answers by route, target, model and fingerprint."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, str], AnsweredBy] = {}

    def add(self, result: ScoredAnswer) -> None:
        """Count an answer, if it is one."""
        answer, at = result.answer, result.asked_at
        if answer is None or answer.text is None:
            return
        key = result.cell.route, answer.target, answer.model, answer.system_fingerprint
        before = self._rows.get(key)
        ends = (at,) if before is None else (at, before.first_at, before.last_at)
        times = [time for time in ends if time is not None]
        self._rows[key] = AnsweredBy(
            route=key[0],
            target=key[1],
            model=key[2],
            system_fingerprint=key[3],
            answers=1 if before is None else before.answers + 1,
            first_at=min(times, default=None),
            last_at=max(times, default=None),
        )

    def rows(self) -> list[AnsweredBy]:
        """Return the versions, in the order of these names."""
        return [self._rows[key] for key in sorted(self._rows)]
