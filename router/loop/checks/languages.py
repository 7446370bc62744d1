"""The language of a text, by py3langid; None for a text that is too short to tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from evaluators.text.words import unspaced_letters
from providers.errors import MissingExtraError

# The beginning is enough.
_MAX_CHARACTERS = 4000
# A detector guesses below so many.
_FEWEST_LETTERS = 24


def require_language_detector(what: str) -> None:
    """Raise MissingExtraError where the detector is not installed; `what` needs it."""
    if find_spec("py3langid") is None:
        raise MissingExtraError(what, "metrics")


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None where it has too few letters.

    Raises:
        MissingExtraError: the detector is not installed.
    """
    text = text[:_MAX_CHARACTERS]
    if sum(map(str.isalpha, text)) + 2 * unspaced_letters(text) < _FEWEST_LETTERS:
        return None
    language: str = _detector()(text.encode(errors="replace"))[0]
    return language


@cache
def _detector() -> Callable[[bytes], Any]:
    require_language_detector("The language of a text")
    import py3langid  # noqa: PLC0415  # an extra

    classify: Callable[[bytes], Any] = py3langid.classify
    return classify
