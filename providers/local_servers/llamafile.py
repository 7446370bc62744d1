"""llamafile and llama.cpp's server: already running at `base_url`, or started by us.

    laptop:  {kind: llamafile, base_url: "http://127.0.0.1:8080/v1"}
    started: {kind: llamafile, command: "./prometheus.llamafile"}
    gguf:    {kind: llamafile, model: "./model.gguf"}    # needs llama-server, or the extra llamacpp

A llamafile up to 0.9 has a server of its own, without tools, `n` or logprobs, which silently
ignores fields that it does not know. From 0.10 on, llamafile's server is llama-server. `/props`,
read once, shows which of them it is.

A server of ours starts with the first request and ends with evalrouter. llama-server answers to any
model name; it has one model.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, Any

import msgspec

from providers import wire
from providers.base import BytesReply, Call, ModelFacts, Positive, Reply, Translation
from providers.compatible import COUNTED_MESSAGES, RESPONSES, Compatible, CompatibleConfig
from providers.errors import ConfigError, MissingExtraError, UpstreamConnectError, UpstreamError
from providers.host_json import decode_object
from providers.http.transport import Transport
from providers.local_servers.gguf import facts_of_file
from providers.local_servers.managed import PROBE_S, ManagedServer, probed_status
from providers.names import MAX_NAME_BYTES
from providers.translation.compose import model_list
from providers.translation.translate import Edits, Rules, system_for_developer

BASE_URL = "http://127.0.0.1:8080/v1"

_SERVER = Path(__file__).with_name("xllamacpp_server.py")


class LlamafileConfig(CompatibleConfig, frozen=True, kw_only=True):
    """A server that runs (`base_url`), or one to run (`command` or `model`).

    Attributes:
        command: program and arguments, as in a shell or as a list. `{port}` and `{host}` are filled
            in; without `{port}`, `--host` and `--port` are added at the end.
        model: a GGUF file to serve with `binary`.
        binary: llama.cpp's server, a name on the PATH or a path; "" for `llama-server`, or where
            that is not on the PATH, for the one in the extra `llamacpp`.
        args: further arguments.
        slots: requests sent to it at once; 0 takes the number that a server of ours reports.
        log: the file for what the server prints; "" means `evalrouter-NAME.log`.
        start_timeout: seconds until the model must be loaded.
    """

    command: str | tuple[str, ...] = ""
    model: str = ""
    binary: str = ""
    args: tuple[str, ...] = ()
    slots: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    log: str = ""
    start_timeout: Positive = 300.0


def command_of(name: str, config: LlamafileConfig) -> list[str]:
    """Return the command to start; [] for a server that is already running.

    Raises:
        ConfigError: the config says two things at once, or names a file that is not there.
        MissingExtraError: there is no llama.cpp to serve its file with.
    """
    place = f"providers.{name}"
    given = [key for key in ("base_url", "command", "model") if getattr(config, key)]
    if len(given) > 1:
        raise ConfigError(f"{place}: {' and '.join(given)} exclude each other", param=place)
    if config.model:
        if not Path(config.model).is_file():
            raise ConfigError(f"{place}.model: {config.model}: no such file", param=place)
        command = [*_llama_server(place, config.binary), "-m", config.model]
    elif isinstance(config.command, str):
        command = shlex.split(config.command)
    else:
        command = list(config.command)
    if not command:
        return []
    if command[0].endswith(".llamafile"):
        # A llamafile without this opens a chat in the terminal.
        command.append("--server")
    command += config.args
    if not any("{port}" in part for part in command):
        command += ["--host", "{host}", "--port", "{port}"]
    return command


def _llama_server(place: str, binary: str) -> list[str]:
    """Return how to start llama.cpp's server: the program, what is on the PATH, or the extra's."""
    program = shutil.which(binary or "llama-server")
    if program is not None:
        return [binary or program]
    if binary:
        raise ConfigError(f"{place}.binary: {binary}: no such program", param=place)
    if importlib.util.find_spec("xllamacpp") is None:
        what = f"{place}.model: llama-server is not on the PATH; llama.cpp's own server"
        raise MissingExtraError(what, "llamacpp")
    # -P: the folder of the program has modules with names of others.
    return [sys.executable, "-P", str(_SERVER)]


def weights_file(command: Sequence[str]) -> Path | None:
    """Return the file with the weights that a command serves; None where it does not say."""
    files = [part for part in command if part.endswith(".gguf")]
    for part in command:
        if part.startswith("--model="):
            return Path(part.removeprefix("--model="))
    # `python -m llama_cpp.server --model FILE` has both.
    for option in ("--model", "-m"):
        for flag, file in pairwise(command):
            if flag == option:
                return Path(file)
    if len(files) == 1:
        return Path(files[0])
    if not files and command and command[0].endswith(".llamafile"):
        return Path(command[0])
    return None


# llama-server's, and that of llama_cpp.server.
_ALIASES = ("-a", "--alias", "--model_alias")


def _title(command: list[str]) -> str:
    """Return a name for a command's model: its alias, its file's name, or the llamafile's."""
    for flag, value in pairwise(command):
        if flag in _ALIASES:
            return value
    files = [part for part in command if part.endswith(".gguf")]
    return Path(files[0] if files else command[0]).stem


def _plain_text(messages: Any, edits: Edits) -> Any:
    """Return messages whose text parts are joined: the old server takes strings only."""
    messages = system_for_developer(messages, edits)
    if not isinstance(messages, list):
        return messages
    plain = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and all(map(_is_text, content)):
            edits.convert("messages.content", "text parts joined")
            text = "".join(part.get("text") or "" for part in content)
            plain.append({**message, "content": text})
        else:
            plain.append(message)
    return plain


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str | None)
    )


_OLD_WHY = "llamafile up to 0.9 ignores it"
_OLD = Rules(
    lacking=dict.fromkeys(
        (
            "n",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "functions",
            "function_call",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "audio",
            "modalities",
        ),
        _OLD_WHY,
    ),
    neutral={
        "n": (1,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "logit_bias": ({},),
        "modalities": (["text"],),
    },
    convert={"messages": _plain_text},
)


class Llamafile(Compatible):
    """A llamafile or llama-server, running or to be run."""

    _listing_takes_a_slot = False
    # As llama-server has them, and llamafiles from 0.10 on; older ones answer 404.
    _other_paths = RESPONSES | COUNTED_MESSAGES

    def __init__(self, name: str, config: LlamafileConfig, transport: Transport) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL, speaks=self._other_paths)
        command = command_of(name, config)
        self._server = (
            ManagedServer(
                name,
                command,
                log=Path(config.log or f"evalrouter-{name}.log"),
                probe=self._healthy,
                start_timeout=config.start_timeout,
            )
            if command
            else None
        )
        self._title = _title(command) if command else ""
        self._weights_file = weights_file(command)
        self._slots = config.slots
        self._room: asyncio.Semaphore | None = None
        self._seen: Mapping[str, Any] | None = None
        self._probing = asyncio.Lock()

    async def open(self) -> None:
        """Do nothing yet: the first request starts a server of ours."""

    async def start(self) -> None:
        """Start a server of ours before any request, and wait until it is ready.

        Raises:
            UpstreamConnectError: it cannot be started.
        """
        if self._server is not None:
            await self._server.ready()

    async def close(self) -> None:
        """End the server, if it is ours."""
        if self._server is not None:
            await self._server.close()

    async def send(self, call: Call) -> Reply:
        """Wait for the server and for a free slot, then send as to any host.

        Raises:
            UpstreamConnectError: also when the server we started has ended.
        """
        if self._server is not None:
            if call.path == "models":
                # A list is not worth loading a model for, and it answers to any name.
                return BytesReply(model_list([self._title]))
            self._move(await self._server.ready())
        try:
            await self._probe()
            free = call.path == "models" and not self._listing_takes_a_slot
            if free or self._room is None:
                return await super().send(call)
            await self._room.acquire()
            try:
                reply = await super().send(call)
            except BaseException:
                self._room.release()
                raise
        except UpstreamConnectError:
            # The next server at this address may be another one.
            self._seen = None
            raise
        return _InSlot(reply, self._room)

    async def check_key(self) -> Reply | None:
        """Read a running server's properties: some releases of llama.cpp list models to anybody."""
        if self._server is not None:
            return None
        return await self._transport.request(
            "GET",
            self._base.removesuffix("/v1") + "/props",
            provider=self.name,
            headers=self._headers,
            body=None,
            connect_timeout=PROBE_S,
        )

    async def facts(self, model: str) -> ModelFacts:
        """Return how the model's weights are stored, by their file or else by what the server says.

        The memory is that of a server of ours.
        """
        if self._server is None:
            return await self._facts_of_server(model)
        facts = ModelFacts()
        if self._weights_file is not None:
            facts = await asyncio.to_thread(facts_of_file, self._weights_file)
        if facts.bits_per_weight is None and self._server.runs:
            served = await self._facts_of_server(model)
            facts = facts if served.bits_per_weight is None else served
        memory = await self._server.peak_memory()
        return msgspec.structs.replace(facts, peak_memory_bytes=memory)

    async def _facts_of_server(self, model: str) -> ModelFacts:
        """Return what llama-server says of a model in its list; nothing of other servers."""
        try:
            async with asyncio.timeout(PROBE_S):
                listed = await self._get("/v1/models") or {}
        except (TimeoutError, UpstreamError) as error:
            return ModelFacts(note=str(error) or f"{self.name} does not answer")
        try:
            rows = msgspec.convert(listed, _Listed).data
        except msgspec.ValidationError:
            return ModelFacts()
        # With one model it answers to any name.
        row = rows[0] if len(rows) == 1 else next((row for row in rows if row.id == model), None)
        if row is None or row.meta is None:
            return ModelFacts()
        meta = row.meta
        return ModelFacts(
            file=PurePath(row.id).name[:MAX_NAME_BYTES] if row.id.endswith(".gguf") else "",
            quantization=meta.ftype[:MAX_NAME_BYTES],
            parameters=meta.n_params,
            bits_per_weight=8 * meta.size / meta.n_params,
        )

    def rules(self, call: Call) -> Rules | None:
        """Return None for llama-server, which takes what OpenAI takes."""
        del call
        return _OLD if self._seen is not None and _is_old(self._seen) else None

    def _move(self, root: str) -> None:
        """Speak to the server at `root` from now on."""
        if self._base != f"{root}/v1":
            self._base = f"{root}/v1"
            self._urls = {path: f"{self._base}/{path}" for path in self._urls}
            self._seen = None

    async def _probe(self) -> None:
        """Read once which server it is, and how many slots it has."""
        if self._seen is not None:
            return
        async with self._probing:
            if self._seen is None:
                self._seen = await self._get("/props") or {}
                slots = self._slots
                if not slots and self._server is not None:
                    total = self._seen.get("total_slots")
                    slots = total if isinstance(total, int) and total > 0 else 1
                self._room = asyncio.Semaphore(slots) if slots else None

    async def _get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object at a path of the server's root; None without one."""
        reply = await self._transport.request(
            "GET",
            self._base.removesuffix("/v1") + path,
            provider=self.name,
            headers=self._headers,
            body=None,
            connect_timeout=PROBE_S,
        )
        try:
            body = await reply.read()
        finally:
            await reply.aclose()
        if reply.status != 200:
            return None
        try:
            return decode_object(body)
        except wire.UNREADABLE:
            return None

    async def _healthy(self, root: str) -> bool:
        """Return whether the server at `root` has loaded its model."""
        for path in ("/health", "/v1/models"):
            status = await probed_status(
                self._transport, root + path, provider=self.name, headers=self._headers
            )
            if status != 404:
                return status is not None and status < 400
        return False


_Count = Annotated[int, msgspec.Meta(gt=0, le=10**18)]


class _Meta(msgspec.Struct):
    """What llama-server says of a model's weights; `size` is their bytes."""

    n_params: _Count
    size: _Count
    ftype: str = ""


class _Row(msgspec.Struct):
    id: str
    meta: _Meta | None = None


class _Listed(msgspec.Struct):
    data: list[_Row]


def _is_old(props: Mapping[str, Any]) -> bool:
    """Return whether a server's `/props` lack what only llama-server has: build, chat template."""
    return not ("build_info" in props or "chat_template" in props)


class _InSlot:
    """A Reply that frees its slot when it is closed, or read to its end."""

    def __init__(self, reply: Reply, room: asyncio.Semaphore) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.translation: Translation = reply.translation
        self._reply = reply
        self._room: asyncio.Semaphore | None = room

    async def read(self) -> bytes:
        """Return the whole body."""
        with contextlib.closing(self):
            return await self._reply.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        with contextlib.closing(self):
            async for chunk in self._reply.chunks():
                yield chunk

    def close(self) -> None:
        """Free the slot, once."""
        if self._room is not None:
            self._room.release()
            self._room = None

    async def aclose(self) -> None:
        """Free the slot and give the connection back."""
        self.close()
        await self._reply.aclose()
