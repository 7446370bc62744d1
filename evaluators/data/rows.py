"""What a row's columns mean: which is the prompt, which the references, which the id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from evaluators.data.records import FileRecord, kind
from providers.errors import DatasetError

PROMPTS = ("messages", "prompt", "input")
REFERENCES = ("reference", "references")
KNOWN = (*PROMPTS, *REFERENCES, "answer", "cluster", "id")

# Mozilla Lumigator's names, taken for ours where a row has no column of ours for the purpose.
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
        fields: the columns as they were read, and mapped ones under their known names too.
        references: the texts of `reference` and `references` that are not blank.
        messages, prompt, input: the prompt columns; None where the row has none.
        answer: the `answer` column; None where the row has none, or (unless it was mapped)
            something else than text, as question answering datasets have there.
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
    """Read a record's columns.

    Args:
        record: from `formats.read`.
        columns: the dataset's own column names to known ones.
        needs_prompt: whether a row without messages, prompt and input is refused.

    Raises:
        DatasetError: a column that is not what its name says, or no prompt.
    """
    where = record.where
    fields = _named(record, columns)
    row = Row(
        id=own_id(fields, where) or str(record.number),
        number=record.number,
        fields=fields,
        references=_references(fields, where),
        messages=_messages(fields.get("messages"), where),
        prompt=_text(fields, "prompt", where),
        input=_text(fields, "input", where),
        answer=_answer(fields, columns, where),
    )
    if needs_prompt:
        _check_prompt(row, where)
    return row


def own_id(fields: Mapping[str, Any], where: str) -> str | None:
    """The row's `id` as text, None where it is missing, null or blank."""
    value = fields.get("id")
    if isinstance(value, bool | list | dict):
        raise DatasetError(f"{where}: id must be text or a number, not {kind(value)}")
    if value is None or not str(value).strip():
        return None
    return str(value)


def _named(record: FileRecord, columns: Mapping[str, str]) -> dict[str, Any]:
    fields = _unpacked(record.fields)
    for own, known in columns.items():
        if own == known or own not in fields:
            continue
        if known in fields:
            raise DatasetError(
                f"{record.where}: the row has a column {known!r} and {own!r} is mapped to "
                f"{known!r}; leave the mapping out or rename a column",
                param=f"columns.{own}",
            )
        fields[known] = fields[own]
    for own, known, instead in _LUMIGATOR:
        if own in fields and not fields.keys() & set(instead):
            fields[known] = fields[own]
    return fields


def _unpacked(fields: dict[str, Any]) -> dict[str, Any]:
    """The columns of OpenAI's evaluation rows: {"item": {...}, "sample": {"output_text": ...}}.

    `item` and `sample` stay beside them, as OpenAI's templates name them.
    """
    item, sample = fields.get("item"), fields.get("sample")
    if not isinstance(item, dict) or not fields.keys() <= {"item", "sample"}:
        return dict(fields)
    found = item | fields
    if isinstance(sample, dict) and isinstance(sample.get("output_text"), str):
        found["answer"] = sample["output_text"]
    return found


def _answer(fields: Mapping[str, Any], columns: Mapping[str, str], where: str) -> str | None:
    value = fields.get("answer")
    if isinstance(value, str) or "answer" not in columns.values():
        return value if isinstance(value, str) else None
    return _text(fields, "answer", where)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise DatasetError(f"{where}: {name} must be text, not {kind(value)}")


def _references(fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in REFERENCES:
        value = fields.get(name)
        if value is None:
            continue
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str):
                raise DatasetError(
                    f"{where}: {name} must be text or a list of texts, found {kind(text)}; "
                    "put it in double quotes"
                )
            if text.strip():
                found.append(text)
    return tuple(found)


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
            if not text.strip():
                raise DatasetError(f"{where}: {name} is empty; fill it in or remove the row")
            return
    found = ", ".join(map(repr, row.fields)) or "none"
    own = next(iter(row.fields), "article")
    raise DatasetError(
        f"{where}: the row has no input, prompt or messages. Its columns: {found}. Map one, for "
        f"example columns: {{{own}: input}}, or name the columns in a prompt template"
    )
