"""Turns a client's fields into a host's, and says what became of each. No IO.

A host's differences are data, a `Rules`; `translate(rules, call, ...)` applies them:

    Rules(renamed={"seed": "random_seed"}, lacking={"logit_bias": "it has no such parameter"})

A field that no rule names is sent as the bytes that came. What the host cannot express is refused,
left out or sent all the same, as the call or the provider's config says; it is never left out
without a word. `Edits` is how a converter of nested values (messages, tools) reports what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers.base import Call, OnUnsupported, Translation
from providers.errors import RequestError
from providers.names import MAX_NAME_BYTES, check_name
from providers.wire import UNREADABLE

# Of all fields in the record of a translation, which is kept with the answer.
MAX_NAMES_CHARS = 64 * 1024


class Edits:
    """What a translation did so far; the converters of nested values report to it."""

    def __init__(self, policy: OnUnsupported, kept: frozenset[str] = frozenset()) -> None:
        self.passed: list[str] = []
        self.renamed: dict[str, str] = {}
        self.converted: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self._policy = policy
        self._kept = kept

    def convert(self, name: str, how: str) -> None:
        """Note that `name` is sent in another form; the first note of a name stands."""
        self.converted.setdefault(name, how)

    def drop(self, name: str, why: str) -> bool:
        """Whether to leave `name` out, which the host cannot express; notes it if so."""
        if self._policy == "pass" or name in self._kept:
            return False
        self.dropped.setdefault(name, why)
        return True

    def finish(self, provider: str) -> Translation:
        """The record.

        Raises:
            RequestError: something was dropped and the policy is to refuse; `param` names it and
                the code is `unsupported_parameter`. Or the names of the fields are too long for the
                record.
        """
        self._check_names()
        if self.dropped and self._policy == "error":
            told = "; ".join(f"{name} ({why})" for name, why in self.dropped.items())
            raise RequestError(
                f"{provider} cannot express {told}. Leave it out, or set on_unsupported to drop "
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
        """The record is kept with the answer, and its names are shown in a header."""
        names = (*self.passed, *self.converted, *self.dropped)
        for name in names:
            # What characters it has is the host's business.
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
        known: every name the host takes, ours renamed included; None when it ignores or takes
            names it does not know, so that they can be sent as they came.
        renamed: our name to the host's, for the same meaning.
        lacking: name to why the host cannot express it.
        neutral: name to the values that ask for what the host does anyway, so that leaving them
            out of the request loses nothing. Null always does.
        implied: name to why leaving it out loses nothing, whatever its value.
        convert: name to the converter of its value.
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
    kept: frozenset[str] = frozenset(),
    edits: Edits | None = None,
) -> tuple[dict[str, Any], Translation]:
    """The fields to send for a call, and the record of what was done.

    Args:
        rules: the host's.
        call: the client's request.
        provider: its name, for the error.
        policy: what to do with what the host cannot express.
        kept: names to send as they came, although the rules say that the host lacks them.
        edits: what was already done to this call; None for nothing.

    Raises:
        RequestError: the policy is to refuse and the host lacks something; or a field that has to
            be converted cannot be read.
    """
    edits = edits or Edits(policy, kept)
    fields: dict[str, Any] = {}
    for name, raw in call.envelope.items():
        if name == "model":
            continue
        if name in rules.implied:
            edits.convert(name, f"left out: {rules.implied[name]}")
        elif name in rules.renamed:
            new = rules.renamed[name]
            if new in call.envelope:
                # Both are there; the host's own name is the more particular one.
                edits.convert(name, f"left out: the request says {new} as well")
            else:
                fields[new] = raw
                edits.renamed[name] = new
        elif name in rules.convert:
            _convert(rules.convert[name], name, raw, fields, edits)
        elif (why := _lacks(rules, name)) and name not in kept:
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
    """Why the host cannot express `name`; "" when it can."""
    if name in rules.lacking:
        return rules.lacking[name]
    if rules.known is not None and name not in rules.known:
        return "it does not know this name"
    return ""


def read(raw: msgspec.Raw, name: str) -> Any:
    """A field's value.

    Raises:
        RequestError: it is not JSON.
    """
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise RequestError(f"{name}: {error}", param=name, code="bad_json") from None


def _try(raw: msgspec.Raw) -> Any:
    """A field's value; a value that cannot be read is as good as any that is not neutral."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return OMIT


def system_for_developer(messages: Any, edits: Edits) -> Any:
    """Messages with the role `developer` called `system`, its older name."""
    if not isinstance(messages, list):
        return messages
    if not any(isinstance(one, dict) and one.get("role") == "developer" for one in messages):
        return messages
    edits.convert("messages.role", "developer to system, its older name")
    return [
        {**one, "role": "system"}
        if isinstance(one, dict) and one.get("role") == "developer"
        else one
        for one in messages
    ]


def without_names(messages: Any, edits: Edits, why: str) -> Any:
    """Messages without `name`, but for a tool's."""
    if not isinstance(messages, list):
        return messages
    named = [
        isinstance(one, dict) and "name" in one and one.get("role") not in ("tool", "function")
        for one in messages
    ]
    if not any(named) or not edits.drop("messages.name", why):
        return messages
    return [
        {name: value for name, value in one.items() if name != "name"} if has else one
        for one, has in zip(messages, named, strict=True)
    ]
