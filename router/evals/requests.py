"""Sends the requests of an evaluation, with the same plan and dispatch as live requests."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from evaluators.base import Answer, Judgement, JudgeRequest, Sample, Usage
from evaluators.document import RunDocument
from evaluators.text.answers import FILTERED, REFUSED, shortfall_of
from providers.base import OnUnsupported
from providers.completion import Completion, read_completion
from providers.errors import (
    EvalrouterError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
)
from providers.host_json import check_values, decode
from providers.names import MAX_NAME_BYTES, check_name
from providers.off_loop import off_loop
from providers.usage import ABSENT, count_of
from providers.wire import UNREADABLE
from router.config.section import IN_PLACE
from router.evals.concurrency import Pacing
from router.evals.local_models import InPlace, entry_of
from router.evals.run_log import RunLog
from router.gateway.dispatch import Dispatcher
from router.gateway.failures import falls_back
from router.gateway.prices import PriceBook
from router.gateway.recorder import Traffic, settle
from router.gateway.route_table import Routes
from router.gateway.routing import Plan, Table, share
from router.gateway.upstream import UpstreamRequest, UpstreamResponse
from router.records import Attempt, Record, Target, Trace, new_record_id
from serve.config import ModelConfig

# The error by which a host says that its filter held back the prompt or the answer.
_FILTER = frozenset[str | int]({"content_filter"})

# A verdict is among the last tokens; all alternatives of a whole answer would be megabytes.
_LAST_TOKENS = 32

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
        plan: where the request goes.
        upstream: what is sent.
        hash: SHA-256 over target and body, hex; requests with the same hash are the same.
    """

    plan: Plan
    upstream: UpstreamRequest
    hash: str


class CompletedRequest(NamedTuple):
    """An answer, and the attempts that led to it.

    Attributes:
        answer: the answer, or why the target gave none.
        attempts: the attempts, in order.
        try_later: whether the target only has too many requests now, so that it may well answer
            once its window (`concurrency.py`) lets the request through.
        completion: what the target sent, where that was an answer; None otherwise.
        status: the HTTP status with which the router would end such a request.
    """

    answer: Answer
    attempts: tuple[Attempt, ...]
    try_later: bool = False
    completion: Completion | None = None
    status: int = 200


class EmbeddingResult(NamedTuple):
    """What came of a request for embeddings.

    Attributes:
        vectors: one for each text, in order; empty where the request failed.
        answer: the request's cost, tokens and time; its text has no meaning.
        error: why the request failed; None where it did not.
    """

    vectors: list[list[float]]
    answer: Answer
    error: UpstreamError | None


def request_fields(sample: Sample, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the request for a sample, but for the model.

    Args:
        sample: whose messages to send.
        parameters: sent with them; they stand before those that the sample brings along.
    """
    return {**sample.parameters, **parameters, "messages": sample.messages}


class EvalRequester:
    """Turns samples into requests and replies into answers.

    Args:
        routes: the routes as they are now.
        dispatcher: sends requests.
        prices: what requests cost.
        traffic: takes a record of each request.
        models: the models that a run may load itself; see `for_run`.

    Attributes:
        pacing: how many requests each target gets at a time.
        prices: as given.
        in_place: the models that its run loads itself; None where it loads none.
        log: the log of its run, which has the requests that fail; None where it has none.
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
        self.log: RunLog | None = None

    def for_run(self, document: RunDocument, log: RunLog | None = None) -> EvalRequester:
        """Return a requester that knows `models/<name>` too, where the run has workers for them.

        `log` gets the requests that fail.
        """
        requester = copy.copy(self)
        requester.log = log
        if document.execution != "local":
            requester.in_place = InPlace(self._models)
        return requester

    @property
    def table(self) -> Table:
        """The routes as they are now. A run keeps to those that it began with."""
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
        """Return the request for a sample. A weighted route sends it always to the same target.

        Args:
            route: a route's name, or `provider/model`.
            sample: whose messages to send.
            parameters: sent with them; they stand before those that the sample brings along. What
                a host cannot express of these is left out, as it is in live requests.
            fallback: whether another target of the route may answer.
            table: the routes as they were when the run began; None for as they are.

        Raises:
            ModelNotFoundError: `route` is neither a route nor `provider/model`.
        """
        fields = request_fields(sample, parameters)
        return self._prepared(
            (table or self.table).plan(route, share(sample.id, route)),
            "chat/completions",
            fields,
            fallback=fallback,
            # A client's own request is sent as the route would send it.
            on_unsupported="drop" if sample.parameters else "error",
        )

    def prepare_judge_request(self, request: JudgeRequest) -> PreparedRequest:
        """Return the request for a judge. A weighted route sends a sample always to the same one.

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
        identity: dict[str, Any] = {"target": str(target), "fields": fields}
        if target.provider == IN_PLACE:
            # What stands behind another host's name is not known; here it is.
            identity["model"] = entry_of(self._models, target.model)
        if target in plan.policy.reasoning:
            # The host gets other fields, and its answer has another translation.
            identity["reasoning"] = plan.policy.reasoning[target]
        digest = hashlib.sha256(_encode_sorted(identity)).hexdigest()
        # The time-outs of a route are the user's; the id ties the target's logs to the run's.
        upstream = UpstreamRequest(
            path,
            envelope,
            stream=False,
            request_id=f"eval_{digest[:24]}",
            traffic_class="eval",
            on_unsupported=on_unsupported,
            pacing=self.pacing,
        )
        return PreparedRequest(plan, upstream, digest)

    def is_free(self, prepared: PreparedRequest) -> bool:
        """Return whether the request costs nothing, so that storing its answer saves nothing."""
        return self.prices.is_free(prepared.plan.targets[0])

    async def ask(
        self, prepared: PreparedRequest, *, tries: int = 1, trace: Trace | None = None
    ) -> CompletedRequest:
        """Send a request. A target's failure is an Answer with `error`.

        Tokens and cost are counted as for live requests, see `recorder.settle`; a failure that may
        have been paid for (an answer without text, a time-out) has them too.

        Args:
            prepared: the request.
            tries: attempts that the caller makes while the target has too many requests; what is
                tried again is no error in the log.
            trace: the trace that it is recorded in.
        """
        if trace is not None:
            upstream = msgspec.structs.replace(prepared.upstream, trace=trace)
            prepared = prepared._replace(upstream=upstream)
        at = time.time()
        completed, body = await self._ask(prepared)
        if self.log is not None:
            again = completed.try_later and len(completed.attempts) < tries
            self.log.add_attempts(completed.attempts, None if again else completed.answer.error)
        charged = await self._charged(prepared.plan, prepared.upstream, at, completed, body)
        if charged.attempts and not charged.answer.target and charged.answer.text is not None:
            # A filter held it back, so that the target was not to be charged for.
            answer = msgspec.structs.replace(charged.answer, target=charged.attempts[-1].target)
            return charged._replace(answer=answer)
        return charged

    async def ask_judge(
        self, prepared: PreparedRequest, *, trace: Trace | None = None
    ) -> Judgement:
        """Send a request to a judge. A target's failure is a judgement with `error`."""
        completed = await self.ask(prepared, trace=trace)
        completion = completed.completion
        tokens = completion.logprobs.last(_LAST_TOKENS) if completion else ()
        return Judgement(answer=completed.answer, tokens=tokens, request_hash=prepared.hash)

    async def _charged(
        self,
        plan: Plan,
        upstream: UpstreamRequest,
        at: float,
        completed: CompletedRequest,
        body: bytes,
    ) -> CompletedRequest:
        """Return a completed request with its tokens and cost; the metrics get a record of it.

        Args:
            plan: where the request went.
            upstream: what was sent.
            at: when it was sent, seconds since the epoch.
            completed: the answer and the attempts.
            body: what the target sent.
        """
        answer = completed.answer
        record = Record(
            id=new_record_id(),
            request_id=upstream.request_id,
            at=at,
            path=upstream.path,
            route=plan.route,
            target=Target.parse(answer.target) if answer.target else None,
            status=completed.status,
            error_code=answer.error_code or "",
            traffic_class="eval",
            attempts=completed.attempts,
            first_byte_s=answer.first_byte_s,
            total_s=answer.total_s or 0.0,
            # The run stores the answer itself; this is for the metrics.
            keep="none",
            tail=body,
            received=len(body),
            body=_encode(upstream.envelope),
            trace=upstream.trace,
        )
        if upstream.trace is not None and upstream.trace.wants_bodies:
            upstream.trace.bodies = (record.body, body)
        await off_loop(len(body), settle, record, self.prices)
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

    async def _ask(self, prepared: PreparedRequest) -> tuple[CompletedRequest, bytes]:
        """Return what came of a request, and the body of the response, whatever that is."""
        started = time.perf_counter()
        try:
            response = await self._open(prepared.plan, prepared.upstream)
        except UpstreamError as error:
            later = self.pacing.wait_of(error) is not None
            seconds = time.perf_counter() - started
            if falls_back(error, _FILTER):
                # Other hosts send an empty answer with this as its finish_reason.
                answer = _filtered(error, seconds)
                return CompletedRequest(answer, error.attempts, status=error.status), b""
            failed = _failed(error, seconds)
            return CompletedRequest(failed, error.attempts, later, status=error.status), b""
        body = response.body or b""
        try:
            total_s = time.perf_counter() - started
            answer, completion = await off_loop(
                len(body), _read, response, total_s, prepared.upstream.path
            )
            return CompletedRequest(answer, tuple(response.attempts), completion=completion), body
        except EvalrouterError as error:
            answer = _failed(error, time.perf_counter() - started, str(response.target))
            return CompletedRequest(answer, tuple(response.attempts), status=error.status), body
        finally:
            await response.aclose()

    async def _open(self, plan: Plan, upstream: UpstreamRequest) -> UpstreamResponse:
        if plan.targets[0].provider == IN_PLACE:
            assert self.in_place is not None, "else the table has no such target"
            return await self.in_place.open(plan, upstream)
        return await self._dispatcher.open(plan, upstream)

    async def embed(
        self, route: str, texts: Sequence[str], *, trace: Trace | None = None
    ) -> EmbeddingResult:
        """Request one vector for each text, always from the same target of the route.

        Raises:
            ModelNotFoundError: `route` is neither a route nor `provider/model`.
        """
        # Vectors of two models have nothing to do with each other.
        plan = self.table.plan(route, share("", route)).first_only()
        envelope = {"input": msgspec.Raw(_encode(texts))}
        upstream = UpstreamRequest(
            "embeddings",
            envelope,
            stream=False,
            request_id=f"eval_{hashlib.sha256(envelope['input']).hexdigest()[:24]}",
            traffic_class="eval",
            on_unsupported="error",
            trace=trace,
        )
        at, started = time.time(), time.perf_counter()
        try:
            response = await self._open(plan, upstream)
        except UpstreamError as error:
            failed = _failed(error, time.perf_counter() - started)
            completed = CompletedRequest(failed, error.attempts, status=error.status)
            if self.log is not None:
                self.log.add_attempts(completed.attempts, failed.error)
            charged = await self._charged(plan, upstream, at, completed, b"")
            return EmbeddingResult([], charged.answer, error)
        body, seconds = response.body or b"", time.perf_counter() - started
        await response.aclose()
        target, first_byte_s = str(response.target), response.first_byte_s
        vectors: list[list[float]] = []
        wrong: UpstreamError | None = None
        answer = Answer(text="", target=target, first_byte_s=first_byte_s, total_s=seconds)
        completed = CompletedRequest(answer, tuple(response.attempts))
        try:
            vectors = await off_loop(len(body), _read_vectors, body, len(texts))
        except UpstreamProtocolError as error:
            wrong = error
            failed = _failed(error, seconds, target)
            completed = completed._replace(answer=failed, status=error.status)
        if self.log is not None:
            self.log.add_attempts(completed.attempts, completed.answer.error)
        charged = await self._charged(plan, upstream, at, completed, body)
        return EmbeddingResult(vectors, charged.answer, wrong)


def _read(response: UpstreamResponse, total_s: float, path: str) -> tuple[Answer, Completion]:
    """Return the answer in a target's response, which took `total_s` seconds to arrive.

    Raises:
        UpstreamError: the response has no answer.
    """
    body = response.body
    if body is None:
        # A host that sends a stream unrequested: nothing of it can be relied upon.
        raise UpstreamStatusError(
            502, b"", {}, f"{response.target} sent a stream, which was not requested"
        )
    completion = read_completion(body, chat=path == "chat/completions")
    refused = REFUSED if completion.refusal and not completion.text else ""
    logprob_sum, logprob_tokens = completion.logprobs.total() or (None, None)
    answer = Answer(
        # A host may send null or an empty text for the same: both are read alike.
        text=completion.refusal if refused else completion.text or "",
        thinking=completion.thinking,
        shortfall=refused,
        target=str(response.target),
        model=completion.model[:MAX_NAME_BYTES],
        system_fingerprint=completion.system_fingerprint[:MAX_NAME_BYTES],
        finish_reason=completion.finish_reason[:MAX_NAME_BYTES],
        logprob_sum=logprob_sum,
        logprob_tokens=logprob_tokens,
        first_byte_s=response.first_byte_s,
        total_s=total_s,
        attempts=len(response.attempts),
        translation=response.translation,
    )
    blank = not (completion.text or "").strip()
    if not completion.has_choice or (blank and completion.calls_tools and not shortfall_of(answer)):
        # There is nothing a text metric could score.
        reason = f" (finish_reason {answer.finish_reason})" if answer.finish_reason else ""
        raise UpstreamError(
            f"{response.target} gave an answer without text{reason}", code="no_text"
        )
    return answer, completion


def _read_vectors(body: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an answer, in order.

    Raises:
        UpstreamProtocolError: it is no list of embeddings, or does not have `count` vectors.
    """
    try:
        check_values(body)
        data = _decode_vectors(body).data
    except UNREADABLE as error:
        raise UpstreamProtocolError(f"the answer is no list of embeddings: {error}") from error
    if len(data) != count:
        raise UpstreamProtocolError(f"{count} texts were answered with {len(data)} vectors")
    return _in_order(data)


def _in_order(data: Sequence[_Vector]) -> list[list[float]]:
    """Return the vectors in the order of their texts: by their indexes, or else as they came.

    Raises:
        UpstreamProtocolError: the indexes leave out a text.
    """
    indexes = [index for vector in data if (index := _index_of(vector)) is not None]
    if len(indexes) < len(data):
        return [vector.embedding for vector in data]
    if sorted(indexes) != list(range(len(data))):
        raise UpstreamProtocolError(f"the indexes of {len(data)} vectors are {indexes}")
    vectors = dict(zip(indexes, data, strict=True))
    return [vectors[n].embedding for n in range(len(data))]


def _index_of(vector: _Vector) -> int | None:
    """Return the vector's index; None without one, or for a number that cannot be one."""
    try:
        return count_of(decode(vector.index))
    except UNREADABLE:
        return None


def _filtered(error: UpstreamError, seconds: float) -> Answer:
    """Return the empty answer that stands for one that the host's filter held back."""
    return Answer(
        text="",
        shortfall=FILTERED,
        finish_reason="content_filter",
        cost_usd=0.0,
        total_s=seconds,
        attempts=len(error.attempts) or 1,
    )


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
