"""The types of an evaluation: a Sample is sent, an Answer comes back, a Metric scores it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from providers.base import AS_IT_CAME, Translation


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a dataset, ready to be sent.

    Attributes:
        id: unique in the dataset; the row's `id` column or its 1-based row number as text.
        messages: the chat messages to send, rendered from the run's template.
        references: the answers a careful person would accept; may be empty.
        fields: the row's columns as they were read.
        answer: an answer that the dataset brings along: its `answer` column, Lumigator's
            `predictions`, OpenAI's `sample.output_text`; None in a dataset without answers. It
            belongs to no route: a run that is to score it says so, and every other run sends
            requests as if it were absent.
        parameters: fields that are sent with the messages, except for those that the run gives: of
            the row's `request_parameters`, or of a live request.
    """

    id: str
    messages: tuple[dict[str, Any], ...]
    references: tuple[str, ...] = ()
    fields: dict[str, Any] = {}
    answer: str | None = None
    parameters: dict[str, Any] = {}

    @property
    def cluster(self) -> str:
        """Return the group that the sample belongs to (its `cluster` column), "" for none."""
        value = self.fields.get("cluster")
        return "" if value is None else str(value).strip()


# The route of the answers that a dataset brings along. A provider named `dataset` is hidden by it.
PRECOMPUTED = "dataset/answer"


class Cell(NamedTuple):
    """The place of one answer in a run: the `repeat`-th (from 0) of a route to a sample."""

    route: str
    sample_id: str
    repeat: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the target counted them, else as estimated; None where they are unknown."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A route's answer to one sample, or the reason why it gave no answer.

    Attributes:
        text: the answer's text without thoughts; None for a failure (see `error`).
        whole_text: the text as it came, where thoughts were split off from it; None otherwise.
        thinking: the thoughts, whether the target sent them apart or within the text.
        shortfall: `truncated`, `unfinished` (thoughts alone), `unsplit` (thoughts may be left in),
            `filtered`, `refused`, or "".
        error: the reason for a failure, or None.
        error_code: the error's machine-readable code, or None.
        target: the `provider/model` that answered; "" when no target did.
        model: the model version the target says it is, "" when it says nothing.
        system_fingerprint: as the target reports it, "" otherwise.
        finish_reason: as the target reports it, "" otherwise.
        usage: tokens, as the target counted them, else as estimated.
        cost_usd: the cost of the call in US dollars; None when the price is unknown.
        estimated: whether tokens are estimated, and with them the cost, because a target did not
            count them.
        logprob_sum: natural logarithm of the probability of the whole answer, summed over its
            tokens; None when the target did not say.
        logprob_tokens: the number of those tokens; None when the target did not say.
        first_byte_s: seconds from sending to the first byte of the body; None without an answer.
        total_s: seconds from sending to the last byte, retries included.
        attempts: the number of requests that were sent, retries included; 0 for a cached answer.
        cached: whether the run cache answered instead of the target.
        cached_from: the id of the run whose request got a cached answer, also where that run's
            answer was taken from a third run's copy; "" where it is unknown.
        translation: how the request's fields were translated for the target.
    """

    text: str | None
    whole_text: str | None = None
    thinking: str = ""
    shortfall: str = ""
    error: str | None = None
    error_code: str | None = None
    target: str = ""
    model: str = ""
    system_fingerprint: str = ""
    finish_reason: str = ""
    usage: Usage = Usage()
    cost_usd: float | None = None
    estimated: bool = False
    logprob_sum: float | None = None
    logprob_tokens: int | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    attempts: int = 1
    cached: bool = False
    cached_from: str = ""
    # By a factory, because Litestar hashes default values for its OpenAPI document.
    translation: Translation = msgspec.field(default_factory=lambda: AS_IT_CAME)

    def is_taken(self, run_id: str) -> bool:
        """Return whether a run that has this answer took it from another run by the run cache."""
        return self.cached and self.cached_from != run_id


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One number a metric produces, declared before anything runs.

    Attributes:
        name: the name in reports and gates, for example `rougeL`.
        higher_is_better: None where neither direction is better (a length, say).
        low, high: the range of a score, None where unbounded.
        unit: "" for a plain number, else `s`, `USD`, `words`, ...
        corpus: for scores that are defined over a whole corpus (BLEU, chrF): takes the sum of the
            samples' `statistics` (a sequence of floats) and gives the corpus score. None means
            that a route's score is the mean over its samples.
        confusion: where the statistics are a confusion matrix, the names of its columns; its rows
            are the same without the last (for answers without a label). Reports show it.
        description: one sentence for a reader of the report.
        corrects: the name of the metric's output that this one is, corrected by people's scores;
            then the statistics are those of `prediction_powered.ppi_statistics`. "" for others.
        raw: whether another output of the metric is this one, corrected.
    """

    name: str
    higher_is_better: bool | None = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = ""
    corpus: Callable[[Sequence[float]], float] | None = None
    confusion: tuple[str, ...] = ()
    description: str = ""
    corrects: str = ""
    raw: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer of a judge was read as.

    Attributes:
        judge, repeat, attempt: as in JudgeRequest.
        request_hash: as in Judgement.
        value: the score; None where none could be read.
        why: the reason why none could be read, "" otherwise.
    """

    judge: str
    repeat: int
    attempt: int
    request_hash: str
    value: float | None
    why: str = ""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One output of one metric for one answer.

    Attributes:
        output: the declared Output's name.
        value: the number; None when it could not be computed (see `error`). Never NaN.
        statistics: the numbers of this sample that `Output.corpus` sums; empty for means.
        passed: for graders with a threshold, whether it was met; None otherwise.
        error: the reason why the value is missing.
        note: a remark on the value (a text was cut, say), in the same words for every answer that
            it applies to: a report counts equal notes.
        verdicts: the verdicts of judges that the value was made of, and those that could not be
            read.
    """

    output: str
    value: float | None
    statistics: tuple[float, ...] = ()
    passed: bool | None = None
    error: str = ""
    note: str = ""
    verdicts: tuple[Verdict, ...] = ()


class Scorable(NamedTuple):
    """An answer with a text, and the sample it answers."""

    sample: Sample
    answer: Answer


class Declared(Protocol):
    """A metric as it describes itself before anything runs.

    Attributes:
        name: the name in a run document.
        outputs: the numbers it produces; scoring returns exactly these, in this order.
        needs_reference: True when a sample without references cannot be scored.
        signature: implementation, version and every choice that changes the number, in the manner
            of sacreBLEU; stored with the run and printed in reports.
        source: the paper or reference implementation.
    """

    name: str
    outputs: tuple[Output, ...]
    needs_reference: bool
    signature: str
    source: str


class Metric(Declared, Protocol):
    """A pure scorer. See `metrics/exact_match.py` for a short one."""

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Score one answer that has a text. Pure: no IO, no clock, no randomness."""
        ...


@runtime_checkable
class PreloadedMetric(Protocol):
    """A metric that is slow to load, or may hang, so that only a worker process scores with it.

    Every other metric may score in the server's own process for the first moments of a run.
    """

    def load(self) -> None:
        """Load whatever scoring needs. Called once, in the worker, before anything is scored."""
        ...


@runtime_checkable
class IsolatedMetric(Declared, PreloadedMetric, Protocol):
    """A metric that gets a worker process of its own: it holds a model, or is a user's code.

    Attributes:
        load_s: seconds that `load` may take.
        sample_s: seconds that one answer may take.
    """

    load_s: float
    sample_s: float

    def score_batch(self, items: Sequence[Scorable]) -> Iterable[tuple[Score, ...]]:
        """Score answers, in order; each as soon as it is known."""
        ...


class Embed(Protocol):
    """Gets embeddings from a route. The router provides it."""

    async def __call__(self, route: str, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in order.

        Raises:
            EvalrouterError: the route is unknown, or its target failed.
        """
        ...


@runtime_checkable
class EmbeddingMetric(Declared, Protocol):
    """A metric that needs embeddings from a route, and so is scored where the router is.

    Attributes:
        route: the route that gives the embeddings.
    """

    route: str

    async def ask(self, items: Sequence[Scorable], embed: Embed) -> list[tuple[Score, ...]]:
        """Score answers, in order. After a target's failure, a score has no value."""
        ...


class JudgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a judge, and the numbers that tell it from others.

    Attributes:
        judge: the route of the judge.
        metric: the name of the metric that needs the judgement.
        sample_id: the sample that the judgement is about.
        messages: the chat messages; empty with a `prompt`.
        prompt: a text to complete, its chat template applied; None for a chat.
        parameters: the other fields of the request.
        repeat: the number of this judgement of the same answer, from 0.
        attempt: the number of earlier requests whose answers could not be read.
        answer: the text of the answer that the judgement is about, which tells answers of several
            routes apart; "" where the metric does not say.
    """

    judge: str
    metric: str
    sample_id: str
    messages: tuple[dict[str, str], ...] = ()
    prompt: str | None = None
    parameters: dict[str, Any] = {}
    repeat: int = 0
    attempt: int = 0
    answer: str = ""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's answer, which is stored already.

    Attributes:
        answer: the text, or the reason why it is missing.
        tokens: the last tokens with the natural log probabilities of their alternatives, where
            they were requested and given.
        request_hash: SHA-256 over target and body of the request, hex.
    """

    answer: Answer
    tokens: tuple[tuple[str, dict[str, float]], ...] = ()
    request_hash: str = ""


class AskJudge(Protocol):
    """Sends a request to a judge. The router provides it, and stores every answer."""

    async def __call__(self, request: JudgeRequest) -> Judgement:
        """Return the judge's answer, stored; a target's failure is one with `error`."""
        ...


@runtime_checkable
class JudgeMetric(Declared, Protocol):
    """A metric that needs judges, and so is scored where the router is.

    Attributes:
        judges: the routes of the judges.
        calls: the number of requests that one answer takes at least.
        grading: the signature of the way to judge, without the judges: a calibration of a judge
            holds for one grading.
    """

    judges: tuple[str, ...]
    calls: int
    grading: str

    async def judge(self, items: Sequence[Scorable], ask: AskJudge) -> list[tuple[Score, ...]]:
        """Score answers, in order. The score of an answer that cannot be judged has no value."""
        ...


@runtime_checkable
class SampleCheck(Protocol):
    """A metric that can tell from a sample alone that no answer to it will be scored.

    A run with such a sample is refused before any request.
    """

    name: str

    def sample_error(self, sample: Sample) -> str:
        """Return what is wrong with the sample; "" where nothing is."""
        ...


AnyMetric = Metric | IsolatedMetric | EmbeddingMetric | JudgeMetric
