"""Turns a client's fields into a host's, and records what became of each. No IO.

A host's differences are data, a `Rules`; `translate(rules, call, ...)` applies them:

    Rules(renamed={"seed": "random_seed"}, lacking={"logit_bias": "it has no such parameter"})

A field that no rule names is sent as the bytes that came. What the host cannot express is refused,
left out or sent unchanged, as the call or the provider's config says; it is never left out
silently. Converters of nested values (messages, tools) report to `Edits` what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers.base import Call, OnUnsupported, Translation
from providers.errors import RequestError
from providers.names import MAX_NAME_BYTES, check_name
from providers.wire import UNREADABLE

# Characters of all names in the record of a translation, which is stored with the answer.
MAX_NAMES_CHARS = 64 * 1024


class Edits:
    """What a translation has done so far; converters of nested values report to it."""

    def __init__(self, policy: OnUnsupported, supported: frozenset[str] = frozenset()) -> None:
        self.passed: list[str] = []
        self.renamed: dict[str, str] = {}
        self.converted: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self._policy = policy
        self._supported = supported

    def convert(self, name: str, how: str) -> None:
        """Note that `name` is sent in another form; the first note of a name stands."""
        self.converted.setdefault(name, how)

    def drop(self, name: str, why: str) -> bool:
        """Return whether to leave out `name`, which the host cannot express; note it if so."""
        if self._policy == "pass" or name in self._supported:
            return False
        self.dropped.setdefault(name, why)
        return True

    def leave_out(self, name: str, why: str) -> None:
        """Note that `name` is not sent, under any policy but to refuse: it has no counterpart."""
        self.dropped.setdefault(name, why)

    def finish(self, provider: str) -> Translation:
        """Return the record.

        Raises:
            RequestError: something was dropped and the policy is to refuse; `param` names it and
                the code is `unsupported_parameter`. Or the names of the fields are too long for the
                record.
        """
        self._check_names()
        if self.dropped and self._policy == "error":
            fields = "; ".join(f"{name} ({why})" for name, why in self.dropped.items())
            raise RequestError(
                f"{provider} cannot express {fields}. Leave it out, or set on_unsupported to drop "
                "for this provider.",
                param=next(iter(self.dropped)),
                code="unsupported_parameter",
            )
        return Translation(
            passed=tuple(self.passed),
            renamed=self.renamed,
            converted=self.converted,
            dropped=self.dropped,
        )

    def _check_names(self) -> None:
        """Refuse names that are too long: the record is stored, and shown in a header."""
        names = (*self.passed, *self.converted, *self.dropped)
        for name in names:
            # Which characters a name may have is the host's decision.
            if len(name) > MAX_NAME_BYTES:
                check_name(name, "field name")
        size = sum(map(len, names))
        if size > MAX_NAMES_CHARS:
            raise RequestError(
                f"The names of the request's fields have {size:,} characters together, of at most "
                f"{MAX_NAMES_CHARS:,} where the request is translated; leave some fields out."
            )


# Takes a decoded value, reports to Edits, gives the value to send; OMIT leaves the field out.
Converter = Callable[[Any, Edits], Any]
OMIT = object()


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a host's request fields differ from OpenAI's.

    Attributes:
        known: every name the host takes, renamed ones included; None for a host that ignores or
            takes names it does not know, so that they can be sent as they came.
        renamed: the host's name for a name of ours with the same meaning.
        lacking: by name, why the host cannot express the field.
        neutral: by name, the values that request what the host does anyway, so that leaving them
            out loses nothing. Null always is one.
        implied: by name, why leaving the field out loses nothing, whatever its value.
        convert: by name, the converter of the field's value.
    """

    known: frozenset[str] | None = None
    renamed: Mapping[str, str] = {}
    lacking: Mapping[str, str] = {}
    neutral: Mapping[str, tuple[Any, ...]] = {}
    implied: Mapping[str, str] = {}
    convert: Mapping[str, Converter] = {}

    def with_more(self, more: Rules) -> Rules:
        """Return both hosts' differences together; `more` wins where they name the same field."""
        return Rules(
            known=self.known,
            renamed={**self.renamed, **more.renamed},
            lacking={**self.lacking, **more.lacking},
            neutral={**self.neutral, **more.neutral},
            implied={**self.implied, **more.implied},
            convert={**self.convert, **more.convert},
        )


def translate(
    rules: Rules,
    call: Call,
    *,
    provider: str,
    policy: OnUnsupported,
    supported: frozenset[str] = frozenset(),
    edits: Edits | None = None,
) -> tuple[dict[str, Any], Translation]:
    """Return the fields to send for a call, and the record of what was done.

    Args:
        rules: the host's rules.
        call: the client's request.
        provider: the provider's name, for the error.
        policy: what to do with fields that the host cannot express.
        supported: names to send as they came, although the rules say that the host lacks them.
        edits: what was already done to this call; None when nothing was.

    Raises:
        RequestError: the policy is to refuse and the host lacks something; or a field that has to
            be converted cannot be read.
    """
    edits = edits or Edits(policy, supported)
    fields: dict[str, Any] = {}
    for name, raw in call.envelope.items():
        if name == "model":
            continue
        if name in rules.implied:
            edits.convert(name, f"left out: {rules.implied[name]}")
        elif name in rules.renamed:
            new = rules.renamed[name]
            if new in call.envelope:
                # The request has both; the host's own name is the more specific one.
                edits.convert(name, f"left out: the request says {new} as well")
            else:
                fields[new] = raw
                edits.renamed[name] = new
        elif name in rules.convert:
            _convert(rules.convert[name], name, raw, fields, edits)
        elif (why := _lacks(rules, name)) and name not in supported:
            value = _try(raw)
            if value is None or value in rules.neutral.get(name, ()):
                edits.convert(name, "left out: the host does this anyway")
            elif not edits.drop(name, why):
                _pass(name, raw, fields, edits)
        else:
            _pass(name, raw, fields, edits)
    fields["model"] = call.model
    return fields, edits.finish(provider)


def _pass(name: str, raw: msgspec.Raw, fields: dict[str, Any], edits: Edits) -> None:
    fields[name] = raw
    edits.passed.append(name)


def _convert(
    converter: Converter, name: str, raw: msgspec.Raw, fields: dict[str, Any], edits: Edits
) -> None:
    """Send what the converter makes of the value; the bytes that came, if it changed nothing."""
    before = len(edits.converted) + len(edits.dropped)
    value = converter(read(raw, name), edits)
    if len(edits.converted) + len(edits.dropped) == before:
        _pass(name, raw, fields, edits)
    elif value is not OMIT:
        fields[name] = value


def _lacks(rules: Rules, name: str) -> str:
    """Return why the host cannot express `name`; "" when it can."""
    if name in rules.lacking:
        return rules.lacking[name]
    if rules.known is not None and name not in rules.known:
        return "it does not know this name"
    return ""


def read(raw: msgspec.Raw, name: str) -> Any:
    """Return a field's value.

    Raises:
        RequestError: it is not JSON.
    """
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise RequestError(f"{name}: {error}", param=name, code="bad_json") from None


def _try(raw: msgspec.Raw) -> Any:
    """Return a field's value; OMIT, which no rule calls neutral, where it cannot be read."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return OMIT


def system_for_developer(messages: Any, edits: Edits) -> Any:
    """Return messages with the role `developer` called `system`, its older name."""
    if not isinstance(messages, list):
        return messages
    if not any(map(_is_developers, messages)):
        return messages
    edits.convert("messages.role", "developer to system, its older name")
    return [
        {**message, "role": "system"} if _is_developers(message) else message
        for message in messages
    ]


def _is_developers(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "developer"


def without_names(messages: Any, edits: Edits, why: str) -> Any:
    """Return messages without `name`, except for a tool's."""
    if not isinstance(messages, list):
        return messages
    named = [
        isinstance(message, dict)
        and "name" in message
        and message.get("role") not in ("tool", "function")
        for message in messages
    ]
    if not any(named) or not edits.drop("messages.name", why):
        return messages
    return [
        {name: value for name, value in message.items() if name != "name"} if has else message
        for message, has in zip(messages, named, strict=True)
    ]
