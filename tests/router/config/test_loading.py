"""The config file: what it accepts, and how it says what is wrong."""

import sys
from collections import Counter
from contextlib import contextmanager

import pytest

from providers.compatible import CompatibleConfig
from providers.errors import ConfigError
from router.config.documents import Document, convert
from router.config.loading import embedded, load, parse
from router.config.routes import RouteTarget, parse_route

GOOD = """
server:
  port: ${PORT:-4001}
  host: "${HOST:-127.0.0.1}"
providers:
  openai: {kind: openai, api_key: "${OPENAI_API_KEY}", organization: org-1}
  lab: {kind: compatible, base_url: "http://10.0.0.7:9000/v1", headers: {x-team: "t$${X}"}}
routes:
  summarizer:
    targets:
      - {model: openai/gpt-4o-mini, weight: 90}
      - {model: lab/mistral, weight: 10}
    fallback: [baseline/lead-3]
    retries: {attempts: 2}
    timeout: {connect: 2, first_byte: 30, total: 600}
storage: {database: "sqlite:///my.db"}
prices: {openai/gpt-4o-mini: {input: 0.15, output: 0.6}}
"""
ENV = {"OPENAI_API_KEY": "sk-very-secret", "PORT": "5005"}


def test_a_whole_config_with_the_environment_in_it():
    config = parse(GOOD, "c.yaml", ENV)
    assert config.server.port == 5005
    assert config.server.host == "127.0.0.1"
    openai, lab = config.providers["openai"], config.providers["lab"]
    assert isinstance(openai, CompatibleConfig)
    assert openai.api_key.reveal() == "sk-very-secret"
    assert isinstance(lab, CompatibleConfig)
    assert lab.headers["x-team"].reveal() == "t${X}"
    assert [arm.weight for arm in config.routes["summarizer"].targets] == [90, 10]
    assert config.prices["openai/gpt-4o-mini"].output == 0.6
    assert str(config.storage.sqlite_path()) == "my.db"


def test_the_baseline_is_there_without_being_named():
    assert parse("", "c.yaml", {}).providers["baseline"].kind == "baseline"


def test_secrets_are_in_no_repr():
    shown = repr(parse(GOOD, "c.yaml", ENV))
    assert "sk-very-secret" not in shown
    assert "t${X}" not in shown
    assert "Secret('***')" in shown


def test_embedded_default_takes_providers_from_the_environment():
    always = {"baseline", "hf"}
    assert set(embedded({}).providers) == always
    assert set(embedded({"MISTRAL_API_KEY": "x"}).providers) == always | {"mistral"}
    assert set(embedded({"OPENAI_API_KEY": "x"}).providers) == always | {"openai"}


def test_a_key_in_the_environment_counts_beside_a_file_too():
    environ = {"GROQ_API_KEY": "gsk-1", "OPENAI_API_KEY": "sk-1", "MISTRAL_API_KEY": ""}
    text = "providers: {mine: {kind: openai, api_key: sk-2}}\n"
    text += "routes: {r: {targets: [{model: groq/m}]}}"
    providers = parse(text, "c.yaml", environ).providers
    # One of the kind `openai` is configured, and says which key it wants.
    assert set(providers) == {"baseline", "hf", "mine", "groq"}
    assert providers["groq"].api_key.reveal() == "gsk-1"
    assert set(parse("environment_keys: false", "c.yaml", environ).providers) == {"baseline", "hf"}
    taken = parse("providers: {groq: {kind: baseline}}", "c.yaml", environ)
    assert taken.providers["groq"].kind == "baseline"


def test_a_key_in_the_environment_that_cannot_be_sent_is_named_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        embedded({"GROQ_API_KEY": "gsk-1\n"})
    assert "GROQ_API_KEY has characters that no header can have" in caught.value.message
    assert "gsk-1" not in caught.value.message


def test_a_route_to_a_provider_without_its_key_names_the_variable():
    with pytest.raises(ConfigError, match=r"no provider 'openai'\. Set OPENAI_API_KEY, or"):
        parse("routes: {r: {targets: [{model: openai/gpt-4o-mini}]}}", "c.yaml", {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("routs: {}", ["c.yaml:1: routs", "unknown key", "'routes'"]),
        ("server:\n  prot: 1", ["c.yaml:2: server.prot", "'port'"]),
        ("server: {port: many}", ["c.yaml:1: server.port", "int"]),
        ("server: {port: 0x" + "f" * 5000 + "}", ["c.yaml:1: server.port", "put a text in quotes"]),
        ("server: {port: 70000}", ["server.port", "65535"]),
        ("server: {port: 1, port: 2}", ["server.port is written twice"]),
        ("providers: {a: {kind: opnai}}", ["providers.a.kind", "'opnai'", "'openai'"]),
        ("providers: {a: {}}", ["providers.a", "needs a kind", "mistral"]),
        ("providers: {a: {kind: openai, api_kye: x}}", ["providers.a.api_kye", "'api_key'"]),
        ("providers: {a: {kind: openai, api_key: 7}}", ["providers.a.api_key", "str"]),
        ("providers: {a: {kind: openai, api_key: '${NOPE}'}}", ["a.api_key", "no NOPE"]),
        ("providers: {a: {kind: compatible}}", ["providers.a", "base_url"]),
        ("providers: {a: {kind: vllm, base_url: 'localhost'}}", ["a.base_url", "http://"]),
        ("providers: {a: {kind: vllm, base_url: 'http://h/v1 x'}}", ["a.base_url", "%20"]),
        ("providers: {a: {kind: vllm, base_url: 'http://h/ü'}}", ["a.base_url", "escape"]),
        ("providers: {a: {kind: vllm, base_url: 'http://h:99999'}}", ["a.base_url", "not a URL"]),
        ("providers: {a: {kind: vllm, base_url: 'http://[::1'}}", ["a.base_url", "not a URL"]),
        ("providers: {a: {kind: vllm, base_url: 'http://:80/v1'}}", ["a.base_url", "host"]),
        ("providers: {a: {kind: vllm, base_url: 'http://u:p@h/v1'}}", ["a.base_url", "api_key"]),
        ("providers: {a: {kind: vllm, base_url: 'http://h/v1?x=y'}}", ["a.base_url", "path"]),
        ('providers: {a: {kind: vllm, api_key: "k\\n"}}', ["a.api_key", "line break"]),
        ('providers: {a: {kind: vllm, api_key: "k\\r\\nhost: x"}}', ["a.api_key", "line break"]),
        ("providers: {a: {kind: vllm, api_key: '嘊'}}", ["a.api_key"]),
        ("providers: {a: {kind: vllm, headers: {'x a': b}}}", ["a.headers", "name"]),
        ("providers: {a: {kind: vllm, headers: {Content-Length: '5'}}}", ["headers", "itself"]),
        ('providers: {a: {kind: vllm, headers: {x: "a\\nb: c"}}}', ["a.headers.x", "no header"]),
        ("providers: {a/b: {kind: vllm}}", ["providers.a/b"]),
        ("providers: [1]", ["providers", "map"]),
        ("routes: {r: {targets: []}}", ["routes.r.targets", "length"]),
        ("routes: {r: {targets: [{model: lead-3}]}}", ["targets[0].model", "provider/model"]),
        ("routes: {r: {targets: [{model: basline/x}]}}", ["targets[0].model", "'baseline'"]),
        ("routes: {r: {targets: [{model: baseline/lead-2}]}}", ["[0].model", "no model 'lead-2'"]),
        ("routes: {r: {targets: [{model: hf/x}], fallback: [y/z]}}", ["fallback[0]", "'y'"]),
        ("routes: {r: {targets: [{model: baseline/echo, weight: 0}]}}", ["targets", "weight"]),
        ("routes: {r: {targets: [{model: baseline/echo, wieght: 1}]}}", ["[0].wieght", "'weight'"]),
        ("routes: {'a/b': {targets: [{model: baseline/echo}]}}", ["routes.a/b"]),
        ("storage: {database: 'mysql://x'}", ["storage.database", "sqlite:///"]),
        ("- 1", ["must be an object (got an array)"]),
        ("a: [", ["c.yaml:1:", "not valid YAML"]),
        ("server: &a {host: *a}", ["nested"]),
    ],
)
def test_every_mistake_names_its_place_and_a_remedy(text, told):
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    for part in told:
        assert part in caught.value.message


BAD = """
routs: {}
server: {port: many, prot: 1, pass_headers: [host]}
providers:
  a: {kind: opnai}
  b: {kind: compatible, base_url: h, api_key: "${NO_KEY}", headers: {"x y": z, host: h}}
  c: {kind: vllm, base_url: localhost}
  d: {api_key: x}
  e: {kind: "${NO_KIND}"}
  f: "${NO_ENTRY}"
  f: twice
  g: {kind: compatible, api_kye: x}
  h: {kind: compatible, base_url: 1}
routes:
  r:
    targets: [{model: baseline/echo, wieght: 1}, {weight: -1}, {}]
    retries: {attempts: 99}
    cache: {ttl: soon, tll: 1}
  s: {targets: [{model: baslin/x}, {model: a/x}, {model: e/x}, {model: y/z}], fallback: [q]}
  "t/t": {targets: [{model: baseline/echo, weight: 0}]}
  "u/u": {targets: [{model: baslin/x, weight: -1}], fallbck: 1}
storage: {database: "mysql://x", artifacts: "s4://x"}
datasets: {hf_token: "a\\nb"}
models: {m: {engine: vlm}, n: {engine: "${NO_ENGINE}"}, o: {engine: vllm}, p: {engine: [1]}}
prices: {a/b: {input: free}}
record: all
"""


def test_every_mistake_is_named_at_once_in_the_order_of_the_file():
    with pytest.raises(ConfigError) as caught:
        parse(BAD, "c.yaml", {})
    places = [line.removeprefix("c.yaml:").partition(" ") for line in BAD_PLACES.split("\n")]
    lines = caught.value.message.split("\n")
    assert len(lines) == len(places), caught.value.message
    for line, (number, _, rest) in zip(lines, places, strict=True):
        assert line.startswith(f"c.yaml:{number}: {rest}"), caught.value.message
    assert caught.value.param == "routs"


# What could not be read makes no second problem: of `e`, of `f`, of `n`, of routes to them.
BAD_PLACES = """\
2 routs: unknown key. Did you mean 'routes'?
3 server.port: expected `int`
3 server.prot: unknown key
3 server.pass_headers[0]: host is handled by the router itself
5 providers.a.kind: unknown kind 'opnai'
6 providers.b.api_key: the environment has no NO_KEY
6 providers.b.base_url: must begin with http://
6 providers.b.headers.x y: not a header's name
6 providers.b.headers.host: evalrouter sends this itself
7 providers.c.base_url: must begin with http://
8 providers.d: needs a kind
9 providers.e.kind: the environment has no NO_KIND
10 providers.f: the environment has no NO_ENTRY
11 providers.f is written twice
12 providers.g.api_kye: unknown key
12 providers.g.base_url: a compatible host needs one
13 providers.h.base_url: expected `str`
16 routes.r.targets[0].wieght: unknown key
16 routes.r.targets[1].weight: expected `float` >= 0
16 routes.r.targets[1]: object missing required field `model`
16 routes.r.targets[2]: object missing required field `model`
17 routes.r.retries.attempts: expected `int` <= 10
18 routes.r.cache.ttl: expected `float`
18 routes.r.cache.tll: unknown key
19 routes.s.targets[0].model: no provider 'baslin'. Did you mean 'baseline'?
19 routes.s.targets[3].model: no provider 'y'
19 routes.s.fallback[0]: 'q' is not of the form provider/model
20 routes.t/t: a route's name
20 routes.t/t.targets: every weight is 0
21 routes.u/u.targets[0].weight: expected `float` >= 0
21 routes.u/u.fallbck: unknown key
21 routes.u/u: a route's name
21 routes.u/u.targets[0].model: no provider 'baslin'
22 storage.artifacts: must be a folder or s3://
22 storage.database: must begin with sqlite:/// or postgresql://
23 datasets.hf_token: has characters that no header can have
24 models.n.engine: the environment has no NO_ENGINE
24 models.m: unknown engine 'vlm'
24 models.o: object missing required field `source`
24 models.p: unknown engine [1]
25 prices.a/b.input: expected `float`
25 prices.a/b: object missing required field `output`
26 record: 'all' is not one of none, metadata, full"""


def test_a_long_list_of_mistakes_ends():
    routes = ", ".join(f"r{n}: {{targets: 1, x: 2}}" for n in range(500))
    with pytest.raises(ConfigError) as caught:
        parse(f"routes: {{{routes}}}", "c.yaml", {})
    lines = caught.value.message.split("\n")
    assert 100 <= len(lines) < 1100
    assert lines[-1] == "there may be more"


@contextmanager
def called():
    """Counts the functions of Python that are called."""
    counts = Counter()
    sys.setprofile(lambda _frame, event, _argument: counts.update((event,)))
    try:
        yield counts
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("targets", {"model": "baseline/echo"}),
        ("targets", {"modell": 1, "weight": -1}),
        ("fallback", "baseline/echo"),
        ("fallback", 1),
        ("fallback_on", 422),
        ("share_bodies_with", "baseline"),
    ],
)
def test_of_a_list_that_is_too_long_nothing_is_looked_at(key, item):
    """Checking each of 100,000 took seconds, of the event loop where they came over HTTP."""
    data = {"targets": [{"model": "baseline/echo"}], key: [item] * 100_000}
    providers = parse("", "c.yaml", {}).providers
    with pytest.raises(ConfigError) as caught, called() as calls:
        parse_route("r", data, providers)
    expected = f"routes.r.{key}: expected an array of at most 256 (got 100,000)"
    assert caught.value.message == expected
    assert calls["call"] < 1000


def test_what_is_right_is_not_looked_into_for_a_mistake_beside_it():
    targets = [{"model": "baseline/echo", "supports": {"vision": True}}] * 2000
    document = Document([*targets, {"model": "a/b", "weigth": 1}], "", {})
    with pytest.raises(ConfigError, match=r"\[2000\]\.weigth: unknown key"), called() as calls:
        convert(document, list[RouteTarget], error=ConfigError)
    assert calls["call"] < 5 * 2000


def test_a_route_over_http_is_told_all_that_is_wrong_with_it():
    data = {
        "targets": [{"model": "basline/x", "weight": 0}, {"model": "q", "weight": 0}],
        "fallback": ["y/z"],
    }
    with pytest.raises(ConfigError) as caught:
        parse_route("r", data, parse("", "c.yaml", {}).providers)
    assert caught.value.param == "routes.r.targets[0].model"
    assert [text.partition(": ")[0] for text in caught.value.message.split("; ")] == [
        "routes.r.targets[0].model",
        "routes.r.targets[1].model",
        "routes.r.fallback[0]",
        "routes.r.targets",
    ]


def test_a_wrong_secret_is_not_repeated_in_the_message():
    with pytest.raises(ConfigError) as caught:
        parse("providers: {a: {kind: openai, api_key: [sk-oops]}}", "c.yaml", {})
    assert "sk-oops" not in caught.value.message


def test_a_missing_file_offers_its_neighbours(tmp_path):
    (tmp_path / "evalrouter.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such file.*evalrouter\.yaml"):
        load(tmp_path / "evalruoter.yaml", {})


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        load(tmp_path / "c.yaml", {})
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path, {})


def test_no_file_means_the_embedded_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(load(None, {}).providers) == {"baseline", "hf"}
    (tmp_path / "evalrouter.yaml").write_text("server: {port: 1234}")
    assert load(None, {}).server.port == 1234


@pytest.mark.parametrize(
    "entry", ["content_filtre", 399, 500, "422", "rate_limit", 422.5, "[]", "true", "null"]
)
def test_fallback_on_takes_known_codes_and_client_statuses(entry):
    text = "routes: {{r: {{targets: [{{model: baseline/echo}}], fallback_on: [{}]}}}}"
    entry = f'"{entry}"' if entry == "422" else entry
    with pytest.raises(ConfigError, match=r"fallback_on"):
        parse(text.format(entry), "c.yaml", {})
    found = parse(text.format("content_filter, context_length_exceeded, 422"), "c.yaml", {})
    assert found.routes["r"].fallback_on == ("content_filter", "context_length_exceeded", 422)


@pytest.mark.parametrize("entry", ["first_byte: 0", "total: -1", "total: .nan", "totel: 1"])
@pytest.mark.parametrize("section", ["providers", "routes"])
def test_time_outs_are_checked_in_both_places(section, entry):
    texts = {
        "providers": "providers: {{p: {{kind: baseline, timeout: {{{}}}}}}}",
        "routes": "routes: {{r: {{targets: [{{model: baseline/echo}}], timeout: {{{}}}}}}}",
    }
    with pytest.raises(ConfigError, match="timeout"):
        parse(texts[section].format(entry), "c.yaml", {})


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/embeddings/", "/models", "/v1/messages", "/completions"]
)
def test_a_base_url_ends_before_the_paths_of_the_api(path):
    text = f"providers: {{a: {{kind: compatible, base_url: 'http://h.example{path}'}}}}"
    with pytest.raises(ConfigError, match=r"base_url.* must end before /"):
        parse(text, "test", {})
