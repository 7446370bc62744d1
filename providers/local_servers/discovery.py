"""Finds the model servers of this machine, and lists what each of them serves.

    servers = await discover(USUAL_PORTS)

Anything may listen at a port. Each has `LIMIT_S` seconds and `MAX_BYTES` bytes to answer, a model
whose name could not be used is left out, and a server is of the kind that its answers show, not of
the one that usually has the port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from providers.errors import InputError, UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from providers.http.http1 import host_in_url
from providers.http.transport import HttpLimits, Transport
from providers.names import check_name
from providers.wire import UNREADABLE

USUAL_PORTS: Mapping[str, int] = {
    "ollama": 11434,
    "llamafile": 8080,
    "vllm": 8000,
    "lm-studio": 1234,
}

LIMIT_S = 3.0
MAX_BYTES = 1024 * 1024
MAX_MODELS = 1000

# Whom a server calls the owner of its models, in a row of its list.
_OWNERS: Mapping[str, str] = {
    "library": "ollama",
    "llamacpp": "llamafile",
    "me": "llama_cpp",
    "vllm": "vllm",
}


class LocalServer(msgspec.Struct, frozen=True, kw_only=True):
    """Something that listens at one of the ports.

    Attributes:
        name: a name for its provider.
        kind: the kind of its provider; "" where it is no model server.
        base_url: its address, up to and including `/v1`.
        models: the models that it lists.
        needs_key: whether it refuses requests without a key.
        problem: why nothing can be sent to it; "" where something can.
    """

    name: str
    kind: str
    base_url: str
    models: tuple[str, ...] = ()
    needs_key: bool = False
    problem: str = ""


class _Row(msgspec.Struct):
    id: str
    owned_by: Any = None
    state: Any = None


class _Listed(msgspec.Struct):
    # Ollama without a model answers null.
    data: list[_Row] | None


class _Props(msgspec.Struct):
    """What llama.cpp's server, and each llamafile, says of itself at `/props`."""

    default_generation_settings: dict[str, Any]


class _Version(msgspec.Struct):
    version: str


_read_list = msgspec.json.Decoder(_Listed).decode
_read_version = msgspec.json.Decoder(_Version).decode
_read_props = msgspec.json.Decoder(_Props).decode


async def discover(
    ports: Mapping[str, int], host: str = "127.0.0.1", *, limit_s: float = LIMIT_S
) -> list[LocalServer]:
    """Return what listens at these ports, in their order.

    Args:
        ports: which server usually listens there, to the port.
        host: where they are, a name or an address.
        limit_s: seconds that each may take.
    """
    transport = Transport(HttpLimits(max_answer_bytes=MAX_BYTES))
    await transport.open()
    try:
        servers = await asyncio.gather(
            *(
                _probe(transport, usual, f"http://{host_in_url(host)}:{port}", limit_s)
                for usual, port in ports.items()
            )
        )
    finally:
        await transport.close()
    return _with_own_names([server for server in servers if server is not None])


async def _probe(transport: Transport, usual: str, root: str, limit_s: float) -> LocalServer | None:
    """Return what listens at an address; None where nothing does."""
    listed, version, props = await asyncio.gather(
        _get(transport, usual, f"{root}/v1/models", limit_s),
        _get(transport, usual, f"{root}/api/version", limit_s),
        _get(transport, usual, f"{root}/props", limit_s),
    )
    base_url = f"{root}/v1"
    if listed.problem is not None:
        if isinstance(listed.problem, UpstreamConnectError):
            return None
        why = listed.problem.message.removeprefix(f"{usual}: ")
        return LocalServer(name=usual, kind="", base_url=base_url, problem=why)
    if listed.refuses_key:
        kind = "compatible" if usual == "lm-studio" else usual
        return LocalServer(name=usual, kind=kind, base_url=base_url, needs_key=True)
    try:
        rows = _read_list(listed.body).data or []
    except UNREADABLE:
        why = f"has no list of models as OpenAI's API has it (status {listed.status})"
        return LocalServer(name=usual, kind="", base_url=base_url, problem=why)
    if any(row.owned_by == "evalrouter" for row in rows):
        why = "is an evalrouter"
        return LocalServer(name=usual, kind="", base_url=base_url, problem=why)
    kind = _kind(rows, version, props)
    return LocalServer(
        name=usual if kind == "compatible" else kind.replace("_", "-"),
        kind=kind,
        base_url=base_url,
        models=tuple(row.id for row in rows[:MAX_MODELS] if _can_be_named(row.id)),
        # Some releases of llama.cpp's server list their models to everybody.
        needs_key=props.refuses_key,
    )


def _kind(rows: list[_Row], version: _Answer, props: _Answer) -> str:
    """Return the kind of a server by its list of models, and by what only some servers have."""
    if version.has(_read_version):
        return "ollama"
    if rows and rows[0].state is not None:
        return "ray_serve"
    if props.has(_read_props):
        return "llamafile"
    owner = rows[0].owned_by if rows else None
    return _OWNERS.get(owner, "compatible") if isinstance(owner, str) else "compatible"


class _Answer(NamedTuple):
    """An answer of a server; the reason in its place where none came."""

    status: int = 0
    body: bytes = b""
    problem: UpstreamError | None = None

    @property
    def refuses_key(self) -> bool:
        return self.status in (401, 403)

    def has(self, decode: Callable[[bytes], object]) -> bool:
        """Return whether it is a good answer that a decoder can read."""
        try:
            return self.status == 200 and decode(self.body) is not None
        except UNREADABLE:
            return False


async def _get(transport: Transport, name: str, url: str, limit_s: float) -> _Answer:
    try:
        async with asyncio.timeout(limit_s):
            reply = await transport.request(
                "GET", url, provider=name, headers={}, body=None, connect_timeout=limit_s
            )
            try:
                return _Answer(reply.status, await reply.read())
            finally:
                await reply.aclose()
    except TimeoutError:
        message = f"{name}: did not answer within {limit_s:g} s"
        return _Answer(problem=UpstreamTimeoutError(message, phase="total"))
    except UpstreamError as error:
        return _Answer(problem=error)


def _can_be_named(model: str) -> bool:
    try:
        check_name(model, "model")
    except InputError:
        return False
    return bool(model)


def _with_own_names(servers: list[LocalServer]) -> list[LocalServer]:
    """Return the servers, with the port in a name that an earlier one has."""
    taken: set[str] = set()
    named = []
    for server in servers:
        name = server.name
        if name in taken:
            port = server.base_url.removesuffix("/v1").rpartition(":")[2]
            name = f"{name}-{port}"
        taken.add(name)
        named.append(msgspec.structs.replace(server, name=name))
    return named
