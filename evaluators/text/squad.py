"""The words of a short answer as SQuAD's evaluation script compares them, in any script.

read = answer_words("unicode", "nfc")
read("The Eiffel Tower!")     # ["eiffel", "tower"]
read("北京。")                 # ["北", "京"]
"""

from __future__ import annotations

import re
import string
from typing import Literal

import regex

from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, without_invisible, words

AnswerRules = Literal["unicode", "squad1.1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII = str.maketrans("", "", string.punctuation)
# ASCII's symbols count as punctuation, so their full-width forms do too.
_PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~＄＋＜＝＞＾｀｜～]")  # noqa: RUF001  # see above
# Signs between words, where other scripts have blank space: Ethiopic and Tibetan.
_SEPARATORS = regex.compile("[\u1361\u0f0b\u0f0c]")


class AnswerWords:
    """Reads a text's words by one of the rules; see `answer_words`.

    Attributes:
        signature: the rules, as a part of a metric's signature.
    """

    def __init__(self, rules: AnswerRules, form: NormalForm) -> None:
        self._strict = rules == "squad1.1"
        self._form = normalizer("none" if self._strict else form)
        self.signature = (
            "tok:whitespace|norm:squad1.1"
            if self._strict
            else f"tok:{SIGNATURE}|norm:squad1.1-all-scripts|articles-only:kept|unicode:{form}"
        )

    def __call__(self, text: str) -> list[str]:
        """Return the words that count."""
        if self._strict:
            return _without_articles(text.lower().translate(_ASCII)).split()
        plain = _without_punctuation(self._form(without_invisible(text)).lower())
        return words(_without_articles(plain)) or words(plain) or text.split()


def answer_words(rules: AnswerRules, form: NormalForm) -> AnswerWords:
    """Return a function from a text to its words, in lower case, without articles.

    Args:
        rules: `squad1.1` is the script to the letter: only ASCII's punctuation is
            dropped, and words are what blank space separates. `unicode` gives the same for
            texts without other punctuation; it also drops the punctuation of all scripts and
            invisible characters (zero-width spaces, signs of direction), divides scripts that
            are written without blanks (see `words`), and keeps a text of nothing but articles
            or punctuation: the script would leave nothing of it, so that the answers "A" and
            "The" to a multiple choice were equal.
        form: the normal form for `unicode`.
    """
    return AnswerWords(rules, form)


def _without_punctuation(text: str) -> str:
    if text.isascii():
        return text.translate(_ASCII)
    return _PUNCTUATION.sub("", _SEPARATORS.sub(" ", text)).translate(_ASCII)


def _without_articles(text: str) -> str:
    return _ARTICLES.sub(" ", text)
