"""The options of metrics that take text, for tests that try what each of them opens."""

from typing import Literal, get_args, get_origin, get_type_hints

from evaluators.metrics import registry
from evaluators.metrics.registry import openings

# What a metric cannot be built without, or what lets its other options be used.
NEEDED = {
    "bertscore": {"model": "some/model"},
    "embedding_similarity": {"model": "some/model"},
    "hf:accuracy": {},
    "json_schema": {"schema": {}},
    "judge": {"judge": "a/b", "kind": "style_concise"},
    "prometheus": {"judge": "a/b"},
    "rag": {"judge": "a/b"},
    "regex": {"pattern": "x"},
}


def takes_text(hint):
    """Whether an option takes a text of the caller's own, alone or in something."""
    if get_origin(hint) is Literal:
        return False
    return hint is str or any(takes_text(inner) for inner in get_args(hint))


def options():
    """Every option that takes text, of every metric, as (name, option)."""
    for name in (*registry.METRICS, "hf:accuracy", "file:mine.py"):
        kind, _ = registry._kind(name, "metrics")
        made_by = kind.__init__ if isinstance(kind, type) else kind
        hints = get_type_hints(made_by)
        hints.pop("return", None)
        positional = {"metric", "where"}
        yield from (
            (name, option)
            for option, hint in hints.items()
            if option not in positional and takes_text(hint)
        )


def declared(name, option, value):
    """Whether the metric says that this option opens what it names."""
    spec = {"name": name, **NEEDED.get(name, {}), option: value}
    return any(one.value == value for one in openings(spec))
