r"""Reads rubrics: a question about a response, and what each score means.

    rubric = load("helpfulness")            # a stock rubric
    rubric = load("tone.yaml", base=folder) # your own
    rubric.text()                           # "[Is it ...?]\nScore 1: ..."

A rubric of your own is YAML; its scores are consecutive whole numbers, wherever they begin:

    criteria: Is the tone right for a customer who complains?
    scores:
      0: It is rude or cold.
      1: It is polite.
      2: It is polite and takes the complaint seriously.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec

from evaluators.data.prometheus_prompts import split_prompt
from evaluators.data.rows import value_at
from providers import yaml_documents
from providers.errors import RunDocumentError, closest

_FOLDER = Path(__file__).with_name("stock")
STOCK = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))

_DESCRIPTION = re.compile(r"^score([+-]?\d+)_description$")
_LINE = re.compile(r"^Score (?P<score>[+-]?\d+): ?(?P<text>.*)$")


_Bound = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]


class Rubric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question about a response, and the scores that answer it.

    Attributes:
        criteria: the question.
        scores: each score with its meaning; consecutive whole numbers, at least two.
        name: the name that its score has in reports.
    """

    criteria: str
    scores: dict[int, str]
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse scores with gaps; msgspec adds the path to the message."""
        if not self.criteria.strip():
            raise ValueError("criteria is empty")
        if len(self.scores) < 2:
            raise ValueError("scores needs at least two")
        if sorted(self.scores) != list(range(self.low, self.high + 1)):
            raise ValueError(f"scores must be whole numbers without gaps, got {list(self.scores)}")

    @property
    def low(self) -> int:
        """Return the lowest score."""
        return min(self.scores)

    @property
    def high(self) -> int:
        """Return the highest score."""
        return max(self.scores)

    def text(self) -> str:
        """Return the text of an absolute prompt: criteria in brackets, then a line a score."""
        lines = [f"Score {score}: {_line(self.scores[score])}" for score in sorted(self.scores)]
        return "\n".join([self.heading(), *lines])

    def heading(self) -> str:
        """Return the text of a relative prompt: the criteria in brackets."""
        return f"[{_line(self.criteria)}]"

    def fingerprint(self) -> str:
        """Return twelve hexadecimal digits that change with the rubric's text."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]


def load(named: str | Mapping[Any, Any], *, base: Path | None = None) -> Rubric:
    """Return a stock rubric by its name, one from a YAML file, or one that is written in place.

    Args:
        named: the name, the path or the rubric that the run document has.
        base: the folder that a relative path starts from; None for the working directory.

    Raises:
        RunDocumentError: the rubric or file does not exist, or is no rubric; `param` is `rubric`.
    """
    if not isinstance(named, str):
        return _convert(named, "rubric", "")
    if named in STOCK:
        return stock(named)
    path = (base or Path()) / named
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise _wrong(f"no rubric is called {named!r}.{closest(named, STOCK)}")
    try:
        data = yaml_documents.decode_file(path)
    except OSError as error:
        raise _wrong(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # a null in the path, or not YAML
        raise _wrong(f"{path}: {error}") from None
    return _convert(data, str(path), path.stem)


class ColumnRubrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rubrics that a dataset's rows bring, each its own.

    Attributes:
        column: the column that has them.
        low, high: the lowest and the highest score of every one of them.
    """

    column: str
    low: _Bound = 1
    high: _Bound = 5

    def __post_init__(self) -> None:
        """Refuse a range without two scores; msgspec adds the path to the message."""
        if self.low >= self.high:
            raise ValueError("low must be below high")

    def rubric(self, fields: Mapping[str, Any]) -> Rubric:
        """Return the rubric of a row: read from its column. Raises ValueError for none."""
        value = value_at(fields, self.column)
        if value is None or value == "":
            raise ValueError(f"no rubric in the column {self.column!r}")
        try:
            rubric = rubric_of_value(value)
        except ValueError as error:
            raise ValueError(f"the rubric in the column {self.column!r}: {error}") from None
        if (rubric.low, rubric.high) != (self.low, self.high):
            raise ValueError(
                f"the rubric in the column {self.column!r} has scores from {rubric.low} to "
                f"{rubric.high}, not from {self.low} to {self.high}; name low and high beside "
                "the column"
            )
        return rubric


def columns(named: Mapping[Any, Any]) -> ColumnRubrics:
    """Return what `{column: NAME}` says of the rubrics. Raises RunDocumentError."""
    try:
        return msgspec.convert(named, ColumnRubrics)
    except msgspec.ValidationError as error:
        raise _wrong(f"rubric: {error}") from None


def rubric_of_value(value: Any) -> Rubric:
    """Return the rubric that a row of a dataset has; no file is opened for it.

    It is a text as `read_rubric` takes it, a whole Prometheus prompt, the name of a stock rubric,
    or a mapping, which may be JSON in a text.

    Raises:
        ValueError: the value is no rubric.
    """
    if isinstance(value, str):
        if value in STOCK:
            return stock(value)
        if value.lstrip().startswith("{"):
            # Tables of texts (CSV) have mappings as JSON.
            return rubric_of_value(_decoded(value))
        texts = split_prompt(value)
        return read_rubric(value if texts is None else texts.rubric)
    try:
        return _convert(value, "rubric", "")
    except RunDocumentError as error:
        raise ValueError(error.message) from None


@cache
def stock(name: str) -> Rubric:
    """Return one of the rubrics in `STOCK`."""
    data = msgspec.yaml.decode((_FOLDER / f"{name}.yaml").read_bytes())
    return _convert(data, name, name)


def read_rubric(text: str, name: str = "") -> Rubric:
    """Return the rubric that `Rubric.text()` wrote, or that a published prompt has.

    Raises:
        ValueError: the text is no rubric.
    """
    first, _, rest = text.strip().replace("\r\n", "\n").partition("\n")
    first = first.strip()
    if not (first.startswith("[") and first.endswith("]")):
        raise ValueError("a rubric begins with its criteria in brackets")
    scores: dict[int, str] = {}
    for line in filter(str.strip, rest.split("\n")):
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"a rubric's line is 'Score N: meaning', not {line[:60]!r}")
        if int(match["score"]) in scores:
            raise ValueError(f"the rubric has two meanings of score {match['score']}")
        scores[int(match["score"])] = match["text"]
    return Rubric(criteria=first[1:-1], scores=scores, name=name)


def _line(text: str) -> str:
    """Join a text of several lines, as YAML makes them, into the one line that the format has."""
    return re.sub(r"\s*\n\s*", " ", text.rstrip("\n"))


def _convert(data: Any, source: str, name: str) -> Rubric:
    if not isinstance(data, Mapping):
        raise _wrong(f"{source}: a rubric is a mapping with criteria and scores")
    data = _without_descriptions(data)
    # JSON has no whole numbers as keys, so both ways of writing them are read the same.
    if isinstance(scores := data.get("scores"), Mapping):
        data = {**data, "scores": {str(key): text for key, text in scores.items()}}
    try:
        rubric = msgspec.convert(data, Rubric, str_keys=True)
    except msgspec.ValidationError as error:
        raise _wrong(f"{source}: {error}") from None
    return msgspec.structs.replace(rubric, name=rubric.name or name)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _without_descriptions(data: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a rubric as prometheus-eval writes it (`score1_description`, …) with `scores`."""
    described = {key: match[1] for key in data if (match := _DESCRIPTION.match(str(key)))}
    if not described or "scores" in data:
        return data
    rest = {key: value for key, value in data.items() if key not in described}
    return {**rest, "scores": {score: data[key] for key, score in described.items()}}


def _wrong(message: str) -> RunDocumentError:
    return RunDocumentError(message, param="rubric")
