"""A conversation without its personal data: every text of every message, wherever it is.

Texts are in `content`, in its parts, in names, ids and calls of tools, and in what hosts add. The
arguments of a call are JSON in a string: their strings and numbers are masked one by one, so that
they stay JSON. Images, sound and files are not searched; they are replaced as a whole. Ids that
evalrouter made and numbers with a fraction, such as times, stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from router.loop.checks.findings import CheckFinding
from router.loop.checks.own_ids import is_own_id
from router.loop.checks.placeholders import placeholder
from router.loop.checks.texts import MaskedText, TextMasking

# Their values are words of OpenAI's.
_WORDS = frozenset(["role", "type", "detail", "format"])
# The parts of a content that are no text, by their type, and messages' own fields for them.
_MEDIA = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video": "video",
    "video_url": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}
_FEWEST_DIGITS = 6
_DEPTH = 64
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class ConversationMasking:
    """Masks the messages of a row, and collects what is in them.

    Args:
        texts: masks one text.

    Attributes:
        findings: what has been masked or noticed so far.
    """

    def __init__(self, texts: TextMasking) -> None:
        self._texts = texts
        self.findings: list[CheckFinding] = []

    def text(self, text: str, place: str, *, name: str = "") -> str:
        """Return a text without its personal data; `name` is what it is called there."""
        masked = self._texts.mask(text, place, name=name)
        if is_own_id(text) and not _is_secret(masked):
            return text
        self.findings += masked.findings
        return masked.text

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return messages without their personal data."""
        return [
            self._fields(message, f"messages[{number}]", 0)
            for number, message in enumerate(messages)
        ]

    def value(self, value: Any, place: str) -> Any:
        """Return any JSON value without its personal data."""
        return self._value(value, place, 0)

    def _value(self, value: Any, place: str, depth: int, *, name: str = "") -> Any:
        if isinstance(value, str):
            return self._json(value, place, depth) or self.text(value, place, name=name)
        if depth >= _DEPTH:
            return self._media("file", value, place)
        if isinstance(value, Mapping):
            kind = _MEDIA.get(str(value.get("type")))
            if kind is not None:
                return self._part(kind, value, place)
            return self._fields(value, place, depth + 1)
        if isinstance(value, list | tuple):
            return [
                self._value(item, f"{place}[{number}]", depth + 1, name=name)
                for number, item in enumerate(value)
            ]
        return self._number(value, place, name)

    def _fields(self, fields: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        for number, (name, value) in enumerate(fields.items()):
            written = self.text(name, f"{place}.key[{number}]")
            if name in _WORDS and isinstance(value, str) and len(value) < _DEPTH:
                masked[written] = value
            elif name == "audio" and isinstance(value, Mapping):
                # A model's spoken answer, or the id of an earlier one.
                masked[written] = self._media("audio", value, f"{place}.{name}")
            else:
                masked[written] = self._value(
                    value, f"{place}.{written}", depth, name=name if depth else ""
                )
        return masked

    def _json(self, text: str, place: str, depth: int) -> str | None:
        """Return a text that is JSON with its values masked; None for another."""
        if not text.lstrip()[:1] in ("{", "[") or depth >= _DEPTH:  # noqa: E713
            return None
        try:
            value = _decode(text)
        except _UNREADABLE:
            return None
        before = len(self.findings)
        masked = self._value(value, place, depth + 1)
        return text if len(self.findings) == before else _encode(masked).decode()

    def _number(self, value: Any, place: str, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        is_whole = isinstance(value, int) or value.is_integer()
        text = str(int(value) if is_whole else value)
        if len(text) < _FEWEST_DIGITS:
            return value
        masked = self._texts.mask(text, place, name=name)
        # A time or a cost: its digits are those of no card and no telephone.
        if not is_whole and not _is_secret(masked):
            return value
        self.findings += masked.findings
        return value if masked.text == text else masked.text

    def _part(self, kind: str, part: Mapping[str, Any], place: str) -> Any:
        """Return a part of a content that is no text, or the text that stands for it."""
        masked = self._media(kind, part, place)
        return masked if masked is part else {"type": "text", "text": masked}

    def _media(self, kind: str, value: Any, place: str) -> Any:
        action = self._texts.action("media")
        if action != "keep":
            encoded = _encode(value).decode("utf-8", "replace")
            value = placeholder(kind, encoded if action == "placeholder" else None, self._texts.key)
        self.findings.append(CheckFinding(kind="media", action=action, place=place, detail=kind))
        return value


def _is_secret(masked: MaskedText) -> bool:
    """Return whether a secret was in a text: what its name says counts, whatever it looks like."""
    return any(finding.kind == "secret" for finding in masked.findings)
