"""The run document: which samples go to which routes, and how the answers are scored.

The same document, as YAML or JSON, is accepted by `evalrouter eval run` and `POST /eval`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from evaluators.data.sampling import Rows, Sampling
from evaluators.stats.sequential import StopWhen
from evaluators.text.answers import AnswerRules, OnTruncated
from evaluators.text.language_names import LanguageName

# Names stand in URLs and in shells.
ExperimentName = Annotated[str, msgspec.Meta(pattern=r"^(\w[\w.-]*)?$", max_length=100)]
Tag = Annotated[str, msgspec.Meta(pattern=r"^[\w.:/=+-]+$", max_length=100)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=100)]
MAX_REPEATS = 1000
Repeats = Annotated[int, msgspec.Meta(ge=1, le=MAX_REPEATS)]
# US dollars, seconds.
Amount = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Margin = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
Notes = Annotated[str, msgspec.Meta(max_length=100_000)]
# Every route, metric and gate is compared with the others.
MAX_PARTS = 256
_Few = msgspec.Meta(max_length=MAX_PARTS)
Metrics = Annotated[tuple[str | dict[str, Any], ...], _Few]
Messages = Annotated[tuple[dict[str, Any], ...], _Few]


class RunLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run may use.

    Attributes:
        concurrency: requests in flight at a time, over all routes.
        cost_usd, tokens, seconds: the run stops, resumable, once its answers have cost this much or
            taken so many tokens, or it has been executed for so long, all attempts together; None
            for no limit. What is in flight at that moment is finished and counts.
        per_target: requests in flight at a time, by `provider/model`.
        failure_share: once more than this share of a target's requests has failed, of at least 20,
            it gets no more requests; the run's other targets do. 1 for never.
    """

    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    cost_usd: Amount | None = None
    tokens: Annotated[int, msgspec.Meta(ge=1, le=10**15)] | None = None
    seconds: Amount | None = None
    per_target: dict[str, Annotated[int, msgspec.Meta(ge=1, le=1024)]] = {}
    failure_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5


class RayExecution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work on a Ray cluster: scoring, and models that the run loads itself (`models/<name>`).

    The process that executes the run sends all requests and stores everything.

    Attributes:
        address: the cluster's address, or `auto`; "" starts Ray on this machine.
        workers: actors that score plain metrics, and as many for each metric that is a model.
        cpus: cores that Ray reserves for each actor.
        gpus: GPUs of each actor that has a model; with a fraction, actors share a GPU.
    """

    address: str = ""
    workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 2
    cpus: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 0.5
    gpus: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0


class RunDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One evaluation.

    Attributes:
        dataset: path of a JSONL, JSON, CSV, TSV or parquet file.
        routes: route names or `provider/model`, each once. `dataset/answer` stands for the answers
            that the dataset brings along: they are scored, without a request. `models/<name>` is
            a model of the config's `models:`, loaded by the run itself.
        metrics: names, or objects with `name` and the metric's options; `[]` for a run that only
            collects answers.
        name: the run's name; the dataset's name when empty.
        task: a task's name, or an object with `name` and its options; it fills in what the document
            leaves out. Stored with the task's version.
        language: the answers' language, as a code or an English name (`zh`, `Chinese`). Metrics
            that have an option of this name follow it: bleu and ter divide words by it, rouge finds
            sentences. "" leaves it open.
        experiment: the name under which runs stand in one leaderboard; "" for none.
        tags: words to find the run by.
        notes: anything that people should know about the run.
        messages: chat messages whose `content` is a Jinja template over the row's columns.
        prompt: short for one user message; not together with `messages`.
        columns: a dataset's own column names mapped to `input`, `reference`, `id`, ...
        delimiter: what separates the cells of a CSV or TSV file; "" to find out.
        parameters: sent with every request (temperature, max_tokens, ...).
        repeats: how many answers each sample gets from each route.
        limit: only the first so many samples; None for all.
        unlabelled: only the rows without a reference, which a route may write
            (`evalrouter dataset label`).
        sample: only so many samples, drawn at random; not together with `limit`. See Sampling.
        answer: how answers are read: whether thoughts are split off first; see AnswerRules.
        on_truncated: what becomes of an answer that was cut off, filtered or refused, or that
            ended within a thought: `score` scores what there is of it, `exclude` leaves it
            without scores, `zero` scores it as an empty text.
        baseline: the route that differences are taken against; None for no differences.
        primary: the output that decides: it is tested first, and the others only if it shows a
            difference; None for the output of `stop_when: {decided: ...}`, and without that for
            testing all alike, corrected for their number.
        margins: output to the largest difference that makes no difference to you: what is shown
            to differ from the baseline by less is `equivalent`.
        gates: conditions such as `rougeL >= 0.20` or `rougeL >= baseline`.
        fallback: whether another target may answer for one that fails.
        cache: whether the stored answer of an earlier run to the same request may be used, and
            verdicts of judges likewise. None for only where the document has no gates, because
            gates are about what is measured now: they never count answers of other runs.
        looks: how often the run had ended, and could be read, before it was extended; `eval extend`
            counts. Intervals and p-values then hold whenever one looks.
        stop_when: end early, once the run's question is answered; see StopWhen.
        limits: see RunLimits.
        execution: where answers are scored, and `models/<name>` loaded: `local`, `ray`, or an
            object; see RayExecution.
    """

    dataset: Annotated[str, msgspec.Meta(min_length=1)]
    routes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_PARTS)]
    metrics: Metrics
    name: str = ""
    task: str | dict[str, Any] | None = None
    language: LanguageName = ""
    experiment: ExperimentName = ""
    tags: Tags = ()
    notes: Notes = ""
    messages: Messages | None = None
    prompt: str | None = None
    columns: dict[str, str] = {}
    delimiter: Annotated[str, msgspec.Meta(max_length=16)] = ""
    parameters: dict[str, Any] = {}
    repeats: Repeats = 1
    limit: Rows | None = None
    unlabelled: bool = False
    sample: Sampling | None = None
    answer: AnswerRules = AnswerRules()
    on_truncated: OnTruncated = "score"
    baseline: str | None = None
    primary: str | None = None
    margins: Annotated[dict[str, Margin], _Few] = {}
    gates: Annotated[tuple[str, ...], _Few] = ()
    fallback: bool = False
    cache: bool | None = None
    looks: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    stop_when: StopWhen | None = None
    limits: RunLimits = RunLimits()
    execution: Literal["local", "ray"] | RayExecution = "local"

    @property
    def uses_run_cache(self) -> bool:
        """Whether stored answers may be used; by default where there are no gates."""
        return not self.gates if self.cache is None else self.cache

    @property
    def deciding(self) -> str | None:
        """The output that is tested first: `primary`, or what `stop_when` decides."""
        decided = None if self.stop_when is None else self.stop_when.decided
        return self.primary or decided
