"""Multiple choice: 1 where the answer chooses the reference's letter, else 0.

MultipleChoice().score(sample, answer)  # (Score(output="multiple_choice", value=1.0),)
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import regex

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import normalizer
from providers.errors import RunDocumentError

_PLAIN = normalizer("nfkc")

# "The answer is", as far as it stands right before the letter.
_STATED = (
    r"(?:(?i:answer|choice|option)(?:\s+(?i:is))?"
    r"|(?i:antwort|lösung)(?:\s+(?i:ist|lautet))?|(?i:réponse|respuesta|risposta|resposta)"
    r"(?:\s+(?i:est|es|è|é))?|(?i:ответ)|(?:الإجابة|الجواب)(?:\s+هي?و?)?"
    r"|(?:答案|选项|選項|選択肢|答え|回答|正解)(?:应该|應該)?(?:是|为|為|は)?"
    r"|[选選][择擇]?|(?:정답|답)[은이]?)"
)
# Letters of other scripts are no part of a Latin word.
_NO_LETTER = r"(?![\p{Latin}\p{N}_'’])"  # noqa: RUF001  # as texts have it


class MultipleChoice:
    """Whether the letter the answer chooses is a reference's.

    The letter is read by the first of these rules that finds one: the answer is the letter, perhaps
    in brackets or with a full stop; the last "answer is C" or "answer: C" in it; a letter at the
    very beginning, followed by a bracket, a full stop or a colon; the only letter of the choices
    that stands alone anywhere. Where none does, the answer is 0 and a note says that no choice
    could be read. Outside the first rule letters are upper case, since "a" is also a word. The
    second rule knows the word in other languages too (答案, 答え, 정답, Antwort, réponse, ...).
    Full-width letters and signs are read as plain ones (NFKC). A blank answer is 0.
    """

    name = "multiple_choice"
    outputs = (
        Output(name="multiple_choice", description="Share of answers with the right choice."),
    )
    needs_reference = True
    source = "rules of this file"

    def __init__(
        self, *, choices: Annotated[str, msgspec.Meta(min_length=2, max_length=26)] = "ABCDE"
    ) -> None:
        if not regex.fullmatch("[A-Z]+", choices) or len(set(choices)) < len(choices):
            raise RunDocumentError(
                f"choices: {choices!r} is not a row of different capital letters, like 'ABCD'",
                param="choices",
            )
        letter = f"([{choices}])"
        mark = r"[\s\p{Ps}\p{Pi}*\"'`]*"
        self._alone = regex.compile(
            rf"{mark}{letter}[\s\p{{Pe}}\p{{Pf}}.:。*\"'`]*", regex.IGNORECASE
        )
        self._stated = regex.compile(rf"(?:{_STATED}\s*[:=]?){mark}{letter}{_NO_LETTER}")
        self._begins = regex.compile(rf"{mark}{letter}[\p{{Pe}}.:*。、]")
        self._anywhere = regex.compile(rf"(?<![\p{{Latin}}\p{{N}}_'’]){letter}{_NO_LETTER}")  # noqa: RUF001
        self.signature = (
            f"multiple_choice|nrefs:var|multi:any|choices:{choices}|unicode:nfkc|blank:0|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0; no value where no reference names a choice."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        expected = {choice for reference in accepted if (choice := self._choice(reference))}
        if not expected:
            return unscored(self.outputs, "the reference names no choice")
        chosen = self._choice(answer.text or "")
        note = "" if chosen else "no choice could be read from the answer"
        return (Score(output="multiple_choice", value=float(chosen in expected), note=note),)

    def _choice(self, text: str) -> str:
        text = _PLAIN(text)
        if alone := self._alone.fullmatch(text):
            return alone[1].upper()
        if stated := self._stated.findall(text):
            return str(stated[-1])
        if begins := self._begins.match(text):
            return begins[1]
        anywhere = set(self._anywhere.findall(text))
        return anywhere.pop() if len(anywhere) == 1 else ""
