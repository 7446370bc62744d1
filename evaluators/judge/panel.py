"""Asks one or more judges about one answer, often enough to know how sure they are.

    polled = await poll(panel, ask, request, read)
    polled.value          # mean, median or majority of the judges
    polled.unparsed       # verdicts that could not be read, after `retries` more attempts each

Everything is asked at the same time; who asks bounds how much of it is in flight.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from evaluators.base import AskJudge, Judgement, JudgeRequest

Combine = Literal["mean", "median", "majority"]


class Panel(NamedTuple):
    """Who judges, and how often.

    Attributes:
        judges: routes.
        repeats: how often each of them judges the same answer.
        retries: how often a judge is asked again when its verdict cannot be read.
        combine: how several judges' means become one score; `majority` takes the most frequent
            of the verdicts, and their median where several are equally frequent.
    """

    judges: tuple[str, ...]
    repeats: int = 1
    retries: int = 2
    combine: Combine = "mean"

    @property
    def calls(self) -> int:
        """Requests for one answer, when every verdict can be read at once."""
        return len(self.judges) * self.repeats


class PanelRequest(NamedTuple):
    """What every judge of the panel is asked.

    Attributes:
        metric: who asks.
        sample_id: about which sample.
        messages: for a chat; empty with a `prompt`.
        prompt: for a completion.
        parameters: sent with it.
    """

    metric: str
    sample_id: str
    messages: tuple[dict[str, str], ...] = ()
    prompt: str | None = None
    parameters: Mapping[str, Any] = {}

    @property
    def text(self) -> str:
        """All that is asked, to recognise what comes back of it."""
        return self.prompt or "\n".join(message["content"] for message in self.messages)


class Reading(NamedTuple):
    """What a judgement says: a number, or why there is none."""

    value: float | None
    why: str = ""


class Polled(NamedTuple):
    """What a panel said about one answer.

    Attributes:
        verdicts: judge to its readable verdicts, in the order of its repeats.
        value: the panel's score; None where nothing could be read.
        unparsed: verdicts that could not be read.
        failed: verdicts that were not given, because the judge's target failed.
        why: why there is no value, or why the first missing verdict is missing.
    """

    verdicts: dict[str, tuple[float, ...]]
    value: float | None
    unparsed: int
    failed: int
    why: str

    @property
    def deviation(self) -> float | None:
        """Mean standard deviation between a judge's repeats; None with fewer than two."""
        spread = [statistics.stdev(one) for one in self.verdicts.values() if len(one) > 1]
        return statistics.fmean(spread) if spread else None


Read = Callable[[Judgement, str], Reading]


async def poll(panel: Panel, ask: AskJudge, request: PanelRequest, read: Read) -> Polled:
    """Ask every judge, every time it is to be asked.

    Args:
        panel: see Panel.
        ask: how to ask a judge.
        request: what.
        read: what a judgement says, given all that was asked.
    """
    wanted = [(judge, repeat) for judge in panel.judges for repeat in range(panel.repeats)]
    found = await asyncio.gather(
        *(
            _verdict(panel, ask, request, read, judge=judge, repeat=repeat)
            for judge, repeat in wanted
        )
    )
    verdicts: dict[str, list[float]] = {judge: [] for judge in panel.judges}
    unparsed = failed = 0
    why = ""
    for (judge, _), (reading, answered) in zip(wanted, found, strict=True):
        if reading.value is not None:
            verdicts[judge].append(reading.value)
            continue
        unparsed += answered
        failed += not answered
        why = why or f"{judge}: {reading.why}"
    by_judge = {judge: tuple(values) for judge, values in verdicts.items()}
    return Polled(by_judge, combined(by_judge, panel.combine), unparsed, failed, why)


def combined(verdicts: Mapping[str, Sequence[float]], combine: Combine) -> float | None:
    """One score from each judge's verdicts; every judge that gave one weighs the same."""
    means = [statistics.fmean(values) for values in verdicts.values() if values]
    if not means:
        return None
    if combine == "median":
        return statistics.median(means)
    if combine == "majority":
        counts = Counter(value for values in verdicts.values() for value in values)
        most = max(counts.values())
        return statistics.median(value for value, count in counts.items() if count == most)
    return math.fsum(means) / len(means)


async def _verdict(
    panel: Panel, ask: AskJudge, request: PanelRequest, read: Read, *, judge: str, repeat: int
) -> tuple[Reading, bool]:
    """The first verdict that can be read, and whether the judge answered at all."""
    reading = Reading(None)
    for attempt in range(1 + panel.retries):
        judgement = await ask(
            JudgeRequest(
                judge=judge,
                metric=request.metric,
                sample_id=request.sample_id,
                messages=request.messages,
                prompt=request.prompt,
                parameters=dict(request.parameters),
                repeat=repeat,
                attempt=attempt,
            )
        )
        if judgement.answer.text is None:
            # The dispatcher has tried again already, where that could help.
            return Reading(None, judgement.answer.error or "no answer"), False
        reading = read(judgement, request.text)
        if reading.value is not None:
            break
    return reading, True
