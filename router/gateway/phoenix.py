"""Sends scores to Arize Phoenix as annotations of spans, by its REST API.

Phoenix shows what the conventions have for scores among a span's events, but not as scores: no
column, no filter, no mean. Annotations are. This is Phoenix's own API and no standard; nothing
else needs it. A span may come later than its annotation, for which Phoenix waits ten minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import requests

from providers.masking import Masks
from router.config.telemetry import Telemetry
from router.gateway.spans import MAX_EXPLANATION_CHARS, EvaluationResult, bounded

log = logging.getLogger("evalrouter")

_PATH = "/v1/span_annotations"
# Phoenix has a table of its own for these.
_RESERVED = frozenset({"note"})


class Annotation(NamedTuple):
    """A score of a span, by the span's id in hexadecimal digits."""

    span_id: str
    evaluation: EvaluationResult


class PhoenixAnnotations:
    """Sends annotations. On one thread.

    Args:
        settings: the config's section `telemetry`, with Phoenix's address.
    """

    def __init__(self, settings: Telemetry) -> None:
        self._url = f"{settings.phoenix.rstrip('/')}{_PATH}"
        self._timeout = settings.otlp_timeout
        self._session = requests.Session()
        self._session.headers.update(
            {name: value.reveal() for name, value in settings.phoenix_headers.items()}
        )
        self._session.headers["content-type"] = "application/json"
        self._is_failing = False

    def send(self, annotations: Sequence[Annotation], masks: Masks) -> int:
        """Send annotations; return how many Phoenix took: all or none."""
        rows = [_row(annotation) for annotation in annotations]
        failure = self.post(rows, masks)
        if failure and not self._is_failing:
            why = masks.mask_text(failure)[:500]
            log.error("Phoenix does not take annotations (telemetry.phoenix): %s", why)
        self._is_failing = bool(failure)
        return 0 if failure else len(rows)

    def post(self, rows: Sequence[dict[str, Any]], masks: Masks | None = None) -> str:
        """Send rows as they are; return why Phoenix did not take them, "" where it did."""
        body = msgspec.json.encode({"data": rows})
        try:
            response = self._session.post(
                self._url,
                data=body if masks is None else masks.mask(body),
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return str(error)
        status = response.status_code
        return "" if status == 200 else f"it answered with status {status}"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _row(annotation: Annotation) -> dict[str, Any]:
    evaluation = annotation.evaluation
    result: dict[str, Any] = {}
    if evaluation.value is not None:
        result["score"] = evaluation.value
    if evaluation.label:
        result["label"] = bounded(evaluation.label)
    if evaluation.explanation or evaluation.error:
        explanation = evaluation.explanation or evaluation.error
        result["explanation"] = explanation[:MAX_EXPLANATION_CHARS]
    name = bounded(evaluation.name)
    row = {
        "span_id": annotation.span_id,
        "name": f"{name} (evalrouter)" if name in _RESERVED else name,
        "annotator_kind": evaluation.annotator,
        "result": result,
        "identifier": bounded(evaluation.identifier),
    }
    return _without_surrogates(row)


def _without_surrogates(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that can be sent: half of a surrogate pair cannot be."""
    return {
        name: value.encode("utf-8", "replace").decode()
        if isinstance(value, str)
        else _without_surrogates(value)
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }
