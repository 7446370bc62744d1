"""Retirements of models that hosts have announced on pages, and not in their lists of models.

Anthropic's dates are of its own page. OpenAI's were read in articles that quote OpenAI's page, not
on the page; `source` names the page, so that a reader can look there. A host's list of models,
where it has dates, stands before this.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

_OPENAI = "https://developers.openai.com/api/docs/deprecations"
_ANTHROPIC = "https://docs.anthropic.com/en/docs/about-claude/model-deprecations"
READ_ON = "2026-11-30"


class KnownRetirement(NamedTuple):
    """A model that is, or will be, shut down.

    Attributes:
        date: the day, UTC.
        source: the host's page about it. `READ_ON` is the day on which it, or for OpenAI articles
            that quote it, was read.
    """

    date: str
    source: str

    @property
    def at(self) -> float:
        """When, in seconds since the epoch."""
        return datetime.fromisoformat(self.date).replace(tzinfo=UTC).timestamp()


def _on(date: str, source: str, models: str) -> dict[str, KnownRetirement]:
    return {model: KnownRetirement(date, source) for model in models.split()}


# By the kind of provider, and the model's name there.
KNOWN: Mapping[str, Mapping[str, KnownRetirement]] = {
    "openai": {
        **_on(
            "2026-10-23",
            _OPENAI,
            "gpt-3.5-turbo gpt-3.5-turbo-0125 gpt-4 gpt-4-0613 gpt-4-1106-preview gpt-4-turbo "
            "gpt-4-turbo-2024-04-09 gpt-4o-2024-05-13 gpt-4.1-nano gpt-4.1-nano-2025-04-14 o1 "
            "o1-2024-12-17 o1-pro o1-pro-2025-03-19 o3-mini o3-mini-2025-01-31 o4-mini "
            "o4-mini-2025-04-16",
        ),
        **_on(
            "2026-12-11",
            _OPENAI,
            "gpt-5 gpt-5-2025-08-07 gpt-5-mini gpt-5-mini-2025-08-07 gpt-5-nano "
            "gpt-5-nano-2025-08-07 o3",
        ),
        **_on(
            "2027-01-14",
            _OPENAI,
            "gpt-4o-2024-08-06 gpt-4o-2024-11-20 gpt-4o-mini-2024-07-18 gpt-4.1-2025-04-14 "
            "gpt-4.1-mini-2025-04-14",
        ),
    },
    "anthropic": {
        **_on(
            "2024-11-06",
            _ANTHROPIC,
            "claude-1.0 claude-1.1 claude-1.2 claude-1.3 claude-instant-1.0 claude-instant-1.1 "
            "claude-instant-1.2",
        ),
        **_on("2025-07-21", _ANTHROPIC, "claude-2.0 claude-2.1 claude-3-sonnet-20240229"),
        **_on("2026-01-05", _ANTHROPIC, "claude-3-opus-20240229"),
    },
}


def known_retirement(kind: str, model: str) -> KnownRetirement | None:
    """Return what is known of a model of a kind of provider; None for nothing."""
    return KNOWN.get(kind, {}).get(model)
