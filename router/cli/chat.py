"""`evalrouter chat`: a quick try of a model or a route in the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from providers.base import Secret
from providers.errors import (
    ConfigError,
    EvalrouterError,
    InputError,
    RequestError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
)
from providers.host_json import decode_object
from providers.http import sse
from providers.names import check_name
from providers.wire import UNREADABLE
from router.cli.chat_servers import BegunAnswer, ChatServer, InProcessServer, RemoteServer
from router.cli.commands import config_option, err, escape, is_text, json_option, print_json
from router.cli.completion import complete_models
from router.cli.server_url import root_of
from router.cli.terminal import harmless
from router.config.environment import API_KEY
from router.config.loading import load, source_of

_MAX_STDIN_BYTES = 32 * 1024 * 1024
_MAX_ERROR_BYTES = 1024 * 1024
_INTERRUPTED = 130
_COMMANDS = "/reset forgets the conversation, /exit or Ctrl-D ends it"
# Also those of Ollama's and llama.cpp's terminals: they are not for a model to answer.
_ENDS = frozenset({"/exit", "/quit", "/bye"})
# Fields of a request that an option cannot change.
_SET_HERE = frozenset({"messages", "model", "n", "stream", "stream_options"})


class ChatReply(msgspec.Struct, kw_only=True):
    """A model's whole answer.

    Attributes:
        model: the model or route as it was requested.
        target: the provider and model that answered; "" where the server does not say.
        answer: the text.
        finish_reason: why it ended.
        usage: tokens, as the host counts them.
        seconds: from the request to the last byte.
    """

    model: str
    target: str = ""
    answer: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    seconds: float = 0.0


def _read_parameters(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    """Return `NAME=VALUE` options as fields; each value is JSON, or else text."""
    fields = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE", ctx, option)
        if name in _SET_HERE:
            raise click.BadParameter(f"{name} is set by the command itself", ctx, option)
        try:
            fields[name] = msgspec.json.decode(text)
        except UNREADABLE:
            fields[name] = text
    return fields


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("message", nargs=-1)
@click.option("--system", default="", help="A system message, which comes first.")
@click.option("--temperature", type=click.FloatRange(0, 100))
@click.option("--max-tokens", type=click.IntRange(1))
@click.option(
    "--param",
    "parameters",
    metavar="NAME=VALUE",
    callback=_read_parameters,
    multiple=True,
    help="Another field of the request: top_p=0.9. Repeatable.",
)
@click.option("--url", default="", help="A running evalrouter. Default: none, the config is used.")
@config_option
@json_option
def chat(  # noqa: PLR0917 - one parameter for each option
    model: str,
    message: tuple[str, ...],
    system: str,
    temperature: float | None,
    max_tokens: int | None,
    parameters: dict[str, Any],
    url: str,
    config_path: Path | None,
    *,
    as_json: bool,
) -> None:
    """Talk to MODEL, a route or PROVIDER/MODEL, and see its answer as it comes.

    MESSAGE, or what comes on standard input (also with '-' for MESSAGE), is sent and answered once.
    Without either, a conversation begins: /reset forgets it, /exit or Ctrl-D ends it.

    Without --url no server is needed: the config's providers are called from here. With --url, the
    server's key is taken from EVALROUTER_API_KEY.
    """
    check_name(model, "MODEL", InputError)
    options = parameters
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    text = _message(message)
    if as_json and text is None:
        raise InputError("--json needs a MESSAGE, or text on standard input")
    conversation = Conversation(_server(url, config_path), model, system, options)
    # What a terminal's encoding lacks is shown as a question mark.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    with asyncio.Runner() as runner:
        code = _talk(runner, conversation, text, as_json=as_json)
    if code:
        sys.exit(code)


def _talk(
    runner: asyncio.Runner, conversation: Conversation, text: str | None, *, as_json: bool
) -> int:
    """Send the message, or one after the other; return the exit code."""
    runner.run(conversation.server.open())
    try:
        if text is None:
            return _converse(runner, conversation)
        show = (lambda _: None) if as_json else _write
        reply = runner.run(conversation.say(text, show))
        if as_json:
            print_json(reply)
        else:
            _finish(reply)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return _INTERRUPTED
    finally:
        runner.run(conversation.server.close())
    return 0


def _converse(runner: asyncio.Runner, conversation: Conversation) -> int:
    _edit_lines()
    err.print(_COMMANDS, highlight=False)
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            sys.stderr.write("\n")
            return 0
        if not is_text(text):
            err.print("[bold red]error:[/] that is not text in the terminal's encoding")
            continue
        command = text.strip()
        if command in _ENDS:
            return 0
        if command == "/reset":
            conversation.reset()
        if command == "/help":
            err.print(_COMMANDS, highlight=False)
        if command in {"", "/reset", "/help"}:
            continue
        try:
            reply = runner.run(conversation.say(text, _write))
        except KeyboardInterrupt:
            _write("\n")
            err.print("interrupted; the conversation goes on without this message")
        except EvalrouterError as error:
            err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        else:
            _finish(reply)


def _edit_lines() -> None:
    """Let the arrow keys edit lines, where Python has readline."""
    try:
        import readline  # noqa: F401, PLC0415  # it changes input() itself
    except ImportError:
        return


def _message(words: tuple[str, ...]) -> str | None:
    """Return what to send; None for a conversation."""
    if words and words != ("-",):
        return " ".join(words)
    if not words and sys.stdin.isatty():
        return None
    data = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(data) > _MAX_STDIN_BYTES:
        raise InputError(f"standard input has more than {_MAX_STDIN_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InputError("there is no MESSAGE, and nothing on standard input")
    return text


def _server(url: str, config_path: Path | None) -> ChatServer:
    if not url:
        return InProcessServer(load(config_path), source_of(config_path))
    if config_path is not None:
        raise InputError("--url and --config exclude each other: a server has a config of its own")
    key = os.environ.get(API_KEY, "")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{API_KEY} has characters that no header can have")
    return RemoteServer(root_of(url), Secret(key))


class Conversation:
    """The messages so far, and where the next one goes.

    Attributes:
        server: what answers.
    """

    def __init__(
        self, server: ChatServer, model: str, system: str, options: dict[str, Any]
    ) -> None:
        self.server = server
        self._model = model
        self._options = options
        self._first = [{"role": "system", "content": system}] if system else []
        self._messages = [*self._first]

    def reset(self) -> None:
        """Forget everything but the system message."""
        self._messages = [*self._first]

    async def say(self, text: str, show: Callable[[str], object]) -> ChatReply:
        """Send a message and return the answer, which is shown as it comes.

        The message is forgotten where no whole answer comes.

        Raises:
            EvalrouterError: the server refused, or the answer broke off.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        body = {
            **self._options,
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        async with self.server.answering(msgspec.json.encode(body)) as answer:
            if answer.status != 200:
                raise await _refusal(answer, self.server.advice)
            reply = await _read(answer, self._model, show)
        reply.seconds = round(time.monotonic() - began, 3)
        self._messages = [*messages, {"role": "assistant", "content": reply.answer}]
        return reply


async def _read(answer: BegunAnswer, model: str, show: Callable[[str], object]) -> ChatReply:
    reply = ChatReply(model=model, target=answer.headers.get("x-evalrouter-target", ""))
    parser = sse.Parser()
    async for chunk in answer.chunks:
        for event in parser.feed(chunk):
            if event.data == b"[DONE]":
                return reply
            text = _add(event.data, reply)
            if text:
                show(harmless(text))
    raise UpstreamProtocolError("the answer was cut off before its end")


async def _refusal(answer: BegunAnswer, advice: str) -> EvalrouterError:
    body = b""
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    status = f"status {answer.status}"
    failure = UpstreamStatusError(answer.status, body, dict(answer.headers), status)
    message = _one_line(str(failure.as_openai()["error"]["message"]))
    if answer.status == 401:
        return RequestError(f"{message} (the server's key is read from {API_KEY})")
    if answer.status < 500:
        return RequestError(message)
    return UpstreamError(f"{message} ({advice})" if advice else message)


def _add(data: bytes, reply: ChatReply) -> str:
    """Take an event of the stream into the reply; return the text in it.

    Raises:
        UpstreamError: it is an error.
    """
    try:
        event = decode_object(data)
    except UNREADABLE:
        raise UpstreamProtocolError("the answer has an event that is not JSON") from None
    if event.get("error"):
        error = event["error"]
        message = error.get("message") if isinstance(error, dict) else error
        raise UpstreamError(_one_line(str(message)))
    if isinstance(event.get("usage"), dict):
        reply.usage = event["usage"]
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        return ""
    if isinstance(choice.get("finish_reason"), str):
        reply.finish_reason = choice["finish_reason"]
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    if not isinstance(text, str):
        return ""
    reply.answer += text
    return text


def _one_line(message: str) -> str:
    return harmless(" ".join(message.split()))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _finish(reply: ChatReply) -> None:
    """End the answer's last line; say on a terminal what it took, and nothing to scripts."""
    if not reply.answer.endswith("\n"):
        _write("\n")
    if not sys.stdout.isatty():
        return
    usage = reply.usage or {}
    parts = [reply.target or reply.model, f"{reply.seconds:.1f} s"]
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if all(isinstance(count, int) for count in counts):
        parts.append(f"{counts[0]} tokens in, {counts[1]} out")
    if reply.finish_reason not in (None, "stop"):
        parts.append(f"ended by {reply.finish_reason}")
    err.print(f"[dim]{escape(harmless(', '.join(parts)))}[/]", highlight=False)
