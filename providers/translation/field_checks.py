"""Reads values of a request whose fields are nested, with errors worded as OpenAI's API words them.

    text(item, "text", "input[3].content[0]")
    # Invalid type for 'input[3].content[0].text': expected a string, but got an integer instead.

Each function takes an object, a name in it, and the object's path in the request. No IO.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from providers.errors import RequestError
from providers.shortening import shortened

_Object = Mapping[str, Any]

# Characters of a wrong value that are quoted.
_MAX_QUOTED = 100
_NAMES: Mapping[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def joined(path: str, name: str) -> str:
    """Return the path of a name in the object at `path`, "" for the request itself."""
    return f"{path}.{name}" if path else name


def wrong_type(path: str, expected: str, value: Any) -> RequestError:
    """Return the error of a value that is not `expected`, such as "a string"."""
    kind = _NAMES.get(type(value), "something else")
    return RequestError(
        f"Invalid type for '{path}': expected {expected}, but got {kind} instead.",
        param=path,
        code="invalid_type",
    )


def wrong_value(path: str, value: str, supported: Collection[str]) -> RequestError:
    """Return the error of a text that is not one of those supported."""
    *others, last = [f"'{name}'" for name in supported]
    names = f"{', '.join(others)}, and {last}" if others else last
    return RequestError(
        f"Invalid value: '{shortened(value, _MAX_QUOTED)}'. Supported values are: {names}.",
        param=path,
        code="invalid_value",
    )


def missing(path: str) -> RequestError:
    """Return the error of a field that has to be there."""
    return RequestError(
        f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
    )


def checked(value: Any, kind: type, path: str) -> Any:
    """Return a value of the type that it has to have.

    Raises:
        RequestError: it has another; true is not an integer.
    """
    if type(value) is not kind:
        raise wrong_type(path, _NAMES[kind], value)
    return value


def number(value: Any, path: str) -> int | float:
    """Return a number. Raises RequestError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(path, "a decimal", value)
    return value


def integer(value: Any, path: str, *, at_least: int, at_most: int) -> int:
    """Return an integer within bounds. Raises RequestError for anything else."""
    checked(value, int, path)
    if value < at_least:
        below = f"integer below minimum value. Expected a value >= {at_least}"
        code = "integer_below_min_value"
    elif value > at_most:
        below = f"integer above maximum value. Expected a value <= {at_most}"
        code = "integer_above_max_value"
    else:
        return int(value)
    got = shortened(str(value), _MAX_QUOTED)
    raise RequestError(f"Invalid '{path}': {below}, but got {got} instead.", param=path, code=code)


def one_of(value: Any, supported: Collection[str], path: str) -> str:
    """Return a text that is one of those supported. Raises RequestError for anything else."""
    if checked(value, str, path) not in supported:
        raise wrong_value(path, value, supported)
    return str(value)


def required(holder: _Object, name: str, path: str, kind: type) -> Any:
    """Return a field that has to be there, with the type that it has to have.

    Raises:
        RequestError: it is missing or has another type.
    """
    inner = joined(path, name)
    if name not in holder:
        raise missing(inner)
    return checked(holder[name], kind, inner)


def optional(holder: _Object, name: str, path: str, kind: type) -> Any:
    """Return a field, None where it is null or missing. Raises RequestError for another type."""
    value = holder.get(name)
    return value if value is None else checked(value, kind, joined(path, name))


def text(holder: _Object, name: str, path: str) -> str:
    """Return a text that has to be there. Raises RequestError for anything else."""
    return str(required(holder, name, path, str))


def objects(value: Any, path: str) -> list[dict[str, Any]]:
    """Return a list of objects. Raises RequestError for anything else."""
    for index, item in enumerate(checked(value, list, path)):
        if type(item) is not dict:
            raise wrong_type(f"{path}[{index}]", "an object", item)
    return list(value)
