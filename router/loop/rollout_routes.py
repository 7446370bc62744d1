"""A rollout's route: what it was at the start, whether it still is, and what a promotion sets."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from router.config.documents import as_stored
from router.config.rollouts import RolloutSettings
from router.config.routes import Route, RouteTarget
from router.store.rollouts import Rollout

# What may change of a route while its rollout goes on: nothing that an answer depends on.
_FREE_TO_CHANGE = frozenset({"rollout", "shadow", "record_sample", "traffic_days"})


def route_version(route: Route | None) -> str:
    """Return a short hash of what a route's answers depend on; "" without a route."""
    if route is None:
        return ""
    return hashlib.sha256(msgspec.json.encode(_compared(route), order="sorted")).hexdigest()[:16]


def _compared(route: Route) -> dict[str, Any]:
    document = as_stored(route)
    return {name: value for name, value in document.items() if name not in _FREE_TO_CHANGE}


def promoted(route: Route, model: str) -> dict[str, Any]:
    """Return a route's document with a candidate at 100 %; other targets stay, without weight.

    A target of the candidate's model that the route has without weight keeps its settings. The
    route's shadow loses the candidate, because a model is never compared with itself: a route with
    such a shadow would be refused. So would a learned route with one target: it is one no more.
    """
    others = [target for target in route.targets if target.model != model]
    same_model = [target for target in route.targets if target.model == model]
    candidate = same_model[0] if same_model else RouteTarget(model=model)
    targets = (
        msgspec.structs.replace(candidate, weight=1.0),
        *(msgspec.structs.replace(target, weight=0.0) for target in others),
    )
    shadow = route.shadow
    if shadow is not None:
        shadowed = [target for target in shadow.targets if target != model]
        shadow = msgspec.structs.replace(shadow, targets=tuple(shadowed)) if shadowed else None
    return as_stored(
        msgspec.structs.replace(
            route, targets=targets, shadow=shadow, strategy=route.plain_strategy, learned=None
        )
    )


def sticky_of(rollout: Rollout) -> str:
    """Return what keeps a user in one arm, as in the config's `sticky`; "" for the default."""
    settings = msgspec.convert(rollout.settings, RolloutSettings)
    return settings.sticky or msgspec.convert(rollout.base, Route).sticky or ""


def is_unchanged(rollout: Rollout, route: Route | None) -> bool:
    """Return whether a route is what it was when its rollout began."""
    if route is None:
        return False
    return _compared(route) == _compared(msgspec.convert(rollout.base, Route))


def is_promoted(rollout: Rollout, route: Route) -> bool:
    """Return whether a route is what the rollout's promotion made of it."""
    base = msgspec.convert(rollout.base, Route)
    made = msgspec.convert(promoted(base, rollout.candidate), Route)
    return _compared(route) == _compared(made)
