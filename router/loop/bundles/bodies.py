"""Texts as a bundle has them: as they are, without personal data, or only their hashes.

    texts = bodies_of("masked", config.personal_data)
    with texts.row() as row:
        text = texts.text("Write to ann@example.org")     # Write to [EMAIL]
    row.changed                                             # True

What a hash could be guessed from is not in a masked bundle: neither hashes of texts nor of the
requests that had them, because all but a telephone number is known there.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from evaluators.stats.prediction_powered import FOLDS
from router.config.review import DataAction, PersonalData
from router.loop.bundles.contents import canonical
from router.loop.checks.conversations import ConversationMasking
from router.loop.checks.texts import TextMasking
from router.store.evidence import Bodies


class TreatedRow:
    """A row whose texts are being written: `changed` says whether one was replaced."""

    def __init__(self) -> None:
        self.changed = False


def hash_of(text: str) -> str:
    """Return what stands for a text in a bundle of hashes."""
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


class BundledTexts:
    """Writes texts as they are, and notes which rows were changed; the others differ in `_treated`.

    Attributes:
        changed: how many rows were changed.
    """

    kind: Bodies = "keep"

    def __init__(self) -> None:
        self.changed = 0
        self._row = TreatedRow()
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}

    @contextmanager
    def row(self) -> Iterator[TreatedRow]:
        """Begin a row, and count it at its end if it was changed."""
        self._row = row = TreatedRow()
        yield row
        self.changed += row.changed

    def text(self, text: str) -> str:
        """Return a text."""
        return self.value(text) if text else text

    def optional(self, text: str | None) -> str | None:
        """Return a text that may be missing."""
        return None if text is None else self.text(text)

    def value(self, value: Any) -> Any:
        """Return any JSON value."""
        treated = self._treated(value)
        if treated != value:
            self._row.changed = True
        return treated

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
        """Return messages."""
        treated = tuple(self._message(message) for message in messages)
        if list(treated) != list(messages):
            self._row.changed = True
        return treated

    def name(self, kind: str, name: str) -> str:
        """Return an id or a group's name, the same for the same; a number where it had to go.

        What is drawn by names (the folds of labels) is drawn alike.
        """
        known = self._names.get((kind, name))
        if known is None:
            known = self._named(kind, name)
            if known == name:
                return name
            self._names[kind, name] = known
        return known

    def group(self, kind: str, name: str) -> str:
        """Return the name of a group, of which nothing counts but which rows are in it."""
        return name

    def request_hash(self, digest: str) -> str:
        """Return the hash of a request, by which judgements and scores are joined."""
        return digest

    def document(self, value: Any) -> Any:
        """Return a part of what was requested, such as a run document."""
        return value

    def sha256(self, text: bytes) -> str:
        """Return the hash of a row's text as it was, where the bundle has it; else ""."""
        return ""

    def _treated(self, value: Any) -> Any:
        return value

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return dict(message)

    def _named(self, kind: str, name: str) -> str:
        return name

    def _numbered(self, kind: str, name: str) -> str:
        """Return a name that says nothing, of the same fold."""
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        fold = zlib.crc32(name.encode(errors="replace")) % FOLDS
        written, tail = f"{kind} {number}", 0
        while zlib.crc32(written.encode()) % FOLDS != fold:
            tail += 1
            written = f"{kind} {number}.{tail}"
        return written


class MaskedTexts(BundledTexts):
    """Writes texts without personal data and secrets, as datasets of requests have them.

    The same value has the same `[EMAIL]` as any other: a placeholder that tells values apart could
    be guessed by whoever has its key, and a key of the bundle's own would change its bytes.

    Args:
        config: what is searched for.
    """

    kind: Bodies = "masked"

    def __init__(self, config: PersonalData) -> None:
        super().__init__()
        actions = {
            name: "mask"
            for name in PersonalData.__struct_fields__
            if getattr(config, name) in _REPLACED
        }
        self._masking = TextMasking(msgspec.structs.replace(config, **actions), b"")
        self._hashes: dict[str, str] = {}

    def request_hash(self, digest: str) -> str:
        """Return a number in place of a hash that texts could be guessed from."""
        if not digest:
            return digest
        return self._hashes.setdefault(digest, f"request {len(self._hashes) + 1}")

    def group(self, kind: str, name: str) -> str:
        """Return a number in place of a name."""
        if (kind, name) not in self._names:
            self._names[kind, name] = self._numbered(kind, name)
        return self._names[kind, name]

    def document(self, value: Any) -> Any:
        """Return it without personal data in its texts; numbers stay what they are."""
        if isinstance(value, Mapping):
            return {name: self.document(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(inner) for inner in value]
        return self._treated(value) if isinstance(value, str) else value

    def _treated(self, value: Any) -> Any:
        return _as_before(ConversationMasking(self._masking).value(value, ""), value)

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        [masked] = ConversationMasking(self._masking).messages([message])
        return masked

    def _named(self, kind: str, name: str) -> str:
        return name if self._treated(name) == name else self._numbered(kind, name)


class HashedTexts(MaskedTexts):
    """Writes the hashes of texts; names, ids and documents as MaskedTexts does."""

    kind: Bodies = "hashes"

    def request_hash(self, digest: str) -> str:
        """Return the hash: those of texts are there, too."""
        return digest

    def text(self, text: str) -> str:
        """Return the hash of a text."""
        self._row.changed |= bool(text)
        return hash_of(text) if text else text

    def value(self, value: Any) -> Any:
        """Return the hash of a value, as canonical JSON."""
        if value in (None, "", (), [], {}):
            return value
        self._row.changed = True
        return hash_of(value if isinstance(value, str) else canonical(value).decode())

    def sha256(self, text: bytes) -> str:
        """Return the hash, hex."""
        return hashlib.sha256(text).hexdigest()

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in message.items() if name != "role"}
        return {"role": str(message.get("role", ""))[:32], "content": self.value(rest)}


_REPLACED: frozenset[DataAction] = frozenset({"placeholder", "drop"})


def _as_before(masked: Any, value: Any) -> Any:
    """Return a masked value with the types that it had: lists of JSON may have been tuples."""
    return tuple(masked) if isinstance(value, tuple) and isinstance(masked, list) else masked


def bodies_of(kind: Bodies, config: PersonalData) -> BundledTexts:
    """Return what writes the texts of a bundle."""
    if kind == "keep":
        return BundledTexts()
    return MaskedTexts(config) if kind == "masked" else HashedTexts(config)
