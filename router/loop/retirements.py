"""Models that will be shut down, who uses them, and what a migration away from each would take.

    retirements = Retirements(config, routes, lists, store)
    await retirements.views()                         # of the models that are used
    await retirements.propose("openai/gpt-4", "openai/gpt-6")

A proposal has the commands and documents ready: a dataset from the route's own traffic, a run that
has to show that the candidate is not worse, and a rollout. Only people carry it out.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from evaluators.base import PRECOMPUTED
from providers.errors import NotFoundError, RequestError
from router.config.alerts import AlertSubject
from router.config.routes import Route, target_problem
from router.config.schema import Config
from router.gateway.model_lists import Listing, ModelLists, Retirement, retirement_of
from router.gateway.route_table import Routes
from router.loop.alerts import AlertCondition
from router.rounds import Rounds
from router.store.watches import WatchStore

log = logging.getLogger("evalrouter")

DAY_S = 86400.0
EVERY_S = 3600.0
# After the start, and where no list has come yet.
SOON_S = 300.0
# From so many days before on it is warned about, and urgent from so many on.
WARNED_DAYS, URGENT_DAYS = 90.0, 14.0
# How much worse a candidate's win rate may be than one half.
MARGIN = 0.05


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration of a route would take, step by step; nothing of it has been done.

    Attributes:
        route: the route.
        candidate: the `provider/model` to go to.
        reason: why it is proposed.
        dataset_command: makes a dataset of the route's own requests, where it stores bodies.
        run: a run document that compares the candidate with the stored answers, and whose gate
            holds only if it is shown not to be worse.
        run_yaml: the same as text, to be saved.
        run_command: executes it.
        rollout: the body of `POST /routes/{name}/rollout`; None where no rollout can be.
        rollout_command: starts that, for when the run has passed; "" where no rollout can be.
        route_change: what to change in the route's definition then; "" with a rollout.
        notes: what to see to.
    """

    route: str
    candidate: str
    reason: str
    dataset_command: str
    run: dict[str, Any]
    run_yaml: str
    run_command: str
    rollout: dict[str, Any] | None
    rollout_command: str
    route_change: str
    notes: list[str]


class RetiringModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is used, and will be or was shut down.

    Attributes:
        target: `provider/model`.
        date: the day, UTC.
        days_left: until then; negative afterwards.
        source: who says so.
        replacement: the `provider/model` that its host names in its place; "" for none.
        routes: the routes that may send requests to it.
        watches: the watches of it.
        last_at: when it last answered, seconds since the epoch; None where it never did.
        migrations: what is proposed, for each of the routes that a candidate is known for.
        notes: of the other routes, how to get a proposal.
    """

    target: str
    date: str
    days_left: float
    source: str
    replacement: str = ""
    routes: list[str] = []
    watches: list[str] = []
    last_at: float | None = None
    migrations: list[Migration] = []
    notes: list[str] = []


class Retirements:
    """What is known of the ends of the models that are used.

    Args:
        config: has the providers and watches.
        routes: the routes as they are.
        lists: the providers' lists of models.
        store: knows which targets have answered.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        config: Config,
        routes: Routes,
        lists: ModelLists,
        store: WatchStore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._routes = routes
        self._lists = lists
        self._store = store
        self._clock = clock
        self._known: list[RetiringModel] = []
        # Targets of which nothing is known, because their host's list cannot be read; None before
        # the first time.
        self._unknown: frozenset[str] | None = None
        self._logged: set[tuple[str, str]] = set()
        self._is_complete = False
        self._rounds = Rounds(
            self.run_once,
            every=lambda: EVERY_S if self._is_complete else SOON_S,
            name="evalrouter-retirements",
            failing="retirements of models could not be read",
            first=SOON_S,
        )

    async def open(self) -> None:
        """Begin to look once an hour."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop."""
        await self._rounds.close()

    async def run_once(self) -> None:
        """Read the lists of the providers that are used, and log models that end soon.

        Raises:
            StoreError: the database does not work.
        """
        listings = await self._listings()
        self._is_complete = not any(listing.why for listing in listings.values())
        self._known = await self.views()
        self._unknown = frozenset(
            target
            for target in self._users()
            if (listing := listings.get(target.partition("/")[0])) is not None
            and listing.why
            and self._end(target, listings) is None
        )
        for model in self._known:
            if model.days_left <= WARNED_DAYS and (model.target, model.date) not in self._logged:
                self._logged.add((model.target, model.date))
                log.warning("%s (%s)", _sentence(model), model.source)

    def days_left(self) -> list[tuple[tuple[str, ...], float]]:
        """Return the days that models of routes and watches have left, for metrics."""
        return [((model.target,), model.days_left) for model in self._known]

    async def latest(self) -> tuple[Sequence[RetiringModel], frozenset[str]]:
        """Return what was known when the lists were last read, and of which targets nothing was.

        Raises:
            StoreError: they are read for the first time, and the database does not work.
        """
        if self._unknown is None:
            await self.run_once()
        return self._known, self._unknown or frozenset()

    async def _listings(self) -> dict[str, Listing]:
        providers = {target.partition("/")[0] for target in self._users()}
        return await self._lists.of(sorted(providers & set(self._config.providers)))

    async def unreachable(self) -> dict[str, str]:
        """Return the providers whose list could not be read, with the reason."""
        listings = await self._listings()
        return {name: listing.why for name, listing in listings.items() if listing.why}

    def _users(self) -> dict[str, list[str]]:
        """Return the targets that are named now, each with the routes that do so."""
        routes = self._routes.table.routes
        users: dict[str, list[str]] = {}
        for name, route in sorted(routes.items()):
            for target in dict.fromkeys(route.named):
                users.setdefault(target, []).append(name)
        for watch in self._config.watches.values():
            if "/" in watch.target:
                users.setdefault(watch.target, [])
        return users

    async def views(self) -> list[RetiringModel]:
        """Return the models that are used and have an end, the next one first."""
        listings = await self._listings()
        seen: dict[str, float] = {}
        for version in await self._store.model_versions():
            seen[version.target] = max(version.last_at, seen.get(version.target, 0.0))
        models = []
        for target, routes in self._users().items():
            end = self._end(target, listings)
            if end is not None:
                models.append(self._view(target, routes, end, seen.get(target)))
        return sorted(models, key=lambda model: (model.days_left, model.target))

    async def selected(self, target: str | None, candidate: str | None) -> list[RetiringModel]:
        """Return `views`, or those of one target, or a target with migrations to a candidate.

        Raises:
            NotFoundError, RequestError: as `propose` does.
        """
        if target is not None and candidate is not None:
            return [await self.propose(target, candidate)]
        return [model for model in await self.views() if target in (None, model.target)]

    def _end(self, target: str, listings: Mapping[str, Listing]) -> Retirement | None:
        provider, _, model = target.partition("/")
        config = self._config.providers.get(provider)
        return None if config is None else retirement_of(config.kind, model, listings.get(provider))

    def _view(
        self, target: str, routes: list[str], end: Retirement, last_at: float | None
    ) -> RetiringModel:
        replacement = f"{target.partition('/')[0]}/{end.replacement}" if end.replacement else ""
        migrations = []
        notes = []
        for name in routes:
            candidate, reason = self._candidate(target, name, replacement)
            if candidate:
                migrations.append(self._migration(target, name, candidate, reason, end))
            else:
                notes.append(
                    f"{name} names no other model: pass --target {target} --candidate "
                    "PROVIDER/MODEL (over HTTP: target and candidate)"
                )
        return RetiringModel(
            target=target,
            date=end.date,
            days_left=round((end.at - self._clock()) / DAY_S, 2),
            source=end.source,
            replacement=replacement,
            routes=routes,
            watches=[
                name for name, watch in self._config.watches.items() if watch.target == target
            ],
            last_at=last_at,
            migrations=migrations,
            notes=notes,
        )

    def _candidate(self, target: str, route_name: str, replacement: str) -> tuple[str, str]:
        """Return where a route may go, and why; "" where nobody names anything."""
        if replacement:
            return replacement, "its host names it as the replacement"
        for other in self._routes.table.routes[route_name].named:
            if other != target:
                return other, f"the route {route_name} names it already"
        return "", ""

    async def propose(self, target: str, candidate: str) -> RetiringModel:
        """Return a model with migrations to a candidate that a person names.

        Raises:
            NotFoundError: no route or watch names the model, or nothing is known of its end.
            RequestError: the candidate cannot be.
        """
        used = self._users()
        end = self._end(target, await self._listings()) if target in used else None
        if end is None:
            raise NotFoundError(f"Nothing is known of an end of {target!r}, or nothing uses it.")
        if candidate == target:
            raise RequestError("candidate: that is the model itself", param="candidate")
        if problem := target_problem(candidate, self._config.providers):
            raise RequestError(f"candidate: {problem}", param="candidate")
        if problem := self._lists.unlisted(candidate):
            raise RequestError(f"candidate: {problem}", param="candidate")
        view = self._view(target, used[target], end, None)
        migrations = [
            self._migration(target, name, candidate, "it was asked for", end)
            for name in used[target]
        ]
        return msgspec.structs.replace(view, migrations=migrations, notes=[])

    def _migration(
        self, target: str, route_name: str, candidate: str, reason: str, end: Retirement
    ) -> Migration:
        route = self._routes.table.routes[route_name]
        dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{route_name}-before-{end.date}")
        judge, notes = self._judge(route, target)
        if (route.record or self._config.record) != "full":
            notes.append(
                f"The route {route_name} stores no bodies; set `record: full` for a while, or name "
                "a dataset of your own in the run document."
            )
        weighted = route.weighted
        change = _route_change(route_name, weighted, target, candidate)
        if not change and len(weighted) > 1:
            notes.append(
                f"{route_name} has other targets: its rollout compares the candidate with all of "
                f"them together, and a promotion takes their shares too. To keep them, put "
                f"{candidate} in the place of {target} in the route's definition instead."
            )
        if target not in weighted:
            notes.append(
                f"{target} is no target with a weight of {route_name}, so the dataset has the "
                "answers of its targets."
            )
        # Answers of other targets would be compared with the candidate as well.
        selected = (
            ("--where", f"target == {json.dumps(target, ensure_ascii=False)}")
            if len(weighted) > 1 and target in weighted
            else ()
        )
        run = {
            "name": f"{route_name}: {candidate} in place of {target}",
            "dataset": dataset,
            "routes": [PRECOMPUTED, candidate],
            "baseline": PRECOMPUTED,
            "metrics": [
                {"name": "pairwise", "judge": judge, "rubric": "helpfulness"},
                "cost",
                "latency",
            ],
            "gates": [f"win_rate non_inferior baseline by {MARGIN}", "coverage >= 0.95"],
        }
        why = f"{target} ends on {end.date}"
        return Migration(
            route=route_name,
            candidate=candidate,
            reason=reason,
            dataset_command=_command(
                f"dataset from-traffic {dataset} --route {route_name} --since 30d --sample 500",
                "--dedupe",
                *selected,
            ),
            run=run,
            run_yaml=yaml.safe_dump(run, sort_keys=False),
            run_command=_command(f"eval run {dataset}.yaml"),
            rollout=None if change else {"candidate": candidate, "reason": why},
            rollout_command=(
                ""
                if change
                else _command(f"rollout start {route_name}", candidate, "--reason", why)
            ),
            route_change=change,
            notes=notes,
        )

    def _judge(self, route: Route, target: str) -> tuple[str, list[str]]:
        """Return who may compare answers, and what to know of that judge."""
        if route.shadow is not None and isinstance(route.shadow.judge, str):
            return route.shadow.judge, []
        if self._config.review.judge is not None:
            return self._config.review.judge, []
        return target, [
            f"The config names no judge, so {target} itself is to compare: judges prefer answers "
            "like their own, which makes it harder for the candidate. Name another in the run "
            "document if you have one."
        ]


class RetirementSource:
    """The conditions of models that will be shut down. See `router.loop.alerts.AlertSource`.

    Args:
        retirements: know them.
    """

    subjects: Sequence[AlertSubject] = ("retirement",)
    tells_all = True

    def __init__(self, retirements: Retirements) -> None:
        self._retirements = retirements

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return the models that end within `WARNED_DAYS`, or have, or may."""
        known, unknown = await self._retirements.latest()
        unclear = [
            AlertCondition(
                subject="retirement",
                labels={"target": target},
                summary=f"it is not known whether {target} will be shut down",
                holds=None,
            )
            for target in sorted(unknown)
        ]
        return unclear + [
            AlertCondition(
                subject="retirement",
                labels={"target": model.target},
                summary=_sentence(model),
                severity="critical" if model.days_left <= URGENT_DAYS else "warning",
                link="/models/retirements",
                value=model.days_left,
            )
            for model in known
            if model.days_left <= WARNED_DAYS
        ]


def _route_change(name: str, weighted: Sequence[str], target: str, candidate: str) -> str:
    """Return what to change in a route's definition where a rollout cannot be; "" where it can.

    A rollout replaces targets with a weight, by a candidate that has none.
    """
    if candidate in weighted:
        return f"take {target} out of the definition of {name}: {candidate} has a share there"
    if target not in weighted:
        return f"put {candidate} in the place of {target} wherever the definition of {name} has it"
    return ""


def _command(words: str, *more: str) -> str:
    return shlex.join(["evalrouter", *words.split(), *more])


def targets_in_use(config: Config) -> dict[str, list[str]]:
    """Return the targets that a config names, each with who does so, in words."""
    users: dict[str, list[str]] = {}
    for name, route in config.routes.items():
        for target in dict.fromkeys(route.named):
            users.setdefault(target, []).append(f"the route {name}")
    for name, watch in config.watches.items():
        if "/" in watch.target:
            users.setdefault(watch.target, []).append(f"the watch {name}")
    return users


def _sentence(model: RetiringModel) -> str:
    uses = [f"the route {name}" for name in model.routes]
    uses += [f"the watch {name}" for name in model.watches]
    return shutdown_sentence(model.target, model.date, model.days_left, uses[:5])


def shutdown_sentence(target: str, date: str, days_left: float, users: Sequence[str]) -> str:
    """Return in words when a model will be shut down, and what uses it."""
    verb = "was" if days_left <= 0 else "will be"
    return f"{target} {verb} shut down on {date}; it is used by {', '.join(users)}"
