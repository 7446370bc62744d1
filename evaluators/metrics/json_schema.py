"""JSON Schema: 1 where the answer is JSON that fits a schema, else 0, by jsonschema.

JsonSchema(schema={"type": "object"}).score(sample, answer)  # (Score(output="json_schema", ...),)
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import msgspec

from evaluators.base import Answer, Output, Sample, Score
from evaluators.data.rows import value_at
from evaluators.metrics.json_valid import read
from evaluators.metrics.reference import unscored
from providers.errors import MissingExtraError, RunDocumentError


class JsonSchema:
    """Whether the answer is JSON and fits `schema`, or the schema in the row's `column`.

    The draft is what `$schema` says, else 2020-12. `format` is an annotation, as the specification
    has it. Nothing is fetched: a `$ref` must point into the schema itself. `fenced` is as in
    json_valid. An answer that is not JSON, a blank one among them, is 0.
    """

    name = "json_schema"
    outputs = (Output(name="json_schema", description="Share of answers that fit the schema."),)
    needs_reference = False
    source = "JSON Schema 2020-12; validated by jsonschema"

    def __init__(
        self,
        *,
        schema: dict[str, Any] | None = None,
        column: str | None = None,
        fenced: bool = False,
    ) -> None:
        if find_spec("jsonschema") is None:
            raise MissingExtraError("The metric json_schema", "metrics")
        if (schema is None) == (column is None):
            raise RunDocumentError(
                "schema: name either a schema, or the column of the dataset that has one",
                param="schema",
            )
        self._schema = schema
        self._column = column
        self._fenced = fenced
        what = f"column:{column}"
        if schema is not None:
            try:
                _validator(schema)
            except ValueError as error:
                raise RunDocumentError(f"schema: {error}", param="schema") from error
            digest = hashlib.sha256(msgspec.json.encode(schema, order="sorted")).hexdigest()
            what = f"schema:sha256-{digest[:12]}"
        self.signature = (
            f"json_schema|{what}|fenced:{'yes' if fenced else 'no'}|format:no|blank:0|v:1"
            f"|jsonschema:{version('jsonschema')}"
        )

    def load(self) -> None:
        """Load nothing; a method `load` sends a metric to a worker.

        A schema's `pattern` may backtrack without end, and a worker can be stopped.
        """

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0; no value where the row has no usable schema."""
        schema: Any = self._schema
        if self._column is not None:
            schema = value_at(sample.fields, self._column)
        try:
            if isinstance(schema, str):
                schema = read(schema, fenced=False)
            validator = _validator(schema)
        except ValueError as error:
            return unscored(self.outputs, f"no usable schema: {error}")
        try:
            value = read(answer.text or "", fenced=self._fenced)
        except ValueError:
            return (Score(output="json_schema", value=0.0),)
        return (Score(output="json_schema", value=float(validator.is_valid(value))),)


def _validator(schema: Any) -> Any:
    """Return a validator of a schema.

    Raises:
        ValueError: it is not a JSON Schema, or refers to one elsewhere.
    """
    import jsonschema  # noqa: PLC0415  # an extra
    import referencing  # noqa: PLC0415
    from jsonschema import validators  # noqa: PLC0415

    if not isinstance(schema, dict):
        raise ValueError("a schema is a JSON object")  # noqa: TRY004  # callers catch one kind
    kind = validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from error
    registry: Any = referencing.Registry()
    validator = kind(schema, registry=registry)
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ValueError(f"$ref: {reference!r} is not in the schema itself")
    return validator


def _references(schema: Any) -> list[str]:
    waiting, references = [schema], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            references += [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return references
