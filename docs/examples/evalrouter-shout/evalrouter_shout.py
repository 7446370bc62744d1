"""An example of a package that adds to evalrouter: two metrics, a kind of provider, a judge."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from evaluators.base import Answer, Output, Sample, Score
from providers.base import BytesReply, Call, ProviderConfig, Reply
from providers.http.transport import Transport
from providers.kinds import ProviderKind

# A metric: a class with the attributes of `evaluators.base.Declared`. Its options are keyword-only
# arguments; evalrouter checks a run document's values against their types.


class Shout:
    """The share of an answer's letters that are capitals, at most `limit`."""

    name = "shout"
    outputs = (Output(name="shout", higher_is_better=None, description="Share of capitals."),)
    needs_reference = False
    source = "comparison of letters"

    def __init__(self, *, limit: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0) -> None:
        self._limit = limit
        # The package and its version are added to it.
        self.signature = f"shout|limit:{limit:g}|v:1"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the share of capitals; an answer without letters has no score."""
        letters = [letter for letter in answer.text or "" if letter.isalpha()]
        if not letters:
            return (Score(output="shout", value=None, error="no letters"),)
        share = sum(letter.isupper() for letter in letters) / len(letters)
        return (Score(output="shout", value=min(share, self._limit)),)


# The short form of a metric: a function, for which a run document may set `outputs`, `low`, `high`
# and the other options of `file:` metrics.


def please(answer: str, references: list[str], row: dict[str, Any]) -> float:
    """Return 1 for a polite answer, else 0."""
    return 1.0 if "please" in answer.lower() else 0.0


# A kind of provider: its config, and what makes the provider of one.


class ShoutingConfig(ProviderConfig, frozen=True, kw_only=True):
    """The settings of `kind: shout`.

    Attributes:
        mark: what every answer ends with.
    """

    mark: str = "!"


class Shouting:
    """Answers with the last message in capitals, without a host."""

    def __init__(self, name: str, config: ShoutingConfig, transport: Transport) -> None:
        self.name = name
        self._mark = config.mark

    async def send(self, call: Call) -> Reply:
        """Return a chat completion; a stream has all of it in one chunk."""
        if call.path == "models":
            body: dict[str, Any] = {"object": "list", "data": [{"id": "loud", "object": "model"}]}
            return BytesReply(msgspec.json.encode(body))
        if call.path != "chat/completions":
            error = {"error": {"message": f"no {call.path} here", "type": "invalid_request_error"}}
            return BytesReply(msgspec.json.encode(error), status=404)
        messages = msgspec.json.decode(call.envelope["messages"])
        text = str(messages[-1]["content"]).upper() + self._mark
        message = {"role": "assistant", "content": text}
        chunk = {"index": 0, "finish_reason": "stop"}
        head = {"id": "shout-1", "created": 0, "model": call.model}
        if not call.stream:
            choice = {**chunk, "message": message}
            body = {**head, "object": "chat.completion", "choices": [choice]}
            return BytesReply(msgspec.json.encode(body))
        body = {**head, "object": "chat.completion.chunk", "choices": [{**chunk, "delta": message}]}

        async def events() -> Any:
            yield b"data: " + msgspec.json.encode(body) + b"\n\ndata: [DONE]\n\n"

        return BytesReply(events())


SHOUTING = ProviderKind(ShoutingConfig, Shouting)


# A kind of judge: what a YAML file with a kind of one's own has (docs/how-to/judges.md).

VOLUME = {
    "description": "How loud the answer is.",
    "system": "You rate how loud a text is.",
    "prompt": "Rate how loud the answer is.\n\n{answer}\n\nEnd with [RESULT] and a whole number "
    "from 1 (a whisper) to 5 (a shout).",
    "higher_is_better": None,
}
