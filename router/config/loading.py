"""Reads the config file. The only reader of the environment.

`load()` reads `evalrouter.yaml` (or the file named, or that of `EVALROUTER_CONFIG`) and answers all
mistakes in it, each with file, line, path and the closest valid key. Without a file, `embedded()`
gives a default that works offline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from providers.errors import ConfigError, closest
from providers.http.transport import HttpLimits
from router.config import environment
from router.config.alerts import Alerts, alert_problems
from router.config.documents import UNREAD, Problem, read_text, read_yaml, refusal, require_object
from router.config.evaluation import Datasets, Evaluation, evaluation_problems, with_hub
from router.config.evidence import Evidence
from router.config.prices import Price
from router.config.providers import read_providers, token_problems
from router.config.review import Review, review_problems
from router.config.routes import KeepBodies, Route, route_problems
from router.config.schedules import Schedule, schedule_problems
from router.config.schema import Cache, Config
from router.config.section import SectionReader
from router.config.server import Server, server_problems
from router.config.storage import Storage, storage_problems, with_environment
from router.config.telemetry import Telemetry, telemetry_problems
from router.config.tracking import Tracking, tracking_problems, with_variables
from router.config.watches import WatchSettings, watch_problems
from serve import config as hosting

DEFAULT_FILE = "evalrouter.yaml"


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the config.

    Args:
        path: the file; None means that of `EVALROUTER_CONFIG`, else `evalrouter.yaml` if there is
            one, else the embedded default.
        environ: the environment; None means this process's.

    Raises:
        ConfigError: naming everything that is wrong, each with file, line, path and remedy.
    """
    environ = os.environ if environ is None else environ
    path = source_of(path, environ)
    if path is None:
        return embedded(environ)
    return parse(read_text(path, error=ConfigError), str(path), environ)


def source_of(path: Path | None, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file that `load(path)` reads; None when it uses the embedded default."""
    environ = os.environ if environ is None else environ
    named = environ.get(environment.CONFIG)
    if path is None and named:
        path = Path(named)
    if path is not None:
        return path
    default = Path(DEFAULT_FILE)
    return default if default.exists() else None


def unread_variables(path: Path | None = None) -> list[str]:
    """Return a warning for each variable of this process's EVALROUTER_... that nothing reads.

    Args:
        path: as in `load`, which has read it.
    """
    return environment.unread_variables(os.environ, _text_of(path))


def answered_variables(path: Path | None = None) -> list[str]:
    """Return what to do in place of variables of Lumigator's that this process has.

    Args:
        path: as in `load`, which has read it.
    """
    return environment.answered_variables(os.environ, _text_of(path))


def _text_of(path: Path | None) -> str:
    source = source_of(path)
    return "" if source is None else read_text(source, error=ConfigError)


def embedded(environ: Mapping[str, str]) -> Config:
    """Return the config without a file: baselines, and the providers with a key in `environ`."""
    return parse("", "embedded default", environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """Return the config in `text`. Raises ConfigError as `load` does."""

    def substitute(value: str) -> str:
        return _substitute(value, environ)

    document, problems = read_yaml(text, source, error=ConfigError, substitute=substitute)
    if document.data is None:
        document = document._replace(data={})
    require_object(document, error=ConfigError, name="config")
    # Empty sections (`providers:` with nothing below) mean their default.
    document = document._replace(data={k: v for k, v in document.data.items() if v is not None})
    config = _read(SectionReader(document, problems), environ)
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise refusal(problems, ConfigError, separator="\n")
    return config


def _substitute(value: str, environ: Mapping[str, str]) -> str:
    """Return a scalar with the environment in it. Raises KeyError with the names that lack one."""
    missing: dict[str, None] = {}

    def resolve(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        text = environ.get(match["name"]) or match["default"]
        if text is None:
            missing[match["name"]] = None
        return text or ""

    text = environment.REFERENCE.sub(resolve, value)
    if missing:
        raise KeyError(*missing)
    return text


def _read(reader: SectionReader, environ: Mapping[str, str]) -> Config:
    """Return the config; where something is wrong, all of it is among the reader's problems."""
    document, data = reader.document, reader.document.data
    known = [field.name for field in msgspec.structs.fields(Config)]
    for key in data:
        if key not in known:
            reader.refuse((key,), f"unknown key.{closest(key, known)}")
    environment_keys = reader.scalar("environment_keys", bool, default=True)
    providers = read_providers(reader, environ if environment_keys else {})
    routes = reader.entries("routes", Route)
    server = reader.section("server", Server)
    storage = reader.section("storage", Storage)
    datasets = reader.section("datasets", Datasets)
    server = _with_admin_key(reader, server, environ)
    reader.add(server_problems(document, server))
    reader.add(token_problems(document, ("datasets", "hf_token"), datasets.hf_token))
    if providers is not None:
        for name, route in routes.items():
            reader.add(route_problems(reader, name, route, providers, routes))
    section = data.get("storage")
    storage = with_environment(storage, section if isinstance(section, dict) else {}, environ)
    reader.add(storage_problems(document, storage))
    tracking = reader.section("tracking", Tracking)
    reader.add(tracking_problems(document, tracking))
    telemetry = reader.section("telemetry", Telemetry)
    reader.add(telemetry_problems(document, telemetry))
    review = reader.section("review", Review)
    reader.add(review_problems(document, review, providers, routes))
    watches = reader.entries("watches", WatchSettings)
    reader.add(watch_problems(document, watches, providers, routes))
    schedules = reader.entries("schedules", Schedule)
    reader.add(schedule_problems(reader, schedules))
    alerts = reader.section("alerts", Alerts)
    named: dict[str, Collection[str]] = {"route": routes, "watch": watches, "schedule": schedules}
    reader.add(alert_problems(document, alerts, providers, named))
    evaluation = reader.section("evaluation", Evaluation)
    reader.add(evaluation_problems(document, evaluation, server, storage))
    return Config(
        server=server,
        storage=storage,
        datasets=with_hub(datasets, environ),
        evaluation=evaluation,
        evidence=reader.section("evidence", Evidence),
        http=reader.section("http", HttpLimits),
        providers={
            name: provider for name, provider in (providers or {}).items() if provider is not None
        },
        environment_keys=environment_keys,
        routes=routes,
        prices=reader.entries("prices", Price),
        record=reader.scalar("record", KeepBodies, "metadata"),
        cache=reader.section("cache", Cache),
        telemetry=telemetry,
        tracking=with_variables(tracking, environ),
        review=review,
        watches=watches,
        alerts=alerts,
        schedules=schedules,
        models=_read_models(reader, environ),
    )


def _with_admin_key(reader: SectionReader, server: Server, environ: Mapping[str, str]) -> Server:
    """Return the server with the first administrator's key, which may be in the environment."""
    try:
        key = environment.read_admin_key(server.admin_key, environ)
    except ConfigError as error:
        reader.add([Problem(("server", "admin_key"), 0, error.message)])
        return server
    return msgspec.structs.replace(server, admin_key=key)


def _is_unread(entry: Any) -> bool:
    """Return whether a model's entry, or its engine, is a scalar that could not be read."""
    return (entry.get("engine") if isinstance(entry, dict) else entry) is UNREAD


def _read_models(
    reader: SectionReader, environ: Mapping[str, str]
) -> dict[str, hosting.ModelConfig]:
    models: dict[str, hosting.ModelConfig] = {}
    for name, entry in (reader.named("models") or {}).items():
        place = ("models", name)
        if _is_unread(entry):
            continue
        try:
            model = reader.convert(place, hosting.type_of(name, entry))
            if model is not None and not reader.is_wrong(place):
                models[name] = hosting.with_gpus(model, environ)
        except ConfigError as error:
            reader.refuse(place, error.message)
    for contradiction in hosting.contradictions(models):
        reader.refuse(*contradiction)
    return models
