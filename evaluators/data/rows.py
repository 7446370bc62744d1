"""Reading a row's columns: the prompt, the references, the answer, the id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from evaluators.data.prometheus_prompts import split_prompt
from evaluators.data.records import FileRecord, kind
from evaluators.text.words import is_blank
from providers.errors import DatasetError

MISSING: Final = object()
"""What a column that a row does not have is worth."""

PROMPTS = ("messages", "prompt", "input")
REFERENCES = ("reference", "references")
KNOWN = (*PROMPTS, *REFERENCES, "answer", "cluster", "id", "instruction")

# Mozilla Lumigator's names, used where a row has none of our columns for the purpose.
_LUMIGATOR = (
    ("examples", "input", PROMPTS),
    ("ground_truth", "reference", REFERENCES),
    ("predictions", "answer", ("answer",)),
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a dataset.

    Attributes:
        id: the `id` column as text, or `number` as text without one.
        number: the line, from 1, of a JSON lines file; the row, from 1, of any other.
        fields: the columns as they were read; mapped ones also under their known names.
        references: the texts of `reference` and `references` that are not blank.
        messages, prompt, input: the prompt columns; None where the row has none.
        answer: the `answer` column; None where the row has none, or (unless it was mapped)
            something else than text, as question answering datasets have there.

    Numbers and booleans in these columns are read as JSON writes them.
    """

    id: str
    number: int
    fields: dict[str, Any]
    references: tuple[str, ...] = ()
    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None


def to_row(record: FileRecord, columns: Mapping[str, str], *, needs_prompt: bool) -> Row:
    """Read a record's columns as a row.

    Args:
        record: from `formats.read`.
        columns: the dataset's own column names to known ones.
        needs_prompt: whether a row without messages, prompt and input is refused.

    Raises:
        DatasetError: a known column has another kind of value, or the row has no prompt.
    """
    where = record.where
    fields = _named(record, columns)
    row = Row(
        id=explicit_id(fields, where) or str(record.number),
        number=record.number,
        fields=fields,
        references=_references(fields, columns, where),
        messages=_messages(fields.get("messages"), where),
        prompt=_text(fields, "prompt", columns, where),
        input=_text(fields, "input", columns, where),
        answer=_answer(fields, columns, where),
    )
    if needs_prompt:
        _check_prompt(row, where)
    return row


def explicit_id(fields: Mapping[str, Any], where: str) -> str | None:
    """Return the row's `id` as text, None where it is missing, null or blank."""
    value = fields.get("id")
    if isinstance(value, bool | list | dict):
        raise DatasetError(f"{where}: id must be text or a number, not {kind(value)}")
    if value is None or not str(value).strip():
        return None
    return str(value)


def _named(record: FileRecord, columns: Mapping[str, str]) -> dict[str, Any]:
    fields = _unpacked(record.fields)
    for column, known in columns.items():
        value = value_at(fields, column, MISSING)
        if column == known or value is MISSING:
            continue
        if known in fields:
            raise DatasetError(
                f"{record.where}: the row has a column {known!r} and {column!r} is mapped to "
                f"{known!r}; leave the mapping out or rename a column",
                param=f"columns.{column}",
            )
        fields[known] = value
    for column, known, instead in _LUMIGATOR:
        if column in fields and not fields.keys() & set(instead):
            fields[known] = fields[column]
    return _with_prompt_texts(fields)


def _with_prompt_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the columns with those that a whole Prometheus prompt in `instruction` stands for.

    A row with a prompt of its own keeps its columns as they are.
    """
    prompt = fields.get("instruction")
    if not isinstance(prompt, str) or any(fields.get(name) for name in PROMPTS):
        return fields
    texts = split_prompt(prompt)
    if texts is None:
        return fields
    brought = {"input": texts.instruction, "answer": texts.response, "rubric": texts.rubric}
    if texts.reference is not None and not any(fields.get(name) for name in REFERENCES):
        brought["reference"] = texts.reference
    return fields | {name: text for name, text in brought.items() if fields.get(name) in (None, "")}


def _unpacked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the columns, unpacking OpenAI's evaluation rows.

    Those are {"item": {...}, "sample": {"output_text": ...}}.

    `item` and `sample` stay beside them, as OpenAI's templates name them.
    """
    item, sample = fields.get("item"), fields.get("sample")
    if not isinstance(item, dict) or not fields.keys() <= {"item", "sample"}:
        return dict(fields)
    columns = item | fields
    if isinstance(sample, dict) and isinstance(sample.get("output_text"), str):
        columns["answer"] = sample["output_text"]
    return columns


def _answer(fields: Mapping[str, Any], columns: Mapping[str, str], where: str) -> str | None:
    value = fields.get("answer")
    if isinstance(value, str) or "answer" not in columns.values():
        return value if isinstance(value, str) else None
    text = _as_text(value)
    if text is not None or value is None:
        return text
    raise DatasetError(
        f"{where}: answer must be text, not {kind(value)}{_inside('answer', value, columns)}"
    )


def value_at(fields: Mapping[str, Any], column: str, default: Any = None) -> Any:
    """Return a column's value, or what a dotted path leads to within one, else the default.

    `answers.text` is the column of that name, else `text` within `answers`; names may have dots
    themselves, and the longest that exists counts. A number is an index of a list; any other name
    within a list is looked up in each of its objects, and the values are one list.
    """
    value = _within(fields, column)
    return default if value is MISSING else value


def path_starts(path: str) -> Iterator[str]:
    """Yield the names that a dotted path may begin with, the longest first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _within(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return _within_list(value, path)
    if not isinstance(value, Mapping):
        return MISSING
    for name in path_starts(path):
        if name in value:
            inner = value[name] if name == path else _within(value[name], path[len(name) + 1 :])
            if inner is not MISSING:
                return inner
    return MISSING


def _within_list(values: list[Any], path: str) -> Any:
    step, _, rest = path.partition(".")
    if step.isascii() and step.isdigit():
        # No list is so long, and int() does not read thousands of digits.
        index = int(step) if len(step) < 12 else len(values)
        value = values[index] if index < len(values) else MISSING
        return _within(value, rest) if rest else value
    collected: list[Any] = []
    for part in values:
        inner = _within(part, path) if isinstance(part, dict) else MISSING
        if inner is not MISSING:
            collected += inner if isinstance(inner, list) else [inner]
    return collected or MISSING


def _text(
    fields: Mapping[str, Any], name: str, columns: Mapping[str, str], where: str
) -> str | None:
    value = fields.get(name)
    text = _as_text(value)
    if text is not None or value is None:
        return text
    advice = _inside(name, value, columns)
    raise DatasetError(f"{where}: {name} must be text, not {kind(value)}{advice}")


def _as_text(value: Any) -> str | None:
    """Return a text, or the JSON text of a number or boolean; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _inside(name: str, value: Any, columns: Mapping[str, str]) -> str:
    """Return advice for a value that has others within it."""
    if not isinstance(value, dict) or not value:
        return ""
    column = next((key for key, known in columns.items() if known == name), name)
    return f"; name a part of it by a path, for example {column}.{next(iter(value))}"


def _references(
    fields: Mapping[str, Any], columns: Mapping[str, str], where: str
) -> tuple[str, ...]:
    accepted: list[str] = []
    for name in REFERENCES:
        value = fields.get(name)
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        for item in items:
            if item is None:
                continue
            text = _as_text(item)
            if text is None:
                raise DatasetError(
                    f"{where}: {name} must be text or a list of texts, "
                    f"found {kind(item)}{_inside(name, item, columns)}"
                )
            if not is_blank(text):
                accepted.append(text)
    return tuple(accepted)


def _messages(value: Any, where: str) -> tuple[dict[str, Any], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind(value)
        raise DatasetError(
            f"{where}: messages must be a list of chat messages, not {what}; "
            'write [{"role": "user", "content": "..."}]'
        )
    for number, message in enumerate(value):
        if not isinstance(message, dict):
            raise DatasetError(
                f"{where}: messages[{number}] must be an object with role and content, "
                f"not {kind(message)}"
            )
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise DatasetError(
                f"{where}: messages[{number}] needs a role, such as 'user', 'system' or 'assistant'"
            )
    return tuple(value)


def _check_prompt(row: Row, where: str) -> None:
    if row.messages is not None:
        return
    for name, text in (("prompt", row.prompt), ("input", row.input)):
        if text is not None:
            if is_blank(text):
                raise DatasetError(f"{where}: {name} is empty; fill it in or remove the row")
            return
    names = ", ".join(map(repr, row.fields)) or "none"
    example = next(iter(row.fields), "article")
    raise DatasetError(
        f"{where}: the row has no input, prompt or messages. Its columns: {names}. Map one, for "
        f"example columns: {{{example}: input}}, or name the columns in a prompt template"
    )
