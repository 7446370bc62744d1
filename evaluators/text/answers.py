"""Answers that are not answers: thoughts, and what was cut off, filtered or refused.

answer = read_answer(answer, AnswerRules())     # before anything scores it
answer.text, answer.thinking, answer.shortfall
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import msgspec
import regex

from evaluators.base import Answer, Declared
from evaluators.text.thoughts import Thoughts, split_thoughts
from providers.errors import RunDocumentError

OnTruncated = Literal["score", "exclude", "zero"]

TRUNCATED, UNFINISHED, UNSPLIT = "truncated", "unfinished", "unsplit"
FILTERED, REFUSED = "filtered", "refused"

_CUT_OFF = frozenset({"length", "max_tokens", "model_length"})
_FILTERED = frozenset({"content_filter", "safety"})
_REFUSED = frozenset({"refusal"})
_BESIDE_TEXT = frozenset({"cost", "latency", "tokens"})

SHORTFALLS = {
    TRUNCATED: "were cut off at max_tokens",
    UNFINISHED: "end with the model's thoughts",
    UNSPLIT: "take too long to search with the pattern of strip_thinking",
    FILTERED: "were filtered by the host",
    REFUSED: "were refused by the model",
}
"""What befell an answer, for a sentence about several."""


class AnswerRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run reads its answers.

    Attributes:
        strip_thinking: whether thoughts are split off before anything scores the answer; they are
            stored beside it. `true` knows `<think>…</think>` and its like, and takes what follows
            the last one (or else what is before the first). A text is a regular expression for
            other forms: each match is a thought.
    """

    strip_thinking: bool | Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] = True


def check_rules(rules: AnswerRules) -> None:
    """Refuse a pattern that is not one. Raises RunDocumentError."""
    if isinstance(rules.strip_thinking, str):
        try:
            _compiled(rules.strip_thinking)
        except (regex.error, OverflowError, RecursionError) as error:
            raise RunDocumentError(
                f"answer.strip_thinking: {rules.strip_thinking!r} is not a regular expression: "
                f"{error}",
                param="answer.strip_thinking",
            ) from None


def read_answer(answer: Answer, rules: AnswerRules) -> Answer:
    """Return the answer with its thoughts beside its text, and what it falls short of.

    An answer that was read before may be read again, by the same rules or others.
    """
    whole = answer.text if answer.whole_text is None else answer.whole_text
    if whole is None:
        return answer
    text, thinking, lacking = whole, answer.thinking, ""
    if rules.strip_thinking is not False:
        pattern = None if rules.strip_thinking is True else _compiled(rules.strip_thinking)
        try:
            split = split_thoughts(whole, pattern)
        except TimeoutError:
            split, lacking = Thoughts(whole), UNSPLIT
        text = split.text
        lacking = UNFINISHED if split.unfinished else lacking
        if answer.whole_text is None:
            thinking = "\n".join(filter(None, (thinking, split.thinking)))
    if not text.strip() and thinking.strip():
        # Hosts send thoughts within the text, or beside an empty one.
        lacking = UNFINISHED
    shortfall = shortfall_of(answer) or lacking
    whole_text = None if text == whole else whole
    before = (answer.text, answer.whole_text, answer.thinking, answer.shortfall)
    if before == (text, whole_text, thinking, shortfall):
        return answer
    return msgspec.structs.replace(
        answer, text=text, whole_text=whole_text, thinking=thinking, shortfall=shortfall
    )


def read_for_scoring(answer: Answer, rules: AnswerRules, on_truncated: OnTruncated) -> Answer:
    """Return the answer as metrics score it; one that is to score zero has an empty text."""
    read = read_answer(answer, rules)
    if on_truncated == "zero" and read.shortfall:
        return msgspec.structs.replace(read, text="")
    return read


def shortfall_of(answer: Answer) -> str:
    """Return what an answer falls short of, going by what its host reports; "" for nothing."""
    reason = answer.finish_reason.lower()
    if reason in _FILTERED:
        return FILTERED
    if answer.shortfall == REFUSED or reason in _REFUSED:
        return REFUSED
    return TRUNCATED if reason in _CUT_OFF else ""


def reads_text(metric: Declared) -> bool:
    """Return whether a metric scores an answer's text, and not its cost or time."""
    return metric.name not in _BESIDE_TEXT


@lru_cache(64)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.DOTALL)
