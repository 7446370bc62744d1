"""What a translator between another API and chat completions gives: a `ChatRequest`. No IO.

    request = to_chat(envelope, policy="drop", host="lab")
    request.fields                  # the chat request, to be sent
    answers = request.answers()     # one for each attempt
    answers.whole(body)             # a chat completion as an answer of the other API
    answers.feed(events)            # or the events of a chat stream, and at its end
    answers.finish()

`responses_requests.py` and `messages_requests.py` have a `to_chat` each.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from providers.base import Translation
from providers.errors import EvalrouterError

# Takes the prefix that says what the id is of: `resp` becomes `resp_…`.
NewId = Callable[[str], str]


def new_id(prefix: str) -> str:
    """Return an id that nothing else has, and that cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(24)}"


class Answers(Protocol):
    """Turns the chat answer of one attempt into one of the client's API; each attempt has its own.

    Either `whole` is called once, or `feed` for the events of a stream and `finish` or `fail` at
    its end. All raise UpstreamProtocolError where the chat answer cannot be read.
    """

    def whole(self, body: bytes) -> bytes:
        """Return a chat completion as the client's object."""
        ...

    def feed(self, events: bytes) -> bytes:
        """Return what complete events of a chat stream become: any number of events, or b""."""
        ...

    def finish(self) -> bytes:
        """Return the events that close a stream which came to its end."""
        ...

    def fail(self, error: EvalrouterError) -> bytes:
        """Return the events that end a stream which broke off."""
        ...


class MakeAnswers(Protocol):
    """Makes the Answers of an attempt."""

    def __call__(self, *, new_id: NewId = ..., clock: Callable[[], float] = time.time) -> Answers:
        """Return them.

        Args:
            new_id: makes the ids of the answer and its parts, by prefix.
            clock: seconds since the epoch.
        """
        ...


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of another API as a chat request.

    Attributes:
        fields: the chat request's fields, `model` included where the request has one.
        translation: what became of the client's fields.
        answers: makes what turns a chat answer into one of the client's API.
    """

    fields: dict[str, msgspec.Raw]
    translation: Translation
    answers: MakeAnswers
