"""The config as people may see it: no secret in it, and variables without their values."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from providers.base import Secret
from router.config.loading import load, parse
from router.config.schema import Config
from router.config.shown import HIDDEN, ShownConfig, without_credentials

TEXT = """
server: {port: 4123, admin_key: "${ADMIN}"}
storage: {database: "postgresql://u:pg-password@db/e"}
providers:
  one: {kind: openai, api_key: sk-literal-secret}
  two: {kind: openai, api_key: "${KEY}", base_url: "https://${HOST:-h.example}/v1"}
  three:
    kind: compatible
    base_url: "https://host.example/v1"
    headers: {authorization: "Bearer header-secret", x-team: a-team}
routes:
  r: {targets: [{model: one/m}, {model: two/m, weight: 3}]}
"""
ENVIRON = {"KEY": "sk-from-environment", "ADMIN": "a" * 40, "HOST": "internal.example"}
SECRETS = (
    *ENVIRON.values(),
    *("sk-literal-secret", "pg-password", "header-secret", "a-team"),
)


def test_no_secret_is_shown_and_no_value_of_a_variable(tmp_path):
    path = tmp_path / "evalrouter.yaml"
    path.write_text(TEXT)
    shown = ShownConfig(load(path, ENVIRON), path).sections()
    whole = "\n".join(shown.values())
    assert [secret for secret in SECRETS if secret in whole] == []
    assert set(shown) - {"datasets"} == {"server", "storage", "providers", "routes"}
    providers = yaml.safe_load(shown["providers"])
    assert providers["one"]["api_key"] == HIDDEN
    assert providers["two"]["api_key"] == "${KEY}"
    assert providers["two"]["base_url"].startswith("https://${HOST:-h.example}/v1")
    assert providers["three"]["base_url"] == "https://host.example/v1"
    assert yaml.safe_load(shown["server"]) == {"port": 4123, "admin_key": "${ADMIN}"}
    targets = yaml.safe_load(shown["routes"])["r"]["targets"]
    assert targets == [{"model": "one/m"}, {"model": "two/m", "weight": 3.0}]


def test_a_file_that_changed_so_that_it_cannot_be_read_shows_nothing(tmp_path):
    path = tmp_path / "evalrouter.yaml"
    path.write_text(TEXT)
    config = load(path, ENVIRON)
    path.write_text("{")
    assert ShownConfig(config, path).sections() == {}
    path.unlink()
    assert ShownConfig(config, path).sections() == {}


def test_without_a_file_secrets_are_hidden_too():
    shown = ShownConfig(parse(TEXT, "test.yaml", ENVIRON), None).sections()
    whole = "\n".join(shown.values())
    for secret in (*SECRETS[3:], ENVIRON["KEY"], ENVIRON["ADMIN"]):
        assert secret not in whole
    assert ShownConfig(parse("", "", {}), None).sections().keys() <= {"datasets"}


def test_providers_that_nobody_configured_are_not_shown(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("providers: {baseline: {kind: baseline}, up: {kind: openai}}")
    shown = yaml.safe_load(ShownConfig(load(path, {}), path).sections()["providers"])
    assert list(shown) == ["baseline", "up"]


def test_a_large_section_is_cut():
    routes = {f"r{n}": {"targets": [{"model": f"up/{'x' * 100}"}]} for n in range(2000)}
    document = {"providers": {"up": {"kind": "ollama"}}, "routes": routes}
    config = parse(yaml.safe_dump(document), "test.yaml", {})
    text = ShownConfig(config, None).sections()["routes"]
    assert len(text) < 51_000
    assert "characters" in text.splitlines()[-1]


def secrets_of(kind, place=()):
    """The places of all secrets of a config's type."""
    for field in msgspec.structs.fields(kind):
        where = (*place, field.name)
        if field.type is Secret:
            yield where
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from secrets_of(field.type, where)


def test_every_secret_of_every_section_is_hidden():
    places = list(secrets_of(Config))
    assert ("server", "admin_key") in places
    for place in places:
        config = Config()
        section = getattr(config, place[0])
        config = msgspec.structs.replace(config, **{place[0]: _with(section, place[1:])})
        whole = "\n".join(ShownConfig(config, None).sections().values())
        assert "hunter2-hunter2" not in whole
        assert HIDDEN in whole, place


def _with(section, place):
    if len(place) == 1:
        inner = Secret("hunter2-hunter2")
    else:
        inner = _with(getattr(section, place[0]), place[1:])
    return msgspec.structs.replace(section, **{place[0]: inner})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("https://a.example/v1", "https://a.example/v1"),
        ("https://a.example:8000/v1", "https://a.example:8000/v1"),
        ("https://k@a.example/v1", "https://***@a.example/v1"),
        ("https://u:p@a.example/?x=y", "https://***@a.example/?***"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("http://[::1/v1", "***"),
    ],
)
def test_credentials_of_addresses(text, shown):
    assert without_credentials(text) == shown
