"""The record that every request leaves, and its parts: targets and attempts.

Everything above the config passes these around. `gateway/recorder.py` completes a record and
stores it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from providers.base import Path, Translation
from router.config.routes import KeepBodies

TrafficClass = Literal["live", "eval"]
Arm = Literal["control", "candidate"]

# The longest name that somebody else chose, of a user or a conversation, that is stored as it is.
MAX_STORED_BYTES = 256
# More targets than that a route has only by mistake, and each takes room in every row.
MAX_CHOICES = 64
NO_CHOICES = msgspec.Raw(b"{}")


def stored_name(text: str) -> str:
    """Return a name that somebody else chose as it is stored: a long one as its SHA-256.

    So none is cut, and it is found by the whole name.
    """
    if len(text) * 4 <= MAX_STORED_BYTES:
        # No character has more bytes.
        return text
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= MAX_STORED_BYTES else f"sha256:{sha256(encoded).hexdigest()}"


def key_of_user(user: str) -> bytes:
    """Return what a choice that sticks to a user is hashed from, by the user's stored name."""
    return b"user " + user.encode("utf-8", "surrogatepass")


def new_record_id() -> str:
    """Return the id of a new record.

    Ids that sort by time are written into the store's index at its end, the cheapest place.
    """
    return "req_%032x" % (time.time_ns() << 64 | random.getrandbits(64))


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request to one target, or why it was not sent, and how it ended.

    Attributes:
        target: `provider/model`.
        result: "ok", the error's code, "breaker_open", "target_busy", "hedge_lost" or
            "cancelled" (the client left).
        status: HTTP status the target answered with, None when there was none.
        seconds: from sending to the first byte, or to the failure.
        paid: whether the target may charge for it although it led to no answer.
        began_s: seconds from the start of the request to when it was sent, or passed over; None in
            records of earlier versions.
    """

    target: str
    result: str
    status: int | None
    seconds: float
    paid: bool = False
    began_s: float | None = None


class Target(NamedTuple):
    """One model of one provider."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @classmethod
    def parse(cls, name: str) -> Target:
        """Read `provider/model`; the model's own name may contain slashes."""
        provider, _, model = name.partition("/")
        return cls(provider, model)


# The names are few, and every request needs its own several times.
@lru_cache(maxsize=4096)
def name_of(target: Target) -> str:
    """Return a target as `provider/model`."""
    return str(target)


class AssignedArm(NamedTuple):
    """Where a rollout has put a request.

    Attributes:
        rollout: the rollout's id.
        step: the position in the rollout's steps.
        arm: the side.
    """

    rollout: str
    step: int
    arm: Arm


class Odds:
    """The probability with which each target is the first that a request is sent to.

    Routes have theirs ready, so that a request costs no sums.

    Args:
        probabilities: of each target that may be the first. They add up to 1.

    Attributes:
        probabilities: as given.
        choices: the same by the targets' names, as JSON; none where only one target could be the
            first, or more than MAX_CHOICES.
    """

    __slots__ = ("_mixed", "_mixed_rate", "_mixed_target", "choices", "probabilities")

    def __init__(self, probabilities: Mapping[Target, float]) -> None:
        self.probabilities = probabilities
        self.choices = NO_CHOICES
        if 1 < len(probabilities) <= MAX_CHOICES:
            names = {str(target): value for target, value in probabilities.items()}
            self.choices = msgspec.Raw(msgspec.json.encode(names))
        # The last odds that were mixed of these, and of what.
        self._mixed: Odds | None = None
        self._mixed_rate = 0.0
        self._mixed_target: Target | None = None

    def mixed(self, rate: float, target: Target) -> Odds:
        """Return the odds where a target is taken with the probability `rate`, and else as here."""
        if target is self._mixed_target and rate == self._mixed_rate and self._mixed is not None:
            return self._mixed
        rest = {other: (1 - rate) * value for other, value in self.probabilities.items()}
        odds = Odds(
            {
                other: value
                for other, value in {**rest, target: rest.get(target, 0.0) + rate}.items()
                if value
            }
        )
        self._mixed, self._mixed_rate, self._mixed_target = odds, rate, target
        return odds


ChoiceReason = Literal[
    "cheapest",
    "none_good_enough",
    "stays",
    "explored",
    "unlike",
    "no_text",
    "no_model",
    "outdated",
    "expired",
    "drifted",
    "dimensions",
    "embeddings_changed",
    "embeddings_slow",
    "embeddings_failed",
    "unshared",
    "busy",
]


class PredictedTarget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was predicted of a target for a prompt.

    Attributes:
        target: `provider/model`.
        score: its score.
        bound: the lower bound of its score, or of the difference to the one it is compared with.
        cost_usd: US dollars; None where no cost of it is known.
        good: whether it is good enough by the bound.
    """

    target: str
    score: float
    bound: float
    cost_usd: float | None = None
    good: bool = False


class LearnedChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a learned route chose a target, or left the choice to its other strategy.

    Attributes:
        reason: `cheapest` (of the targets that are good enough), `none_good_enough` (the best one,
            or the one that others are compared with), `stays` (a conversation with its target) or
            `explored` (chance chose, by the route's `explore`). All others say why nothing is
            predicted: the prompt is `unlike` all that are known, has `no_text`; there is
            `no_model`, or it is `outdated` (made with other settings), `expired` or has `drifted`
            (many prompts are unlike those that it was made of); the embeddings have other
            `dimensions`, belong to another model (`embeddings_changed`), are late
            (`embeddings_slow`), fail, or may not see the texts (`unshared`); or too many requests
            wait for a prediction (`busy`).
        target: the target that was chosen by the prediction; "" without one.
        applied: whether the request was sent there for that reason.
        model: the id of the learned model; "" without one.
        neighbours: how many prompts each prediction was made of.
        similarity: the cosine of the least similar of them; None without a prediction.
        predictions: of the route's targets.
    """

    reason: ChoiceReason
    target: str = ""
    applied: bool = False
    model: str = ""
    neighbours: int = 0
    similarity: float | None = None
    predictions: tuple[PredictedTarget, ...] = ()


class TracedAttempt(NamedTuple):
    """An attempt as a span.

    Attributes:
        span_id: the span's.
        ended_at: when it ended, seconds since the epoch: for the one that led to an answer, when
            that began.
        attempt: the attempt.
    """

    span_id: int
    ended_at: float
    attempt: Attempt


class TracedStep(NamedTuple):
    """Something else that was done for a request, as a span.

    Attributes:
        span_id: the span's.
        name: the span's, as `cache`.
        began_at, ended_at: seconds since the epoch.
        attributes: by OpenTelemetry's names.
    """

    span_id: int
    name: str
    began_at: float
    ended_at: float
    attributes: Mapping[str, str | bool | int | float]


class Trace:
    """The place in a distributed trace (W3C Trace Context) of a request that is recorded there.

    Attributes:
        trace_id: of the whole trace.
        span_id: of this request.
        parent_id: of the span that it is below; None where the trace begins here.
        is_remote: whether that span is another program's.
        propagates: whether targets get the trace.
        attempts: those that have ended, in order.
        steps: what else was done. Whatever does something for a request adds it here.
        attributes: what the span has besides what its record says.
        links: other spans that this one follows from, as trace id and span id.
        wants_bodies: whether the span shows what was sent and what came back, although the record
            does not store it.
        bodies: both, once they are there.
    """

    __slots__ = (
        "attempts",
        "attributes",
        "bodies",
        "is_remote",
        "links",
        "parent_id",
        "propagates",
        "span_id",
        "steps",
        "trace_id",
        "wants_bodies",
    )

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        parent_id: int | None = None,
        *,
        is_remote: bool = False,
        propagates: bool = True,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.is_remote = is_remote
        self.propagates = propagates
        self.attempts: list[TracedAttempt] = []
        self.steps: list[TracedStep] = []
        self.attributes: dict[str, str | bool | int | float] = {}
        self.links: list[tuple[int, int]] = []
        self.wants_bodies = False
        self.bodies: tuple[bytes, bytes] | None = None

    def add_attempt(self, attempt: Attempt, span_id: int) -> None:
        """Add an attempt that has ended now; without an id for one that was not sent."""
        self.attempts.append(TracedAttempt(span_id or new_span_id(), time.time(), attempt))

    def add_step(
        self, name: str, began_at: float, attributes: Mapping[str, str | bool | int | float]
    ) -> None:
        """Add what was done for the request since a moment, and has ended now."""
        step = TracedStep(new_span_id(), name, began_at, time.time(), attributes)
        self.steps.append(step)

    def traceparent(self, span_id: int) -> str:
        """Return the `traceparent` of what is sent in a span; "" where targets do not get it."""
        return f"00-{self.trace_id:032x}-{span_id:016x}-01" if self.propagates else ""


def new_span_id() -> int:
    """Return a new id of a span."""
    return random.getrandbits(64) or 1


def span_id_of(record_id: str) -> int:
    """Return the id of a request's span by the id of its record, whose last half is random.

    So what is said of the request later finds its span, by a record that has the trace's id.
    """
    return int(record_id[-16:], 16) or 1


class Record(msgspec.Struct, kw_only=True, gc=False):
    """One request, from its first byte to its last.

    The hot path fills in the first group; `settle` reads the second out of `tail`. Nothing in it
    may refer back to the record: the garbage collector does not see it, because it would have
    thousands of them to walk.

    Attributes:
        id: ours, unlike any other record's; in the answer's header `x-evalrouter-record`.
        at: when the request came, seconds since the epoch.
        path: the path of OpenAI's endpoint.
        route: `model` in the client's request; "" when that was not readable.
        target: the target that answered; None when all failed or none was reached.
        status: HTTP status the client got; 499 when it left before there was one.
        error_code: the code of the error, "" without one. A stream can fail after status 200.
        stream: whether the answer is server-sent events.
        traffic_class: `live` or `eval`.
        cached: whether the response cache answered.
        key_id: the id of the client's key, "" without one.
        user: the client's own identifier of its user, by `stored_name`; "" without one.
        request_id: the client's `x-request-id`, which others may have chosen, too; "" where it sent
            none, so that it is `id`.
        conversation: the client's own name of the conversation, by `stored_name`; "" without one.
        stored: whether the client lets it be stored; without, its bodies are not.
        assigned: the arm of a rollout that it was assigned to; None without one.
        rollout, arm, step: of a request in its rollout's sample, the rollout, the arm, and the
            position in the rollout's steps; "" and 0 for all others.
        unit: a hash of whom the choice of the first target sticks to, by the rollout or else the
            route; "" where each request has a choice of its own.
        first: the target that its plan tries first, whoever answers in the end; None without a
            plan, as when the cache answers.
        odds: with which probability each target was the first; None where a client has named the
            target itself, and without a plan.
        request_bytes: bytes of the request's body.
        learned: why a learned route chose its target; None for other routes.
        attempts: the attempts at targets, in order.
        first_byte_s: seconds to the first byte of the answer; None without one.
        total_s: seconds to its last byte.
        translation: how the request's fields were translated; None when all were sent as they came.
        keep: how much of the request may be stored.
        hooks: which hooks get it after its answer, by the bits of `router.gateway.hooks`.
        request, response: bodies, only where `keep` is "full", or until the hook has them.
        tail: the answer's body or its last bytes, to read usage from; b"" without an answer.
        head: the first bytes of an answer's body of which `tail` is only the end.
        received: bytes of the answer's body, where `tail` is only its end; else 0.
        body: the client's request, to estimate its tokens from where the target does not say.
        trace: the request's place in a trace; None where it is not recorded in one.

        response_id: the `id` of the answer, by `stored_name`; "" without one.
        finish_reason, model, system_fingerprint: as the target reports them, "" otherwise.
        prompt_tokens, completion_tokens, total_tokens: as the target counted them, else as
            estimated; None where there is nothing to charge for.
        cached_tokens, written_tokens: of the prompt, those the target's own cache had or took.
        lost_tokens: estimated tokens of attempts that led to no answer although their target may
            charge for them: hedges that lost, time-outs, answers that were cut off.
        estimated: whether any of these numbers is an estimate, because a target did not say.
        cost_usd: US dollars, lost tokens included; None when unknown, 0 when nothing was paid.
        settled: whether the second group has been filled in.
    """

    id: str
    at: float
    path: Path = "chat/completions"
    route: str = ""
    target: Target | None = None
    status: int = 0
    error_code: str = ""
    stream: bool = False
    traffic_class: TrafficClass = "live"
    cached: bool = False
    key_id: str = ""
    user: str = ""
    request_id: str = ""
    conversation: str = ""
    stored: bool = True
    assigned: AssignedArm | None = None
    rollout: str = ""
    arm: Arm | Literal[""] = ""
    unit: str = ""
    step: int = 0
    first: Target | None = None
    odds: Odds | None = None
    learned: LearnedChoice | None = None
    request_bytes: int = 0
    attempts: Sequence[Attempt] = ()
    first_byte_s: float | None = None
    total_s: float = 0.0
    translation: Translation | None = None
    keep: KeepBodies = "metadata"
    hooks: int = 0
    request: bytes | None = None
    response: bytes | None = None
    tail: bytes = b""
    head: bytes = b""
    received: int = 0
    body: bytes = b""
    trace: Trace | None = None

    response_id: str = ""
    finish_reason: str = ""
    model: str = ""
    system_fingerprint: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    lost_tokens: int = 0
    estimated: bool = False
    cost_usd: float | None = None
    settled: bool = False

    @property
    def propensity(self) -> float | None:
        """The probability with which its first target was chosen; None where it is not known."""
        if self.odds is None or self.first is None:
            return None
        return self.odds.probabilities.get(self.first, 0.0)

    def target_name(self) -> str:
        """Return the target that answered, else that of the last attempt; "" without one."""
        if self.target is not None:
            return name_of(self.target)
        return self.attempts[-1].target if self.attempts else ""

    def billed_tokens(self) -> int | None:
        """Return the tokens that this request took; None when they are unknown."""
        if self.cached:
            return 0
        if self.target is None:
            return self.lost_tokens
        return None if self.total_tokens is None else self.total_tokens + self.lost_tokens
