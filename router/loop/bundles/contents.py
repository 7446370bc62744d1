"""What is in a bundle: its manifest, the names of its entries, and the rows of those.

Every row is one of these types, as JSON with sorted keys and no white space, so that the same
input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from evaluators.base import Output, Sample
from evaluators.judge.graded import GradedDeclaration
from evaluators.reports.gates import GateResult
from evaluators.reports.report import Report
from router.evals.judges.report import JudgeReport
from router.loop.rollout_rules import SignalReading
from router.store.evidence import Bodies, BundleKind
from router.store.judgements import JudgementRow, JudgeUse
from router.store.results import ScoredAnswer
from router.store.rollouts import ArmTotals, CountedScore, JudgedRequests, RolloutRequest
from router.store.usage import EmbeddingUse

FORMAT: Literal["evalrouter-evidence"] = "evalrouter-evidence"
VERSION = 1

# The entries of every bundle. The signature is of the manifest's bytes; the manifest has the hashes
# of the others.
README, MANIFEST = "README.txt", "manifest.json"
SIGNATURE, PUBLIC_KEY = "manifest.sig", "public-key.pem"
# Those of a run.
RUN, SAMPLES, RESULTS = "run.json", "samples.jsonl", "results.jsonl"
JUDGEMENTS, LABELS, STUDIES = "judgements.jsonl", "labels.jsonl", "studies.jsonl"
METRICS, STATED, ROUTES = "metrics.json", "stated.json", "routes.json"
NUMBERS = "numbers.json"
# Those of a rollout.
ROLLOUT, DECISIONS, REQUESTS = "rollout.json", "decisions.jsonl", "requests.jsonl"
LATER_VALUES, BATCHES = "later-values.jsonl", "batches.jsonl"

ENTRIES: Mapping[BundleKind, tuple[str, ...]] = {
    "run": (
        README,
        RUN,
        SAMPLES,
        RESULTS,
        JUDGEMENTS,
        LABELS,
        STUDIES,
        METRICS,
        STATED,
        ROUTES,
        NUMBERS,
    ),
    "rollout": (README, ROLLOUT, DECISIONS, REQUESTS, LATER_VALUES, BATCHES, NUMBERS),
}

_encoder = msgspec.json.Encoder(order="sorted")


def canonical(value: Any) -> bytes:
    """Return a value as JSON that is the same for the same value: sorted keys, no white space."""
    return _encoder.encode(value)


class BundleEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the bundle, beside the manifest and the signature.

    Attributes:
        name: in the archive.
        size: of its bytes, uncompressed.
        sha256: of these bytes, hex.
        rows: how many lines it has; None for one that is not in lines.
    """

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    rows: Annotated[int, msgspec.Meta(ge=0)] | None = None


class BundledDataset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dataset of a run.

    Attributes:
        name: as the run named it; of a file only its name.
        sha256: of its content, hex.
        rows: how many of its rows are samples of the run.
    """

    name: str
    sha256: str
    rows: int


class NumberSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a kind of number in the bundle can be held against.

    Attributes:
        what: the numbers, in words.
        how: `recomputed` by the code that made them; `checked` against what is stored beside them;
            `stated`, for the reader to believe or not.
        of: what they are made of.
    """

    what: str
    how: Literal["recomputed", "checked", "stated"]
    of: str


class BundleManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bundle is, and the hashes of all its entries.

    Attributes:
        format, version: of the bundle.
        kind, id, name: of what it is evidence.
        bodies: `keep`, the texts are as they were; `masked`, without personal data and secrets;
            `hashes`, only the hashes of texts.
        changed_rows: rows in which a text was replaced.
        dataset: that of a run; None for a rollout.
        seeds: of what is random in the numbers.
        versions: of what made the numbers, as far as the run has them (`run.`), and of what wrote
            the bundle.
        sources: what each kind of number can be held against.
        entries: by name.
    """

    format: Literal["evalrouter-evidence"] = FORMAT
    version: int = VERSION
    kind: BundleKind
    id: str
    name: str
    bodies: Bodies
    changed_rows: int
    dataset: BundledDataset | None = None
    seeds: dict[str, int]
    versions: dict[str, str]
    sources: tuple[NumberSource, ...]
    entries: tuple[BundleEntry, ...]


class OutputDeclaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An Output as data: `corpus` says whether there is a function for the score of a corpus."""

    name: str
    higher_is_better: bool | None
    low: float | None
    high: float | None
    unit: str
    corpus: bool
    confusion: tuple[str, ...]
    description: str
    corrects: str
    raw: bool

    @classmethod
    def of(cls, output: Output) -> OutputDeclaration:
        """Return the declaration of an output."""
        fields = {name: getattr(output, name) for name in cls.__struct_fields__}
        return cls(**{**fields, "corpus": output.corpus is not None})


class MetricDeclaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric as data, for numbers that are made of its scores where it cannot be built.

    Attributes:
        name, signature, source, needs_reference, outputs: as in `evaluators.base.Declared`.
        judges, calls, grading: as in `evaluators.base.JudgeMetric`; without judges for others.
        graded: of a metric that is a Graded; None for others.
    """

    name: str
    signature: str
    source: str
    needs_reference: bool
    outputs: tuple[OutputDeclaration, ...]
    judges: tuple[str, ...] = ()
    calls: int = 0
    grading: str = ""
    graded: GradedDeclaration | None = None


class BundledSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of samples.jsonl.

    Attributes:
        sample: with its texts as the bundle has them.
        changed: whether one of them was replaced.
        sha256: of the sample as it was, as canonical JSON; only in a bundle of hashes.
    """

    sample: Sample
    changed: bool = False
    sha256: str = ""


class BundledResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of results.jsonl.

    Attributes:
        result: the answer, with its texts as the bundle has them, and its scores as they were.
        changed: whether one of the texts was replaced.
        sha256: of the answer's text as it was; only in a bundle of hashes.
        judgements: what judges answered about it: those that its scores are made of.
    """

    result: ScoredAnswer
    changed: bool = False
    sha256: str = ""
    judgements: tuple[JudgementRow, ...] = ()

    @property
    def place(self) -> str:
        """The answer's sample, route and, after the first, repeat, in words."""
        route, sample_id, repeat = self.result.cell
        return f"{sample_id} by {route}" + (f", {repeat}" if repeat else "")


class Stated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the numbers depend on beside the rows, and the rows cannot show.

    Attributes:
        looks: why the numbers have to hold whenever one looks, which depends on other runs.
        judges: what judges took.
        embeddings: what embeddings took.
    """

    looks: tuple[str, ...]
    judges: list[JudgeUse]
    embeddings: list[EmbeddingUse]


class AnsweredBy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who answered requests to a route of the run, as the targets reported it.

    Attributes:
        route: the route.
        target: `provider/model`.
        model, system_fingerprint: as the target reports them.
        answers: how many answers.
        first_at, last_at: when the first and the last request was sent, seconds since the epoch.
    """

    route: str
    target: str
    model: str
    system_fingerprint: str
    answers: int
    first_at: float | None
    last_at: float | None


class BundledRoutes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The routes of a run.

    Attributes:
        answered_by: the versions that answered, by route and target.
        defined: route to its definition when the bundle was written, as JSON types; without those
            that were not defined then. A definition may have changed since the run.
        versions: route to the hash of that definition, as rollouts and audits name it.
    """

    answered_by: list[AnsweredBy]
    defined: dict[str, Any]
    versions: dict[str, str]


class CountedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of requests.jsonl: a request of a rollout, and the batch in which it was counted."""

    batch: int
    request: RolloutRequest


class LaterValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of later-values.jsonl: what came after a request's answer, and its batch."""

    batch: int
    score: CountedScore


class RolloutNumbers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers of a rollout; see `router.loop.rollout_report.RolloutReport`."""

    signals: tuple[SignalReading, ...]
    imbalance: float | None
    e_value_limit: float
    totals: dict[str, ArmTotals]
    per_protocol: dict[str, ArmTotals]
    judged: list[JudgedRequests]


class RunNumbers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All numbers of a run's report: see `router.evals.results.Outcome`."""

    report: Report
    gates: list[GateResult]
    judges: list[JudgeReport]
