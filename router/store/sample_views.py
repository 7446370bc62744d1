"""What people see of a run's samples one by one: which match, their scores, and people's notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from evaluators.base import Sample
from router.store.results import ScoredAnswer

CellState = Literal["sent", "answered", "failed"]
# Characters of a sample that a list shows.
EXCERPT = 300


class SampleFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which samples of a run match; those that meet all conditions.

    Attributes:
        failed: with an answer that failed.
        shortfall: with an answer that was cut off, filtered or refused.
        noted: with a note or label of a person.
        column, value: whose row has this value in this column, or along this path; "" for any.
        text: with this text in the messages, the references or an answer, in upper or lower case.
    """

    failed: bool = False
    shortfall: bool = False
    noted: bool = False
    column: str = ""
    value: str = ""
    text: str = ""

    @property
    def reads_texts(self) -> bool:
        """Whether it needs the texts of samples, for which there is no index."""
        return bool(self.column or self.text)


class CellScore(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as a list shows it.

    Attributes:
        route, repeat: as in Cell.
        state: `sent` while the request is in flight.
        shortfall, error_code: as in Answer; "" for none.
        value: the score; None without one.
    """

    route: str
    repeat: int
    state: CellState
    shortfall: str
    error_code: str
    value: float | None


class ListedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample as a list shows it.

    Attributes:
        position: in the dataset's order, from 1.
        id: the sample's.
        excerpt: the beginning of the last message.
        cells: its answers by route and repeat.
        labels: what people labelled it.
        notes: how many people wrote a note or a label.
    """

    position: int
    id: str
    excerpt: str
    cells: tuple[CellScore, ...]
    labels: tuple[str, ...] = ()
    notes: int = 0


class SampleNote(msgspec.Struct, frozen=True, kw_only=True):
    """What one person says of one sample; a person has one note on each.

    Attributes:
        position: the sample's, from 1.
        key_id: the id of the person's key; "" on a server that needs none.
        author: the key's name.
        label: a short word of theirs, "" for none.
        note: a text, "" for none.
        at: when it was written, seconds since the epoch.
    """

    position: int
    key_id: str
    author: str
    label: str
    note: str
    at: float


def field_text(value: Any) -> str:
    """Return the value of a row's column as a text."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class SampleViewStore(Protocol):
    """Reads samples one by one; raises NotFoundError where no run has the id."""

    async def matching_positions(
        self,
        run_id: str,
        matching: SampleFilter,
        *,
        after: int,
        until: int,
        limit: int,
        backwards: bool = False,
        among: Sequence[int] | None = None,
    ) -> list[int]:
        """Return the first positions of matching samples.

        Args:
            run_id: the run's.
            matching: which samples.
            after: only those behind this position.
            until: only those up to this one.
            limit: how many at most.
            backwards: whether to begin at the end.
            among: only these.
        """
        ...

    async def listed_samples(
        self, run_id: str, positions: Sequence[int], *, output: str
    ) -> list[ListedSample]:
        """Return the samples with these positions, in this order, with their scores of an output.

        Args:
            run_id: the run's.
            positions: those that the run does not have are left out.
            output: the score's name; "" for none.
        """
        ...

    async def sample_at(self, run_id: str, position: int) -> Sample | None:
        """Return the sample with this position; None where there is none."""
        ...

    async def position_of(self, run_id: str, sample_id: str) -> int | None:
        """Return the position of a sample; None where the run has none with this id."""
        ...

    async def results_at(
        self, run_id: str, position: int, *, routes: Sequence[str], repeat: int
    ) -> list[ScoredAnswer]:
        """Return the answers of routes to one sample, with their scores."""
        ...

    async def sample_differences(
        self, run_id: str, a: str, b: str, output: str, *, until: int
    ) -> list[tuple[int, float]]:
        """Return the samples that have scores of two routes, each with the means' difference.

        Args:
            run_id: the run's.
            a: the route whose mean it is that the other's is subtracted from.
            b: the other route.
            output: the score's name.
            until: the last position.
        """
        ...

    async def keep_note(
        self, run_id: str, note: SampleNote, *, before: float | None = None
    ) -> None:
        """Store a person's note in place of the one before; one without any text deletes it.

        Args:
            run_id: the run.
            note: the note.
            before: when the note that it takes the place of was written, 0 for none; None takes the
                place of any.

        Raises:
            NotFoundError: the run has no such sample.
            ConflictError: the note that is there is another one.
        """
        ...

    async def notes(self, run_id: str, position: int) -> list[SampleNote]:
        """Return what people say of a sample, oldest first."""
        ...
