"""`Config`: everything that a config file may say, section by section."""

from __future__ import annotations

import msgspec

from providers.base import Positive, ProviderConfig
from providers.http.transport import HttpLimits
from router.config.alerts import Alerts
from router.config.evaluation import Datasets, Evaluation
from router.config.evidence import Evidence
from router.config.prices import Price
from router.config.review import Review
from router.config.routes import KeepBodies, Route
from router.config.schedules import Schedule
from router.config.section import Count, Section
from router.config.server import Server
from router.config.storage import Storage
from router.config.telemetry import Telemetry
from router.config.tracking import Tracking
from router.config.watches import WatchSettings
from serve import config as hosting


class Cache(Section, frozen=True, kw_only=True):
    """The response cache of a process. It is used where a route or a request asks for it.

    Attributes:
        max_bytes: the size of all stored answers together; the least recently used go first.
        ttl: seconds, where a request asks for the cache and its route says nothing.
    """

    max_bytes: Count = 64 * 1024 * 1024
    ttl: Positive = 3600.0


class Config(Section, frozen=True, kw_only=True):
    """Everything that can be configured. See `docs/reference/config.md`.

    Attributes:
        server: see Server.
        providers: name to its config, of the class its kind names.
        environment_keys: whether a provider whose key is in its usual variable (`OPENAI_API_KEY`,
            `ANTHROPIC_API_KEY`, `GEMINI_API_KEY`, `GROQ_API_KEY`, `MISTRAL_API_KEY`,
            `OPENROUTER_API_KEY`, `TOGETHER_API_KEY`) is there under the name of its kind, although
            `providers` has none of that kind.
        routes: name to Route.
        storage: see Storage.
        datasets: see Datasets.
        evaluation: see Evaluation.
        evidence: see Evidence.
        http: limits of the HTTP client.
        prices: `provider/model` to Price; beats the built-in price book.
        record: what is stored of requests for `provider/model`, and for routes that do not say.
        cache: see Cache.
        telemetry: see Telemetry.
        tracking: see Tracking.
        review: see Review.
        watches: name to WatchSettings: requests that are sent to a target again and again.
        alerts: see Alerts.
        schedules: name to Schedule.
        models: name to the model that `evalrouter models serve` hosts, of the class its engine
            names. Runs that say `execution: ray` may load them themselves, as `models/<name>`.
    """

    server: Server = Server()
    providers: dict[str, ProviderConfig] = msgspec.field(default_factory=dict)
    environment_keys: bool = True
    routes: dict[str, Route] = msgspec.field(default_factory=dict)
    storage: Storage = Storage()
    datasets: Datasets = Datasets()
    evaluation: Evaluation = Evaluation()
    evidence: Evidence = Evidence()
    http: HttpLimits = HttpLimits()
    prices: dict[str, Price] = msgspec.field(default_factory=dict)
    record: KeepBodies = "metadata"
    cache: Cache = Cache()
    telemetry: Telemetry = Telemetry()
    tracking: Tracking = Tracking()
    review: Review = Review()
    watches: dict[str, WatchSettings] = msgspec.field(default_factory=dict)
    alerts: Alerts = Alerts()
    schedules: dict[str, Schedule] = msgspec.field(default_factory=dict)
    models: dict[str, hosting.ModelConfig] = msgspec.field(default_factory=dict)
