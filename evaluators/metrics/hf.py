"""hf:NAME: a metric of Hugging Face's `evaluate`, in a worker process of its own.

    {name: "hf:exact_match"}                                   # from the hub
    {name: "hf:google_bleu", path: metrics/google_bleu, outputs: [google_bleu]}    # from a folder

Needs the extra `evaluate`. Such a metric is a third party's program that runs with your rights.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import chdir
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec

from evaluators.base import Answer, Output, Sample, Scorable, Score
from evaluators.data.paths import Opens
from evaluators.metrics.reference import references, unscored
from providers.errors import MissingExtraError, RunDocumentError

HubOutputNames = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
# `evaluate` makes a folder of this name.
ConfigName = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*$", max_length=100)]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


class HuggingFaceMetric:
    """Each answer by itself through the metric's `compute`; a route's score is the mean.

    So a metric that is defined over a whole corpus, as BLEU is, gives another number here than
    there; ours are `bleu`, `chrf`, `ter` and `classification`. `outputs` are the numbers to take
    from what it returns; by default the one that is named as the metric. Where the metric takes one
    reference for an answer, the best over the references counts. The metric
    decides what a blank answer scores; where it fails, the score has no value and says why.

    `config` names one of the metric's configurations, `options` are passed to `compute`, `path` is
    a folder or file that is used instead of the hub; without it, no local file is used.
    Answers for metrics over numbers are converted; one that is not a number has no value.
    """

    needs_reference = True
    source = "huggingface.co/docs/evaluate"
    load_s = 300.0

    def __init__(
        self,
        metric: str,
        *,
        path: Annotated[str, Opens("program")] | None = None,
        config: ConfigName | None = None,
        outputs: HubOutputNames | None = None,
        options: dict[str, Any] | None = None,
        higher_is_better: bool | None = True,
        low: float | None = None,
        high: float | None = None,
        timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0,
    ) -> None:
        if find_spec("evaluate") is None:
            raise MissingExtraError(f"The metric hf:{metric}", "evaluate")
        if path is None and (not _HUB_NAME.fullmatch(metric) or metric.endswith(".py")):
            raise RunDocumentError(
                "no metric of the Hugging Face hub has such a name; a file or folder is named with "
                "`path`",
                param="name",
            )
        self.name = f"hf:{metric}"
        self.sample_s = timeout_s
        self._metric = metric
        self._path = path
        self._config = config
        self._options = options or {}
        self._best = min if higher_is_better is False else max
        self._module: Any = None
        self.outputs = tuple(
            Output(
                name=name,
                higher_is_better=higher_is_better,
                low=low,
                high=high,
                description=f"As {self.name} returns it, mean over the answers.",
            )
            for name in outputs or (metric.rpartition("/")[2],)
        )
        where = "hub" if path is None else f"sha256-{_digest(Path(path))}"
        chosen = msgspec.json.encode(self._options, order="sorted").decode()
        self.signature = (
            f"{self.name}|nrefs:var|multi:best|from:{where}|config:{config or 'none'}"
            f"|options:{chosen}|aggregate:mean|evaluate:{version('evaluate')}"
        )

    def load(self) -> None:
        """Fetch and import the metric.

        Raises:
            RuntimeError: it cannot be fetched or imported; the message says why.
        """
        import evaluate  # noqa: PLC0415  # an extra

        try:
            if self._path is not None:
                self._module = evaluate.load(
                    self._path, config_name=self._config, keep_in_memory=True
                )
            else:
                # It looks for ./NAME/NAME.py before it asks the hub, so it looks in an empty one.
                with tempfile.TemporaryDirectory(prefix="evalrouter-") as empty, chdir(empty):
                    self._module = evaluate.load(
                        self._metric, config_name=self._config, keep_in_memory=True
                    )
        except Exception as error:  # its program may raise anything
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            if self._path is not None:
                raise RuntimeError(f"{self._path} cannot be used: {reason}") from error
            raise RuntimeError(
                f"{self._metric} cannot be had from the Hugging Face hub ({reason}). Without a "
                "connection, keep a copy of the metric's folder and name it with `path`."
            ) from error

    def score_batch(self, items: Sequence[Scorable]) -> Iterable[tuple[Score, ...]]:
        """Yield the declared outputs for each answer, one after the other."""
        for sample, answer in items:
            yield self._score(sample, answer)

    def _score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        features = self._module.features
        first = features[0] if isinstance(features, list) else features
        text = _value(answer.text or "", first["predictions"])
        if _is_plain(first["references"]):
            expected = [_value(reference, first["references"]) for reference in accepted]
        else:
            expected = [list(accepted)]
        results = [
            self._module.compute(predictions=[text], references=[value], **self._options)
            for value in expected
        ]
        return tuple(self._output(output, results) for output in self.outputs)

    def _output(self, output: Output, results: list[dict[str, Any]]) -> Score:
        values = [result.get(output.name) for result in results]
        try:
            return Score(output=output.name, value=self._best(map(_number, values)))
        except (TypeError, ValueError):
            known = ", ".join(results[0])
            why = f"{self.name} returned no number named {output.name!r}; it returned {known}"
            return Score(output=output.name, value=None, error=why)


def _is_plain(feature: Any) -> bool:
    """Return whether a metric takes one value there, not a list of them."""
    return type(feature).__name__ == "Value"


def _value(text: str, feature: Any) -> Any:
    kind = str(getattr(feature, "dtype", "string"))
    if kind.startswith(("int", "uint")):
        return int(text)
    return float(text) if kind.startswith("float") else text


def _number(value: Any) -> float:
    """Return a number as a float. Raises TypeError or ValueError for anything else."""
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    return float(value)


def _digest(path: Path) -> str:
    """Return a digest of the metric's program: a changed one has another signature."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12] if files else "missing"
