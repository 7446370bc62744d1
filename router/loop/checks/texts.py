"""One text without its personal data, secrets included.

masked = TextMasking(config.personal_data, key).mask("I am ann@example.org", "messages[0].content")
masked.text          # I am [EMAIL_kdjfhgmnop]
masked.findings      # where, and what kind; never the value
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from router.config.review import DataAction, PersonalData
from router.loop.checks.bank_accounts import bank_accounts
from router.loop.checks.email_addresses import email_addresses
from router.loop.checks.findings import CheckFinding, DataKind, Recogniser
from router.loop.checks.folding import fold
from router.loop.checks.inline_media import inline_media
from router.loop.checks.ip_addresses import ip_addresses
from router.loop.checks.national_ids import national_ids
from router.loop.checks.payment_cards import payment_cards
from router.loop.checks.phone_numbers import phone_numbers
from router.loop.checks.placeholders import WRITTEN, placeholder
from router.loop.checks.secrets_in_text import secrets_in_text

# What counts where values overlap: the kinds that are surest first.
_ORDER: tuple[DataKind, ...] = (
    "secret",
    "email",
    "iban",
    "card",
    "national_id",
    "ip",
    "phone",
    "media",
)
# The action that counts where values overlap.
_STRENGTH: Mapping[DataAction, int] = {"keep": 0, "placeholder": 1, "mask": 2, "drop": 3}


class MaskedText(NamedTuple):
    """A text without personal data, and what was in it."""

    text: str
    findings: tuple[CheckFinding, ...]


class _Value(NamedTuple):
    """A value in the text: its characters, and what it is."""

    start: int
    end: int
    kind: DataKind
    value: str


class TextMasking:
    """Masks texts as a config says.

    Args:
        config: what happens to each kind of data.
        key: the key of the placeholders.

    Attributes:
        config, key: see above.
    """

    def __init__(self, config: PersonalData, key: bytes) -> None:
        self.config = config
        self.key = key
        self._recognisers: Mapping[DataKind, Recogniser] = {
            "email": email_addresses,
            "iban": bank_accounts,
            "card": payment_cards,
            "national_id": national_ids,
            "ip": ip_addresses,
            "phone": partial(phone_numbers, countries=config.countries),
            "secret": secrets_in_text,
            "media": inline_media,
        }

    def action(self, kind: DataKind) -> DataAction:
        """Return what happens to data of a kind."""
        action: DataAction = getattr(self.config, kind)
        return action

    def mask(self, text: str, place: str, *, name: str = "") -> MaskedText:
        """Return the text without what is to be masked or dropped, and the findings.

        Values that overlap are replaced together, so that no part of either is left.

        Args:
            text: any text; the time grows with its length.
            place: what the findings call it.
            name: what the text is called where it stands; `password` says that it is a secret.
        """
        values = sorted(self._named_values(text, name) if name else self._values(text))
        if not values:
            return MaskedText(text, ())
        pieces: list[str] = []
        findings: list[CheckFinding] = []
        length = behind = 0
        for start, end, overlapping in _joined(values):
            pieces.append(text[behind:start])
            length += start - behind
            behind = end
            action = max(
                (self.action(value.kind) for value in overlapping), key=_STRENGTH.__getitem__
            )
            first = min(overlapping, key=lambda value: _ORDER.index(value.kind))
            written = text[start:end] if action == "keep" else self._written(first, action)
            pieces.append(written)
            findings += [
                CheckFinding(
                    kind=kind, action=action, place=place, start=length, end=length + len(written)
                )
                for kind in dict.fromkeys(value.kind for value in overlapping)
            ]
            length += len(written)
        pieces.append(text[behind:])
        return MaskedText("".join(pieces), tuple(findings))

    def _written(self, value: _Value, action: DataAction) -> str:
        return placeholder(value.kind, value.value if action == "placeholder" else None, self.key)

    def _named_values(self, text: str, name: str) -> Iterator[_Value]:
        label = f"{name.replace('_', ' ')}: "
        for value in self._values(label + text):
            start, end = value.start - len(label), value.end - len(label)
            if end > 0:
                yield value._replace(start=max(start, 0), end=end)

    def _values(self, text: str) -> Iterator[_Value]:
        folded = fold(text)
        written = [match.span() for match in WRITTEN.finditer(folded.text)]
        starts = [start for start, _ in written]
        for kind, recogniser in self._recognisers.items():
            for span in recogniser(folded):
                before = bisect_right(starts, span.start) - 1
                # What an earlier check wrote stays as it is.
                if before < 0 or span.end > written[before][1]:
                    yield _Value(*folded.original(span.start, span.end), kind, span.value)


def _joined(values: list[_Value]) -> Iterator[tuple[int, int, list[_Value]]]:
    """Yield values that overlap together: where the first begins and the last ends."""
    group = [values[0]]
    end = values[0].end
    for value in values[1:]:
        if value.start >= end:
            yield group[0].start, end, group
            group = []
        group.append(value)
        end = max(end, value.end)
    yield group[0].start, end, group
