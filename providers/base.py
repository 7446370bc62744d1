"""The one seam between evalrouter and models: `Provider.send(Call) -> Reply`.

A provider takes a `Call` (the client's JSON object, still as bytes per field) and answers with a
`Reply` (status, headers, body as chunks). Everything else (plans, retries, time-outs, records)
belongs to the router. To fake a model, use `providers/offline/scripted.py`; it ships for that
purpose.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Annotated, Any, Literal, Protocol, cast, runtime_checkable

import msgspec

Path = Literal[
    "chat/completions",
    "completions",
    "embeddings",
    "models",
    "responses",
    "messages",
    "messages/count_tokens",
]

# What hosts have whose provider does not say it by an attribute `speaks`.
USUAL_PATHS: frozenset[Path] = frozenset(
    {"chat/completions", "completions", "embeddings", "models"}
)

# What to do with a request's fields that a host cannot express: refuse the request, leave them out
# (and name them in the answer), or send them unchanged.
OnUnsupported = Literal["error", "drop", "pass"]


class Secret:
    """A string that no repr, log line, trace or error shows. `reveal()` gives it back."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the one place that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    __str__ = __repr__


class Translation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request's fields on their way to the host; stored with every answer.

    A field inside a message is named by its path: `messages.name`.

    Attributes:
        passed: names that were sent as they came; `*` stands for all that are not named below.
        renamed: the client's name to the host's, where both mean the same.
        converted: name to what was done; the host gets the same request in another form.
        dropped: name to why the host cannot express it; it was not sent.
    """

    passed: tuple[str, ...] = ("*",)
    renamed: dict[str, str] = {}
    converted: dict[str, str] = {}
    dropped: dict[str, str] = {}


# Shared by every request that is sent as it came, so that recording it costs nothing.
AS_IT_CAME = Translation()


# Seconds or US dollars: 30 years and more. Sums and products of such numbers stay numbers.
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Timeout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds a target may take. What a route leaves out, the target's provider decides.

    Attributes:
        connect: until the connection is made; 5 by default.
        first_byte: until the first byte of the answer's body. By default 120 for a stream, and
            `total` for a whole answer, whose first byte comes with its last.
        between_chunks: between two chunks of a stream; 60 by default.
        total: from the first attempt to the last byte, over all attempts; 600 by default. It goes
            on while the client does not read.
    """

    connect: Positive | None = None
    first_byte: Positive | None = None
    between_chunks: Positive | None = None
    total: Positive | None = None


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every provider's entry in the config has. Kinds add their own fields.

    Attributes:
        kind: which provider this is; see `kinds.py`.
        models: names to list under `/v1/models` without a request to the host.
        on_unsupported: what to do with fields the host cannot express. None depends on
            the use: evaluations refuse (`error`), serving leaves them out and says so (`drop`).
        record: a JSON Lines file to which every request and its answer are appended, for the
            provider kind `recorded` to replay; "" records nothing.
        price_per_hour: US dollars that its machine costs an hour, for evaluations on one's own
            hardware; None for a host that is paid by the token.
        timeout: for `provider/model`, and for routes that set none; see Timeout.
    """

    kind: str
    models: tuple[str, ...] = ()
    on_unsupported: OnUnsupported | None = None
    record: str = ""
    price_per_hour: Positive | None = None
    timeout: Timeout = Timeout()

    @property
    def all_models(self) -> Collection[str] | None:
        """Every model that the provider answers to; None where its host decides that."""
        return None


class Call(msgspec.Struct, kw_only=True):
    """One request to one target.

    Attributes:
        path: the OpenAI path below `/v1`; `models` is a GET, the others are POSTs.
        model: the model's name at the provider.
        envelope: the client's JSON object, each value as its original bytes; must not be changed
            (a retry sends it again): build a new one.
        stream: whether the client requested server-sent events.
        request_id: sent upstream as `x-request-id`.
        connect_timeout: seconds to reach the host; the other time-outs are the dispatcher's.
        on_unsupported: what to do with fields the host cannot express, where the provider's own
            config does not say.
        traceparent: W3C Trace Context to send upstream, "" for none.
        headers: the client's headers that are sent on, names in lower case. They are bounded, and
            the config's own headers win over them.
        reasoning: whether the model refuses what OpenAI's reasoning models refuse, as the route's
            target says; None where it does not.
    """

    path: Path
    model: str
    envelope: Mapping[str, msgspec.Raw]
    stream: bool = False
    request_id: str = ""
    connect_timeout: float = 10.0
    on_unsupported: OnUnsupported = "drop"
    traceparent: str = ""
    headers: Mapping[str, str] = {}
    reasoning: bool | None = None

    @property
    def size(self) -> int:
        """Return the number of bytes of the values in the envelope."""
        return sum(map(len, self.envelope.values()))


class Reply(Protocol):
    """A provider's answer, begun but not yet read. Always `aclose()` it.

    Attributes:
        status: HTTP status.
        headers: the headers the router may need, names in lower case.
        translation: what became of the request's fields.
    """

    status: int
    headers: Mapping[str, str]
    translation: Translation

    async def read(self) -> bytes:
        """Return the whole body. Raises UpstreamProtocolError when it is cut off."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, one item per read. Raises UpstreamProtocolError if cut."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or cut it if the body was not read to its end."""
        ...


class Provider(Protocol):
    """A host of models. Implement `send` and add a row to `kinds.py`.

    A provider that has something to start and to stop implements `Lifecycle` as well. One whose
    host has other paths than the usual ones names all of them in an attribute `speaks`; requests to
    the others come as chat completions, translated as its attributes `on_unsupported` and
    `takes_reasoning` say.
    """

    name: str

    async def send(self, call: Call) -> Reply:
        """Send the call and return once the answer's headers are here.

        An HTTP error of the host is a Reply with its status, not an exception. Raises
        UpstreamConnectError, UpstreamTimeoutError(phase="connect") or UpstreamProtocolError when
        no answer comes. Cancelling it cancels the request upstream.
        """
        ...


def spoken_by(provider: Provider) -> frozenset[Path]:
    """Return the paths that a provider's host has."""
    spoken: frozenset[Path] = getattr(provider, "speaks", USUAL_PATHS)
    return spoken


@runtime_checkable
class Lifecycle(Protocol):
    """A provider that owns something for as long as the process serves: a subprocess, a file."""

    async def open(self) -> None:
        """Start it. Must not wait for a model to load: `send` waits for that."""
        ...

    async def close(self) -> None:
        """Stop it; called once, also when `open` failed."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A provider that can distinguish a target that is starting from one that fails."""

    def starting(self, model: str) -> str:
        """Return why this model has no answer yet, in words; "" when it should have one."""
        ...


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is stored, and the memory that it took: measured, or None.

    Attributes:
        file: the name of the file with its weights, "" where that is unknown.
        quantization: the name of the quantisation, as the file's metadata or its server says; ""
            where neither does.
        parameters: the number of its weights.
        bits_per_weight: the mean over all weights.
        peak_memory_bytes: the peak resident memory of its server, where evalrouter started it.
        peak_gpu_memory_bytes: the most that PyTorch has reserved on a GPU there.
        note: why the weights are unknown, although they should be known; "" otherwise.
    """

    file: str = ""
    quantization: str = ""
    parameters: int | None = None
    bits_per_weight: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    note: str = ""


@runtime_checkable
class HasModelFacts(Protocol):
    """A provider that can say how its models are stored, and what memory they took."""

    async def facts(self, model: str) -> ModelFacts:
        """Return what is known of a model now. Starts no server."""
        ...


@runtime_checkable
class ChecksKey(Protocol):
    """A provider whose list of models may be open to anybody, and so show nothing of the key."""

    async def check_key(self) -> Reply | None:
        """Send the cheapest request that the host refuses (401, 403) without the right key.

        None where the list of models is one.
        """
        ...


class KeepsResponses(Protocol):
    """A provider whose host may keep responses, so that a request can name the one it follows.

    Attributes:
        keeps_responses: whether its host does.
    """

    keeps_responses: bool

    async def response(self, method: str, path: str) -> Reply:
        """Send a request about a response.

        Args:
            method: GET, DELETE or POST.
            path: below `responses/`: the host's id, and what is behind it.
        """
        ...


def keeper_of_responses(provider: Provider | None) -> KeepsResponses | None:
    """Return a provider whose host keeps responses; None for any other."""
    keeps = getattr(provider, "keeps_responses", False)
    return cast(KeepsResponses, provider) if keeps else None


class BytesReply:
    """A Reply that is made on the spot, for providers that live in this process."""

    def __init__(
        self,
        body: bytes | AsyncIterator[bytes],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        translation: Translation = AS_IT_CAME,
    ) -> None:
        self.status = status
        self.translation = translation
        streamed = not isinstance(body, bytes)
        self.headers = headers or {
            "content-type": "text/event-stream; charset=utf-8" if streamed else "application/json"
        }
        self._body = body

    async def read(self) -> bytes:
        """Return the whole body."""
        if isinstance(self._body, bytes):
            return self._body
        return b"".join([chunk async for chunk in self._body])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as its maker yields it."""
        if isinstance(self._body, bytes):
            yield self._body
            return
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        """Stop the maker of the body, if it is still at work."""
        close: Any = getattr(self._body, "aclose", None)
        if close is not None:
            await close()
