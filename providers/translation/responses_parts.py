"""Content parts of OpenAI's Responses API as those of a chat message. No IO."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from providers.translation import field_checks
from providers.translation.translate import Edits

_Object = dict[str, Any]

USER_PARTS = ("input_text", "input_image", "input_file", "input_audio")
OUTPUT_PARTS = ("input_text", "input_image", "input_file")
_ASSISTANT_PARTS = ("output_text", "refusal")

# Names of an item or a part that mean nothing to the model.
_IDENTITY = frozenset({"id", "status", "type"})
_REPORTED = frozenset({"annotations", "logprobs"})


def note_others(holder: _Object, known: Collection[str], place: str, edits: Edits) -> None:
    """Note the names of an item or a part that a chat request does not have.

    Args:
        holder: the item or the part.
        known: its names that were read.
        place: where it stands, for the record.
        edits: the record.
    """
    for name, value in holder.items():
        if name in _IDENTITY or name in known or value is None or value in ([], {}, ""):
            continue
        if name in _REPORTED:
            edits.convert(f"{place}.{name}", "left out: it is no part of the text")
        else:
            edits.leave_out(f"{place}.{name}", "chat completions have no such field there")


def content(value: Any, path: str, supported: Collection[str], edits: Edits) -> str | list[_Object]:
    """Return the content of a user's, the system's or a tool's message.

    Args:
        value: a text, or a list of parts.
        path: where it stands in the request, for errors.
        supported: the types that a part may have there.
        edits: where to note what was converted and left out.

    Raises:
        RequestError: it does not have the form of OpenAI's API.
    """
    if isinstance(value, str):
        return value
    parts: list[_Object] = []
    for part, kind, place in _parts(value, path, supported):
        converted = _PARTS[kind](part, place, edits)
        if converted is not None:
            parts.append(converted)
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    # Hosts refuse an empty list, which a part may leave that has no counterpart.
    return parts or ""


def assistant_text(value: Any, path: str, edits: Edits) -> str:
    """Return what an assistant's message says; a refusal is text, too.

    Raises:
        RequestError: it does not have the form of OpenAI's API.
    """
    if isinstance(value, str):
        return value
    texts = []
    for part, kind, place in _parts(value, path, _ASSISTANT_PARTS):
        name = "text" if kind == "output_text" else "refusal"
        note_others(part, (name,), "input.content", edits)
        if kind == "refusal":
            edits.convert("input.content.refusal", "to text")
        texts.append(field_checks.text(part, name, place))
    return "".join(texts)


def _parts(value: Any, path: str, supported: Collection[str]) -> Iterator[tuple[_Object, str, str]]:
    """Yield each part with its type and its path."""
    if not isinstance(value, list):
        raise field_checks.wrong_type(path, "one of a string or an array", value)
    for index, given in enumerate(value):
        place = f"{path}[{index}]"
        part = field_checks.checked(given, dict, place)
        kind = field_checks.text(part, "type", place)
        yield part, field_checks.one_of(kind, supported, f"{place}.type"), place


def _text(part: _Object, path: str, edits: Edits) -> _Object:
    note_others(part, ("text",), "input.content", edits)
    return {"type": "text", "text": field_checks.text(part, "text", path)}


def _image(part: _Object, path: str, edits: Edits) -> _Object | None:
    note_others(part, ("image_url", "detail", "file_id"), "input.content", edits)
    url = field_checks.optional(part, "image_url", path, str)
    detail = field_checks.optional(part, "detail", path, str)
    if url is None:
        if field_checks.optional(part, "file_id", path, str) is None:
            raise field_checks.missing(f"{path}.image_url")
        edits.leave_out("input.content.input_image.file_id", _NO_FILES)
        return None
    image = {"url": url}
    if detail not in (None, "auto"):
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def _file(part: _Object, path: str, edits: Edits) -> _Object | None:
    known = ["file_data", "file_id", "file_url", "filename"]
    if part.get("detail") == "auto":
        known.append("detail")
    note_others(part, known, "input.content", edits)
    data = field_checks.optional(part, "file_data", path, str)
    name = field_checks.optional(part, "filename", path, str)
    if data is not None:
        file = {"file_data": data} if name is None else {"filename": name, "file_data": data}
        return {"type": "file", "file": file}
    for name in ("file_id", "file_url"):
        if field_checks.optional(part, name, path, str) is not None:
            edits.leave_out(f"input.content.input_file.{name}", _NO_FILES)
            return None
    raise field_checks.missing(f"{path}.file_data")


_NO_FILES = "a chat request has a file's content or an image's URL"


def _audio(part: _Object, path: str, edits: Edits) -> _Object:
    note_others(part, ("input_audio",), "input.content", edits)
    audio = field_checks.required(part, "input_audio", path, dict)
    for name in ("data", "format"):
        field_checks.text(audio, name, f"{path}.input_audio")
    return {"type": "input_audio", "input_audio": audio}


_PARTS: Mapping[str, Callable[[_Object, str, Edits], _Object | None]] = {
    "input_text": _text,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
