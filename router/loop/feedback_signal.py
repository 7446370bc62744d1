"""What feedback of one name says of a route's requests, as numbers that may be averaged.

    signal = await read_signal(store, "thumb", route="chat")
    signal.means()["req_1"]

Whoever may send feedback may send `true`, 4 and 1e12 by one name. So a name has one kind: truth
values or numbers, whichever more keys give (each key by what it gives more of). Where it is truth
values, numbers from 0 to 1 count as well, and all else is left out; where it is numbers, truth
values are left out. Numbers are drawn in to the median plus or minus `REACH` times their spread,
which is the interquartile range or the size of the median, whichever is larger (a winsorised mean:
Tukey 1962, Annals of Mathematical Statistics 33:1-67; the fences are those of his box plot, but for
the floor, which leaves rare ratings alone where most are the same). So what a key adds to a mean is
bounded by its share of the feedback; a key that gives most of it is named.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from router.store.feedback import FeedbackFilter, FeedbackRow, FeedbackStore

MAX_FEEDBACK = 200_000
"""So much feedback of a name is read, the newest."""

REACH = 3.0
_PAGE = 500


class GivenScore(NamedTuple):
    """Feedback about a request that has a score.

    Attributes:
        record_id, at: the request's.
        key_id, user, weight, score: the feedback's.
        kind: what its value was.
    """

    record_id: str
    at: float
    key_id: str
    user: str
    weight: float
    score: float
    kind: Literal["bool", "number"]


class FeedbackSignal(NamedTuple):
    """Feedback of one name.

    Attributes:
        kind: what the name's values are.
        given: what counts, by the request's record, the newest request first; numbers are drawn in.
        low, high: the range of its scores; None without any.
        left_out: how much was left out, because it is of the other kind.
        drawn_in: how many numbers were drawn in.
        keys: how many keys gave what counts.
        largest: the id of the key that gave most of it, and its share; "" for no key.
        complete: whether it is all there is.
    """

    kind: Literal["bool", "number"]
    given: Mapping[str, Sequence[GivenScore]]
    low: float | None
    high: float | None
    left_out: int
    drawn_in: int
    keys: int
    largest: tuple[str, float]
    complete: bool

    def means(self) -> dict[str, float]:
        """Return the weighted mean score of each request, by its record."""
        means = {}
        for record_id, scores in self.given.items():
            weight = math.fsum(each.weight for each in scores)
            if weight:
                total = math.fsum(each.weight * each.score for each in scores)
                means[record_id] = total / weight
        return means

    def warnings(self, name: str) -> list[str]:
        """Return what to bear in mind of the name's feedback."""
        warnings = []
        if self.left_out:
            other = "numbers beyond 0 and 1" if self.kind == "bool" else "truth values"
            kind = "truth values" if self.kind == "bool" else "numbers"
            warnings.append(
                f"feedback {name} is taken for {kind}: {self.left_out:,} that are {other} are left "
                "out"
            )
        if self.drawn_in:
            warnings.append(
                f"{self.drawn_in:,} values of feedback {name} are far from the others; they count "
                f"as {self.low:.6g} or {self.high:.6g}"
            )
        key, share = self.largest
        if self.keys > 1 and share > 0.5:
            giver = f"the key {key}" if key else "clients without a key"
            warnings.append(f"{giver} gave {share:.0%} of the feedback {name}")
        if not self.complete:
            warnings.append(f"only the newest {MAX_FEEDBACK:,} of feedback {name} are read")
        return warnings


async def read_signal(
    store: FeedbackStore, name: str, *, route: str, since: float | None = None
) -> FeedbackSignal:
    """Read the feedback of a name about a route's requests, given since a time, the newest."""
    matching = FeedbackFilter(name=name, route=route, since=since)
    scores: list[GivenScore] = []
    before = None
    complete = False
    while len(scores) < MAX_FEEDBACK:
        rows = await store.feedback(matching, limit=_PAGE, before=before)
        if not rows:
            complete = True
            break
        before = rows[-1].number
        scores += _scores(rows)
    return await asyncio.to_thread(signal_of, scores, complete=complete)


def _scores(rows: Sequence[FeedbackRow]) -> list[GivenScore]:
    return [
        GivenScore(
            row.record_id, row.request_at, row.key_id, row.user, row.weight, row.score, row.kind
        )
        for row in rows
        if row.record_id and row.score is not None and row.kind in ("bool", "number")
    ]


def signal_of(scores: Sequence[GivenScore], *, complete: bool = True) -> FeedbackSignal:
    """Return what scores of one name say, by the rule above."""
    kind = _kind_of(scores)
    if kind == "bool":
        counted = [each for each in scores if 0 <= each.score <= 1]
        low, high = 0.0, 1.0
    else:
        counted = [each for each in scores if each.kind == "number"]
        low, high = _fences([each.score for each in counted])
    given: dict[str, list[GivenScore]] = {}
    drawn_in = 0
    for each in counted:
        score = min(max(each.score, low), high)
        drawn_in += score != each.score
        given.setdefault(each.record_id, []).append(each._replace(score=score))
    keys = Counter(each.key_id for each in counted)
    largest, count = max(keys.items(), key=lambda item: item[1], default=("", 0))
    return FeedbackSignal(
        kind=kind,
        given=given,
        low=low if counted else None,
        high=high if counted else None,
        left_out=len(scores) - len(counted),
        drawn_in=drawn_in,
        keys=len(keys),
        largest=(largest, count / max(1, len(counted))),
        complete=complete,
    )


def _kind_of(scores: Sequence[GivenScore]) -> Literal["bool", "number"]:
    """Return the kind that more keys give; of equally many, the one of which there is more."""
    by_key: dict[str, Counter[str]] = {}
    for each in scores:
        by_key.setdefault(each.key_id, Counter())[each.kind] += 1
    votes = Counter(
        "number" if counts["number"] > counts["bool"] else "bool" for counts in by_key.values()
    )
    total = Counter(each.kind for each in scores)
    numbers, truths = (votes["number"], total["number"]), (votes["bool"], total["bool"])
    return "number" if numbers > truths else "bool"


def _fences(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the range to which numbers are drawn in, which is no wider than that of them all."""
    if not numbers:
        return 0.0, 0.0
    values = np.array(numbers)
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75))
    spread = max(third - first, abs(median))
    if not spread and values.any():
        # Most are 0: what is usual of the others.
        spread = np.median(np.abs(values[values != 0]))
    low = max(values.min(), median - REACH * spread)
    high = min(values.max(), median + REACH * spread)
    return float(low), float(high)
