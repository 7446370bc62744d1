"""IPv4 and IPv6 addresses, but for those that mean the machine itself or no machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_V4 = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])")
_GROUP = "[0-9A-Fa-f]{1,4}"
_SOME = f"(?:{_GROUP}(?::{_GROUP}){{0,6}})?"
_V6 = re.compile(f"(?<![0-9A-Za-z])(?:(?:{_GROUP}:){{7}}{_GROUP}|{_SOME}::{_SOME})(?![0-9A-Za-z])")
_DIGIT = re.compile("[0-9]")


def ip_addresses(folded: FoldedText) -> Iterator[Span]:
    """Yield the addresses of a text."""
    text = folded.text
    for match in matches(_V4, text):
        if value := _address(match[0]):
            yield Span(*match.span(), value)
    for match in matches(_V6, text):
        # Names of classes look so, too: `bed::face`.
        if _DIGIT.search(match[0]) and (value := _address(match[0])):
            yield Span(*match.span(), value)


def _address(text: str) -> str | None:
    """Return an address in one way of writing; None for what is none, or no machine's own."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified or address == IPv4Address("255.255.255.255"):
        return None
    return str(address)
