r"""Holds the patterns of a score in a judge's words, and of what only looks like one.

Every pattern that finds a score has the groups `number` and, for the scale that the number is of
(as in `4/5`), `top`. They are for texts of `plain_text.py`, whose runs of white space are short:
the time that they take grows with a text's length only.
"""

from __future__ import annotations

import re

# What stands between a tag or a word and its number: dressing, and words that say nothing.
DRESS = (
    r"(?:[\s:=*_`\"'\u201c\u201d\u2018\u2019(\[{<#>|$]|\\(?!frac)[a-z(\[]{0,8}|-(?!\d)"
    r"|[\u2013\u2014\u2192\u21d2])"
)
_NOUNS = (
    r"(?:\b(?:score|rating|grade|result|verdict|bewertung|punktzahl|puntuaci[o\u00f3]n|puntaje"
    r"|calificaci[o\u00f3]n|pontua[c\u00e7][a\u00e3]o|punteggio|\u043e\u0446\u0435\u043d\u043a\u0430"
    r"|ocena|puan|skor|betyg|cijfer|\u0111i\u1ec3m|\u0627\u0644\u062a\u0642\u064a\u064a\u0645"
    r"|\u0627\u0644\u062f\u0631\u062c\u0629|(?:nota|punkte)(?=\s*[:=]))\b"
    r"|\u0905\u0902\u0915(?=\s*[:=])|\u0e04\u0e30\u0e41\u0e19\u0e19"
    r"|[\u8bc4\u8a55\u5f97\u603b\u7e3d\u6253]\u5206|\u5206[\u6570\u6578]|\u8bc4\u7ea7|\u8a55\u4fa1"
    r"|\u5f97(?=\s*\d)|\u70b9\u6570|\u30b9\u30b3\u30a2|\uc810\uc218|\ud3c9\uc810)"
)
_FILLER = (
    rf"(?:{DRESS}|(?:the|this|my|final|overall|score|rating|grade|result|verdict|response|answer"
    r"|is|was|of|for|be|would|an?|solid|strong|clear|firm|given|assigned)\b|\u4e3a|\u662f|\u306f){0,24}"
)
# Fractions and powers after it make it another number.
_MORE = r"[\d%\u2044\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2150-\u215e]|[.,]\d|e[+-]?\d"
NUMBER = rf"(?<![\d.,])(?P<number>[+-]?\d{{1,4}})(?:\.0+)?(?!{_MORE})"
# The scale that a number is of, as in `4/5` and `4 out of 5`.
TOP = (
    r"(?:[*_]{0,2}\s*(?:points?|stars?|\u5206)?\s*(?:/|(?:out\s+)?of\b)\s*[*_]{0,2}"
    r"(?P<top>\d{1,4})\b(?!\s*/))"
)
# `1-5` and `1 to 5` are ranges; `Score 3: ...` is a line of a rubric; `3 and 5` are two numbers.
_NO_RANGE = (
    r"(?![^\S\n]*(?:[-\u2013\u2014~\u301c\u2192\u21d2]|[-=]>|to|and|or|through|bis|\u81f3|\u5230|\.{2,3})"
    r"[^\S\n]*[+-]?\d|[^\S\n]*(?:or|and)\s+(?:higher|more|above|better|lower|less|below)\b)"
)
_TAG = (
    r"(?:\[\s*/?\s*(?:RESULT|SCORE)\s*(?:\]|(?=[:\s]{1,3}[+-]?\d))|\\boxed\s*\{"
    r"|<(?:final[_\s]?)?answer>)"
)
TAGGED = re.compile(rf"{_TAG}{_FILLER}{NUMBER}{TOP}?{_NO_RANGE}", re.IGNORECASE)
# A tag with something like a number, which need not be a score: `[RESULT] 4.5`.
TAGGED_ANY = re.compile(rf"{_TAG}{_FILLER}(?:\\frac)?[{{+-]?\d", re.IGNORECASE)
BARE_TAG = re.compile(r"\[\s*/?\s*(?:RESULT|SCORE)\s*\]?[\s:*_]*\Z", re.IGNORECASE)
_WHOLE = (
    r"\b(?:overall|final|total|average|mean)\b"
    rf"(?:(?:\s+\w+){{0,2}}\s+{_NOUNS}|(?:\s+answer)?\s*[:=|])"
)
OVERALL = re.compile(rf"{_WHOLE}{_FILLER}{NUMBER}{TOP}?{_NO_RANGE}", re.IGNORECASE)
OVERALL_ANY = re.compile(rf"{_WHOLE}{_FILLER}[+-]?\d", re.IGNORECASE)
SCORE_ALONE = re.compile(_NOUNS, re.IGNORECASE)
# A line with a score of something that it names: `Clarity: 4/5`, `| Clarity | 4 |`.
LABELLED = re.compile(
    rf"^[\s*_#>|-]*(?P<label>[^\W\d][^:=|\n\d]{{0,60}}?)[\s*_]*[:=|][\s*_]*{NUMBER}{TOP}?[\s*_|.]*$",
    re.IGNORECASE | re.MULTILINE,
)
# `I give this answer 4 points`, in Chinese, where no condition stands before it.
GIVEN_CHINESE = re.compile(
    r"(?:^|[\u3002\uff01\uff1f\uff0c,.!?\n])"
    r"(?:(?!\u5982\u679c|\u82e5|\u5047\u5982|\u8981|\u624d|\u53ef\u4ee5|\u672c\u6765)[^\d\n\u3002]){0,40}?"
    r"[\u7ed9\u7d66\u6253](?:(?!\u624d)[^\d\n\u3002]){0,12}?"
    rf"{NUMBER}{TOP}?\s*\u5206(?!\u5236)",
    re.MULTILINE,
)
WORDED = re.compile(rf"{_NOUNS}{_FILLER}{NUMBER}{TOP}?{_NO_RANGE}(?!\s*:)", re.IGNORECASE)
# `3 of 5` may be questions that were answered.
OUT_OF = re.compile(
    rf"{NUMBER}(?=[*_\s]*(?:points?|stars?|\u5206)?\s*(?:/|out\b)){TOP}", re.IGNORECASE
)
GIVEN = re.compile(
    r"\b(?:(?:I|we)(?:['\u2019](?:d|ll)|\s+(?:would|will|can|must))?(?:\s+\w+ly)?"
    r"\s+(?:give|rate|grade|score|award|assign|say)|deserves|merits|earns)\b"
    rf"(?:[^\S\n]+[^\W\d]+){{0,6}}?[\s*_`\"'\u201c\u2018]+{NUMBER}{TOP}?{_NO_RANGE}"
    r"(?=[\s*_`\"'\u201d\u2019)]*(?:$|[.,;!?\n]|(?:points?|stars?|because|as|since|for)\b))",
    re.IGNORECASE,
)
ALONE = re.compile(
    rf"\A{DRESS}*{NUMBER}(?:\s*(?:points?|stars?|\u5206|\u70b9|\uc810))?"
    rf"[\s:*_`\"'\u201d\u2019)\]}}.!<>/$|s\\-]*\Z",
    re.IGNORECASE,
)

# What the judge says about the scale, not about the answer: `(1-5)`, `on a scale from 1 to 5`.
SCALE = re.compile(
    r"[(\[{](?!\s*/?\s*(?:RESULT|SCORE))[^()\[\]{}\d\n]{0,40}\d{1,4}[^()\[\]{}\d\n/]{0,40}"
    r"(?:[-\u2013\u2014~\u301c,;=:]|to|through|and|or|bis|\u81f3|\u5230)[^()\[\]{}\d\n/]{0,40}[+-]?\d{1,4}"
    r"[^()\[\]{}\d\n/]{0,40}[)\]}]"
    r"|[(\[]\s*(?:out\s+of|max(?:imum|\.)?|of|von|/|\u6ee1\u5206)\s*:?\s*\d{1,4}\s*\u5206?\s*[)\]]"
    r"|\b(?:on|using|in)\s+(?:a|the|our)\s+(?:scale\s+(?:of|from)\s+)?[+-]?\d{1,4}\s*"
    r"(?:[-\u2013\u2014]|to|through)\s*[+-]?\d{1,4}\b(?:[\s-]+(?:point\s+)?scale)?"
    r"|(?<=[a-z])\s+out\s+of\s+\d{1,4}(?=\s*[:=])",
    re.IGNORECASE,
)

# A score that the judge speaks of and does not give. Before it, in the same sentence:
SUPPOSED = re.compile(
    r"\bto\s+(?:reach|get|achieve|earn|obtain|receive|attain|merit|deserve|justify|warrant"
    r"|be\s+(?:given|awarded)|raise|improve|increase)\b[^.!?\n]*\Z"
    r"|\b(?:an?|any)\s+(?:\w+\s+){0,3}(?:answer|response|summary|translation|one)\s+"
    r"(?:would|could|might|may|can)\b[^.!?\n]*\Z"
    r"|\b(?:not|n['\u2019]t|below|above|than|instead\s+of|rather\s+than|short\s+of)\s+"
    r"(?:\w+\s+){0,2}\Z"
    r"|\bfor\s+an?\s+\Z"
    r"|(?:\u5982\u679c|\u5047\u5982|\u82e5|\u8981\u60f3|\u8981\u5f97)[^.!?\n\u3002]*\Z"
    r"|\b(?:an?|any)\s+(?:perfect|better|good|great|ideal|excellent|top|strong(?:er)?|weak(?:er)?"
    r"|poor|bad|full)\s+(?:answer|response|summary|translation|one)\b[^.!?;\n]*\Z"
    r"|\b(?:earlier|previous|prior)\s+(?:\w+\s+){0,2}(?:had|got|has|received)\s+an?\s+\Z",
    re.IGNORECASE,
)
# After it:
REQUIRED = re.compile(
    r"\s*(?:(?:would|could|might)\s+(?:require|need|have|be)|requires?|needs?|means"
    r"|is\s+(?:for|reserved|possible|only|not))\b",
    re.IGNORECASE,
)
MODAL = re.compile(r"\b(?:would|could|might)\b", re.IGNORECASE)
CONDITION = re.compile(r"\b(?:if|unless|had)\b", re.IGNORECASE)
