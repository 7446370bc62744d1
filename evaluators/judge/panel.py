"""Polls one or more judges about one answer, often enough to know how sure they are.

    result = await poll(panel, ask, request, read)
    result.value          # mean, median or majority of the judges
    result.unparsed       # verdicts that could not be read, after `retries` more attempts each

All requests begin at the same time; `ask` limits how many of them are in flight.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from evaluators.base import AskJudge, Judgement, JudgeRequest, Verdict
from evaluators.judge.plain_text import text_of

Combine = Literal["mean", "median", "majority"]


class Panel(NamedTuple):
    """The judges of an answer, and the number of their verdicts.

    Attributes:
        judges: routes.
        repeats: the number of verdicts that each judge gives on the same answer.
        retries: how often a request is repeated when its verdict cannot be read.
        combine: how several judges' means become one score; `majority` takes the most frequent
            of the verdicts, and their median where several are equally frequent.
    """

    judges: tuple[str, ...]
    repeats: int = 1
    retries: int = 2
    combine: Combine = "mean"

    @property
    def calls(self) -> int:
        """Return the number of requests for one answer, if no verdict needs a second one."""
        return len(self.judges) * self.repeats


class PanelRequest(NamedTuple):
    """The request that every judge of the panel gets.

    Attributes:
        metric: the name of the metric that needs the verdicts.
        sample_id: the sample that the verdicts are about.
        messages: the messages of a chat; empty with a `prompt`.
        prompt: the text to complete; None for a chat.
        parameters: the other fields of the request.
        answer: the text of the answer that the verdicts are about.
    """

    metric: str
    sample_id: str
    messages: tuple[dict[str, str], ...] = ()
    prompt: str | None = None
    parameters: Mapping[str, Any] = {}
    answer: str = ""

    @property
    def text(self) -> str:
        """Return the text of the request, to recognise what a judge repeats of it."""
        return self.prompt or "\n".join(message["content"] for message in self.messages)


class Reading(NamedTuple):
    """The verdict of a judgement: a number, or None and the reason in `why`."""

    value: float | None
    why: str = ""


class PanelResult(NamedTuple):
    """The verdicts of a panel on one answer.

    Attributes:
        verdicts: judge to its readable verdicts, in the order of its repeats.
        value: the panel's score; None where no verdict could be read.
        unparsed: the number of verdicts that could not be read.
        failed: the number of verdicts that were not given, because the judge's target failed.
        why: the reason why the first missing verdict is missing, "" if all were given.
        readings: what each judgement was read as, those of unreadable attempts included.
    """

    verdicts: dict[str, tuple[float, ...]]
    value: float | None
    unparsed: int
    failed: int
    why: str
    readings: tuple[Verdict, ...] = ()

    @property
    def deviation(self) -> float | None:
        """Return the mean standard deviation between a judge's repeats; None with fewer than 2."""
        spread = [statistics.stdev(given) for given in self.verdicts.values() if len(given) > 1]
        return statistics.fmean(spread) if spread else None


Read = Callable[[Judgement, str], Reading]


async def poll(panel: Panel, ask: AskJudge, request: PanelRequest, read: Read) -> PanelResult:
    """Have every judge give all its verdicts.

    Args:
        panel: the judges.
        ask: sends a request to a judge.
        request: the request that each of them gets.
        read: returns the verdict of a judgement, given the text of the request.
    """
    calls = [(judge, repeat) for judge in panel.judges for repeat in range(panel.repeats)]
    given = await asyncio.gather(
        *(
            _verdict(panel, ask, request, read, judge=judge, repeat=repeat)
            for judge, repeat in calls
        )
    )
    verdicts: dict[str, list[float]] = {judge: [] for judge in panel.judges}
    unparsed = failed = 0
    why = ""
    for attempts, answered in given:
        last = attempts[-1]
        if last.value is not None:
            verdicts[last.judge].append(last.value)
            continue
        unparsed += answered
        failed += not answered
        why = why or f"{last.judge}: {last.why}"
    by_judge = {judge: tuple(values) for judge, values in verdicts.items()}
    value = combined(by_judge, panel.combine)
    readings = tuple(verdict for attempts, _ in given for verdict in attempts)
    return PanelResult(by_judge, value, unparsed, failed, why, readings)


def combined(verdicts: Mapping[str, Sequence[float]], combine: Combine) -> float | None:
    """Combine the judges' verdicts into one score; every judge with a verdict weighs the same."""
    means = [statistics.fmean(values) for values in verdicts.values() if values]
    if not means:
        return None
    if combine == "median":
        return statistics.median(means)
    if combine == "majority":
        counts = Counter(value for values in verdicts.values() for value in values)
        highest = max(counts.values())
        return statistics.median(value for value, count in counts.items() if count == highest)
    return math.fsum(means) / len(means)


async def _verdict(
    panel: Panel, ask: AskJudge, request: PanelRequest, read: Read, *, judge: str, repeat: int
) -> tuple[list[Verdict], bool]:
    """Return the verdict of each attempt, and whether the judge answered the last one at all.

    The last attempt is the first one whose verdict can be read.
    """
    attempts: list[Verdict] = []
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
                answer=request.answer,
            )
        )
        answered = text_of(judgement.answer) is not None
        # The dispatcher has repeated a failed request already, where that could help.
        reading = (
            read(judgement, request.text)
            if answered
            else Reading(None, judgement.answer.error or "no answer")
        )
        attempts.append(
            Verdict(
                judge=judge,
                repeat=repeat,
                attempt=attempt,
                request_hash=judgement.request_hash,
                value=reading.value,
                why="" if reading.value is not None else reading.why,
            )
        )
        if reading.value is not None or not answered:
            return attempts, answered
    return attempts, True
