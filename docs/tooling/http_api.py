"""Describes the paths of the HTTP API and the errors that it answers with."""

from __future__ import annotations

import ast
import inspect
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import httpx
import msgspec

from providers import errors
from providers.errors import EvalrouterError
from router.api.access import ACCESS, reach_of
from router.config.loading import parse
from router.server import background
from router.store.keys import Role
from tooling.keys import in_yaml, summary
from tooling.markdown import ROOT, Row, table


def paths() -> str:
    """Return a table of the paths in the OpenAPI document for each tag."""
    tagged: dict[str, list[Row]] = {}
    for path, operations in openapi()["paths"].items():
        for method, operation in operations.items():
            query = ", ".join(
                _parameter(each)
                for each in operation.get("parameters", ())
                if each["in"] == "query"
            )
            row = (f"`{method.upper()} {path}`", operation.get("summary", ""), query)
            tagged.setdefault(operation["tags"][0], []).append(row)
    return "\n".join(
        f"### {tag}\n\n{table(('request', 'what it does', 'query'), rows)}\n"
        for tag, rows in tagged.items()
    )


@cache
def openapi() -> dict[str, Any]:
    """Return the OpenAPI document that a real server has under /schema."""
    with tempfile.TemporaryDirectory() as folder:
        text = f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
        with background(parse(text, "", {})) as url:
            document: dict[str, Any] = httpx.get(f"{url}/schema", timeout=60).json()
            return document


def access() -> str:
    """Return a table of how far each operation is open to each role."""
    cells = {"no": "no", "own": "its own", "all": "yes"}
    roles = get_args(Role)
    rows: list[Row] = [
        (f"`{operation}`", *(cells[reach_of(operation, role)] for role in (None, *roles)))
        for operation in ACCESS
    ]
    return table(("request", "no key", *roles), rows) + "\n"


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    options = [option for option in schema.get("oneOf", [schema]) if option.get("type") != "null"]
    listed = [option.get("enum", [option.get("const")]) for option in options]
    values = [f"`{value}`" for values in listed for value in values if value]
    # A reader need not know a bound that only keeps a number within SQLite's.
    known = {
        name: bound for name, bound in options[0].items() if name != "maximum" or bound < 10**9
    }
    limits = [known[name] for name in ("minimum", "maximum") if name in known]
    says = " or ".join(values) or " to ".join(f"{limit:g}" for limit in limits)
    default = schema.get("default")
    says += f"{', ' if says else ''}default `{msgspec.json.encode(default).decode()}`" * (
        default is not None
    )
    return f"`{parameter['name']}`" + f" ({says})" * bool(says)


def error_codes() -> str:
    """Return a table of the errors that a client may receive, in the order of the error tree."""
    raised, statuses = _raised_codes()
    rows: list[Row] = []
    for kind in _below(EvalrouterError):
        parameters = inspect.signature(kind.__init__).parameters
        given = parameters["code"].default if "code" in parameters else None
        class_codes = {code for code in (kind.code, given) if isinstance(code, str)}
        codes = sorted(class_codes | raised.get(kind.__name__, set()))
        if "status" in parameters and kind.__name__ not in statuses:
            rows.append(("the target's", "the target's", "the target's", in_yaml(summary(kind))))
            continue
        listed = ", ".join(f"`{code}`" for code in codes) or "none"
        status = ", ".join(map(str, sorted(statuses.get(kind.__name__, {kind.status}))))
        rows.append((status, f"`{kind.type}`", listed, summary(kind)))
    return table(("status", "type", "code", "when"), rows) + "\n"


def _below(kind: type[EvalrouterError]) -> Iterator[type[EvalrouterError]]:
    """Yield the classes below a class that have a row: those that are raised themselves."""
    for inner in kind.__subclasses__():
        if inner.__module__ != errors.__name__:
            continue
        if inner.__name__ not in ("InputError", "PlacedError"):
            yield inner
        yield from _below(inner)


def _raised_codes() -> tuple[dict[str, set[str]], dict[str, set[int]]]:
    """Return the codes and the statuses given where an error is raised, by the error's class."""
    codes: dict[str, set[str]] = {}
    statuses: dict[str, set[int]] = {}
    for package in ("providers", "evaluators", "router"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id == "ProtocolError" and isinstance(node.args[0], ast.Constant):
                    statuses.setdefault(node.func.id, set()).add(int(str(node.args[0].value)))
                for option in node.keywords:
                    if option.arg == "code" and isinstance(option.value, ast.Constant):
                        codes.setdefault(node.func.id, set()).add(str(option.value.value))
    return codes, statuses
