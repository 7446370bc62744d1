"""Asks one sample of one route for an evaluation: the same plan and dispatch as a live request."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from evaluators.base import Answer, JudgeRequest, Sample, Usage
from evaluators.document import RunDocument
from providers.base import OnUnsupported
from providers.completion import Completion, read_completion
from providers.errors import (
    EvalrouterError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
)
from providers.host_json import decode
from providers.names import MAX_NAME_BYTES, check_name
from providers.usage import ABSENT, count_of
from providers.wire import UNREADABLE
from router.config.section import IN_PLACE
from router.evals.concurrency import Pacing
from router.evals.local_models import InPlace, entry_of
from router.gateway.dispatch import Dispatcher
from router.gateway.prices import PriceBook
from router.gateway.recorder import Traffic, settle
from router.gateway.route_table import Routes
from router.gateway.routing import Plan, Table, share
from router.gateway.upstream import UpstreamRequest, UpstreamResponse
from router.records import Attempt, Record, Target
from serve.config import ModelConfig

EvalPath = Literal["chat/completions", "completions"]

# Key order must not change a request's hash.
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_encode = msgspec.json.Encoder().encode


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: msgspec.Raw = ABSENT


class _Vectors(msgspec.Struct):
    data: list[_Vector]


_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class PreparedRequest(NamedTuple):
    """A request that is ready to be sent.

    Attributes:
        plan: where to.
        work: what.
        hash: SHA-256 over target and body, hex: two requests with one hash ask the same thing.
    """

    plan: Plan
    work: UpstreamRequest
    hash: str


class Completed(NamedTuple):
    """An answer, and the attempts that led to it.

    Attributes:
        answer: the answer, or why there is none.
        attempts: in order.
        try_later: whether the target only has too many requests now: asked again once its window
            (`concurrency.py`) lets it, it may well answer.
        completion: what the target sent, where that was an answer; None otherwise.
        status: that of the HTTP response with which the router would end such a request.
    """

    answer: Answer
    attempts: tuple[Attempt, ...]
    try_later: bool = False
    completion: Completion | None = None
    status: int = 200


class Embedded(NamedTuple):
    """What came of a request for embeddings.

    Attributes:
        vectors: one for each text, in order; none where there is an error.
        answer: what it took; its text is not of use.
        error: why there are no vectors.
    """

    vectors: list[list[float]]
    answer: Answer
    error: UpstreamError | None


class EvalRequester:
    """Turns samples into requests and replies into answers.

    Args:
        routes: the routes as they stand.
        dispatcher: sends requests.
        prices: what they cost.
        traffic: takes a record of each.
        models: those that a run may load itself; see `for_run`.

    Attributes:
        pacing: how many requests each target gets at a time.
        prices: as given.
        in_place: the models that its run loads itself; None where it loads none.
    """

    def __init__(
        self,
        routes: Routes,
        dispatcher: Dispatcher,
        prices: PriceBook,
        traffic: Traffic,
        models: Mapping[str, ModelConfig] = {},
    ) -> None:
        self.pacing = Pacing()
        self._routes = routes
        self._dispatcher = dispatcher
        self.prices = prices
        self._traffic = traffic
        self._models = models
        self.in_place: InPlace | None = None

    def for_run(self, document: RunDocument) -> EvalRequester:
        """One that asks `models/<name>` too, where the run has workers to load them."""
        if document.execution == "local":
            return self
        found = copy.copy(self)
        found.in_place = InPlace(self._models)
        return found

    @property
    def table(self) -> Table:
        """The routes as they stand: a run keeps to those that it began with."""
        table = self._routes.table
        return table if self.in_place is None else table.in_place(self.in_place.names)

    def check_route(self, route: str) -> None:
        """Check that a name is a route or `provider/model`. Raises RequestError."""
        check_name(route, "route")
        self.table.plan(route, 0.0)

    def prepare(
        self,
        route: str,
        sample: Sample,
        parameters: dict[str, Any],
        *,
        fallback: bool,
        table: Table | None = None,
    ) -> PreparedRequest:
        """The request for a sample. A weighted route sends one sample always to the same target.

        Args:
            route: a route's name, or `provider/model`.
            sample: whose messages to send.
            parameters: sent with them.
            fallback: whether another target of the route may answer.
            table: the routes as they were when the run began; None for as they are.

        Raises:
            ModelNotFoundError: `route` is neither a route nor `provider/model`.
        """
        fields = {**parameters, "messages": sample.messages}
        return self._prepared(
            (table or self.table).plan(route, share(sample.id, route)),
            "chat/completions",
            fields,
            fallback=fallback,
            on_unsupported="error",
        )

    def prepare_judge_request(self, request: JudgeRequest) -> PreparedRequest:
        """The request for a judge, a weighted one always the same for the same sample.

        What the judge's host cannot express is left out, and its translation says so.

        Raises:
            ModelNotFoundError: the judge is neither a route nor `provider/model`.
        """
        chat = request.prompt is None
        content = {"messages": request.messages} if chat else {"prompt": request.prompt}
        return self._prepared(
            self.table.plan(request.judge, share(request.sample_id, request.judge)),
            "chat/completions" if chat else "completions",
            {**request.parameters, **content},
            fallback=False,
            on_unsupported="drop",
        )

    def _prepared(
        self,
        plan: Plan,
        path: EvalPath,
        fields: dict[str, Any],
        *,
        fallback: bool,
        on_unsupported: OnUnsupported,
    ) -> PreparedRequest:
        if not fallback:
            plan = plan.first_only()
        envelope = {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}
        target = plan.targets[0]
        asked: dict[str, Any] = {"target": str(target), "fields": fields}
        if target.provider == IN_PLACE:
            # What stands behind another host's name is not known; here it is.
            asked["model"] = entry_of(self._models, target.model)
        if target in plan.policy.reasoning:
            # The host gets other fields, and its answer has another translation.
            asked["reasoning"] = plan.policy.reasoning[target]
        digest = hashlib.sha256(_encode_sorted(asked)).hexdigest()
        # The time-outs of a route are the user's; the id ties the target's logs to the run's.
        work = UpstreamRequest(
            path,
            envelope,
            stream=False,
            request_id=f"eval_{digest[:24]}",
            traffic_class="eval",
            on_unsupported=on_unsupported,
            pacing=self.pacing,
        )
        return PreparedRequest(plan, work, digest)

    def is_free(self, prepared: PreparedRequest) -> bool:
        """Whether the request costs nothing, so that keeping its answer saves nothing."""
        return self.prices.is_free(prepared.plan.targets[0])

    async def ask(self, prepared: PreparedRequest) -> Completed:
        """Send it. A target's failure is an Answer with `error`.

        Its tokens and cost are those of live requests, see `traffic.settle`; a failure that may
        have been paid for (an answer without text, a time-out) has them too.
        """
        at = time.time()
        completed, body = await self._ask(prepared)
        return self._charged(prepared.plan, prepared.work, at, completed, body)

    def _charged(
        self, plan: Plan, work: UpstreamRequest, at: float, completed: Completed, body: bytes
    ) -> Completed:
        """Return what came of a request with its tokens and cost; the metrics get a record of it.

        Args:
            plan: where it went.
            work: what was sent.
            at: when it was sent, seconds since the epoch.
            completed: what came of it.
            body: what the target sent.
        """
        answer = completed.answer
        record = Record(
            id=work.request_id,
            at=at,
            path=work.path,
            route=plan.route,
            target=Target.parse(answer.target) if answer.target else None,
            status=completed.status,
            error_code=answer.error_code or "",
            traffic_class="eval",
            attempts=completed.attempts,
            first_byte_s=answer.first_byte_s,
            total_s=answer.total_s or 0.0,
            # The run keeps the answer itself; this is for the metrics.
            keep="none",
            tail=body,
            received=len(body),
            body=_encode(work.envelope),
        )
        settle(record, self.prices)
        self._traffic.add(record)
        if record.target is None and not record.lost_tokens:
            return completed
        used = Usage(
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            total_tokens=record.billed_tokens(),
        )
        answer = msgspec.structs.replace(
            answer, usage=used, cost_usd=record.cost_usd, estimated=record.estimated
        )
        return completed._replace(answer=answer)

    async def _ask(self, prepared: PreparedRequest) -> tuple[Completed, bytes]:
        """What came of it, and what the target sent, whether or not that is an answer."""
        started = time.perf_counter()
        try:
            opened = await self._open(prepared.plan, prepared.work)
        except UpstreamError as error:
            later = self.pacing.wait_of(error) is not None
            failed = _failed(error, time.perf_counter() - started)
            return Completed(failed, error.attempts, later, status=error.status), b""
        body = opened.body or b""
        try:
            answer, completion = _read(opened, started, prepared.work.path)
            return Completed(answer, tuple(opened.attempts), completion=completion), body
        except EvalrouterError as error:
            answer = _failed(error, time.perf_counter() - started, str(opened.target))
            return Completed(answer, tuple(opened.attempts), status=error.status), body
        finally:
            await opened.aclose()

    async def _open(self, plan: Plan, work: UpstreamRequest) -> UpstreamResponse:
        if plan.targets[0].provider == IN_PLACE:
            assert self.in_place is not None, "else there is no such plan"
            return await self.in_place.open(plan, work)
        return await self._dispatcher.open(plan, work)

    async def embed(self, route: str, texts: Sequence[str]) -> Embedded:
        """Request one vector for each text, always from the same target of the route.

        Raises:
            ModelNotFoundError: `route` is neither a route nor `provider/model`.
        """
        # Vectors of two models have nothing to do with each other.
        plan = self.table.plan(route, share("", route)).first_only()
        envelope = {"input": msgspec.Raw(_encode(texts))}
        work = UpstreamRequest(
            "embeddings",
            envelope,
            stream=False,
            request_id=f"eval_{hashlib.sha256(envelope['input']).hexdigest()[:24]}",
            traffic_class="eval",
            on_unsupported="error",
        )
        at, started = time.time(), time.perf_counter()
        try:
            opened = await self._open(plan, work)
        except UpstreamError as error:
            failed = _failed(error, time.perf_counter() - started)
            completed = Completed(failed, error.attempts, status=error.status)
            return Embedded([], self._charged(plan, work, at, completed, b"").answer, error)
        body, seconds = opened.body or b"", time.perf_counter() - started
        await opened.aclose()
        vectors: list[list[float]] = []
        wrong: UpstreamError | None = None
        answer = Answer(
            text="", target=str(opened.target), first_byte_s=opened.first_byte_s, total_s=seconds
        )
        completed = Completed(answer, tuple(opened.attempts))
        try:
            vectors = _read_vectors(body, len(texts))
        except UpstreamProtocolError as error:
            wrong = error
            failed = _failed(error, seconds, str(opened.target))
            completed = completed._replace(answer=failed, status=error.status)
        return Embedded(vectors, self._charged(plan, work, at, completed, body).answer, wrong)


def _read(opened: UpstreamResponse, started: float, path: str) -> tuple[Answer, Completion]:
    """Return the answer that a target's response has.

    Raises:
        UpstreamError: it has none.
    """
    body = opened.body
    if body is None:
        # A host that streams although it was not asked to: nothing of it can be relied upon.
        raise UpstreamStatusError(
            502, b"", {}, f"{opened.target} sent a stream, which was not requested"
        )
    total = time.perf_counter() - started
    completion = read_completion(body, chat=path == "chat/completions")
    if completion.text is None:
        # Tool calls, or a refusal without text: there is nothing a text metric could score.
        raise UpstreamError(f"{opened.target} gave an answer without text", code="no_text")
    logprob_sum, logprob_tokens = completion.logprobs.total() or (None, None)
    answer = Answer(
        text=completion.text,
        target=str(opened.target),
        model=completion.model[:MAX_NAME_BYTES],
        system_fingerprint=completion.system_fingerprint[:MAX_NAME_BYTES],
        finish_reason=completion.finish_reason[:MAX_NAME_BYTES],
        logprob_sum=logprob_sum,
        logprob_tokens=logprob_tokens,
        first_byte_s=opened.first_byte_s,
        total_s=total,
        attempts=len(opened.attempts),
        translation=opened.translation,
    )
    return answer, completion


def _read_vectors(body: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an answer, in order.

    Raises:
        UpstreamProtocolError: it is none, or has other than `count` vectors.
    """
    try:
        data = _decode_vectors(body).data
    except UNREADABLE as error:
        raise UpstreamProtocolError(f"the answer is no list of embeddings: {error}") from error
    if len(data) != count:
        raise UpstreamProtocolError(f"{count} texts were answered with {len(data)} vectors")
    return _in_order(data)


def _in_order(data: Sequence[_Vector]) -> list[list[float]]:
    """The vectors in the order of their texts: as their indexes say, or else as they came.

    Raises:
        UpstreamProtocolError: the indexes leave out a text.
    """
    indexes = [index for one in data if (index := _index_of(one)) is not None]
    if len(indexes) < len(data):
        return [one.embedding for one in data]
    if sorted(indexes) != list(range(len(data))):
        raise UpstreamProtocolError(f"the indexes of {len(data)} vectors are {indexes}")
    vectors = dict(zip(indexes, data, strict=True))
    return [vectors[n].embedding for n in range(len(data))]


def _index_of(vector: _Vector) -> int | None:
    """The vector's index; None where it has none, or a number that cannot be one."""
    try:
        return count_of(decode(vector.index))
    except UNREADABLE:
        return None


def _failed(error: EvalrouterError, seconds: float, target: str = "") -> Answer:
    message = str(error.as_openai()["error"]["message"])
    attempts: int = len(getattr(error, "attempts", ())) or 1
    return Answer(
        text=None,
        error=message[:2000],
        error_code=error.code or "error",
        target=target,
        total_s=seconds,
        attempts=attempts,
    )
