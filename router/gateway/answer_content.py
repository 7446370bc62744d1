"""What an answer says, whichever path it answers."""

from __future__ import annotations

from typing import Any, NamedTuple


class AnswerContent(NamedTuple):
    """An answer's text, and its calls of tools as chat completions have them."""

    text: str
    tool_calls: tuple[dict[str, Any], ...] = ()
