"""What a watch sends, and how far the answers are from its reference.

    sent = await requests_of(watch, datasets)       # or raises: no such dataset, no rows
    drawn = await ProbeSender(watch, sent, target, requester).send()
    if not drawn.why:
        anchor = anchor_of(watch, [drawn.values, ...])
        measured = measure(watch, sent, anchor, drawn.values)   # .distance

A probe counts where every request has an answer: without one of them its distance would not be
comparable with the others, and a host that is down has neither drifted nor stayed the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, Sample
from evaluators.data.dataset_process import in_thread
from evaluators.document import RunDocument
from evaluators.metrics.registry import build
from evaluators.stats.drift import (
    PromptAnchor,
    readable_draw,
    token_anchor,
    token_distance,
    token_distances,
)
from providers.errors import DatasetError, EvalrouterError
from router.config.watches import WatchSettings
from router.datasets.registry import DatasetRegistry
from router.evals.requests import CompletedRequest, EvalRequester
from router.evals.samples import prepare

PROMPTS: tuple[str, ...] = (
    "Pick a number between 1 and 100. Answer with the number only.",
    "Name a colour. Answer with one word.",
    "Complete with one word: The weather today is",
    "x",
    "Which animal is the friendliest? Answer with one word.",
    "Is it better to be early or late? Answer with one word.",
    "Erzähle mir eine Geschichte.",
    "def f(",
)
"""The fixed set: short, with several likely first tokens, because a certain one shows little."""

MAX_ANSWER = 4000  # characters of an answer that are compared
FURTHEST = 5  # parts of a probe that are shown
TRIES = 3
_RETRY_S = 2.0
_ALTERNATIVES = 5


class WatchRequests(NamedTuple):
    """What a watch sends in each probe.

    Attributes:
        samples: the requests.
        dataset, dataset_hash: the dataset's version; "" without one.
        registered: its hash where it is a registered one, whose rows may be deleted; else "".
    """

    samples: tuple[Sample, ...]
    dataset: str = ""
    dataset_hash: str = ""
    registered: str = ""

    def made_for(self, watch: WatchSettings, target: str) -> str:
        """Return a hash of what is sent to whom, and how it is compared.

        A reference that was made for something else says nothing about it.
        """
        what = [
            target,
            watch.compares,
            watch.repeats,
            [[sample.id, sample.messages, sample.parameters] for sample in self.samples],
        ]
        if watch.compares == "text":
            what += [watch.similarity, watch.max_tokens]
        return hashlib.sha256(msgspec.json.encode(what, order="sorted")).hexdigest()


class Drawn(msgspec.Struct, kw_only=True):
    """What a probe got.

    Attributes:
        values: for each request, its repeats: a token's alternatives, or a text.
        requests, answered: how many were sent, and how many of them count.
        cost_usd: what they cost, as far as prices are known.
        model, system_fingerprint: as the host reported them last.
        why: what is missing; "" for nothing.
    """

    values: list[list[Any]] = []
    requests: int = 0
    answered: int = 0
    cost_usd: float = 0.0
    model: str = ""
    system_fingerprint: str = ""
    why: str = ""


class MeasuredProbe(NamedTuple):
    """How far a probe is from its reference.

    Attributes:
        distance: of all parts together.
        furthest: the parts that are furthest: its name, `distance`, and what was answered.
    """

    distance: float
    furthest: list[dict[str, Any]]


async def requests_of(watch: WatchSettings, datasets: DatasetRegistry) -> WatchRequests:
    """Return what a watch sends.

    Raises:
        DatasetError, RunDocumentError, MissingExtraError: the dataset cannot be used.
    """
    if watch.dataset is None:
        return WatchRequests(
            tuple(
                Sample(id=f"prompt {n}", messages=({"role": "user", "content": prompt},))
                for n, prompt in enumerate(watch.prompts or PROMPTS, 1)
            )
        )
    document = RunDocument(
        dataset=watch.dataset, routes=(watch.target,), metrics=(), limit=watch.limits.rows
    )
    async with datasets.open(watch.dataset, base=Path.cwd(), over_http=False) as source:
        prepared = await in_thread(prepare, document, source, [])
        samples = await in_thread(lambda: tuple(prepared.samples()))
        if not samples:
            raise DatasetError(f"{watch.dataset} has no rows", param="dataset")
        return WatchRequests(
            samples, source.address, prepared.dataset.hash, registered=source.registered
        )


class ProbeSender:
    """Sends the requests of one probe, past every cache.

    Args:
        watch: the watch.
        sent: what is sent.
        target: the `provider/model` that gets it.
        requester: sends requests of evaluations.
    """

    def __init__(
        self, watch: WatchSettings, sent: WatchRequests, target: str, requester: EvalRequester
    ) -> None:
        self._watch = watch
        self._sent = sent
        self._target = target
        self._requester = requester
        if watch.compares == "logprobs":
            self._parameters: dict[str, Any] = {
                "max_tokens": 1,
                "logprobs": True,
                "top_logprobs": _ALTERNATIVES,
            }
        else:
            self._parameters = {"max_tokens": watch.max_tokens, "temperature": 0}
        self._slots = asyncio.Semaphore(watch.limits.concurrency)
        places = len(sent.samples)
        self._drawn = Drawn(
            values=[[None] * watch.repeats for _ in range(places)], requests=places * watch.repeats
        )

    async def send(self) -> Drawn:
        """Return what the requests got, as far as they did within the watch's time."""
        watch, drawn = self._watch, self._drawn
        why = ""
        try:
            async with asyncio.timeout(watch.limits.seconds), asyncio.TaskGroup() as tasks:
                for place in range(len(self._sent.samples)):
                    for repeat in range(watch.repeats):
                        tasks.create_task(self._send_one(place, repeat))
        except TimeoutError:
            why = f"the probe was not complete after {watch.limits.seconds:g} s"
        drawn.answered = sum(value is not None for values in drawn.values for value in values)
        if drawn.answered == drawn.requests:
            drawn.why = ""
        else:
            drawn.why = why or drawn.why or "answers are missing"
        return drawn

    async def _send_one(self, place: int, repeat: int) -> None:
        async with self._slots:
            for tried in range(TRIES):
                if tried:
                    await asyncio.sleep(_RETRY_S * 2**tried)
                if not await self._try(place, repeat):
                    return

    async def _try(self, place: int, repeat: int) -> bool:
        """Send a request; return whether the host has too many now, so that another try may do."""
        drawn, sample = self._drawn, self._sent.samples[place]
        try:
            prepared = self._requester.prepare(
                self._target, sample, self._parameters, fallback=False
            )
            completed = await self._requester.ask(prepared)
        except EvalrouterError as error:
            drawn.why = error.message
            return False
        answer = completed.answer
        drawn.cost_usd += answer.cost_usd or 0.0
        if answer.text is None:
            drawn.why = answer.error or "the target gave no answer"
            return completed.try_later
        drawn.model = answer.model or drawn.model
        drawn.system_fingerprint = answer.system_fingerprint or drawn.system_fingerprint
        value = drawn.values[place][repeat] = _value(self._watch, completed)
        if value is None:
            drawn.why = "the host gives no log probabilities that can be read; see compare: text"
        return False


def _value(watch: WatchSettings, completed: CompletedRequest) -> Any:
    if watch.compares == "text":
        return (completed.answer.text or "")[:MAX_ANSWER]
    if completed.completion is None:
        return None
    return readable_draw(completed.completion.logprobs.first()) or None


def anchor_of(watch: WatchSettings, draws: Sequence[list[list[Any]]]) -> dict[str, Any]:
    """Return what answers look like, as JSON types, from the first draws of a reference."""
    parts = list(zip(*draws, strict=True))
    if watch.compares == "logprobs":
        return {"prompts": [msgspec.to_builtins(token_anchor(part)) for part in parts]}
    return {"texts": [sorted({text for draw in part for text in draw}) for part in parts]}


def measure(
    watch: WatchSettings, sent: WatchRequests, anchor: Mapping[str, Any], values: list[list[Any]]
) -> MeasuredProbe:
    """Return how far a draw is from the anchor. May take a while: call it on a thread."""
    names = [sample.id for sample in sent.samples]
    if watch.compares == "logprobs":
        anchors = msgspec.convert(anchor["prompts"], list[PromptAnchor])
        distances = token_distances(anchors, values)
        total = token_distance(anchors, distances)
        shown = [
            {"reference": dict(_top(each.tokens)), "answer": dict(_top(value[0]))}
            for each, value in zip(anchors, values, strict=True)
        ]
    else:
        metric: Any = build(watch.similarity)
        distances = [
            1 - _similarity(metric, sample, texts, answers)
            for sample, texts, answers in zip(sent.samples, anchor["texts"], values, strict=True)
        ]
        total = math.fsum(distances) / len(distances)
        shown = [
            {"reference": texts[0][:500], "answer": answers[0][:500]}
            for texts, answers in zip(anchor["texts"], values, strict=True)
        ]
    order = sorted(range(len(names)), key=lambda n: -distances[n])[:FURTHEST]
    furthest = [{"id": names[n], "distance": distances[n]} | shown[n] for n in order]
    return MeasuredProbe(total, furthest)


def _top(alternatives: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(alternatives.items(), key=lambda pair: -pair[1])[:_ALTERNATIVES]


def _similarity(metric: Any, sample: Sample, texts: list[str], answers: list[str]) -> float:
    """Return the mean similarity of answers to the nearest text of the reference."""
    expected = [text for text in texts if text.strip()]
    values = []
    for text in answers:
        if not text.strip() or not expected:
            # An empty answer is like an empty one, and unlike any other.
            values.append(float(text.strip() in {each.strip() for each in texts}))
            continue
        reference = msgspec.structs.replace(sample, references=tuple(expected))
        score = metric.score(reference, Answer(text=text))[0].value
        values.append(0.0 if score is None else min(1.0, max(0.0, float(score))))
    return math.fsum(values) / len(values)
