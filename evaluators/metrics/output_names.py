"""Says what to do where no metric of a run produces an output that its document names.

    not_produced("latency_s", ["rouge1", "rougeL"])

Which metric produces an output of another name is written down here, because to build every metric
takes seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from providers.errors import closest

_METRICS: Mapping[str, str] = {
    "accuracy": "classification",
    "macro_f1": "classification",
    "micro_f1": "classification",
    "kappa": "classification",
    "cost_usd": "cost",
    "latency_s": "latency",
    "first_byte_s": "latency",
    "words": "length",
    "characters": "length",
    "cer": "levenshtein",
    "wer": "levenshtein",
    "mae": "numeric_error",
    "rmse": "numeric_error",
    "flesch_reading_ease": "readability",
    "flesch_kincaid_grade": "readability",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "rougeLsum": "rouge",
}


def metric_with(output: str) -> str | None:
    """Return the metric that produces an output of another name; None where none is known to."""
    return _METRICS.get(output)


def not_produced(output: str, known: Collection[str]) -> str:
    """Return a message about an output that is not among the `known` ones of a run."""
    metric = metric_with(output)
    remedy = closest(output, known) if metric is None else f" Add the metric {metric!r}."
    return f"no metric of this run produces {output!r}.{remedy}"
