"""`storage.database`: addresses, passwords that nothing shows, and PostgreSQL's usual variables."""

from __future__ import annotations

import pytest

from providers.base import Secret
from providers.errors import ConfigError, MissingExtraError
from providers.masking import Masks
from router.config.loading import parse
from router.services import Services
from router.store.postgres import PostgresStore
from router.store.selection import store_of
from router.store.sqlite import SqliteStore

VARIABLES = {
    "POSTGRES_HOST": "db",
    "POSTGRES_PORT": "6432",
    "POSTGRES_USER": "a@b",
    "POSTGRES_PASSWORD": "p/w?",
    "POSTGRES_DB": "x y",
}


@pytest.mark.parametrize(
    ("written", "environ", "database", "password"),
    [
        ("{database: 'postgresql://u:secret99@h/d'}", {}, "postgresql://u@h/d", "secret99"),
        ("{database: 'postgres://u:p%40%2f@h:1,i:2/d?sslmode=require'}", {},
         "postgres://u@h:1,i:2/d?sslmode=require", "p@/"),
        ("{database: 'postgresql://h/d?password=a%26b&sslmode=require'}", {},
         "postgresql://h/d?sslmode=require", "a&b"),
        ("{database: 'postgresql://u@h/d', password: '${PW}'}", {"PW": "x"},
         "postgresql://u@h/d", "x"),
        ("{database: 'postgresql://u@h/d'}", VARIABLES, "postgresql://u@h/d", "p/w?"),
        ("{database: 'postgresql:///d?host=/run/pg'}", {}, "postgresql:///d?host=/run/pg", ""),
        ("{}", VARIABLES, "postgresql://a%40b@db:6432/x%20y", "p/w?"),
        ("{}", {"POSTGRES_HOST": "::1"}, "postgresql://postgres@[::1]:5432/postgres", ""),
        ("{database: 'sqlite:///a.db'}", VARIABLES, "sqlite:///a.db", ""),
        ("{}", {"POSTGRES_PASSWORD": "x"}, "sqlite:///evalrouter.db", ""),
    ],
)  # fmt: skip
def test_an_address_and_its_password_are_kept_apart(written, environ, database, password):
    storage = parse(f"storage: {written}", "c.yaml", environ).storage
    assert (storage.database, storage.password) == (database, Secret(password))
    if password:
        assert password not in repr(storage)


def test_the_password_is_masked_wherever_a_host_echoes_it():
    config = parse("storage: {database: 'postgresql://u:secret99@h/d'}", "c.yaml", {})
    assert Masks(config).mask(b"it is secret99.") == b"it is ***."


@pytest.mark.parametrize(
    ("database", "told"),
    [
        ("mysql://u:secret99@h/d", "must begin with sqlite:/// or postgresql://"),
        ("postgresql+asyncpg://u:secret99@h/d", "must begin with sqlite:/// or postgresql://"),
        ("postgresql://u:secret99@x@h/d", "%40"),
        ("postgresql://u:secret99/x@h/d", "%2F"),
        ("postgresql://u@h/d?sslpassword=secret99", "sslpassword"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_its_password(database, told):
    with pytest.raises(ConfigError) as caught:
        parse(f"storage: {{database: '{database}'}}", "c.yaml", {})
    assert "storage.database" in caught.value.message
    assert told in caught.value.message
    assert "secret99" not in caught.value.message


@pytest.mark.parametrize(
    "database", ["postgresql://h:many/d", "postgresql://u%zz@h/d", "postgresql://h/d?sslmod=x"]
)
def test_an_address_that_the_driver_refuses_is_an_error_of_the_config(database):
    storage = parse(
        f"storage: {{database: '{database}', password: secret99}}", "c.yaml", {}
    ).storage
    with pytest.raises(ConfigError, match=r"storage\.database") as caught:
        store_of(storage)
    assert "secret99" not in caught.value.message


def test_the_store_is_that_of_the_address():
    postgres = parse("storage: {database: 'postgresql://u:secret99@h:1/d'}", "c.yaml", {}).storage
    store = store_of(postgres)
    assert isinstance(store, PostgresStore)
    assert store.name == "postgresql://h:1/d"
    assert isinstance(store_of(parse("{}", "c.yaml", {}).storage), SqliteStore)


def test_a_driver_that_is_not_installed_is_named_by_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "router.store.postgres", None)
    storage = parse("storage: {database: 'postgresql://h/d'}", "c.yaml", {}).storage
    with pytest.raises(MissingExtraError, match=r"evalrouter\[postgres\]"):
        store_of(storage)


def test_sealing_without_pyarrow_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # As if it were not installed.
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    config = parse("storage: {seal_after_days: 7}", "c.yaml", {})
    with pytest.raises(MissingExtraError, match=r"seal_after_days .*evalrouter\[parquet\]"):
        Services(config)
    Services(parse("{}", "c.yaml", {}))
