"""What a judge's answer says: a score, a choice, or nothing that could be read.

    score("Feedback: fine. [RESULT] 4", 1, 5)        -> Verdict(value=4)
    score("Feedback: fine. [RESULT] 7", 1, 5)        -> Verdict(value=None, why="out of range: 7")
    choice("... so **Response B** it is", ("A", "B"))

The last verdict counts. An answer that names none is unparsed, which is an outcome of its own and
never a number. What the prompt itself says about scores (its rubric, its example of the format) is
no verdict when it comes back in the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from providers.wire import UNREADABLE

# A line of the prompt that is shorter may well be an answer of its own.
_ECHO_LENGTH = 12
# Judges give a verdict in a few lines; what is longer than this is cut at its front.
_MOST = 100_000

_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_JSON_FENCE = re.compile(r"\A\s*```(?:json)?\s*(\{.*\})\s*```\s*\Z", re.DOTALL)

# What stands between a tag or a word and its number: dressing, and words that say nothing.
_DRESS = r"(?:[\s:=*_`\"'\u201c\u201d\u2018\u2019(\[{<#>]|-(?!\d))"
_FILLER = (
    rf"(?:{_DRESS}|(?:the|final|overall|score|rating|grade|result|verdict|response|is|of|be)\b)"
    r"{0,12}"
)
_NUMBER = r"(?<![\d.])(?P<number>[+-]?\d{1,4})(?:\.0+)?(?![\d%]|\.\d)"
# `1-5` and `1 to 5` are ranges; `Score 3: ...` is a line of a rubric; `3 and 5` are two numbers.
_NO_RANGE = r"(?!\s*(?:[-\u2013\u2014]|to|and|or)\s*[+-]?\d)"
_TAGGED = re.compile(
    rf"\[\s*/?\s*(?:RESULT|SCORE)\s*(?:\]|(?=[:\s]{{1,3}}[+-]?\d)){_FILLER}{_NUMBER}{_NO_RANGE}",
    re.IGNORECASE,
)
_WORDED = re.compile(
    rf"\b(?:score|rating|grade|result|verdict)\b{_FILLER}{_NUMBER}{_NO_RANGE}(?!\s*:)",
    re.IGNORECASE,
)
_OUT_OF = re.compile(
    rf"{_NUMBER}[*_]{{0,2}}\s*(?:/|out\s+of)\s*[*_]{{0,2}}(?P<most>\d{{1,4}})\b(?!\s*/)",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"\A{_DRESS}*{_NUMBER}[\s:*_`\"'\u201d\u2019)\]}}.!<>/s-]*\Z")


class ScoreVerdict(NamedTuple):
    """A score, or why there is none: `value` is None and `why` says what was wrong."""

    value: int | None
    why: str = ""


class LabelVerdict(NamedTuple):
    """One of the labels, or why there is none."""

    label: str | None
    why: str = ""


def score(answer: str, low: int, high: int, *, prompt: str = "") -> ScoreVerdict:
    """The last score that the answer gives.

    A result tag counts more than words around a number, and those more than a number that stands
    alone at the end: within the first kind that is there, the last one is the verdict.

    Args:
        answer: what the judge said.
        low: the lowest score.
        high: the highest score.
        prompt: what it was asked; lines of it in the answer are no verdict.
    """
    fields = _fields(answer)
    if fields is not None:
        return _checked(_number(fields), low, high)
    text = _own_words(answer, prompt)
    for found in (
        _last(_TAGGED.finditer(text)),
        _last(_worded(text, high)),
        _ALONE.match(_last_line(text)),
    ):
        if found is not None:
            return _checked(int(found["number"]), low, high)
    return ScoreVerdict(None, "no verdict")


def choice(answer: str, labels: Sequence[str], *, prompt: str = "") -> LabelVerdict:
    """The last of the labels that the answer decides for.

    Args:
        answer: what the judge said.
        labels: what it may choose: `("A", "B")`, `("yes", "no")`, ... Single letters must be in
            upper case, unless they stand alone.
        prompt: what it was asked.
    """
    fields = _fields(answer)
    if fields is not None:
        named = [str(value) for name, value in fields.items() if name in _CHOICE_FIELDS]
        return _known(named[-1] if named else None, labels)
    text = _own_words(answer, prompt)
    one = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    case = "" if all(len(label) == 1 for label in labels) else "(?i:"
    label = rf"(?P<label>{case}{one}{')' if case else ''})"
    ends = (
        r"(?=[\s*_`\"'\u201d\u2019)\]}>.,;:!<]*"
        r"(?:$|/s>|\n|(?:is|was|wins|because|as|since|over|for)\b)|[.,;:!]\s)"
    )
    who = rf"(?:{_DRESS}|(?i:the|final|better|answer|response|option|assistant|is)\b){{0,12}}"
    tagged = rf"\[\s*/?\s*(?i:RESULT|CHOICE|VERDICT)\s*(?:\]|(?=[:\s])){who}{label}\b{ends}"
    bracketed = rf"\[\s*(?i:response|answer|assistant)\s+{label}\s*\]"
    worded = (
        rf"\b(?i:better|winner|verdict|choice|result|answer|prefer\w*|choose)\b{who}{label}\b{ends}"
    )
    better = (
        rf"\b(?i:response|answer|assistant|option)\s+[\"'*_]*{label}[\"'*_]*\s+"
        rf"(?i:wins\b|(?:is|was)(?:\s+(?:clearly|overall|slightly|the|much|a)){{0,3}}"
        rf"\s+(?:better|best|stronger|winner|preferred)\b)"
    )
    alone = (
        rf"\A{_DRESS}*(?:(?i:response|answer|option)\s+)?{_DRESS}*(?P<label>(?i:{one}))"
        r"[\s*_`\"'\u201d\u2019)\]}}.!:<>/s-]*\Z"
    )
    for pattern in (tagged, bracketed, worded, better):
        found = _last(re.finditer(pattern, text))
        if found is not None:
            return _known(found["label"], labels)
    found = re.match(alone, _last_line(text))
    return _known(found["label"], labels) if found else LabelVerdict(None, "no verdict")


_SCORE_FIELDS = ("score", "result", "rating", "verdict", "grade")
_CHOICE_FIELDS = ("choice", "result", "verdict", "better", "winner", "answer", "label")


def expected(
    tokens: Sequence[tuple[str, Mapping[str, float]]], low: int, high: int
) -> float | None:
    """The score that the judge's probabilities give on average; None where they do not say.

    Taken at the last token that is a score: each alternative that is a score counts by its
    probability, those that are not are left out (Liu et al. 2023, G-Eval, arXiv:2303.16634).

    Args:
        tokens: the answer's tokens in order, each with its alternatives' natural log probabilities.
        low: the lowest score.
        high: the highest score.
    """
    for token, alternatives in reversed(tokens):
        if _as_score(token, low, high) is None:
            continue
        weights: dict[int, float] = {}
        for text, logprob in alternatives.items():
            value = _as_score(text, low, high)
            if value is not None:
                weights[value] = weights.get(value, 0.0) + math.exp(min(logprob, 0.0))
        total = math.fsum(weights.values())
        if total <= 0:
            return None
        return math.fsum(value * weight for value, weight in weights.items()) / total
    return None


def _as_score(token: str, low: int, high: int) -> int | None:
    stripped = token.strip().lstrip("▁Ġ")
    if re.fullmatch(r"[+-]?\d{1,4}", stripped) is None:
        return None
    value = int(stripped)
    return value if low <= value <= high else None


def _fields(answer: str) -> dict[str, Any] | None:
    """The answer as a JSON object, where it is one."""
    found = _JSON_FENCE.match(answer)
    body = found[1] if found else answer.strip()
    if not body.startswith("{"):
        return None
    try:
        decoded = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    return decoded if isinstance(decoded, dict) else None


def _number(fields: Mapping[str, Any]) -> int | None:
    for name in _SCORE_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,4}\s*", value):
            return int(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value) if value == value // 1 else None
    return None


def _own_words(answer: str, prompt: str) -> str:
    """The answer without its thoughts and without what it repeats of the prompt."""
    text = _THOUGHT.sub("", answer[-_MOST:])
    if prompt.strip():
        text = text.replace(prompt.strip(), "")
    asked = {line.strip() for line in prompt.splitlines() if len(line.strip()) >= _ECHO_LENGTH}
    lines = [line for line in text.splitlines() if line.strip() not in asked]
    return "\n".join(lines)


def _worded(text: str, high: int) -> Iterator[re.Match[str]]:
    """`Score: 4`, `a score of 4`, `4 out of 5`, by their place."""
    found = list(_WORDED.finditer(text))
    found += [match for match in _OUT_OF.finditer(text) if int(match["most"]) == high]
    return iter(sorted(found, key=lambda match: match.start("number")))


def _last(found: Iterator[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for last in found:  # noqa: B007  (the last one is what is wanted)
        pass
    return last


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _checked(value: int | None, low: int, high: int) -> ScoreVerdict:
    if value is None:
        return ScoreVerdict(None, "no verdict")
    if not low <= value <= high:
        return ScoreVerdict(None, f"out of range: {value}")
    return ScoreVerdict(value)


def _known(label: str | None, labels: Sequence[str]) -> LabelVerdict:
    for one in labels:
        if label is not None and one.casefold() == label.strip().casefold():
            return LabelVerdict(one)
    return LabelVerdict(None, "no verdict" if label is None else "no such choice")
