"""Numbers that states give to persons, by their written form and their checksums (python-stdnum).

Where any number of so many digits would often pass, it counts if it is written in its groups or
after its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import NamedTuple

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

# So many numbers of each kind are checked in a text; of further ones all count.
_CHECKED = 2000
_CONTEXT = 48
_DIGIT = re.compile("[0-9]")
_NO_VALUE = re.compile(r"[ ./-]+")


class _NationalId(NamedTuple):
    """A kind of number.

    Attributes:
        module: of `stdnum`; "" where the written form is all that can be checked.
        grouped: the form that says by itself that it is such a number.
        plain: the form that needs its name before it; "" for none.
        names: what it is called, a regular expression.
    """

    module: str
    grouped: str
    plain: str = ""
    names: str = ""


_KINDS = (
    # Europe
    _NationalId("at.vnr", "", r"\d{4} ?\d{6}", r"sozialvers\w*|svnr|sv-?n\w*|vnr"),
    _NationalId("be.ssn", r"\d{2}[. ]?\d{2}[. ]?\d{2}[- ]?\d{3}[. ]?\d{2}"),
    _NationalId("bg.egn", "", r"\d{10}", r"егн|egn"),
    _NationalId("ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}"),
    _NationalId("cz.rc", r"\d{6}/\d{3,4}", r"\d{9,10}", r"rodn\w*|rc"),
    _NationalId(
        "de.idnr", r"\d{2} \d{3} \d{3} \d{3}", r"\d{11}", r"steuer\w*|idnr|ident\w*|tax|tin"
    ),
    _NationalId("dk.cpr", r"\d{6}-\d{4}", r"\d{10}", r"cpr\w*|personnummer"),
    _NationalId("ee.ik", r"[1-8]\d{10}"),
    _NationalId("es.dni", r"\d{8}[ -]?[A-Z]"),
    _NationalId("es.nie", r"[XYZ][ -]?\d{7}[ -]?[A-Z]"),
    _NationalId("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Z]"),
    _NationalId("fr.nir", r"[1-478] ?\d{2} ?\d{2} ?\d[0-9AB] ?\d{3} ?\d{3} ?\d{2}"),
    _NationalId(
        "", r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d\d){3} ?[A-D]"
    ),
    _NationalId("gb.nhs", "", r"\d{3}[ -]?\d{3}[ -]?\d{4}", r"nhs\w*"),
    _NationalId("gr.amka", r"\d{11}"),
    _NationalId("hr.oib", "", r"\d{11}", r"oib"),
    _NationalId("ie.pps", r"\d{7}[A-W][A-IW]?"),
    _NationalId("is_.kennitala", r"\d{6}-\d{4}", r"\d{10}", r"kennit\w*"),
    _NationalId(
        "it.codicefiscale", r"[A-Z]{6}[\dL-V]{2}[A-EHLMPRST][\dL-V]{2}[A-Z][\dL-V]{3}[A-Z]"
    ),
    _NationalId("lt.asmens", r"[1-6]\d{10}"),
    _NationalId("lv.pvn", r"\d{6}-\d{5}", r"\d{11}", r"personas\w*"),
    _NationalId("nl.bsn", r"\d{4}\.\d{2}\.\d{3}", r"\d{9}", r"bsn|burgerserv\w*|sofi\w*"),
    _NationalId("no.fodselsnummer", r"\d{6} ?\d{5}"),
    _NationalId("pl.pesel", r"\d{11}"),
    _NationalId("pt.cc", r"\d{8} ?\d ?[A-Z0-9]{2}\d"),
    _NationalId("pt.nif", "", r"\d{3} ?\d{3} ?\d{3}", r"nif|contribuinte"),
    _NationalId("ro.cnp", r"[1-9]\d{12}"),
    _NationalId("ru.inn", "", r"\d{12}", r"инн|inn"),
    _NationalId("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}", r"(?:\d{2})?\d{10}", r"person\w*"),
    _NationalId("si.emso", r"\d{13}"),
    _NationalId("tr.tckimlik", r"[1-9]\d{10}"),
    _NationalId("ua.rntrc", "", r"\d{10}", r"рнокпп|[иі]пн|инн"),
    # The Americas
    _NationalId("ar.cuit", r"\d{2}-\d{8}-\d", r"\d{11}", r"cui[tl]"),
    _NationalId("ar.dni", "", r"\d{1,2}\.?\d{3}\.?\d{3}", r"dni|documento"),
    _NationalId("br.cpf", r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}"),
    _NationalId("ca.sin", r"\d{3}[ -]\d{3}[ -]\d{3}", r"\d{9}", r"sin|nas|social\w*"),
    _NationalId("cl.rut", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dK]", r"\d{7,8}[\dK]", r"ru[tn]"),
    _NationalId("do.cedula", r"\d{3}-\d{7}-\d", r"\d{11}", r"c[eé]dula"),
    _NationalId("ec.ci", "", r"\d{9}-?\d", r"c[eé]dula|ci"),
    _NationalId("mx.curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d"),
    _NationalId("mx.rfc", r"[A-ZÑ&]{4}[ -]?\d{6}[ -]?[A-Z0-9]{3}"),
    _NationalId("", r"\d{3}-\d{2}-\d{4}"),
    _NationalId("us.ssn", r"\d{3} \d{2} \d{4}", r"\d{9}", r"ssn|social\w*"),
    _NationalId("us.itin", r"9\d{2}-\d{2}-\d{4}", r"9\d{8}", r"itin|tin|tax\w*"),
    # Asia, Africa and Oceania
    _NationalId("au.tfn", "", r"\d{3} ?\d{3} ?\d{2,3}", r"tfn|tax file\w*"),
    _NationalId("cn.ric", r"\d{17}[\dX]"),
    _NationalId("id.nik", r"\d{16}"),
    _NationalId("il.idnr", "", r"\d{8}-?\d", r"ת\.?ז\.?|זהות|teudat\w*|id"),
    _NationalId(
        "in_.aadhaar", r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}", r"[2-9]\d{11}", r"aadh?aa?r\w*|uid\w*|आधार"
    ),
    _NationalId("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"),
    _NationalId("jp.in_", "", r"\d{4}[ -]?\d{4}[ -]?\d{4}", r"マイナンバー|個人番号|my ?number"),
    _NationalId("kr.rrn", r"\d{6}-?[0-9]\d{6}"),
    _NationalId("my.nric", r"\d{6}-\d{2}-\d{4}"),
    _NationalId("nz.ird", "", r"\d{2,3}-?\d{3}-?\d{3}", r"ird"),
    _NationalId("pk.cnic", r"\d{5}-\d{7}-\d", r"\d{13}", r"cnic"),
    _NationalId("th.pin", r"\d-\d{4}-\d{5}-\d{2}-\d", r"\d{13}", r"บัตร\w*|เลข\w*|pin"),
    _NationalId("za.idnr", r"\d{13}"),
)


class _Form(NamedTuple):
    """A written form of a kind of number, ready to be searched for."""

    module: str
    pattern: re.Pattern[str]
    names: re.Pattern[str] | None
    begins_with_digit: bool


# Digits of other scripts have been folded.
_FLAGS = re.IGNORECASE | re.ASCII
# Where forms that begin with a digit may be: digits with at most a letter and two signs between.
_DIGITS = re.compile(r"(?<![0-9])[0-9](?:[ ./+-]?[A-Z]?[ ./+-]?[0-9]){5,60}", _FLAGS)
_LETTER_FIRST = ("[A-Z", "[XYZ]", "(?!BG")
# What a form may have behind its last digit but one.
_BEHIND = 8
_NEXT = 4


@cache
def _forms() -> tuple[_Form, ...]:
    """Return all forms; compiling them takes tens of milliseconds."""
    return tuple(_compiled())


def _compiled() -> Iterator[_Form]:
    for kind in _KINDS:
        for form, names in ((kind.grouped, ""), (kind.plain, kind.names)):
            if form:
                yield _Form(
                    kind.module,
                    re.compile(rf"(?<![A-Z0-9.-])(?:{form})(?![A-Z0-9]|[.-][0-9])", _FLAGS),
                    re.compile(rf"(?<!\w)(?:{names})(?!\w)[^\d\n]*\Z", re.IGNORECASE)
                    if names
                    else None,
                    not form.startswith(_LETTER_FIRST),
                )


def national_ids(folded: FoldedText) -> Iterator[Span]:
    """Yield the numbers of persons in a text."""
    text = folded.text
    if not _DIGIT.search(text):
        return
    everywhere = [(0, len(text))]
    areas = list(_areas(text))
    for form in _forms():
        yield from _numbers(form, text, areas if form.begins_with_digit else everywhere)


def _areas(text: str) -> Iterator[tuple[int, int]]:
    """Yield the parts of a text that have enough digits, each with a few characters more."""
    start = end = -1
    for match in matches(_DIGITS, text):
        if end >= 0 and match.start() > end + _NEXT:
            yield start, end + _BEHIND
            end = -1
        if end < 0:
            start = match.start()
        end = match.end()
    if end >= 0:
        yield start, end + _BEHIND


def _numbers(form: _Form, text: str, areas: Sequence[tuple[int, int]]) -> Iterator[Span]:
    checked = 0
    for area_start, area_end in areas:
        for match in matches(form.pattern, text, area_start, area_end):
            start, end = match.span()
            if form.names and not form.names.search(text, max(0, start - _CONTEXT), start):
                continue
            checked += 1
            if checked > _CHECKED or _is_valid(form.module, match[0]):
                yield Span(start, end, _NO_VALUE.sub("", match[0]).upper())


def _is_valid(module: str, number: str) -> bool:
    return not module or _validator(module)(number)


@cache
def _validator(module: str) -> Callable[[str], bool]:
    validator: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return validator
