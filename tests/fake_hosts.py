"""Strict fakes of hosts that cannot be reached offline, written from their API references.

    async with FakeHost(MistralDialect()) as host:
        ...  # host.url, host.received (bodies), host.refusals (what was wrong with them)

Each knows its host's request fields and refuses all others in its host's words; a fake model
answers. `KEY` is the one key they take, `MODEL` the one model they have.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, ClassVar, Self

import fake_model
from aiohttp import web

Object = dict[str, Any]

KEY = "sk-stand-in"
MODEL = "standing-1"


class Refusal(Exception):  # noqa: N818  # an answer, not a failure
    """An answer other than the model's."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


class Dialect:
    """The requests that a host takes and its answers: OpenAI's form, with the host's fields."""

    root = "/v1"
    chat = "/chat/completions"
    context = 2000
    fields: frozenset[str] = frozenset()
    needs_key = True

    def key_of(self, headers: Any) -> str:
        return headers.get("authorization", "").removeprefix("Bearer ")

    def refuse(self, status: int, message: str, param: str | None = None) -> Refusal:
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        return Refusal(status, {"error": error})

    def check(self, body: Object) -> None:
        for name in body:
            if name not in self.fields:
                raise self.refuse(400, f"property '{name}' is unsupported", name)

    def check_common(self, body: Object, headers: Any) -> None:
        if self.needs_key and self.key_of(headers) != KEY:
            raise self.refuse(401, "Invalid API Key")
        if not isinstance(body.get("messages"), list):
            raise self.refuse(400, "messages: field required", "messages")
        self.check(body)
        for name in ("temperature", "max_tokens", "max_completion_tokens"):
            if not isinstance(body.get(name) or 0, int | float):
                raise self.refuse(400, f"{name}: must be a number", name)
        if body["model"] != MODEL:
            raise self.refuse(404, f"The model `{body['model']}` does not exist", "model")
        words = sum(
            fake_model.count(fake_model.text_of(m.get("content"))) for m in body["messages"]
        )
        if words > self.context:
            raise self.refuse(400, f"{words} tokens are over the context of {self.context}")

    def answer(self, body: Object) -> Object:
        return fake_model.answer(body)

    def events(self, body: Object, answer: Object) -> list[tuple[str, Any]]:
        """Return the events of a stream, each as its name ("" for none) and its data."""
        usage = (body.get("stream_options") or {}).get("include_usage")
        return [("", chunk) for chunk in chunks(answer, usage="last" if usage else "none")]

    def models(self) -> Object:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "it"}]}


def chunks(answer: Object, *, usage: str) -> list[Any]:
    """Return OpenAI's chunks of a completion, usage in a `last` one, `beside` the end or `none`."""
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    made: list[Any] = []

    def add(index: int, delta: Object, finish: str | None = None, **more: Any) -> None:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        made.append({**head, "choices": [choice], **more})

    for choice in answer["choices"]:
        index, message = choice["index"], choice["message"]
        add(index, {"role": "assistant", "content": ""})
        content = message.get("content")
        for piece in re.findall(r"\s*\S+", content) if isinstance(content, str) else []:
            add(index, {"content": piece})
        if isinstance(content, list):
            for part in content:
                add(index, {"content": [part]})
        for number, call in enumerate(message.get("tool_calls") or ()):
            add(index, {"tool_calls": [{"index": number, **call}]})
        beside = {"usage": answer["usage"]} if usage == "beside" else {}
        add(index, {}, choice["finish_reason"], **beside)
    if usage == "last":
        made.append({**head, "choices": [], "usage": answer["usage"]})
    return [*made, "[DONE]"]


class FakeHost:
    """One host on loopback; an async context manager."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.received: list[Object] = []
        self.headers: list[Object] = []
        self.refusals: list[Any] = []
        self.url = ""
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.post(dialect.root + dialect.chat, self._chat),
                web.get(dialect.root + "/models", self._models),
                web.get("/api/ps", self._running),
                web.post("/api/show", self._show),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}{self.dialect.root}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(self.dialect.models())

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            self.received.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self.dialect.check_common(body, request.headers)
        except Refusal as refusal:
            self.refusals.append(refusal.body)
            return web.json_response(refusal.body, status=refusal.status)
        answer = self.dialect.answer(body)
        if not body.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for name, data in self.dialect.events(body, answer):
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            head = f"event: {name}\n" if name else ""
            await response.write(f"{head}data: {text}\n\n".encode())
            await asyncio.sleep(0)
        return response

    async def _running(self, _: web.Request) -> web.Response:
        return web.json_response({"models": getattr(self.dialect, "running", [])})

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response({"parameters": getattr(self.dialect, "parameters", "")})


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class MistralDialect(Dialect):
    """docs.mistral.ai/api, chat completions: 422 for any name that is not there."""

    fields = words(
        """model messages temperature top_p max_tokens stream stop random_seed metadata
        response_format tools tool_choice presence_penalty frequency_penalty n prediction
        parallel_tool_calls prompt_mode safe_prompt reasoning_effort prompt_cache_key"""
    )
    message_fields: ClassVar = {
        "system": words("role content"),
        "user": words("role content"),
        "assistant": words("role content tool_calls prefix"),
        "tool": words("role content tool_call_id name"),
    }
    thinks = False

    def refuse(self, status: int, message: str, param: str | None = None) -> Refusal:
        if status == 401:
            return Refusal(401, {"message": "Unauthorized", "request_id": "1"})
        code = {"object": "error", "type": "invalid_request_error", "param": None, "code": "1"}
        return Refusal(status, {**code, "message": message})

    def extra(self, *place: str | int) -> Refusal:
        problem = {"type": "extra_forbidden", "loc": ["body", *place]}
        detail = [{**problem, "msg": "Extra inputs are not permitted"}]
        error = {"object": "error", "message": {"detail": detail}}
        return Refusal(422, {**error, "type": "invalid_request_error", "param": None})

    def check(self, body: Object) -> None:
        for name in body:
            if name not in self.fields:
                raise self.extra(name)
        for number, message in enumerate(body["messages"]):
            role = message.get("role")
            if role not in self.message_fields:
                raise self.extra("messages", number, "role")
            for name in message:
                if name not in self.message_fields[role]:
                    raise self.extra("messages", number, role, name)
            ids = [call["id"] for call in message.get("tool_calls") or ()]
            ids += [message["tool_call_id"]] if role == "tool" else []
            for call_id in ids:
                if not re.fullmatch(r"[a-zA-Z0-9]{9}", call_id):
                    raise self.refuse(
                        400,
                        f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, "
                        "with a length of 9.",
                    )
        choice = body.get("tool_choice", "auto")
        if isinstance(choice, str) and choice not in ("auto", "none", "any"):
            raise self.extra("tool_choice")

    def answer(self, body: Object) -> Object:
        answer = fake_model.answer(body)
        for choice in answer["choices"]:
            message = choice["message"]
            if choice["finish_reason"] == "length":
                choice["finish_reason"] = "model_length"
            if self.thinks and message["content"]:
                thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
                message["content"] = [thought, {"type": "text", "text": message["content"]}]
        return answer

    def events(self, body: Object, answer: Object) -> list[tuple[str, Any]]:
        return [("", chunk) for chunk in chunks(answer, usage="beside")]


class GroqDialect(Dialect):
    """console.groq.com/docs/openai: 400 for logprobs, logit_bias, top_logprobs, name and n > 1."""

    fields = words(
        """model messages temperature top_p max_tokens max_completion_tokens stream stop seed
        stream_options response_format tools tool_choice presence_penalty frequency_penalty n
        parallel_tool_calls reasoning_effort reasoning_format service_tier user metadata store"""
    )

    def check(self, body: Object) -> None:
        super().check(body)
        if (body.get("n") or 1) != 1:
            raise self.refuse(400, "'n' : number must be at most 1", "n")
        for number, message in enumerate(body["messages"]):
            if "name" in message and message["role"] != "tool":
                raise self.refuse(400, f"'messages.{number}' : property 'name' is unsupported")


class GeminiDialect(Dialect):
    """ai.google.dev/gemini-api/docs/openai: 400 for unknown names, errors in an array."""

    root = "/v1beta/openai"
    fields = words(
        """model messages temperature top_p max_tokens max_completion_tokens stream stop n
        stream_options response_format tools tool_choice parallel_tool_calls reasoning_effort
        presence_penalty frequency_penalty seed logprobs top_logprobs user modalities audio
        extra_body"""
    )

    def refuse(self, status: int, message: str, param: str | None = None) -> Refusal:
        error = {"code": status, "message": message, "status": "INVALID_ARGUMENT"}
        return Refusal(status, [{"error": error}])

    def check(self, body: Object) -> None:
        for name in body:
            if name not in self.fields:
                raise self.refuse(
                    400, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
                )

    def answer(self, body: Object) -> Object:
        answer = fake_model.answer(body)
        for choice in answer["choices"]:
            if choice["finish_reason"] == "tool_calls":
                choice["finish_reason"] = "stop"
        return answer

    def models(self) -> Object:
        return {"object": "list", "data": [{"id": f"models/{MODEL}", "object": "model"}]}


class OllamaDialect(Dialect):
    """docs.ollama.com/api/openai-compatibility: ignores what it does not know, and cuts prompts."""

    needs_key = False
    fields = words(
        """model messages temperature top_p max_tokens stream stop seed stream_options
        response_format tools tool_choice presence_penalty frequency_penalty reasoning_effort
        reasoning logprobs top_logprobs"""
    )
    context = 4096

    def __init__(self) -> None:
        self.running: list[Object] = []
        self.parameters = ""
        self.ignored: list[str] = []

    def check_common(self, body: Object, headers: Any) -> None:
        if not isinstance(body.get("messages"), list):
            raise self.refuse(400, "[] is too short - 'messages'")
        for message in body["messages"]:
            # What Ollama does to a prompt that does not fit: it loses its beginning.
            text = fake_model.text_of(message["content"]).split(" ")
            if len(text) > self.context:
                message["content"] = " ".join(text[-self.context + 100 :])
        super().check_common(body, headers)

    def check(self, body: Object) -> None:
        self.ignored += [name for name in body if name not in self.fields]
        for name in self.ignored:
            body.pop(name, None)

    def answer(self, body: Object) -> Object:
        known = {name: value for name, value in body.items() if name in self.fields}
        return {**fake_model.answer(known), "system_fingerprint": "fp_ollama"}


class AnthropicDialect(Dialect):
    """docs.anthropic.com/en/api/messages: its own form; refuses unknown names, empty text, gaps."""

    chat = "/messages"
    fields = words(
        """model messages max_tokens metadata stop_sequences stream system temperature thinking
        tool_choice tools top_k top_p service_tier output_config cache_control container"""
    )
    block_fields: ClassVar = {
        "text": words("type text cache_control citations"),
        "image": words("type source cache_control"),
        "document": words("type source cache_control title context citations"),
        "tool_use": words("type id name input cache_control"),
        "tool_result": words("type tool_use_id content is_error cache_control"),
        "thinking": words("type thinking signature"),
        "redacted_thinking": words("type data"),
    }
    thinks = False

    def key_of(self, headers: Any) -> str:
        return headers.get("x-api-key", "")

    def refuse(self, status: int, message: str, param: str | None = None) -> Refusal:
        kinds = {401: "authentication_error", 404: "not_found_error"}
        kind = kinds.get(status, "invalid_request_error")
        return Refusal(status, {"type": "error", "error": {"type": kind, "message": message}})

    def check_common(self, body: Object, headers: Any) -> None:
        if headers.get("anthropic-version") != "2023-06-01":
            raise self.refuse(400, "anthropic-version: header is required")
        if not isinstance(body.get("max_tokens"), int):
            raise self.refuse(400, "max_tokens: Field required")
        super().check_common(body, headers)

    def check(self, body: Object) -> None:
        for name in body:
            if name not in self.fields:
                raise self.refuse(400, f"{name}: Extra inputs are not permitted")
        heat = body.get("temperature", 1)
        if isinstance(heat, int | float) and not 0 <= heat <= 1:
            raise self.refuse(400, "temperature: range: 0..1")
        open_calls: set[str] = set()
        for number, message in enumerate(body["messages"]):
            place = f"messages.{number}"
            if set(message) != {"role", "content"} or message["role"] not in ("user", "assistant"):
                raise self.refuse(400, f"{place}: {sorted(message)}, role {message.get('role')}")
            blocks = message["content"]
            if isinstance(blocks, str):
                blocks = [{"type": "text", "text": blocks}]
            if not blocks:
                raise self.refuse(400, f"{place}: content must not be empty")
            answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
            if answered != open_calls:
                raise self.refuse(400, f"{place}: tool_use ids {open_calls} without tool_result")
            open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
            for block in blocks:
                self.check_block(block, place)
        for tool in body.get("tools") or ():
            if set(tool) - words("name description input_schema strict cache_control type"):
                raise self.refuse(400, f"tools: {sorted(tool)}")
            if not isinstance(tool.get("input_schema"), dict):
                raise self.refuse(400, "tools.input_schema: Field required")
        kind = (body.get("tool_choice") or {"type": "auto"}).get("type")
        if kind not in ("auto", "any", "none", "tool"):
            raise self.refuse(400, f"tool_choice: type {kind}")

    def check_block(self, block: Object, place: str) -> None:
        kind = block.get("type", "")
        if kind not in self.block_fields:
            raise self.refuse(400, f"{place}.content: type {kind!r}")
        for name in block:
            if name not in self.block_fields[kind]:
                raise self.refuse(400, f"{place}.content.{kind}.{name}: Extra inputs")
        if kind == "text" and not block["text"]:
            raise self.refuse(400, f"{place}: text content blocks must be non-empty")
        if kind == "thinking" and not block.get("signature"):
            raise self.refuse(400, f"{place}: thinking.signature: Field required")

    def answer(self, body: Object) -> Object:
        choice = body.get("tool_choice") or {}
        form = (body.get("output_config") or {}).get("format")
        plain = {
            "model": body["model"],
            "messages": [
                {"role": message["role"], "content": _plain(message["content"])}
                for message in body["messages"]
            ],
            "max_tokens": body["max_tokens"],
            "stop": body.get("stop_sequences"),
            "tools": [
                {"function": {"name": tool["name"], "parameters": tool["input_schema"]}}
                for tool in body.get("tools") or ()
            ],
            "tool_choice": {
                "any": "required",
                "tool": {"function": {"name": choice.get("name")}},
            }.get(choice.get("type", "")),
            "parallel_tool_calls": not choice.get("disable_parallel_tool_use"),
            "response_format": form
            and {"type": "json_schema", "json_schema": {"schema": form["schema"]}},
        }
        completion = fake_model.answer(plain)
        message = completion["choices"][0]["message"]
        content: list[Object] = []
        if self.thinks:
            content.append({"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"})
        if message["content"]:
            content.append({"type": "text", "text": message["content"]})
        content += [
            {
                "type": "tool_use",
                "id": f"toolu_{call['id']}",
                "name": call["function"]["name"],
                "input": json.loads(call["function"]["arguments"]),
            }
            for call in message.get("tool_calls") or ()
        ]
        reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
        system = sum(fake_model.count(block["text"]) for block in body.get("system") or ())
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": reasons[completion["choices"][0]["finish_reason"]],
            "stop_sequence": None,
            "usage": {
                "input_tokens": completion["usage"]["prompt_tokens"] + system - 2,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": completion["usage"]["completion_tokens"],
            },
        }

    def events(self, body: Object, answer: Object) -> list[tuple[str, Any]]:
        made: list[Object] = []
        start = {**answer, "content": [], "stop_reason": None}
        start["usage"] = {**answer["usage"], "output_tokens": 1}
        made += [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, block in enumerate(answer["content"]):
            empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
            started = {**block, **empty.get(block["type"], {"input": {}})}
            made.append({"type": "content_block_start", "index": index, "content_block": started})
            made += [
                {"type": "content_block_delta", "index": index, "delta": block_delta}
                for block_delta in _deltas(block)
            ]
            made.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
        usage = {"output_tokens": answer["usage"]["output_tokens"]}
        made.append({"type": "message_delta", "delta": delta, "usage": usage})
        made.append({"type": "message_stop"})
        return [(event["type"], event) for event in made]

    def models(self) -> Object:
        row = {"type": "model", "id": MODEL, "display_name": "It"}
        return {"data": [{**row, "created_at": "2026-01-01T00:00:00Z"}], "has_more": False}


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)


def _deltas(block: Object) -> list[Object]:
    if block["type"] == "text":
        pieces = re.findall(r"\s*\S+", block["text"])
        return [{"type": "text_delta", "text": piece} for piece in pieces]
    if block["type"] == "thinking":
        return [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    text = json.dumps(block["input"])
    half = len(text) // 2
    pieces = ["", text[:half], text[half:]]
    return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
