"""The `input` of OpenAI's Responses API as the messages of a chat. No IO.

    message                               -> a message; developer's as system
    reasoning, message, function_call ... -> one assistant's message, as a chat answer has them
    function_call_output                  -> a tool's message, right behind the call's
    custom_tool_call                      -> a call of a function with one text, `input`

System messages at the beginning become one, with the instructions in front: templates of many open
models take no second one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import wire
from providers.errors import RequestError
from providers.translation import field_checks
from providers.translation.responses_parts import (
    OUTPUT_PARTS,
    USER_PARTS,
    assistant_text,
    content,
    note_others,
)
from providers.translation.translate import Edits

_Object = dict[str, Any]

# What `encrypted_content` of a reasoning item begins with that holds a host's signed thoughts.
_SIGNED = "signed-thoughts."

_ROLES = ("assistant", "developer", "system", "user")

# Items that belong to tools which OpenAI runs, or to features that chat completions lack.
_UNSUPPORTED_ITEMS = (
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
)


def signed_thoughts(blocks: list[Any]) -> str:
    """Return the `encrypted_content` that carries a host's signed thoughts to the next request."""
    return _SIGNED + base64.urlsafe_b64encode(wire.encode(blocks)).decode()


def _read_signed(value: str) -> list[Any]:
    """Return the thoughts in an `encrypted_content`; [] where it holds no such."""
    if not value.startswith(_SIGNED):
        return []
    try:
        blocks = msgspec.json.decode(base64.urlsafe_b64decode(value.removeprefix(_SIGNED)))
    except (*wire.UNREADABLE, ValueError):
        return []
    return blocks if isinstance(blocks, list) else []


class _Turn:
    """A message, and the outputs of the tools that it calls."""

    __slots__ = ("message", "outputs")

    def __init__(self, message: _Object) -> None:
        self.message = message
        self.outputs: list[_Object] = []

    @property
    def is_open(self) -> bool:
        """Whether what the assistant says next belongs to this message."""
        return self.message["role"] == "assistant" and not self.outputs


class InputReader:
    """The messages of a chat, as the items of an input say them one by one.

    Args:
        edits: where to note what was converted and left out.
        takes_reasoning: whether the host takes a model's earlier thoughts.
    """

    def __init__(self, edits: Edits, *, takes_reasoning: bool) -> None:
        self._edits = edits
        self._takes_reasoning = takes_reasoning
        self._turns: list[_Turn] = []
        # By the call's id: its turn, and what kind of call it is as long as no output came.
        self._calls: dict[str, _Turn] = {}
        self._unanswered: dict[str, str] = {}
        self._readers: Mapping[str, Callable[[_Object, str], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._function_call,
            "function_call_output": self._function_output,
            "custom_tool_call": self._custom_call,
            "custom_tool_call_output": self._custom_output,
            "item_reference": self._reference,
            "compaction": self._compaction,
            "compaction_summary": self._compaction,
        }

    def instruct(self, instructions: str) -> None:
        """Add the request's instructions."""
        self._turns.append(_Turn({"role": "system", "content": instructions}))

    def read(self, value: Any) -> None:
        """Add what an input says.

        Raises:
            RequestError: it does not have the form of OpenAI's API, refers to what this server has
                not, or has calls and outputs that do not fit together; `param` names the place.
        """
        if isinstance(value, str):
            self._turns.append(_Turn({"role": "user", "content": value}))
            return
        if not isinstance(value, list):
            raise field_checks.wrong_type("input", "one of a string or an array", value)
        for index, item in enumerate(value):
            path = f"input[{index}]"
            self._item(field_checks.checked(item, dict, path), path)
        for identity, kind in self._unanswered.items():
            raise RequestError(f"No tool output found for {kind} call {identity}.", param="input")

    def messages(self) -> list[_Object]:
        """Return the messages in the order in which a chat has them."""
        messages: list[_Object] = []
        for turn in self._turns:
            message = turn.message
            if message["role"] == "assistant":
                if not message.keys() & {"content", "tool_calls"}:
                    # Thoughts that led to nothing.
                    continue
                message = {"role": "assistant", "content": None, **message}
            messages.append(message)
            messages += turn.outputs
        return self._with_one_system(messages)

    def _with_one_system(self, messages: list[_Object]) -> list[_Object]:
        """Return the messages with the first ones of the system as one, where all are texts."""
        count = 0
        for message in messages:
            if message["role"] != "system" or not isinstance(message["content"], str):
                break
            count += 1
        if count < 2:
            return messages
        self._edits.convert("input.system", "the first system messages joined into one")
        text = "\n\n".join(message["content"] for message in messages[:count])
        return [{"role": "system", "content": text}, *messages[count:]]

    def _item(self, item: _Object, path: str) -> None:
        kind = item.get("type")
        if kind is None:
            if "role" in item:
                kind = "message"
            elif "id" in item:
                kind = "item_reference"
            else:
                raise field_checks.missing(f"{path}.type")
        reader = self._readers.get(field_checks.checked(kind, str, f"{path}.type"))
        if reader is not None:
            reader(item, path)
        elif kind in _UNSUPPORTED_ITEMS:
            self._edits.leave_out(f"input.{kind}", "chat completions have no such item")
        else:
            supported = sorted({*self._readers, *_UNSUPPORTED_ITEMS})
            raise field_checks.wrong_value(f"{path}.type", kind, supported)

    # Messages

    def _message(self, item: _Object, path: str) -> None:
        role = field_checks.one_of(
            field_checks.required(item, "role", path, str), _ROLES, f"{path}.role"
        )
        if "content" not in item:
            raise field_checks.missing(f"{path}.content")
        note_others(item, ("role", "content"), "input", self._edits)
        path = f"{path}.content"
        if role == "assistant":
            self._say("content", assistant_text(item["content"], path, self._edits), "\n")
            return
        if role == "developer":
            self._edits.convert("input.role", "developer to system, its older name")
            role = "system"
        parts = content(item["content"], path, USER_PARTS, self._edits)
        self._turns.append(_Turn({"role": role, "content": parts}))

    # What an assistant thought, said and called

    def _assistant(self) -> _Turn:
        """Return the turn of what the assistant says next."""
        if not self._turns or not self._turns[-1].is_open:
            self._turns.append(_Turn({"role": "assistant"}))
        return self._turns[-1]

    def _say(self, name: str, text: str, between: str) -> None:
        """Add text to the assistant's message; a second answer is a message of its own."""
        message = self._assistant().message
        if name not in message:
            message[name] = text
        elif name == "content" and "tool_calls" not in message:
            self._turns.append(_Turn({"role": "assistant", name: text}))
        else:
            # Between calls and their outputs there may be no other message.
            message[name] += between + text

    def _reasoning(self, item: _Object, path: str) -> None:
        known = ("summary", "content", "encrypted_content")
        note_others(item, known, "input.reasoning", self._edits)
        texts = [
            field_checks.text(part, "text", f"{path}.{name}[{number}]")
            for name in ("content", "summary")
            for number, part in enumerate(_objects(item, name, path))
        ]
        # A summary beside the thoughts themselves says them once more.
        texts = texts[: len(item.get("content") or ()) or None]
        encrypted = field_checks.optional(item, "encrypted_content", path, str)
        signed = _read_signed(encrypted or "")
        if encrypted and not signed and not any(texts):
            self._edits.leave_out("input.reasoning", "only the host that wrote it can read it")
        elif not self._takes_reasoning and (signed or any(texts)):
            why = "left out: the host takes no thoughts of earlier answers"
            self._edits.convert("input.reasoning", why)
        else:
            self._think("\n\n".join(texts), signed)

    def _think(self, text: str, signed: list[Any]) -> None:
        if signed:
            message = self._assistant().message
            message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *signed]
        if text:
            self._say("reasoning_content", text, "\n\n")
        if text or signed:
            self._edits.convert("input.reasoning", "to the assistant's thoughts")

    def _function_call(self, item: _Object, path: str) -> None:
        known = ("arguments", "call_id", "name")
        note_others(item, known, "input.function_call", self._edits)
        arguments = field_checks.text(item, "arguments", path)
        self._call(item, path, "function", arguments)

    def _custom_call(self, item: _Object, path: str) -> None:
        known = ("call_id", "input", "name")
        note_others(item, known, "input.custom_tool_call", self._edits)
        arguments = custom_arguments(field_checks.text(item, "input", path))
        self._edits.convert("input.custom_tool_call", "to a call of a function")
        self._call(item, path, "custom tool", arguments)

    def _call(self, item: _Object, path: str, kind: str, arguments: str) -> None:
        identity = field_checks.text(item, "call_id", path)
        function = {"name": field_checks.text(item, "name", path), "arguments": arguments}
        turn = self._assistant()
        calls = turn.message.setdefault("tool_calls", [])
        calls.append({"id": identity, "type": "function", "function": function})
        self._calls[identity] = turn
        self._unanswered[identity] = kind

    def _function_output(self, item: _Object, path: str) -> None:
        self._output(item, path, "function")

    def _custom_output(self, item: _Object, path: str) -> None:
        self._output(item, path, "custom tool")

    def _output(self, item: _Object, path: str, kind: str) -> None:
        known = ("call_id", "output", "name")
        note_others(item, known, f"input.{item['type']}", self._edits)
        identity = field_checks.text(item, "call_id", path)
        if "output" not in item:
            raise field_checks.missing(f"{path}.output")
        result = content(item["output"], f"{path}.output", OUTPUT_PARTS, self._edits)
        turn = self._calls.get(identity)
        if turn is None:
            raise RequestError(
                f"No tool call found for {kind} call output with call_id {identity}.", param="input"
            )
        self._unanswered.pop(identity, None)
        turn.outputs.append({"role": "tool", "tool_call_id": identity, "content": result})

    def _reference(self, item: _Object, path: str) -> None:
        identity = field_checks.text(item, "id", path)
        raise RequestError(
            f"Item with id '{identity}' not found. Items are not stored for this model; send the "
            "item itself.",
            param="input",
        )

    def _compaction(self, item: _Object, path: str) -> None:
        del item
        raise RequestError(
            "Only the host that compacted a conversation can read what is left of it; send the "
            "conversation itself.",
            param=path,
            code="unsupported_parameter",
        )


def _objects(item: _Object, name: str, path: str) -> list[_Object]:
    """Return a list of an item; [] where it is null or missing."""
    value = item.get(name)
    return [] if value is None else field_checks.objects(value, f"{path}.{name}")


def custom_arguments(text: str) -> str:
    """Return the arguments of the function that stands for a custom tool."""
    return wire.encode({"input": text}).decode()
