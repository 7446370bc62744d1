"""The pages of settings: how this server is configured, what it stores where, what it can do.

They change nothing, but that a provider may be examined.
"""

from __future__ import annotations

import asyncio
import platform
import sqlite3
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect

from evaluators.judge.kinds import BUILT_IN, JudgeKind, load_kind
from providers.conformance.suite import ConformanceReport
from providers.errors import EvalrouterError, NotFoundError, closest
from router.api.access import ACCESS, Caller, InjectedCaller, Reach, reach_of
from router.api.injection import Injected
from router.api.page_layout import action, done, form_again, page, rendered, utc
from router.api.page_tables import Export, TableColumn, TableView, csv_response
from router.api.providers import Examinations, InjectedExaminations, examined
from router.api.sign_in import read_fields
from router.config.providers import BUILT_IN as ALWAYS_THERE
from router.config.shown import ShownConfig, without_credentials
from router.config.storage import Storage
from router.evals.extras import installed_version, missing_packages
from router.evals.plugins import InstalledPlugin, MetricEntry, installed, metrics
from router.gateway.prices import list_prices
from router.records import Target
from router.services import Services
from router.store.keys import Role
from router.store.traffic import TrafficFilter

InjectedShownConfig = NamedDependency[ShownConfig]

EXAMINE = "POST /providers/{name}/conformance"
_PACKAGES = ("litestar", "msgspec", "uvicorn", "httptools", "jinja2", "numpy", "pyarrow")
_TABS = (
    ("Server", "/settings"),
    ("Config", "/settings/config"),
    ("Prices", "/settings/prices"),
    ("Metrics, judges, plugins", "/settings/metrics"),
    ("Roles", "/settings/roles"),
)


# What a key may do, in words, with the operations that this is.
ACTIVITIES: Mapping[str, tuple[str, ...]] = {
    "Send requests to models": ("POST /v1/chat/completions",),
    "Read recorded requests, and feedback": ("GET /traffic", "GET /feedback"),
    "Give feedback": ("POST /feedback",),
    "Delete recorded requests": ("DELETE /traffic", "DELETE /traffic/{request_id}"),
    "Read runs and their samples": ("GET /eval", "GET /eval/{run_id}/samples"),
    "Compare runs": ("GET /eval/compare",),
    "Label samples": ("PUT /eval/{run_id}/labels",),
    "Start, pause, cancel, rescore and delete runs": (
        "POST /eval",
        "POST /eval/{run_id}/pause",
        "POST /eval/{run_id}/cancel",
        "POST /eval/{run_id}/rescore",
        "DELETE /eval/{run_id}",
    ),
    "Read datasets": ("GET /datasets", "GET /datasets/{name}/rows"),
    "Make a dataset of recorded requests": ("POST /datasets/from-traffic",),
    "Upload, label and delete datasets": (
        "POST /datasets",
        "POST /datasets/label",
        "DELETE /datasets/{name}",
    ),
    "See what waits for a review": ("GET /review",),
    "Review and publish": (
        "POST /review/{row_id}/accept",
        "POST /review/{row_id}/reject",
        "POST /review/publish",
    ),
    "See experiments and judges": ("GET /experiments", "GET /eval/judges"),
    "Change and delete experiments": ("PATCH /experiments/{name}", "DELETE /experiments/{name}"),
    "See routes and shadows": ("GET /routes", "GET /shadows"),
    "Change routes": ("PUT /routes/{name}", "DELETE /routes/{name}"),
    "See rollouts, watches and schedules": ("GET /rollouts", "GET /watches", "GET /schedules"),
    "Start, promote and roll back rollouts": (
        "POST /routes/{name}/rollout",
        "POST /routes/{name}/rollout/promote",
        "POST /routes/{name}/rollout/rollback",
    ),
    "Probe watches, and run schedules": (
        "POST /watches/{name}/probe",
        "POST /schedules/{name}/run",
    ),
    "See alerts": ("GET /alerts",),
    "Silence alerts": ("POST /alerts/{alert_id}/silence",),
    "Read bundles of evidence": ("GET /evidence",),
    "Make and delete bundles of evidence": ("POST /evidence", "DELETE /evidence/{bundle_id}"),
    "See settings and keys": ("GET /settings", "GET /keys"),
    "Make, change and revoke keys": ("POST /keys", "PATCH /keys/{name}", "DELETE /keys/{name}"),
}
ROLES: tuple[Role | None, ...] = (None, "client", "viewer", "reviewer", "admin")


class ProviderLine(NamedTuple):
    """A provider as its table shows it.

    Attributes:
        name, kind: as in the config.
        address: its host, without credentials; "" where it has none.
        models: those that the config lists.
        reports: the examinations since the server started, the newest last.
        is_built_in: whether it is there without being configured.
    """

    name: str
    kind: str
    address: str
    models: tuple[str, ...]
    reports: list[ConformanceReport]
    is_built_in: bool


async def _settings(template: str, caller: Caller, path: str, **values: Any) -> Response[str]:
    names = {address: name for name, address in _TABS}
    return await rendered(
        template,
        caller,
        title=f"Settings: {names[path]}" if path in names else "Settings",
        current="/settings",
        tabs=_TABS,
        tab=path,
        **values,
    )


@page("/settings")
async def server_settings(
    services: Injected, caller: InjectedCaller, examinations: InjectedExaminations
) -> Response[str]:
    """Show what is stored where, which versions run, and the providers."""
    newest, runs, files, size = await asyncio.gather(
        services.recorded.page(TrafficFilter(), limit=1),
        services.store.count_runs(),
        services.store.sealed_files(),
        asyncio.to_thread(_database_bytes, services.config.storage),
    )
    versions, missing = await asyncio.gather(
        asyncio.to_thread(_versions, services.config.storage.is_postgres),
        asyncio.to_thread(_missing),
    )
    return await _settings(
        "settings.html",
        caller,
        "/settings",
        storage=services.config.storage,
        database=without_credentials(services.config.storage.database),
        artifacts=without_credentials(services.config.storage.artifacts),
        size=size,
        requests=newest[0].number if newest else 0,
        newest_at=utc(newest[0].at) if newest else "",
        runs=runs,
        sealed=sum(file.requests for file in files),
        versions=versions,
        time=utc(time.time()),
        extras=[extra for extra, packages in missing.items() if not packages],
        absent=[extra for extra, packages in missing.items() if packages],
        providers=_providers(services, examinations),
        may_examine=caller.reach_of(EXAMINE) == "all",
    )


@page("/settings/config")
async def config_settings(
    services: Injected, caller: InjectedCaller, shown_config: InjectedShownConfig
) -> Response[str]:
    """Show what the config says beyond the defaults, without secrets."""
    return await _settings(
        "settings_config.html",
        caller,
        "/settings/config",
        source=services.source,
        sections=await asyncio.to_thread(shown_config.sections),
    )


_PRICE_COLUMNS = (
    TableColumn("target", "Model", sorts=True),
    TableColumn("input", "Input", sorts=True, number=True),
    TableColumn("output", "Output", sorts=True, number=True),
    TableColumn("cached_input", "Cached input", number=True),
    TableColumn("source", "From", sorts=True),
)


class PriceLine(NamedTuple):
    """A price as its table shows it.

    Attributes:
        target: `provider/model`.
        input, output, cached_input: US dollars per million tokens; None for the same as `input`.
        source: the config, or the page that lists it.
        long: what a call with a long prompt costs; "" where length makes no difference.
    """

    target: str
    input: float
    output: float
    cached_input: float | None
    source: str
    long: str


@page("/settings/prices")
async def price_settings(
    *,
    services: Injected,
    caller: InjectedCaller,
    q: FromQuery[str] = "",
    sort: FromQuery[str] = "target",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show what models cost, and where that is from; `q` is a part of a model's name."""
    view = TableView(
        "/settings/prices",
        _PRICE_COLUMNS,
        sort=sort,
        filters={"q": q},
        after=after,
        export=export,
    )
    lines = [line for line in _prices(services) if q.lower() in line.target.lower()]
    rows = [line._asdict() for line in view.page_of(lines, lambda line: line.target)]
    if view.is_export:
        return await asyncio.to_thread(csv_response, "prices", view.columns, rows)
    return await _settings(
        "settings_prices.html",
        caller,
        "/settings/prices",
        view=view,
        rows=rows,
        q=q,
        book=list_prices(),
        unknown=_without_price(services),
    )


def _prices(services: Services) -> Iterator[PriceLine]:
    book = list_prices()
    for target, kind, price in services.prices.listed():
        long = price.long
        yield PriceLine(
            target=target,
            input=price.input,
            output=price.output,
            cached_input=price.cached_input,
            source="the config" if kind is None else book.sources.get(kind, "the price book"),
            long=""
            if long is None
            else f"{long.input:g} and {long.output:g} above {long.above:,} tokens",
        )


def _without_price(services: Services) -> list[str]:
    """Return the targets of routes whose price is not known, and that are not free."""
    targets = {
        target.model
        for view in services.routes.view()
        if view.route is not None
        for target in view.route.targets
    }
    return [name for name in sorted(targets) if not _is_priced(services, Target.parse(name))]


def _is_priced(services: Services, target: Target) -> bool:
    return services.prices.is_free(target) or services.prices.price(target) is not None


@page("/settings/metrics")
async def metric_settings(caller: InjectedCaller) -> Response[str]:
    """Show the metrics and the kinds of judges that runs may name, and what packages add."""
    entries, plugins, judges = await asyncio.gather(
        asyncio.to_thread(_metrics),
        asyncio.to_thread(_plugins),
        asyncio.to_thread(_judges),
    )
    return await _settings(
        "settings_metrics.html",
        caller,
        "/settings/metrics",
        metrics=entries,
        plugins=plugins,
        judges=judges,
    )


@page("/settings/roles")
async def role_settings(caller: InjectedCaller) -> Response[str]:
    """Show who may do what, in words, and the table of who may call what."""
    operations = {
        operation: _reaches(operation)
        for operation in ACCESS
        if " /pages/" not in operation and " /static/" not in operation
    }
    return await _settings(
        "settings_roles.html",
        caller,
        "/settings/roles",
        roles=[role or "no key" for role in ROLES],
        activities={words: _reaches(concerned[0]) for words, concerned in ACTIVITIES.items()},
        operations=operations,
    )


def _reaches(operation: str) -> list[Reach]:
    """Return how far an operation is open to each of the roles."""
    return [reach_of(operation, role) for role in ROLES]


@page("/settings/providers/{name:str}")
async def provider_settings(
    *,
    services: Injected,
    caller: InjectedCaller,
    examinations: InjectedExaminations,
    name: FromPath[str],
    model: FromQuery[str] = "",
) -> Response[str]:
    """Show the last examination of a provider since the server started, and the form for another.

    `model` is the one that the form named.
    """
    return await _provider(services, caller, examinations, name, model)


async def _provider(
    services: Services,
    caller: Caller,
    examinations: Examinations,
    name: str,
    model: str,
    *,
    error: str = "",
) -> Response[str]:
    lines = {line.name: line for line in _providers(services, examinations)}
    if name not in lines:
        raise NotFoundError(f"The config has no provider {name!r}.{closest(name, lines)}")
    return await _settings(
        "settings_provider.html",
        caller,
        f"/settings/providers/{name}",
        provider=lines[name],
        report=examinations.reports.get((name, model)),
        model=model,
        error=error,
        may_examine=caller.reach_of(EXAMINE) == "all",
    )


@action("/pages/settings/providers/{name:str}/conformance")
async def examine_provider(
    services: Injected,
    caller: InjectedCaller,
    examinations: InjectedExaminations,
    request: Request[Any, Any, Any],
    name: FromPath[str],
) -> Response[str] | Redirect:
    """Examine a provider, and lead to the report; or say why that could not be done."""
    model = (await read_fields(request)).get("model", "").strip()
    try:
        await examined(services, examinations, name, model)
    except NotFoundError:
        raise
    except EvalrouterError as problem:
        again = await _provider(services, caller, examinations, name, model, error=problem.message)
        return form_again(again, problem.status)
    query = f"?{urlencode({'model': model})}" if model else ""
    return done(f"/settings/providers/{quote(name)}{query}")


def _providers(services: Services, examinations: Examinations) -> list[ProviderLine]:
    reports: dict[str, list[ConformanceReport]] = {}
    for (name, _), report in examinations.reports.items():
        reports.setdefault(name, []).append(report)
    return [
        ProviderLine(
            name,
            config.kind,
            without_credentials(getattr(services.providers.get(name), "base_url", "")),
            config.models,
            reports.get(name, []),
            config == ALWAYS_THERE.get(name),
        )
        for name, config in services.config.providers.items()
    ]


def _database_bytes(storage: Storage) -> int | None:
    """Return the size of a SQLite database with its log; None for another."""
    if storage.is_postgres:
        return None
    path = storage.sqlite_path()
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


# What is installed stays as it is while a server runs, and takes most of a second to look up.


@cache
def _versions(is_postgres: bool) -> Mapping[str, str]:  # a key of the cache
    database = {} if is_postgres else {"SQLite": sqlite3.sqlite_version}
    packages = {name: installed_version(name) for name in _PACKAGES}
    return {
        "evalrouter": installed_version("evalrouter"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **database,
        **{name: version for name, version in packages.items() if version},
    }


@cache
def _missing() -> Mapping[str, list[str]]:
    return missing_packages()


@cache
def _metrics() -> list[MetricEntry]:
    return list(metrics())


@cache
def _plugins() -> list[InstalledPlugin]:
    return list(installed())


@cache
def _judges() -> Mapping[str, JudgeKind]:
    return {name: load_kind(name) for name in BUILT_IN}
