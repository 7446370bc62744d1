"""Routes whose live requests are answered by a prediction, and those of runs are not.

    versions |= noted(strategies_of(requester.table, document))
    warnings = unpredicted_warnings(run.versions)

A run is answered the same way when it is repeated, so it uses the strategy that a learned route has
for what is not predicted. How a route was defined is known only when the run is created: it is
noted beside the versions.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluators.document import RunDocument
from router.evals.validation import requested_routes
from router.gateway.routing import Table

_NOTED = "unpredicted "


def strategies_of(table: Table, document: RunDocument) -> dict[str, str]:
    """Return the strategies of the run's learned routes that predict for live requests alone."""
    routes = {
        name: table.routes[name] for name in requested_routes(document) if name in table.routes
    }
    return {
        name: route.plain_strategy
        for name, route in routes.items()
        if route.strategy == "learned"
        and route.learned is not None
        and route.learned.mode == "apply"
    }


def noted(strategies: Mapping[str, str]) -> dict[str, str]:
    """Return what a run's versions say of them."""
    return {f"{_NOTED}{name}": strategy for name, strategy in strategies.items()}


def unpredicted_warnings(versions: Mapping[str, str]) -> list[str]:
    """Return the warnings of a report, from what the run's versions say."""
    return [
        unpredicted_warning(name.removeprefix(_NOTED), strategy)
        for name, strategy in versions.items()
        if name.startswith(_NOTED)
    ]


def unpredicted_warning(route: str, strategy: str) -> str:
    """Return what has to be known of one of them."""
    return (
        f"{route}: runs do not use what the route has learned, and {strategy} chooses the targets; "
        "live requests are answered by others, so these are not the numbers of the route as it "
        "serves"
    )
