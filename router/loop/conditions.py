"""Conditions on recorded requests: `feedback.thumb == false and status == 200`.

    condition = parse_condition("cost_usd > 0.01 and prompt contains 'refund'")
    condition.holds(subject)

A condition compares fields of a request's record (FIELDS below), what people said about it
(`feedback.NAME`, its `.comment`, whether there is any: `has feedback.NAME`) and literals (numbers,
texts in quotes, `true`, `false`, `null`) by `==`, `!=`, `<`, `<=`, `>`, `>=`, `in [...]` and
`contains`, and joins comparisons by `and`, `or`, `not` and parentheses. Nothing of it is executed
as a program: it is parsed into closures over these fields and no others, and its length and depth
are bounded.

What is missing is `null`. A comparison with it, or of values of two kinds, does not hold, whatever
the operator; only `== null` and `!= null` ask for it. So `feedback.thumb != 1` is about requests
with that feedback, and `not feedback.thumb == 1` also about those without.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from providers.errors import RequestError, closest
from router.store.traffic import TrafficRow

MAX_CHARACTERS = 4000
MAX_DEPTH = 40
MAX_ITEMS = 200

Value = str | float | bool | None
Kind = Literal["text", "number", "truth", "any"]


class FeedbackValue(NamedTuple):
    """What was said last about a request under one name.

    Attributes:
        value: true, false, a number or a text.
        comment: the words beside it, "" for none.
    """

    value: Value
    comment: str = ""


class RequestText(NamedTuple):
    """What the bodies of a request say.

    Attributes:
        prompt: the text of the last message of the user.
        answer: the text of the answer.
        turns: how many messages of the user there are.
        length: characters of the conversation.
        language: ISO 639-1 code of the prompt's language, "" where it is unknown.
    """

    prompt: str
    answer: str
    turns: int
    length: int
    language: str = ""


class Subject(NamedTuple):
    """The request that a condition is evaluated on.

    Attributes:
        row: its record.
        feedback: what was said about it, by name.
        text: what its bodies say; None where that is not known.
    """

    row: TrafficRow
    feedback: Mapping[str, FeedbackValue] = {}
    text: RequestText | None = None


class Field(NamedTuple):
    """A field that conditions may name.

    Attributes:
        kind: what its values are.
        read: returns its value, None where it is missing.
        description: what it is.
        of_text: whether it is read from the bodies.
    """

    kind: Kind
    read: Callable[[Subject], Value]
    description: str
    of_text: bool = False


def _of_row(kind: Kind, attribute: str, description: str) -> Field:
    read = operator.attrgetter(attribute)
    return Field(kind, lambda subject: read(subject.row), description)


def _of_text(kind: Kind, attribute: str, description: str) -> Field:
    read = operator.attrgetter(attribute)
    return Field(
        kind,
        lambda subject: None if subject.text is None else read(subject.text),
        description,
        of_text=True,
    )


FIELDS: Mapping[str, Field] = {
    "id": _of_row("text", "id", "the record's id"),
    "at": _of_row("number", "at", "when it came, seconds since the epoch"),
    "route": _of_row("text", "route", "the model that the client named"),
    "target": _of_row("text", "target", "`provider/model` that answered"),
    "model": _of_row("text", "model", "the model that the target says it is"),
    "key": _of_row("text", "key_id", "the id of the client's key"),
    "user": _of_row("text", "user", "the client's identifier of its user"),
    "request_id": _of_row("text", "request_id", "the client's `x-request-id`"),
    "response_id": _of_row("text", "response_id", "the id of the answer"),
    "conversation": _of_row("text", "conversation", "the client's name of the conversation"),
    "rollout": _of_row("text", "rollout", "the rollout that chose the target"),
    "arm": _of_row("text", "arm", "its side on which the request was"),
    "path": _of_row("text", "path", "`chat/completions`, ..."),
    "status": _of_row("number", "status", "HTTP status of the answer"),
    "error_code": _of_row("text", "error_code", "the error's code, '' without one"),
    "request_bytes": _of_row("number", "request_bytes", "bytes of the request's body"),
    "stream": _of_row("truth", "stream", "whether the answer was streamed"),
    "cached": _of_row("truth", "cached", "whether the response cache answered"),
    "finish_reason": _of_row("text", "finish_reason", "as the target reports it"),
    "tokens": _of_row("number", "total_tokens", "tokens of prompt and answer"),
    "prompt_tokens": _of_row("number", "prompt_tokens", "tokens of the prompt"),
    "completion_tokens": _of_row("number", "completion_tokens", "tokens of the answer"),
    "cost_usd": _of_row("number", "cost_usd", "US dollars"),
    "first_byte_s": _of_row("number", "first_byte_s", "seconds to the first byte"),
    "total_s": _of_row("number", "total_s", "seconds to the last byte"),
    "attempts": Field("number", lambda subject: len(subject.row.attempts), "requests to targets"),
    "prompt": _of_text("text", "prompt", "text of the user's last message"),
    "answer": _of_text("text", "answer", "text of the answer"),
    "turns": _of_text("number", "turns", "messages of the user"),
    "length": _of_text("number", "length", "characters of the conversation"),
    "language": _of_text("text", "language", "code of the prompt's language, '' if unknown"),
}

_FEEDBACK = "feedback"
_COMMENT = "comment"
_WORDS = ("and", "or", "not", "in", "contains", "has", "true", "false", "null")
_LITERALS: Mapping[str, Value] = {"true": True, "false": False, "null": None}

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?(?![\w.]))
      | (?P<name>[A-Za-z_][\w-]*)
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<sign>==|!=|<=|>=|<|>|=|\(|\)|\[|\]|,|\.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w-]*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_Test = Callable[[Subject], bool]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Operand(NamedTuple):
    """One side of a comparison.

    Attributes:
        kind: what its values are; "any" for feedback and null.
        read: returns its value.
        at: its place in the condition.
        shown: how it is written.
        literal: whether it is a literal.
    """

    kind: Kind
    read: Callable[[Subject], Value]
    at: int
    shown: str
    literal: bool = False


class Condition(NamedTuple):
    """A condition on requests.

    Attributes:
        holds: returns whether a request meets it.
        fields: the fields that it names.
        feedback: the names of the feedback that it names.
    """

    holds: _Test
    fields: frozenset[str]
    feedback: frozenset[str]

    @property
    def reads_text(self) -> bool:
        """Whether it has to be evaluated with the text of the bodies."""
        return any(FIELDS[name].of_text for name in self.fields)


def parse_condition(source: str) -> Condition:
    """Return the condition that a text is.

    Raises:
        RequestError: the text is no condition; says where and why. `param` is `where`.
    """
    if len(source) > MAX_CHARACTERS:
        raise RequestError(
            f"where: the condition has {len(source)} characters; at most {MAX_CHARACTERS} are read",
            param="where",
        )
    return _Parser(source).condition()


def feedback_field(name: str) -> str:
    """Return how a condition names feedback: `feedback.thumb`, `feedback."time to answer"`."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{_FEEDBACK}.{name}"
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{_FEEDBACK}."{escaped}"'


class _Parser:
    """Reads one condition from left to right."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        self._fields: set[str] = set()
        self._feedback: set[str] = set()

    def condition(self) -> Condition:
        test = self._either()
        token = self._peek()
        if token.kind != "end":
            raise self._error("expected 'and', 'or' or the end", token.at)
        return Condition(test, frozenset(self._fields), frozenset(self._feedback))

    # words

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at, end = 0, len(self._source.rstrip())
        while at < end:
            match = _TOKEN.match(self._source, at)
            if match is None:
                start = at + len(self._source[at:]) - len(self._source[at:].lstrip())
                sign = self._source[start]
                what = "a text without its closing quote" if sign in "'\"" else f"{sign!r}"
                raise self._error(f"{what} is not understood", start)
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        tokens.append(_Token("end", "", len(self._source)))
        return tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _takes(self, *texts: str) -> _Token | None:
        """Take the next word or sign if it is one of these."""
        token = self._peek()
        if token.kind in ("name", "sign") and token.text in texts:
            return self._take()
        return None

    def _expect(self, text: str, why: str) -> None:
        if self._takes(text) is None:
            raise self._error(f"expected {text!r} {why}", self._peek().at)

    def _error(self, what: str, at: int) -> RequestError:
        source = self._source
        start = max(0, at - 20)
        near = source[start : at + 20]
        shown = f" near {near!r}" if near.strip() else " at the end"
        return RequestError(f"where, character {at + 1}{shown}: {what}", param="where")

    # conditions

    def _either(self) -> _Test:
        tests = [self._both()]
        while self._takes("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else _any_of(tests)

    def _both(self) -> _Test:
        tests = [self._negated()]
        while self._takes("and"):
            tests.append(self._negated())
        return tests[0] if len(tests) == 1 else _all_of(tests)

    def _negated(self) -> _Test:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels", self._peek().at)
        try:
            if self._takes("not"):
                return _not(self._negated())
            if self._takes("("):
                inner = self._either()
                self._expect(")", "to close the parenthesis")
                return inner
            if has := self._takes("has"):
                return self._has(has)
            return self._comparison()
        finally:
            self._depth -= 1

    def _has(self, has: _Token) -> _Test:
        operand = self._operand()
        if operand.literal:
            raise self._error("has needs a field or feedback.NAME", has.at)
        read = operand.read
        if operand.kind == "text":
            return lambda subject: read(subject) not in (None, "")
        return lambda subject: read(subject) is not None

    def _comparison(self) -> _Test:
        left = self._operand()
        sign = self._peek()
        if self._takes("not"):
            self._expect("in", "after 'not'")
            return _not(self._membership(left))
        if self._takes("in"):
            return self._membership(left)
        if self._takes("contains"):
            return self._contains(left, self._operand())
        if self._takes("==", "=", "!="):
            return self._equality(left, self._operand(), sign.text)
        if self._takes(*_ORDER):
            return self._order(left, self._operand(), sign)
        if left.kind == "truth" and not left.literal:
            read = left.read
            return lambda subject: read(subject) is True
        if sign.kind == "sign" and sign.text == ".":
            raise self._error(f"{left.shown} has no parts", sign.at)
        raise self._error(
            f"{left.shown} is no condition; compare it, as in {left.shown} == ...", left.at
        )

    def _equality(self, left: _Operand, right: _Operand, sign: str) -> _Test:
        read, other, negated = left.read, right.read, sign == "!="
        if _is_null(left) or _is_null(right):
            field = right.read if _is_null(left) else left.read
            return lambda subject: (field(subject) is None) is not negated
        self._same_kind(left, right)

        def test(subject: Subject) -> bool:
            values = _alike(read(subject), other(subject))
            return values is not None and (values[0] == values[1]) is not negated

        return test

    def _order(self, left: _Operand, right: _Operand, sign: _Token) -> _Test:
        for operand in (left, right):
            if operand.kind == "truth" or _is_null(operand):
                raise self._error(f"{operand.shown} has no order", sign.at)
        self._same_kind(left, right)
        read, other, compare = left.read, right.read, _ORDER[sign.text]

        def test(subject: Subject) -> bool:
            values = _alike(read(subject), other(subject))
            return values is not None and compare(*values)

        return test

    def _contains(self, left: _Operand, right: _Operand) -> _Test:
        for operand in (left, right):
            if operand.kind not in ("text", "any") or _is_null(operand):
                raise self._error(f"{operand.shown} is no text", operand.at)
        read, other = left.read, right.read

        def test(subject: Subject) -> bool:
            whole, part = read(subject), other(subject)
            if not isinstance(whole, str) or not isinstance(part, str):
                return False
            return part.casefold() in whole.casefold()

        return test

    def _membership(self, left: _Operand) -> _Test:
        opening = self._takes("[", "(")
        if opening is None:
            raise self._error("expected a list, as in ['a', 'b']", self._peek().at)
        closing = "]" if opening.text == "[" else ")"
        members: list[Value] = []
        while self._takes(closing) is None:
            if members:
                self._expect(",", f"or {closing!r}")
            item = self._operand()
            if not item.literal or _is_null(item):
                raise self._error("a list has texts, numbers, true and false only", item.at)
            self._same_kind(left, item)
            members.append(item.read(_NOTHING))
            if len(members) > MAX_ITEMS:
                raise self._error(f"a list of more than {MAX_ITEMS}", item.at)
        read = left.read

        def test(subject: Subject) -> bool:
            value = read(subject)
            pairs = (_alike(value, member) for member in members)
            return any(pair is not None and pair[0] == pair[1] for pair in pairs)

        return test

    def _same_kind(self, left: _Operand, right: _Operand) -> None:
        """Refuse a comparison that can never hold."""
        if "any" in (left.kind, right.kind) or left.kind == right.kind:
            return
        names = {"text": "a text", "number": "a number", "truth": "true or false"}
        field, other = (right, left) if left.literal else (left, right)
        raise self._error(
            f"{field.shown} is {names[field.kind]}, and {other.shown} is {names[other.kind]}",
            other.at,
        )

    # operands

    def _operand(self) -> _Operand:
        token = self._take()
        if token.kind == "number":
            return _literal(float(token.text), "number", token)
        if token.kind == "text":
            return _literal(_ESCAPED.sub(r"\1", token.text[1:-1]), "text", token)
        if token.kind == "name" and token.text in _LITERALS:
            value = _LITERALS[token.text]
            return _literal(value, "any" if value is None else "truth", token)
        if token.kind == "name" and token.text == _FEEDBACK:
            return self._of_feedback(token)
        if token.kind != "name" or token.text in _WORDS:
            shown = "the end" if token.kind == "end" else repr(token.text)
            raise self._error(f"expected a field or a value, not {shown}", token.at)
        field = FIELDS.get(token.text)
        if field is None:
            known = (*FIELDS, f"{_FEEDBACK}.NAME")
            raise self._error(
                f"a request has no field {token.text!r}.{closest(token.text, known)}", token.at
            )
        self._fields.add(token.text)
        return _Operand(field.kind, field.read, token.at, token.text)

    def _of_feedback(self, start: _Token) -> _Operand:
        self._expect(".", "and a name after feedback, as in feedback.thumb")
        name = self._name()
        self._feedback.add(name)
        if self._takes("."):
            place = self._peek()
            part = self._name()
            if part != _COMMENT:
                raise self._error(
                    f"feedback has a value and a {_COMMENT}, but no {part!r}", place.at
                )
            return _Operand("text", _comment_of(name), start.at, f"feedback.{name}.{part}")
        return _Operand("any", _value_of(name), start.at, f"feedback.{name}")

    def _name(self) -> str:
        token = self._take()
        if token.kind == "name":
            return token.text
        if token.kind == "text":
            return _ESCAPED.sub(r"\1", token.text[1:-1])
        raise self._error("expected a name; one with other signs than _ and - in quotes", token.at)


# What a literal is read from.
_NOTHING: Any = None


def _literal(value: Value, kind: Kind, token: _Token) -> _Operand:
    return _Operand(kind, lambda _: value, token.at, token.text, literal=True)


def _is_null(operand: _Operand) -> bool:
    return operand.literal and operand.kind == "any"


def _value_of(name: str) -> Callable[[Subject], Value]:
    def read(subject: Subject) -> Value:
        latest = subject.feedback.get(name)
        return None if latest is None else latest.value

    return read


def _comment_of(name: str) -> Callable[[Subject], Value]:
    def read(subject: Subject) -> Value:
        latest = subject.feedback.get(name)
        return None if latest is None or not latest.comment else latest.comment

    return read


def _alike(left: Value, right: Value) -> tuple[Any, Any] | None:
    """Return two values that can be compared; None where one is missing or they are of two kinds.

    What people said may be true or false to one client and 1 or 0 to another: both are numbers.
    """
    if left is None or right is None or isinstance(left, str) is not isinstance(right, str):
        return None
    return (left, right) if isinstance(left, str) else (float(left), float(right))


def _any_of(tests: list[_Test]) -> _Test:
    return lambda subject: any(test(subject) for test in tests)


def _all_of(tests: list[_Test]) -> _Test:
    return lambda subject: all(test(subject) for test in tests)


def _not(test: _Test) -> _Test:
    return lambda subject: not test(subject)
