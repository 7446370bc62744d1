"""Reads values of a request to the Messages API, with errors worded as Anthropic words them. No IO.

text_of(block["text"], "messages.3.content.0.text")
# messages.3.content.0.text: Input should be a valid string
"""

from __future__ import annotations

from typing import Any

from providers.errors import RequestError


def invalid(path: str, message: str) -> RequestError:
    """Return the error of a value that is not what it should be."""
    return RequestError(f"{path}: {message}", param=path, code="invalid_type")


def missing(path: str) -> RequestError:
    """Return the error of a field that has to be there."""
    return RequestError(f"{path}: Field required", param=path, code="missing_required_parameter")


def text_of(value: Any, path: str) -> str:
    """Return a text. Raises RequestError for anything else."""
    if not isinstance(value, str):
        raise invalid(path, "Input should be a valid string")
    return value


def read_object(value: Any, path: str) -> dict[str, Any]:
    """Return an object. Raises RequestError for anything else."""
    if not isinstance(value, dict):
        raise invalid(path, "Input should be an object")
    return value


def objects(value: Any, path: str) -> list[dict[str, Any]]:
    """Return a list of objects. Raises RequestError for anything else."""
    if not isinstance(value, list):
        raise invalid(path, "Input should be a valid list")
    for index, item in enumerate(value):
        read_object(item, f"{path}.{index}")
    return value


def required(holder: dict[str, Any], name: str, path: str) -> Any:
    """Return a field of the object at `path`. Raises RequestError where it is missing."""
    if name not in holder:
        raise missing(f"{path}.{name}")
    return holder[name]
