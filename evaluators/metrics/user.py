"""Your own metric: one Python function, from a file or an installed package.

    def score(answer, references, row):
        return 1.0 if "please" in answer.lower() else 0.0

    {name: "file:polite.py"}                  # beside the run document
    {name: polite}                            # an entry point of the group `evalrouter.metrics`

`answer` is a text, `references` a list of texts, `row` the dataset's row as a dict. The function
returns a number or a bool, or a dict of them when `outputs` names several; None means that the
answer cannot be scored. It runs in a worker process of its own with a time limit, so one that
raises, hangs or dies costs its own scores and nothing else. It runs with your rights. A server
imports a package's module when it starts, too, to tell a function from a metric's class.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from evaluators.base import Output, Scorable, Score
from evaluators.metrics.reference import references, unscored
from evaluators.metrics.registry import installed_metrics

# An output's name is written in gates.
OutputNames = Annotated[
    tuple[Annotated[str, msgspec.Meta(pattern=r"^[\w.:-]+$")], ...], msgspec.Meta(min_length=1)
]
Function = Callable[[str, list[str], dict[str, Any]], Any]


class UserMetric:
    """A user's function, with the range and direction that a report needs.

    `function` is its name in the file. `outputs` default to one, named as the file or the entry
    point. `low` and `high` are its range, None for no bound; a score outside it is refused.
    `needs_reference` refuses datasets that lack one. `timeout_s` is for one answer. The function
    decides what a blank answer scores.
    """

    source = "the user's own"
    load_s = 60.0

    def __init__(
        self,
        where: str,
        *,
        function: str = "score",
        outputs: OutputNames | None = None,
        higher_is_better: bool | None = True,
        low: float | None = None,
        high: float | None = None,
        needs_reference: bool = False,
        timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0,
    ) -> None:
        self._path = Path(where.removeprefix("file:")) if where.startswith("file:") else None
        self.name = where if self._path is None else f"file:{self._path.name}"
        self.needs_reference = needs_reference
        self.sample_s = timeout_s
        self._where = where
        self._function = function
        self._call: Function | None = None
        stem = where if self._path is None else self._path.stem
        self.outputs = tuple(
            Output(
                name=name,
                higher_is_better=higher_is_better,
                low=low,
                high=high,
                description=f"As {self.name} returns it, mean over the answers.",
            )
            for name in outputs or (stem,)
        )
        self.signature = f"{self.name}|{self._origin()}|aggregate:mean|timeout:{timeout_s:g}s"

    def _origin(self) -> str:
        if self._path is not None:
            known = self._path.is_file()
            digest = hashlib.sha256(self._path.read_bytes()).hexdigest() if known else "missing"
            return f"function:{self._function}|sha256:{digest[:12]}"
        installed = installed_metrics().usable.get(self._where)
        if installed is None:
            return "entry-point:missing"
        return f"entry-point:{installed.point.value}|{installed.origin}"

    def load(self) -> None:
        """Import the function. Raises whatever its module raises."""
        if self._path is None:
            installed = installed_metrics().get(self._where)
            if installed is None:
                raise LookupError(f"no installed package has the entry point {self._where!r}")
            self._call = installed.load()
        else:
            spec = importlib.util.spec_from_file_location("evalrouter_user_metric", self._path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{self._path} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._call = getattr(module, self._function, None)
        if not callable(self._call):
            raise TypeError(f"{self._where} has no function {self._function!r}")

    def score_batch(self, items: Sequence[Scorable]) -> Iterable[tuple[Score, ...]]:
        """Yield the declared outputs for each answer, one after the other."""
        assert self._call is not None, "loaded first"
        for sample, answer in items:
            try:
                result = self._call(
                    answer.text or "", list(references(sample)), dict(sample.fields)
                )
                yield self._scores(result)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # it may raise anything
                yield unscored(self.outputs, f"{self.name}: {type(error).__name__}: {error}")

    def _scores(self, result: Any) -> tuple[Score, ...]:
        if not isinstance(result, Mapping):
            if len(self.outputs) > 1 and result is not None:
                raise TypeError(f"{self._function} returned no dict of its outputs")
            result = {output.name: result for output in self.outputs}
        return tuple(self._score(output, result.get(output.name)) for output in self.outputs)

    def _score(self, output: Output, value: Any) -> Score:
        if value is None:
            return Score(output=output.name, value=None, error=f"{self.name} returned nothing")
        number = float(value)
        low, high = output.low, output.high
        if (low is not None and number < low) or (high is not None and number > high):
            why = f"{self.name} returned a number outside its range"
            return Score(output=output.name, value=None, error=why)
        return Score(output=output.name, value=number)
