r"""Reads the verdict of a judge's answer: a score, a choice, or nothing that could be read.

    score("Feedback: fine. [RESULT] 4", 1, 5)        -> ScoreVerdict(value=4)
    score("Feedback: fine. [RESULT] 7", 1, 5)        -> ScoreVerdict(None, "out of range: 7")
    choice("... so **Response B** it is", ("A", "B"))

The last verdict counts. An answer without one is unparsed, which is an outcome of its own and never
a number. What the prompt itself says about scores (its rubric, its example of the format) is no
verdict when it comes back in the answer, nor is a number in the judge's thoughts. In an answer that
was cut off, only a verdict in the requested form counts: words around a number may be the beginning
of another sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from evaluators.judge import score_patterns as patterns
from evaluators.judge.plain_text import folded, plain_text
from providers.wire import UNREADABLE

_JSON_FENCE = re.compile(r"\A\s*```(?:json)?\s*(\{.*\})\s*```\s*\Z", re.DOTALL | re.IGNORECASE)

_SENTENCE = 300  # characters of a sentence that are looked at on either side


class ScoreVerdict(NamedTuple):
    """A score; for an unparsed answer, `value` is None and `why` has the reason."""

    value: int | None
    why: str = ""


class LabelVerdict(NamedTuple):
    """A label; for an unparsed answer, `label` is None and `why` has the reason."""

    label: str | None
    why: str = ""


def score(
    answer: str, low: int, high: int, *, prompt: str = "", finish_reason: str = ""
) -> ScoreVerdict:
    """Return the last score that the answer gives.

    A result tag counts more than an overall or final score, that more than other words around a
    number, and those more than a number that stands alone at the end: within the first kind that
    the answer has, the last one is the verdict.

    Args:
        answer: the text of the judge's answer.
        low: the lowest score.
        high: the highest score.
        prompt: the text of the request; lines of it in the answer are no verdict.
        finish_reason: why the answer ended, as the host reports it.
    """
    spoken = plain_text(answer, prompt=prompt, finish_reason=finish_reason)
    fields = _fields(spoken.text)
    if fields is not None:
        return _checked(_number(fields, high), low, high)
    text = patterns.SCALE.sub(" ", spoken.text)
    tagged = _given(patterns.TAGGED.finditer(text), text, high)
    if spoken.unfinished and (tagged is None or _may_go_on(tagged, text, high)):
        return ScoreVerdict(None, spoken.unfinished)
    overall = _given(patterns.OVERALL.finditer(text), text, high)
    for verdict, pattern in ((tagged, patterns.TAGGED_ANY), (overall, patterns.OVERALL_ANY)):
        numbers = [match for match in pattern.finditer(text) if not _is_hypothetical(match, text)]
        if _spoils(_last(numbers), verdict):
            return ScoreVerdict(None, "no whole number of this scale")
        if verdict is not None:
            return _checked(int(verdict["number"]), low, high)
    worded = _given(_worded(text), text, high)
    if _names_several(text, worded, high):
        return ScoreVerdict(None, "several scores and none of the whole")
    verdict = worded or _only_line(text) or patterns.ALONE.match(_last_line(text))
    return _checked(int(verdict["number"]), low, high) if verdict else _checked(None, low, high)


def choice(
    answer: str, labels: Sequence[str], *, prompt: str = "", finish_reason: str = ""
) -> LabelVerdict:
    """Return the last of the labels that the answer decides for.

    Args:
        answer: the text of the judge's answer.
        labels: the labels to choose from: `("A", "B")`, `("yes", "no")`, ... Single letters must
            be in upper case, unless they stand alone.
        prompt: the text of the request; lines of it in the answer are no verdict.
        finish_reason: why the answer ended, as the host reports it.
    """
    spoken = plain_text(answer, prompt=prompt, finish_reason=finish_reason)
    fields = _fields(spoken.text)
    if fields is not None:
        named = [str(value) for name, value in fields.items() if _plain_name(name) in _CHOICES]
        return _known(named[-1] if named else None, labels)
    tagged, *others, alone = _choice_patterns(tuple(labels))
    for pattern in [tagged] if spoken.unfinished else [tagged, *others]:
        verdict = _last(pattern.finditer(spoken.text))
        if verdict is not None:
            return _known(verdict["label"], labels)
    if spoken.unfinished:
        return LabelVerdict(None, spoken.unfinished)
    verdict = alone.match(_last_line(spoken.text))
    return _known(verdict["label"], labels) if verdict else LabelVerdict(None, "no verdict")


def _choice_patterns(labels: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Return the forms of a choice: tagged, in brackets, in words, and alone on its line."""
    either = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    case = "" if all(len(label) == 1 for label in labels) else "(?i:"
    label = rf"(?P<label>{case}{either}{')' if case else ''})"
    ends = (
        r"(?=[\s*_`\"'\u201d\u2019)\]}>.,;:!<$]*"
        r"(?:$|/s>|\n|(?:is|was|wins|because|as|since|over|for)\b)|[.,;:!]\s)"
    )
    who = (
        rf"(?:{patterns.DRESS}|(?i:the|final|better|answer|response|option|assistant|is)\b){{0,12}}"
    )
    tag = r"(?:\[\s*/?\s*(?i:RESULT|CHOICE|VERDICT)\s*(?:\]|(?=[:\s]))|\\boxed\s*\{)"
    tagged = rf"{tag}{who}{label}(?!\w){ends}"
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
        rf"\A{patterns.DRESS}*(?:(?i:response|answer|option)\s+{patterns.DRESS}*)?"
        rf"(?P<label>(?i:{either}))"
        r"[\s*_`\"'\u201d\u2019)\]}}.!:<>/$s-]*\Z"
    )
    return [re.compile(pattern) for pattern in (tagged, bracketed, worded, better, alone)]


_SCORES = tuple(
    f"{scope}{noun}"
    for noun in ("score", "result", "rating", "verdict", "grade")
    for scope in ("", "overall", "final")
)
_CHOICES = frozenset({"choice", "result", "verdict", "better", "winner", "answer", "label"})


def expected(
    tokens: Sequence[tuple[str, Mapping[str, float]]], low: int, high: int
) -> float | None:
    """Return the mean score by the judge's probabilities; None where they do not say.

    Taken at the last token that is a score: each alternative that is a score counts by its
    probability, and every other one is left out (Liu et al. 2023, G-Eval, arXiv:2303.16634).

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
    stripped = folded(token).strip().lstrip("\u2581\u0120")
    if re.fullmatch(r"[+-]?\d{1,4}", stripped) is None:
        return None
    value = int(stripped)
    return value if low <= value <= high else None


def _fields(text: str) -> dict[str, Any] | None:
    """Return the fields of an answer that is a JSON object; None for any other one."""
    fence = _JSON_FENCE.match(text)
    body = fence[1] if fence else text.strip()
    if not body.startswith("{"):
        return None
    try:
        decoded = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    return decoded if isinstance(decoded, dict) else None


def _plain_name(name: str) -> str:
    """Return a field's name as `_SCORES` has it: `Overall Score` is `overallscore`."""
    return re.sub(r"[\s_-]", "", name).lower()


def _number(fields: Mapping[str, Any], high: int) -> int | None:
    """Return the number of the first field that has one."""
    named = {_plain_name(name): value for name, value in fields.items()}
    for name in _SCORES:
        value = named.get(name)
        if isinstance(value, dict) and (number := _number(value, high)) is not None:
            return number
        if isinstance(value, str) and (number := _number_of_text(value, high)) is not None:
            return number
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value) if value == value // 1 else None
    return None


def _number_of_text(value: str, high: int) -> int | None:
    """Return the number that a field's text begins with, if no other number follows."""
    match = re.fullmatch(
        rf"\s*{patterns.NUMBER}{patterns.TOP}?(?:\s*[-:(,.\u2013\u2014][^\d]*)?\s*", value
    )
    if match is None or match["top"] not in {None, str(high)}:
        return None
    return int(match["number"])


def _spoils(last: re.Match[str] | None, verdict: re.Match[str] | None) -> bool:
    """Whether the last number after a tag (or an overall score) cannot be read as a score.

    Then no other number is the verdict: `Clarity: 4. Overall score: 3.5` is not 4.
    """
    return last is not None and (verdict is None or last.start() > verdict.start())


def _names_several(text: str, verdict: re.Match[str] | None, high: int) -> bool:
    """Whether the score is one of several criteria, each with a line of its own."""
    if verdict is None:
        return False
    lines = [line for line in patterns.LABELLED.finditer(text) if line["top"] in {None, str(high)}]
    labels = {line["label"].strip().casefold() for line in lines}
    numbers = {line["number"] for line in lines}
    in_a_line = any(
        line.start() <= verdict.start("number") < line.end()
        and not patterns.SCORE_ALONE.fullmatch(line["label"].strip())
        for line in lines
    )
    return in_a_line and len(labels) > 1 and len(numbers) > 1


def _only_line(text: str) -> re.Match[str] | None:
    """Return the score of the only row of a table."""
    rows = [line for line in patterns.LABELLED.finditer(text) if line[0].lstrip().startswith("|")]
    return rows[0] if len(rows) == 1 else None


def _worded(text: str) -> list[re.Match[str]]:
    """Return `Score: 4`, `a score of 4`, `4 out of 5`, `I give it a 4`, by their place."""
    matches = [
        *patterns.WORDED.finditer(text),
        *patterns.OUT_OF.finditer(text),
        *patterns.GIVEN.finditer(text),
        *patterns.GIVEN_CHINESE.finditer(text),
    ]
    return sorted(matches, key=lambda match: match.start("number"))


def _given(matches: Iterable[re.Match[str]], text: str, high: int) -> re.Match[str] | None:
    """Return the last score that the judge gives, on this scale, and does not only speak of.

    One that it would give counts if it gives no other.
    """
    given = [
        match
        for match in matches
        if match["top"] in {None, str(high)} and not _is_hypothetical(match, text)
    ]
    return _last(match for match in given if not patterns.MODAL.search(match[0])) or _last(given)


def _is_hypothetical(match: re.Match[str], text: str) -> bool:
    """Whether a score is that of another answer, as in `to reach a score of 5, add details`."""
    if match[0].startswith("[") and not text[match.end() :].strip():
        # Whatever stands before it: a tag that ends the answer is where the verdict has to be.
        return False
    before = re.split(r"[.!?;\n\u3002]", text[max(0, match.start() - _SENTENCE) : match.start()])[
        -1
    ]
    after = re.split(r"[.!?;\n]", text[match.end() : match.end() + _SENTENCE])[0]
    if patterns.SUPPOSED.search(before) or patterns.REQUIRED.match(after):
        return True
    sentence = f"{before} {match[0]} {after}"
    return bool(patterns.MODAL.search(sentence) and patterns.CONDITION.search(sentence))


def _may_go_on(verdict: re.Match[str], text: str, high: int) -> bool:
    """Whether an answer that was cut off may be about to say another score."""
    if patterns.BARE_TAG.search(text):
        return True
    return not text[verdict.end("number") :].strip() and 10 * abs(int(verdict["number"])) <= high


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for last in matches:  # noqa: B007  (only the last one counts)
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
    for known in labels:
        if label is not None and known.casefold() == label.strip().casefold():
            return LabelVerdict(known)
    return LabelVerdict(None, "no verdict" if label is None else "no such choice")
