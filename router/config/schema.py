"""The config file as frozen Structs. The only reader of the environment.

`load()` reads `evalrouter.yaml` (or the file named) and answers every mistake with file, line,
path and the closest valid key. Without a file, `embedded()` gives a default that works offline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from providers.base import NotNegative, Positive, ProviderConfig, Secret, Timeout
from providers.compatible import CompatibleConfig
from providers.errors import ConfigError, closest
from providers.http.transport import HttpLimits
from providers.kinds import KINDS
from providers.names import check_name
from providers.offline.baseline import BaselineConfig
from providers.yaml_documents import kind_of
from router.config.documents import (
    Document,
    DocumentPath,
    convert,
    parse_yaml,
    path_of,
    require_object,
)
from serve import config as hosting

S = TypeVar("S", bound=msgspec.Struct)

DEFAULT_FILE = "evalrouter.yaml"
# `models/<name>` stands for a model of the section `models:`, where a run loads it itself.
IN_PLACE = "models"

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(r"\$\$(?=\{)|\$\{(?P<name>" + _NAME + r")(?::-(?P<default>[^}]*))?\}")
_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

_S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=@-]+)*/?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# Headers of a client that are the router's own business: whose it is, how it is framed.
_NEVER_PASSED = frozenset(
    {
        *("accept", "accept-encoding", "api-key", "authorization", "connection", "cookie"),
        *("content-encoding", "content-length", "content-type", "expect", "forwarded", "host"),
        *("keep-alive", "origin", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("traceparent", "transfer-encoding", "upgrade", "x-api-key", "x-request-id"),
    }
)
# What says where a request ends or goes.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
_STICKY = "^(user|conversation|header:[A-Za-z0-9-]{1,64})$"

# SQLite's integers, and a float's whole numbers, go further.
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
_HostPattern = Annotated[str, msgspec.Meta(pattern=r"^(\*|(\*\.)?[A-Za-z0-9.:\[\]-]{1,253})$")]
_Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]{1,253})$")]
_HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything a config file may say."""


class Supports(Section, frozen=True, kw_only=True):
    """What a target can do. A request that needs more is not sent to it.

    Attributes:
        vision, tools, json_schema: whether it takes images, tools, a JSON schema to answer in.
        context: tokens of prompt and answer together; None when it need not be watched. The
            prompt is estimated at four bytes of JSON per token.
    """

    vision: bool = True
    tools: bool = True
    json_schema: bool = True
    context: _Count | None = None


class RouteTarget(Section, frozen=True, kw_only=True):
    """A model of a provider, as one arm of a route.

    Attributes:
        model: `provider/model`.
        weight: share of the route's requests, relative to the other targets'. 0 takes it out.
        max_concurrency: requests in flight at a time, per process; None for no limit.
        max_queue: requests that may wait for room; more are sent elsewhere or answered with 429.
        supports: see Supports.
        price_per_hour: US dollars that its machine costs an hour, instead of the provider's.
        reasoning: whether the model refuses what OpenAI's reasoning models refuse (`max_tokens`,
            sampling parameters), for a deployment whose name does not show it. None for what the
            provider's `reasoning` says, or else the name.
    """

    model: str
    weight: NotNegative = 1.0
    max_concurrency: _Count | None = None
    max_queue: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 100
    supports: Supports = Supports()
    price_per_hour: Positive | None = None
    reasoning: bool | None = None


class Retries(Section, frozen=True, kw_only=True):
    """How often one target is asked before the next one is.

    Attributes:
        attempts: requests per target, the first included.
        backoff: seconds before the second attempt at most (full jitter); doubles each time.
        backoff_max: seconds that a wait is never longer than, `Retry-After` included.
        budget: retries a target may get per request it gets, on average; above it, failures go on
            to the next target at once, so that retries cannot multiply an overload.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    backoff: Positive = 0.5
    backoff_max: Positive = 8.0
    budget: NotNegative = 0.2


class Breaker(Section, frozen=True, kw_only=True):
    """When to stop asking a target that keeps failing.

    Attributes:
        failures: so many in a row open the breaker. A client's own mistakes (4xx) do not count.
        open: seconds until one request is let through to see whether the target is back.
    """

    failures: _Count = 5
    open: Positive = 15.0


class Hedge(Section, frozen=True, kw_only=True):
    """A second attempt when the first one is unusually slow; the first to answer wins.

    Attributes:
        after: seconds without a byte; None means the 95th percentile of the target's own times.
        budget: share of requests that may be hedged.
    """

    after: Positive | None = None
    budget: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05


KeepBodies = Literal["none", "metadata", "full"]
# What a target may say of a request that another one can still answer: an error's code, as any host
# writes it, or a status.
FallbackOn = (
    Literal["context_length_exceeded", "content_filter"]
    | Annotated[int, msgspec.Meta(ge=400, le=499)]
)
Strategy = Literal["weighted", "round_robin", "least_busy", "lowest_latency", "cheapest"]


class RouteCache(Section, frozen=True, kw_only=True):
    """Whether a route's answers are kept, to answer the same request of the same caller again.

    Attributes:
        ttl: seconds that an answer is good for.
    """

    ttl: Positive = 3600.0


class Route(Section, frozen=True, kw_only=True):
    """A model name that clients ask for and the targets that answer it.

    Attributes:
        targets: one is chosen by the strategy; the others follow when it fails.
        strategy: `weighted` draws by weight; `round_robin` takes turns; `least_busy` takes the
            one with the fewest requests in flight; `lowest_latency` the quicker to a first byte
            of two drawn at random; `cheapest` the one with the lowest known price.
        sticky: what keeps a client on one target of a weighted route: `user` (the request's
            field), `conversation` (its first message that is not a system message) or
            `header:NAME`. None draws afresh each time.
        fallback: `provider/model` names to try, in order, when all targets failed.
        fallback_on: refusals of a request after which the next target is tried as well:
            `context_length_exceeded`, `content_filter` (the codes of errors, as hosts send them) or
            a status from 400 to 499, such as 422. Without it, only failures that are the target's
            own, and statuses 401, 402, 403, 404, 407, 408, 409 and 429, go on to the next target.
        retries, timeout, breaker: see their classes.
        hedge: see Hedge; None for no second attempts.
        record: what is kept of each request: `none`, `metadata` (who, when, which target, how long,
            how many tokens, at what cost), or `full` (its body and the answer's as well, secrets
            removed). None for the config's own `record`.
        record_sample: share of the requests whose bodies `full` keeps; of the others, metadata.
        cache: see RouteCache; None for no cache unless a request asks for it.
    """

    targets: Annotated[tuple[RouteTarget, ...], msgspec.Meta(min_length=1)]
    strategy: Strategy = "weighted"
    sticky: Annotated[str, msgspec.Meta(pattern=_STICKY)] | None = None
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[FallbackOn, ...] = ()
    retries: Retries = Retries()
    timeout: Timeout = Timeout()
    breaker: Breaker = Breaker()
    hedge: Hedge | None = None
    record: KeepBodies | None = None
    record_sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    cache: RouteCache | None = None


class Server(Section, frozen=True, kw_only=True):
    """Where the server listens and what it refuses.

    Attributes:
        host, port: the address; the default is reachable from this machine only.
        max_body_bytes: larger request bodies are answered with 413.
        drain_seconds: how long open requests may go on after SIGTERM; what is still open then is
            cut with an error, and 5 seconds later at most the process has ended.
        max_connections: connections of clients, per process; more are answered with 503. None for
            half of what the limit of open files leaves, since each may need one to a target.
        head_seconds: how long a request's headers may take, from their first byte to their last.
        body_seconds: how long every 16 KB of a request's body may take.
        send_seconds: how long a client may read nothing of a response that waits for it.
        idle_seconds: how long a connection may stay without a request.
        require_keys: whether every request needs a key even while no key exists.
        allow_anonymous: whether `evalrouter serve` may listen on an address that others can reach
            while no key exists and none is required.
        allowed_hosts: names that clients may call the server by (the header `Host`) while no key is
            required, besides this machine's own: `router.example.com`, `*.example.com`, or `*` for
            any. Without this, a page whose name is made to lead here could use the server.
        allow_origins: sites whose pages may call the server from a browser (CORS):
            `https://app.example.com`, or `*` for any.
        pass_headers: headers of clients that are sent on to providers, besides `OpenAI-Beta`,
            `OpenAI-Organization` and `OpenAI-Project`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 4000
    max_body_bytes: _Count = 32 * 1024 * 1024
    drain_seconds: Positive = 30.0
    max_connections: _Count | None = None
    head_seconds: Positive = 20.0
    body_seconds: Positive = 30.0
    send_seconds: Positive = 60.0
    idle_seconds: Positive = 75.0
    require_keys: bool = False
    allow_anonymous: bool = False
    allowed_hosts: tuple[_HostPattern, ...] = ()
    allow_origins: tuple[_Origin, ...] = ()
    pass_headers: tuple[_HeaderName, ...] = ()


class S3(Section, frozen=True, kw_only=True):
    """How S3, or a host that speaks its protocol, is reached. Needs the extra `s3`.

    What neither the file nor the variables below give, boto3 looks for in its usual places.

    Attributes:
        endpoint_url: another host than Amazon's; else `AWS_ENDPOINT_URL`.
        region: else `AWS_DEFAULT_REGION`.
        access_key_id, secret_access_key: else `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    """

    endpoint_url: str = ""
    region: str = ""
    access_key_id: Secret = Secret("")
    secret_access_key: Secret = Secret("")


class Storage(Section, frozen=True, kw_only=True):
    """Where things are kept.

    Attributes:
        database: `sqlite:///path`, relative to the working directory.
        artifacts: where datasets and exported runs are kept: a folder, relative to the working
            directory, or `s3://bucket/prefix`. Where it is not set and `S3_BUCKET` is, that bucket.
        s3: see S3.
        traffic_days: how long requests are kept on record; 0 for ever.
        required: whether `/health/ready` says no (503) while the database does not work. With
            `false` it says yes (200, `degraded`), so that load balancers go on sending requests for
            models, which are answered either way.
    """

    database: str = "sqlite:///evalrouter.db"
    artifacts: str = "./artifacts"
    s3: S3 = S3()
    traffic_days: NotNegative = 30.0
    required: bool = True

    def sqlite_path(self) -> Path:
        """The database file."""
        return Path(self.database.removeprefix("sqlite:///"))


class Datasets(Section, frozen=True, kw_only=True):
    """Where datasets may come from.

    Attributes:
        roots: folders, and addresses as `s3://bucket/prefix`, below which a request over HTTP may
            name a dataset. Commands may name any.
        max_bytes: what one dataset may have, uploaded or downloaded.
        private_addresses: whether `http://` and `https://` datasets may come from addresses that
            are not public (this machine's, this network's).
        hub: where `hf://` datasets come from; else `HF_ENDPOINT`, else `https://huggingface.co`.
        hf_token: lets requests over HTTP read the private and gated datasets of the hub that it
            opens; without it, requests read public ones only. Commands use it too, else the
            `HF_TOKEN` of whoever types them.
    """

    roots: tuple[str, ...] = (".",)
    max_bytes: _Count = 1024 * 1024 * 1024
    private_addresses: bool = False
    hub: str = ""
    hf_token: Secret = Secret("")


class Evaluation(Section, frozen=True, kw_only=True):
    """What runs that come over HTTP may open, run and connect to. Commands may name anything.

    Attributes:
        roots: folders below which they may name files: tasks, rubrics, kinds of judges, baselines.
        models: names on the Hugging Face hub, and folders, of models that their metrics may load.
            Loading a model can run code that comes with it.
        hf_metrics: metrics of the Hugging Face hub that they may use, as NAME of `hf:NAME`. Each is
            a program that runs with the server's rights, with the options that the run gives it.
        ray_addresses: what their `execution.address` may be; "" starts Ray on this machine.
    """

    roots: tuple[str, ...] = (".",)
    models: tuple[str, ...] = (
        "roberta-large",
        "microsoft/deberta-xlarge-mnli",
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-mpnet-base-v2",
    )
    # Those whose options open nothing and name no other model.
    hf_metrics: tuple[str, ...] = (
        "accuracy",
        "bleu",
        "cer",
        "chrf",
        "exact_match",
        "f1",
        "google_bleu",
        "mae",
        "matthews_correlation",
        "meteor",
        "mse",
        "pearsonr",
        "precision",
        "recall",
        "rouge",
        "sacrebleu",
        "spearmanr",
        "squad",
        "squad_v2",
        "ter",
        "wer",
    )
    ray_addresses: tuple[str, ...] = ("",)


class Rate(Section, frozen=True, kw_only=True):
    """US dollars per million tokens.

    Attributes:
        input: per million prompt tokens.
        output: per million completion tokens.
        cached_input: per million prompt tokens that the host had in its cache; None for `input`.
        cache_write: per million prompt tokens that the host put into its cache; None for `input`.
    """

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None


class LongRate(Rate, frozen=True, kw_only=True):
    """What a call costs, all of it, when its prompt is long.

    Attributes:
        above: with more prompt tokens than this.
    """

    above: _Count


class Price(Rate, frozen=True, kw_only=True):
    """What a model costs.

    Attributes:
        long: for long prompts; None when length makes no difference.
    """

    long: LongRate | None = None


class Cache(Section, frozen=True, kw_only=True):
    """The response cache of a process. It is used where a route or a request asks for it.

    Attributes:
        max_bytes: what all kept answers together may take; the least recently used go first.
        ttl: seconds, where a request asks for the cache and its route says nothing.
    """

    max_bytes: _Count = 64 * 1024 * 1024
    ttl: Positive = 3600.0


class Telemetry(Section, frozen=True, kw_only=True):
    """Where traces go. Metrics are always at `/metrics`.

    Attributes:
        otlp_endpoint: an OpenTelemetry collector's address for OTLP over HTTP, as
            `http://127.0.0.1:4318`; "" for no traces. Needs the extra `otel`.
        otlp_headers: sent with every export; their values are secrets to every log.
        service_name: what the traces call this gateway.
    """

    otlp_endpoint: str = ""
    otlp_headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    service_name: str = "evalrouter"


class Config(Section, frozen=True, kw_only=True):
    """Everything evalrouter is told. See `docs/reference/config.md`.

    Attributes:
        server: see Server.
        providers: name to its config, of the class its kind names.
        routes: name to Route.
        storage: see Storage.
        datasets: see Datasets.
        evaluation: see Evaluation.
        http: limits of the HTTP client.
        prices: `provider/model` to Price; beats the built-in price book.
        record: what is kept of requests for `provider/model`, and for routes that do not say.
        cache: see Cache.
        telemetry: see Telemetry.
        models: name to the model that `evalrouter models serve` hosts, of the class its engine
            names. Runs that say `execution: ray` may load them themselves, as `models/<name>`.
    """

    server: Server = Server()
    providers: dict[str, ProviderConfig] = {}
    routes: dict[str, Route] = {}
    storage: Storage = Storage()
    datasets: Datasets = Datasets()
    evaluation: Evaluation = Evaluation()
    http: HttpLimits = HttpLimits()
    prices: dict[str, Price] = {}
    record: KeepBodies = "metadata"
    cache: Cache = Cache()
    telemetry: Telemetry = Telemetry()
    models: dict[str, hosting.ModelConfig] = {}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the config.

    Args:
        path: the file; None means `evalrouter.yaml` if there is one, else the embedded default.
        environ: the environment; None means this process's.

    Raises:
        ConfigError: naming file, line, path and remedy.
    """
    environ = os.environ if environ is None else environ
    if path is None:
        path = Path(DEFAULT_FILE)
        if not path.exists():
            return embedded(environ)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent
        near = [item.name for item in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise ConfigError(f"{path}: no such file.{closest(path.name, near)}") from None
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path}: not UTF-8 at byte {problem.start}") from None
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None
    return parse(text, str(path), environ)


def source_of(path: Path | None) -> Path | None:
    """The file that `load(path)` reads; None when it uses the embedded default."""
    path = path or Path(DEFAULT_FILE)
    return path if path.exists() else None


def embedded(environ: Mapping[str, str]) -> Config:
    """The config without a file: baselines always, OpenAI and Mistral when their key is set."""
    text = "providers:\n"
    for name in ("openai", "mistral"):
        key = f"{name.upper()}_API_KEY"
        if environ.get(key):
            text += f'  {name}: {{kind: {name}, api_key: "${{{key}}}"}}\n'
    return parse(text, "embedded default", environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """The config in `text`. Raises ConfigError as `load` does."""

    def substitute(value: str) -> str:
        def resolve(match: re.Match[str]) -> str:
            if match["name"] is None:
                return "$"
            found = environ.get(match["name"]) or match["default"]
            if found is None:
                raise KeyError(match["name"])
            return found

        return _REFERENCE.sub(resolve, value)

    document = parse_yaml(text, source, error=ConfigError, substitute=substitute)
    if document.data is None:
        document = document._replace(data={})
    require_object(document, error=ConfigError, name="config")
    # Empty sections (`providers:` with nothing below) mean their default.
    document = document._replace(data={k: v for k, v in document.data.items() if v is not None})
    _check_top(document)
    config = Config(
        server=_section(document, "server", Server),
        storage=_with_s3(_section(document, "storage", Storage), document, environ),
        datasets=_with_hub(_section(document, "datasets", Datasets), environ),
        evaluation=_section(document, "evaluation", Evaluation),
        http=_section(document, "http", HttpLimits),
        providers=_providers(document),
        routes=_entries(document, "routes", Route),
        prices=_entries(document, "prices", Price),
        record=_scalar(document, "record", KeepBodies, "metadata"),
        cache=_section(document, "cache", Cache),
        telemetry=_section(document, "telemetry", Telemetry),
        models=_models(document, environ),
    )
    _check_meaning(document, config)
    return config


def _keys(kind: type[msgspec.Struct]) -> str:
    return ", ".join(field.name for field in msgspec.structs.fields(kind))


def _check_top(document: Document) -> None:
    known = [field.name for field in msgspec.structs.fields(Config)]
    for key in document.data:
        if key not in known:
            raise ConfigError(
                f"{document.at((key,))}: unknown key.{closest(key, known)}", param=key
            )


def _section(document: Document, name: str, kind: type[S]) -> S:
    """A section that is one Struct; its defaults when it is absent."""
    if name not in document.data:
        return kind()
    return convert(document, kind, place=(name,), error=ConfigError)


def _with_s3(storage: Storage, document: Document, environ: Mapping[str, str]) -> Storage:
    """What the file does not say, from the variables that S3's own tools read."""
    given = document.data.get("storage", {})
    if "artifacts" not in given and environ.get("S3_BUCKET"):
        storage = msgspec.structs.replace(storage, artifacts=f"s3://{environ['S3_BUCKET']}")
    s3 = S3(
        endpoint_url=storage.s3.endpoint_url or environ.get("AWS_ENDPOINT_URL", ""),
        region=storage.s3.region or environ.get("AWS_DEFAULT_REGION", ""),
        access_key_id=storage.s3.access_key_id or Secret(environ.get("AWS_ACCESS_KEY_ID", "")),
        secret_access_key=storage.s3.secret_access_key
        or Secret(environ.get("AWS_SECRET_ACCESS_KEY", "")),
    )
    return msgspec.structs.replace(storage, s3=s3)


def _with_hub(datasets: Datasets, environ: Mapping[str, str]) -> Datasets:
    hub = datasets.hub or environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return msgspec.structs.replace(datasets, hub=hub.rstrip("/"))


def _scalar(document: Document, name: str, kind: Any, default: Any) -> Any:
    """A section that is one value."""
    if name not in document.data:
        return default
    return convert(document, kind, place=(name,), error=ConfigError)


def _entries(document: Document, section: str, kind: type[Any]) -> dict[str, Any]:
    """A section that maps names to Structs, each converted under its own path."""
    entries = document.data.get(section, {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{document.at((section,))}: must map names to settings", param=section)
    return {
        name: convert(document, kind, place=(section, name), error=ConfigError) for name in entries
    }


def _providers(document: Document) -> dict[str, ProviderConfig]:
    entries = document.data.get("providers", {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{document.at(('providers',))}: must map names to settings")
    found: dict[str, ProviderConfig] = {}
    for name, entry in entries.items():
        place = ("providers", name)
        if not _ROUTE_NAME.fullmatch(name):
            raise ConfigError(
                f"{document.at(place)}: a provider's name has letters, digits and . _ : - only"
            )
        if name == IN_PLACE:
            raise ConfigError(
                f"{document.at(place)}: the name stands for the section models:; choose another",
                param=f"providers.{name}",
            )
        kind = entry.get("kind") if isinstance(entry, dict) else None
        if kind is None:
            raise ConfigError(
                f"{document.at(place)}: needs a kind: {', '.join(sorted(KINDS))}",
                param=f"providers.{name}.kind",
            )
        if kind not in KINDS:
            raise ConfigError(
                f"{document.at((*place, 'kind'))}: unknown kind {kind!r}."
                f"{closest(str(kind), KINDS)}",
                param=f"providers.{name}.kind",
            )
        found[name] = convert(document, KINDS[kind].config, place=place, error=ConfigError)
    # The floor every evaluation should beat is always at hand.
    found.setdefault("baseline", BaselineConfig(kind="baseline"))
    # Says how to start the engine for local models when it does not run.
    found.setdefault("hf", CompatibleConfig(kind="huggingface"))
    return found


def _models(document: Document, environ: Mapping[str, str]) -> dict[str, hosting.ModelConfig]:
    entries = document.data.get("models", {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{document.at(('models',))}: must map names to settings", param="models")
    found: dict[str, hosting.ModelConfig] = {}
    for name, entry in entries.items():
        place = ("models", name)
        try:
            kind = hosting.check(name, entry)
        except ConfigError as error:
            param = f"models.{name}"
            raise ConfigError(f"{document.at(place)}: {error.message}", param=param) from None
        model = convert(document, kind, place=place, error=ConfigError)
        found[name] = hosting.complete(model, environ)
    if wrong := hosting.contradiction(found):
        path, message = wrong
        raise ConfigError(f"{document.at(path)}: {message}", param=".".join(path))
    return found


def _check_meaning(document: Document, config: Config) -> None:
    """What types cannot say: names that must exist, URLs that must be URLs."""
    for n, header in enumerate(config.server.pass_headers):
        if header.lower() in _NEVER_PASSED:
            raise ConfigError(
                f"{document.at(('server', 'pass_headers', n))}: {header} is the router's own "
                "business and is not passed on",
                param="server.pass_headers",
            )
    _check_token(document, ("datasets", "hf_token"), config.datasets.hf_token)
    for name, provider in config.providers.items():
        if not isinstance(provider, CompatibleConfig):
            continue
        place = ("providers", name, "base_url")
        if provider.kind == "compatible" and not provider.base_url:
            raise ConfigError(f"{document.at(place[:2])}: a compatible host needs a base_url")
        if provider.base_url and (wrong := _wrong_with_url(provider.base_url)):
            raise ConfigError(f"{document.at(place)}: {wrong}", param=".".join(place))
        if provider.reasoning is not None:
            _check_reasoning(document, ("providers", name), name, provider)
        _check_headers(document, ("providers", name), provider)
    _check_routes(document, config.routes, config.providers)
    if "://" in config.storage.artifacts and not _S3_URL.fullmatch(config.storage.artifacts):
        raise ConfigError(
            f"{document.at(('storage', 'artifacts'))}: must be a folder or s3://bucket/prefix",
            param="storage.artifacts",
        )
    if not config.storage.database.startswith("sqlite:///"):
        raise ConfigError(
            f"{document.at(('storage', 'database'))}: must begin with sqlite:///",
            param="storage.database",
        )


_API_PATHS = ("/chat/completions", "/completions", "/embeddings", "/models", "/messages")


def _wrong_with_url(url: str) -> str:
    """Return why requests cannot be sent below a base URL; "" when they can."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that a URL cannot have; escape them (%20)"
    try:
        parts = urlsplit(url)
        # Reading it is what checks it.
        port = parts.port
    except ValueError:
        return "is not a URL: its host or port cannot be read"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "must begin with http:// or https:// and a host"
    if "@" in parts.netloc:
        return "has a user's name in it, which would not be sent; use api_key or headers"
    if parts.query or parts.fragment:
        return "must end with a path: paths of the API follow it"
    for path in _API_PATHS:
        if parts.path.rstrip("/").endswith(path):
            return f"must end before {path}, which follows it in requests"
    return ""


def _check_token(document: Document, place: DocumentPath, token: Secret) -> None:
    """Refuse a secret that is sent in a header and cannot be."""
    if not _HEADER_VALUE.fullmatch(token.reveal()):
        raise ConfigError(
            f"{document.at(place)}: has characters that no header can have, such as a line break "
            "at its end",
            param=".".join(map(str, place)),
        )


def _check_headers(document: Document, place: DocumentPath, provider: CompatibleConfig) -> None:
    """Refuse what would break a request's head. Values are secrets, so they are not shown."""
    _check_token(document, (*place, "api_key"), provider.api_key)
    for name, value in provider.headers.items():
        where = (*place, "headers", name)
        param = ".".join(map(str, where))
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{document.at(where)}: not a header's name", param=param)
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"{document.at(where)}: evalrouter sends this itself", param=param)
        if not _HEADER_VALUE.fullmatch(value.reveal()):
            raise ConfigError(
                f"{document.at(where)}: has characters that no header can have", param=param
            )


def _check_routes(
    document: Document, routes: Mapping[str, Route], providers: Mapping[str, ProviderConfig]
) -> None:
    for name, route in routes.items():
        place: DocumentPath = ("routes", name)
        if not _ROUTE_NAME.fullmatch(name):
            raise ConfigError(
                f"{document.at(place)}: a route's name has letters, digits and . _ : - only"
            )
        for n, target in enumerate(route.targets):
            at = (*place, "targets", n)
            _check_target(document, providers, (*at, "model"), target.model)
            if target.reasoning is not None:
                provider = target.model.partition("/")[0]
                _check_reasoning(document, at, provider, providers[provider])
        _check_settings_agree(document, place, route)
        for n, model in enumerate(route.fallback):
            _check_target(document, providers, (*place, "fallback", n), model)
        if not any(target.weight for target in route.targets):
            raise ConfigError(f"{document.at((*place, 'targets'))}: every weight is 0")


def parse_route(name: str, data: Any, config: Config) -> Route:
    """A route given while the server runs, checked as one of the config file is.

    Raises:
        ConfigError: naming the path within the route and the remedy.
    """
    check_name(name, "name", ConfigError)
    document = Document({"routes": {name: data}}, "", {})
    if not isinstance(data, dict):
        raise ConfigError(f"a route must be an object (got {kind_of(data)}) with {_keys(Route)}")
    routes = _entries(document, "routes", Route)
    _check_routes(document, routes, config.providers)
    found: Route = routes[name]
    return found


def _check_reasoning(
    document: Document, at: DocumentPath, name: str, provider: ProviderConfig
) -> None:
    """Refuse a setting that would change nothing. Kinds without a host may stand for any."""
    if isinstance(provider, CompatibleConfig) and not KINDS[provider.kind].reasoning:
        place = (*at, "reasoning")
        raise ConfigError(
            f"{document.at(place)}: changes nothing, since the provider {name!r} is of the kind "
            f"{provider.kind!r}, which has rules of its own for every model; leave it out",
            param=path_of(place),
        )


def _check_settings_agree(document: Document, route_place: DocumentPath, route: Route) -> None:
    """Refuse two targets of a route that are one model and say different things of it."""
    found: dict[str, bool | None] = {}
    for n, target in enumerate(route.targets):
        if found.setdefault(target.model, target.reasoning) is not target.reasoning:
            place = (*route_place, "targets", n)
            raise ConfigError(
                f"{document.at(place)}: {target.model} is a target of this route twice, with "
                "different `reasoning`; write the same in both, or make two routes",
                param=path_of(place),
            )


def _check_target(
    document: Document, providers: Mapping[str, ProviderConfig], place: DocumentPath, model: str
) -> None:
    check_name(model, document.at(place), ConfigError, param=path_of(place))
    provider, slash, rest = model.partition("/")
    if not slash or not rest:
        raise ConfigError(f"{document.at(place)}: {model!r} is not of the form provider/model")
    if provider == IN_PLACE:
        raise ConfigError(
            f"{document.at(place)}: {model} is loaded within runs only; host it with "
            "'evalrouter models serve', and name the provider that asks its host"
        )
    if provider not in providers:
        raise ConfigError(
            f"{document.at(place)}: no provider {provider!r}.{closest(provider, providers)}"
        )
