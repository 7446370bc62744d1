"""Texts that try to change a model's instructions (prompt injection), by what they usually say.

This finds what people copy from each other; it cannot find a new way of putting it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_GAP = r"[ \t\r\n]{1,4}"
# In the order of the sentence: what to do, how many, which, of what.
_SENTENCES = (
    # English
    r"(?:ignore|disregard|forget|override|bypass)(?: (?:all|any|the|of|my|your|these|every))*"
    r" (?:previous|prior|above|earlier|preceding|former|original|system)"
    r" (?:instructions?|prompts?|rules?|directions?|guidelines?|messages?|commands?)",
    r"(?:reveal|repeat|print|show|output|leak)(?: (?:me|us|all|the|your|of|entire|full))*"
    r" (?:system|hidden|initial|secret) (?:prompt|message|instructions?)",
    r"you are now (?:dan|in developer mode|jailbroken|unrestricted)",
    r"do anything now",
    # German
    r"(?:ignorier\w{0,3}|vergiss|missachte)(?: (?:alle|deine|die|sämtliche|bisherigen))*"
    r" (?:vorherigen|bisherigen|früheren|obigen|vorigen)"
    r" (?:anweisungen|befehle|instruktionen|regeln|anleitungen)",
    # French
    r"(?:ignore[zr]?|oublie[zr]?)(?: (?:toutes|tous|les|tes|vos))*"
    r" (?:instructions|consignes|règles)(?: (?:précédentes|antérieures|ci-dessus))",
    # Spanish and Portuguese
    r"(?:ignor[ae]|olvida|descart[ae]|esqueça)(?: (?:todas|todos|las|los|as|os|tus|suas))*"
    r" (?:instrucciones|instruções|órdenes|reglas|regras)(?: (?:anteriores|previas|acima))",
    # Italian
    r"(?:ignora|dimentica)(?: (?:tutte|tutti|le|gli|tue))*"
    r" (?:istruzioni|regole)(?: (?:precedenti|sopra))",
    # Russian
    r"(?:игнорируй|забудь|проигнорируй)(?:те)?(?: (?:все|всё|свои))*"
    r" (?:предыдущие|прежние|прошлые) (?:инструкции|указания|команды|правила)",
)
_WITHOUT_BLANKS = (
    # Chinese, Japanese
    r"忽略(?:之前|以上|先前|前面|上述|所有)(?:的|所有|全部){0,3}(?:指令|指示|提示|规则|說明|说明)",
    r"(?:以前|これまで|上記|前)の(?:すべての|全ての)?(?:指示|命令|プロンプト)を(?:無視|忘れ)",
)
# The marks of models' own conversations.
_MARKS = (
    r"<\|(?:im_start|im_end|system|endoftext|eot_id|start_header_id|begin_of_text)\|>",
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"<(?:start|end)_of_turn>",
)


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return all patterns; compiling them takes ten milliseconds."""
    sentences = (
        r"(?<!\w)" + sentence.replace("*", "{0,6}").replace(" ", _GAP) + r"(?!\w)"
        for sentence in _SENTENCES
    )
    return tuple(
        re.compile(pattern, re.IGNORECASE) for pattern in (*sentences, *_WITHOUT_BLANKS, *_MARKS)
    )


def instructions(folded: FoldedText) -> Iterator[Span]:
    """Yield what tries to change a model's instructions."""
    for pattern in _patterns():
        for match in matches(pattern, folded.text):
            yield Span(*match.span(), "")
