"""Readability: how hard an English answer is to read, by Flesch's formulas.

Readability().score(sample, answer)  # flesch_reading_ease and flesch_kincaid_grade, in that order
"""

from __future__ import annotations

import re
from importlib.metadata import version

import sentencex

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import unscored

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")  # noqa: RUF001  # as texts have it
_VOWELS = re.compile(r"[aeiouy]+")


class Readability:
    """Flesch reading ease and Flesch-Kincaid grade; made for English, wrong for anything else.

    Reading ease falls from about 100 (very easy) to 0 and below (very hard); the grade is in years
    of US school. Neither has a better direction: it depends on who reads. Sentences are found by
    sentencex, and a line ends one; words are runs of Latin letters; syllables are counted by rule
    (groups of vowels, without a silent e), which is right for about nine words in ten. An answer
    without words, a blank one among them, has no value.
    """

    name = "readability"
    outputs = (
        Output(
            name="flesch_reading_ease",
            higher_is_better=None,
            low=None,
            high=206.835,
            description="Flesch reading ease of an English text: higher is easier.",
        ),
        Output(
            name="flesch_kincaid_grade",
            higher_is_better=None,
            low=-15.59,
            high=None,
            unit="years",
            description="Years of school that an English text requires.",
        ),
    )
    needs_reference = False
    source = "Flesch 1948; Kincaid et al. 1975"

    def __init__(self) -> None:
        self.signature = (
            "readability|lang:en|words:latin|syllables:vowel-groups|blank:none|v:1"
            f"|sentencex:{version('sentencex')}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return reading ease and grade."""
        del sample
        sentences = [
            words
            for line in (answer.text or "").splitlines()
            for sentence in sentencex.segment("en", line)
            if (words := _WORD.findall(sentence))
        ]
        if not sentences:
            return unscored(self.outputs, "the answer has no words in Latin letters")
        words = [word for sentence in sentences for word in sentence]
        length = len(words) / len(sentences)
        weight = sum(map(syllables, words)) / len(words)
        return (
            Score(output="flesch_reading_ease", value=206.835 - 1.015 * length - 84.6 * weight),
            Score(output="flesch_kincaid_grade", value=0.39 * length + 11.8 * weight - 15.59),
        )


def syllables(word: str) -> int:
    """Count the syllables of an English word by rule; at least one."""
    plain = re.sub("[^a-z]", "", word.lower())
    count = len(_VOWELS.findall(plain))
    # A final e is silent (made, makes, moved) but for -le after a consonant (table) and -ted, -ded.
    silent = re.search(
        r"(?:[^aeiouyl]|[aeiouy]l)e$|[^aeiouytds]ed$|[^aeiouysxzc](?<!ch)(?<!sh)es$", plain
    )
    if silent and count > 1:
        count -= 1
    return max(count, 1)
