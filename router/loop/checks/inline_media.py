"""Images, sound and files inside a text, as `data:` addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_START = re.compile(
    r"data:[\w.+-]{0,64}/?[\w.+-]{0,64}(?:;[\w=.+-]{0,64}){0,3};base64,", re.IGNORECASE
)
_ENCODED = re.compile(r"[A-Za-z0-9+/=_%-]*")


def inline_media(folded: FoldedText) -> Iterator[Span]:
    """Yield the `data:` addresses of a text that are encoded as base64."""
    behind = 0
    for match in matches(_START, folded.text):
        if match.start() >= behind:
            rest = _ENCODED.match(folded.text, match.end())
            behind = rest.end() if rest else match.end()
            yield Span(match.start(), behind, folded.text[match.start() : behind])
