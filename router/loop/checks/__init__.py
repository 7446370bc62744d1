"""Checks of rows before they become part of a dataset. No IO; one file for each check.

    checked = check(messages, config.review, key=key, texts={"reference": reference})
    checked.messages, checked.texts      # without personal data
    checked.findings                     # kind, place and action of each; never the value
    checked.is_dropped                   # whether the config says to leave the row out

Personal data and secrets are masked, replaced by placeholders, or cause the row to be left out;
rows that are no honest examples are flagged or left out. The time grows with the length of the
texts, whatever is in them: about a second for a megabyte, so it belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from evaluators.text.words import unspaced_letters
from router.config.review import Pranks, Review, RowAction
from router.loop.checks.conversations import ConversationMasking
from router.loop.checks.findings import Action, CheckFinding, PrankKind
from router.loop.checks.folding import fold
from router.loop.checks.instructions import instructions
from router.loop.checks.languages import language_of
from router.loop.checks.texts import TextMasking

__all__ = ["CheckFinding", "CheckedText", "check", "texts_of"]


class CheckedText(msgspec.Struct, frozen=True, kw_only=True):
    """A row after its checks.

    Attributes:
        messages, texts: without personal data.
        findings: everything that was noticed, in the order of the texts.
    """

    messages: list[dict[str, Any]]
    texts: dict[str, str]
    findings: tuple[CheckFinding, ...]

    @property
    def is_dropped(self) -> bool:
        """Whether the row is to be left out."""
        return any(finding.action == "drop" for finding in self.findings)


def check(
    messages: Sequence[Mapping[str, Any]],
    config: Review,
    *,
    key: bytes,
    texts: Mapping[str, str] | None = None,
) -> CheckedText:
    """Return a row without its personal data, and what was noticed in it.

    Args:
        messages: the conversation, as OpenAI's API has it.
        config: what to search for, and what to do then.
        key: the key of the placeholders: with the same one, a value has the same placeholder.
        texts: further texts of the row by name, such as `answer` and `reference`.
    """
    masking = ConversationMasking(TextMasking(config.personal_data, key))
    masked = masking.messages(messages)
    masked_texts = {name: str(masking.value(text, name)) for name, text in (texts or {}).items()}
    findings = (*masking.findings, *_pranks(masked, masked_texts, config.pranks))
    return CheckedText(messages=masked, texts=masked_texts, findings=findings)


def texts_of(
    messages: Sequence[Mapping[str, Any]], *, role: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the texts of messages' contents, each with its place; of one role, or of all."""
    for number, message in enumerate(messages):
        if role is not None and message.get("role") != role:
            continue
        content = message.get("content")
        place = f"messages[{number}].content"
        if isinstance(content, str):
            yield place, content
        elif isinstance(content, list):
            for part_number, part in enumerate(content):
                text = part.get("text") if isinstance(part, Mapping) else part
                if isinstance(text, str):
                    yield f"{place}[{part_number}].text", text


def _pranks(
    messages: Sequence[Mapping[str, Any]], texts: Mapping[str, str], config: Pranks
) -> Iterator[CheckFinding]:
    users = list(texts_of(messages, role="user"))
    if (action := _acted(config.too_short)) is not None:
        yield from _too_short(users, texts, config.min_letters, action)
    if (action := _acted(config.language)) is not None and config.languages:
        language = language_of("\n".join(text for _, text in users))
        if language is not None and language not in config.languages:
            yield CheckFinding(kind="language", action=action, detail=language)
    if (action := _acted(config.injection)) is not None:
        for place, text in (*texts_of(messages), *texts.items()):
            folded = fold(text)
            for span in instructions(folded):
                start, end = folded.original(span.start, span.end)
                yield CheckFinding(
                    kind="injection", action=action, place=place, start=start, end=end
                )


def _acted(action: RowAction) -> Action | None:
    return None if action == "ignore" else action


def _too_short(
    users: Sequence[tuple[str, str]], texts: Mapping[str, str], fewest: int, action: Action
) -> Iterator[CheckFinding]:
    last = users[-1:] or [("", "")]
    reference = [(name, text) for name, text in texts.items() if name == "reference"]
    for place, text in (*last, *reference):
        letters = sum(map(str.isalnum, text)) + unspaced_letters(text)
        if letters < fewest:
            kind: PrankKind = "too_short"
            yield CheckFinding(kind=kind, action=action, place=place, detail=f"letters: {letters}")
