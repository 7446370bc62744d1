"""What a tool is, what it is called with, and how much an answer has room for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from router.client import AsyncClient
from router.mcp.answers import ToolReply
from router.mcp.fencing import Fence

_Item = TypeVar("_Item", bound=msgspec.Struct)

# Characters of an answer's JSON: about 6,000 tokens. One row that is longer comes alone.
MAX_ANSWER = 24_000
# Characters of a text in a list, unless the agent asks for others.
SHORT_TEXT = 600
LONG_TEXT = 6_000
# The longest part of an answer that is no row, such as a warning.
NOTE = 400

MaxChars = Annotated[
    int,
    msgspec.Meta(ge=50, le=8_000, description="Each text is cut to so many characters."),
]
_encode = msgspec.json.Encoder().encode


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a tool; this one has none."""


class ToolCall(NamedTuple):
    """What a tool is called with, besides its arguments.

    Attributes:
        client: the server, with the key of whoever calls the tool.
        fence: marks text of others in the answer.
        progress: tells the caller how far it is: so many of so many, and a line about it.
    """

    client: AsyncClient
    fence: Fence
    progress: Callable[[float, float, str], Awaitable[None]]


class Tool(NamedTuple):
    """A tool.

    Attributes:
        name, title, description: what agents and people read.
        operations: what the key has to be allowed to request for it.
        arguments: the arguments that it takes.
        answer: what it answers.
        call: does it.
        reads: whether it changes nothing.
        destroys: whether it may change or end something that is there.
        repeatable: whether doing it twice is as doing it once.
        leaves: whether it sends something to the hosts of models.
    """

    name: str
    title: str
    description: str
    operations: tuple[str, ...]
    arguments: type[Arguments]
    answer: type[ToolReply]
    call: Callable[[ToolCall, Any], Awaitable[ToolReply]]
    reads: bool = True
    destroys: bool = False
    repeatable: bool = True
    leaves: bool = False


def fitting(items: Iterable[_Item], room: int = MAX_ANSWER) -> Iterator[_Item]:
    """Yield items as long as there is room for their JSON; the first one always."""
    left = room
    for number, item in enumerate(items):
        left -= len(_encode(item))
        if left < 0 and number:
            return
        yield item


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 run`, `2 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def moment(seconds: float) -> str:
    """Return a time as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def rest(page: int | str | None, name: str) -> str:
    """Return the end of a summary: how to get the next page."""
    return "." if page is None else f"; there is more: call again with {name}={page!r}."
