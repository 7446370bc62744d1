"""Chat messages made from a row: by a run document's templates, or from its own prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evaluators.base import Sample
from evaluators.data.rows import PROMPTS, Row, value_at
from evaluators.text.words import is_blank
from providers.errors import RunDocumentError, closest

MAX_RENDERED = 1_000_000

# Filters and methods of a text that leave an empty one empty.
_OF_THE_TEXT = frozenset(
    (
        *("capitalize", "e", "escape", "indent", "lower", "lstrip", "replace", "rstrip", "safe"),
        *("string", "strip", "striptags", "title", "trim", "truncate", "upper", "wordwrap"),
    )
)
_MAX_BITS = 4096

# The run sets these itself; a parameter of the same name would be lost in silence.
RESERVED_PARAMETERS = ("messages", "model", "stream")

Render = Callable[[Row], tuple[dict[str, Any], ...]]
At = Callable[[str], None]


def _nowhere(_: str) -> None:
    """Ignore the path of the next template."""


def compile_messages(
    messages: Sequence[Mapping[str, Any]] | None,
    prompt: str | None,
    columns: Sequence[str],
    *,
    at: At = _nowhere,
) -> Render:
    """Return a function that makes chat messages from a row.

    With `messages`, every text in a message's `content` is a Jinja template over the row's
    columns; `prompt` is short for one user message. With neither, the row's `messages` are sent as
    they are; without those, its `prompt` or else its `input` is one user message.

    Templates run in Jinja's sandbox without files, randomness and changes to the row. A missing
    column or a null is an error, never an empty string or "None"; only a column that the template
    tests with `is defined` may be missing. One text is rendered to at most
    1,000,000 characters. What a template may take of time and memory is limited where
    `dataset_process.py` runs it, and nowhere else.

    Args:
        messages: of the run document.
        prompt: of the run document.
        columns: the dataset's, `Dataset.columns`.
        at: is called with a template's path in the document before it is compiled or rendered.

    Raises:
        RunDocumentError: a template that does not parse or names a missing column; `param` is its
            path in the document, such as `messages[1].content`. The returned function raises it
            for a row that cannot be rendered.
    """
    if messages is not None and prompt is not None:
        raise RunDocumentError("give messages or prompt, not both", param="prompt")
    if prompt is not None:
        text = _compile(prompt, "prompt", columns, at)
        return lambda row: ({"role": "user", "content": text(row)},)
    if messages is not None:
        return _templates(messages, columns, at)
    if not set(PROMPTS) & set(columns):
        raise RunDocumentError(
            "prompt: the dataset has no column messages, prompt or input, so the run needs a "
            f"prompt template over its columns: {', '.join(columns)}",
            param="prompt",
        )
    return _row_messages


def check_filled(row: Row, required: Mapping[str, Sequence[str]]) -> None:
    """Refuse a row without a text where a prompt needs one, as null is refused.

    An empty cell of a CSV file is what null is elsewhere.

    Args:
        row: the row.
        required: of `required_columns`.

    Raises:
        RunDocumentError: a column is empty.
    """
    for param, names in required.items():
        for name in names:
            value = value_at(row.fields, name)
            if isinstance(value, str) and is_blank(value):
                raise RunDocumentError(
                    f"{param}: row {row.number} (id {row.id!r}): {name} is empty; fill it in, "
                    f"remove the row, or write {{{{ {name} or '' }}}} where that is meant",
                    param=param,
                )


def required_columns(
    messages: Sequence[Mapping[str, Any]] | None, prompt: str | None
) -> dict[str, tuple[str, ...]]:
    """Return, by template, the columns that stand alone in braces, outside of conditions and loops.

    A column may be named by a path (`answers.text`), and filters such as `trim` may follow it.

    Args:
        messages: of the run document; its templates have been compiled before.
        prompt: of the run document, likewise.
    """
    if prompt is not None:
        return {"prompt": _standing_alone(prompt)}
    return {
        f"messages[{number}].content": tuple(
            name for text in _texts(message.get("content")) for name in _standing_alone(text)
        )
        for number, message in enumerate(messages or ())
    }


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | dict):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _texts(part)


def _standing_alone(source: str) -> tuple[str, ...]:
    return tuple(
        path
        for output in _JINJA.parse(source).body
        if isinstance(output, jinja2.nodes.Output)
        for node in output.nodes
        if (path := _path(node))
    )


def _path(node: jinja2.nodes.Node) -> str:
    """Return the path of the column whose text an expression gives, "" for other expressions."""
    if isinstance(node, jinja2.nodes.Name):
        return node.name
    if isinstance(node, jinja2.nodes.Filter) and node.name in _OF_THE_TEXT:
        return _path(node.node) if node.node is not None else ""
    if isinstance(node, jinja2.nodes.Call) and isinstance(node.node, jinja2.nodes.Getattr):
        return _path(node.node.node) if node.node.attr in _OF_THE_TEXT else ""
    if isinstance(node, jinja2.nodes.Getattr):
        step: object = node.attr
    elif isinstance(node, jinja2.nodes.Getitem) and isinstance(node.arg, jinja2.nodes.Const):
        step = node.arg.value
    else:
        return ""
    inner = _path(node.node)
    return f"{inner}.{step}" if inner else ""


def to_sample(row: Row, render: Render) -> Sample:
    """Return the row as a sample, with its messages.

    Raises:
        RunDocumentError: the row cannot be rendered, or its parameters be sent.
    """
    parameters = row.fields.get("request_parameters")
    if parameters is not None:
        _check_parameters(row, parameters)
    return Sample(
        id=row.id,
        messages=render(row),
        references=row.references,
        fields=row.fields,
        answer=row.answer,
        parameters=parameters or {},
    )


def _check_parameters(row: Row, parameters: Any) -> None:
    """Refuse parameters of a row that no request can have. Raises RunDocumentError."""
    where = f"request_parameters of row {row.number} (id {row.id!r})"
    if not isinstance(parameters, dict):
        raise RunDocumentError(f"{where} must be an object", param="dataset")
    wrong = [name for name in RESERVED_PARAMETERS if name in parameters]
    if parameters.get("n", 1) != 1:
        wrong.append("n")
    if wrong:
        raise RunDocumentError(
            f"{where}: the run itself sets {', '.join(wrong)}; leave it out", param="dataset"
        )


def _row_messages(row: Row) -> tuple[dict[str, Any], ...]:
    if row.messages is not None:
        return row.messages
    text = row.input if row.prompt is None else row.prompt
    if text is None:
        raise RunDocumentError(
            f"prompt: row {row.number} has no messages, prompt or input; write a prompt template",
            param="prompt",
        )
    return ({"role": "user", "content": text},)


def _templates(messages: Sequence[Mapping[str, Any]], columns: Sequence[str], at: At) -> Render:
    if not messages:
        raise RunDocumentError("messages: the list is empty; write a message", param="messages")
    compiled: list[tuple[Mapping[str, Any], Callable[[Row], Any]]] = []
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise RunDocumentError(
                f"{path}: needs a role, such as 'user' or 'system'", param=f"{path}.role"
            )
        if not isinstance(message.get("content"), str | list):
            raise RunDocumentError(
                f"{path}: needs a content, text or a list of content parts",
                param=f"{path}.content",
            )
        compiled.append((message, _content(message["content"], f"{path}.content", columns, at)))
    return lambda row: tuple({**message, "content": of(row)} for message, of in compiled)


def _content(value: Any, path: str, columns: Sequence[str], at: At) -> Callable[[Row], Any]:
    """Compile a content: every text in its lists and objects is a template."""
    if isinstance(value, str):
        return _compile(value, path, columns, at)
    if isinstance(value, list):
        items = [_content(part, f"{path}[{n}]", columns, at) for n, part in enumerate(value)]
        return lambda row: [of(row) for of in items]
    if isinstance(value, dict):
        parts = {key: _content(part, f"{path}.{key}", columns, at) for key, part in value.items()}
        return lambda row: {key: of(row) for key, of in parts.items()}
    return lambda _: value


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also stops a text or number from being multiplied without end."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and whole and left.bit_length() * right > _MAX_BITS:
            raise SecurityError(f"a number of more than {_MAX_BITS} bits")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                sized = isinstance(many, str | list | tuple)
                if sized and isinstance(times, int) and len(many) * times > MAX_RENDERED:
                    raise SecurityError(f"more than {MAX_RENDERED} characters or items")
        return super().call_binop(context, operator, left, right)


def _not_null(value: Any) -> Any:
    if value is None:
        raise jinja2.UndefinedError("a value is null; write {{ name or '' }} where that is meant")
    return value


def _environment() -> _Sandbox:
    environment = _Sandbox(
        undefined=jinja2.StrictUndefined,
        finalize=_not_null,
        # A prompt that ends in a newline is another prompt without it.
        keep_trailing_newline=True,
        # The result is a prompt, not HTML: escaping would change the question.
        autoescape=False,
    )
    # A document gives a row the same prompt every time.
    del environment.globals["lipsum"]
    del environment.filters["random"]
    return environment


_JINJA = _environment()


def _compile(source: str, param: str, columns: Sequence[str], at: At) -> Callable[[Row], str]:
    at(param)
    try:
        parsed = _JINJA.parse(source)
        names = jinja2.meta.find_undeclared_variables(parsed) - _JINJA.globals.keys()
        names -= _tested_columns(parsed)
        files = list(jinja2.meta.find_referenced_templates(parsed))
        template = _JINJA.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise RunDocumentError(
            f"{param}: line {error.lineno} of the template: {error.message}", param=param
        ) from error
    except Exception as error:  # a constant expression is computed when it is compiled
        raise RunDocumentError(f"{param}: {_why(error)}", param=param) from error
    if files:
        raise RunDocumentError(
            f"{param}: a template cannot include or extend others; write the text here",
            param=param,
        )
    for name in sorted(names - set(columns)):
        raise RunDocumentError(
            f"{param}: the dataset has no column {name!r}.{closest(name, columns)}", param=param
        )

    def render(row: Row) -> str:
        at(param)
        try:
            return _bounded(template, row.fields)
        except Exception as error:  # a template's expressions may raise anything
            raise RunDocumentError(
                f"{param}: row {row.number} (id {row.id!r}): {_why(error)}", param=param
            ) from error

    return render


def _tested_columns(template: jinja2.nodes.Template) -> set[str]:
    """Return the columns that the template tests with `is defined`: they may be missing."""
    return {
        test.node.name
        for test in template.find_all(jinja2.nodes.Test)
        if test.name == "defined" and isinstance(test.node, jinja2.nodes.Name)
    }


def _bounded(template: jinja2.Template, fields: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(fields):
        size += len(piece)
        if size > MAX_RENDERED:
            raise SecurityError(f"the text is longer than {MAX_RENDERED} characters")
        pieces.append(piece)
    return "".join(pieces)


def _why(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    if isinstance(error, MemoryError):
        return "rendering the template takes more memory than it may"
    return f"{type(error).__name__}: {error}"
