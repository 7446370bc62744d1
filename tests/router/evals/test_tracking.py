"""What a run is to MLflow, and where it can be sent; `tests/mlflow` sends some."""

import json
import os
import re

import msgspec
import pytest
from servers import evalrouter
from tracked_runs import write_config, write_run

from providers.errors import ConfigError
from router.config.loading import parse
from router.evals.results import Outcome
from router.evals.tracking import mlflow_run, numbers


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path)


FAULTS = [
    ("http://jo:hunter22@mlflow:5000", "has a user or a password in it"),
    ("https://mlflow/?token=hunter22", "must have neither ? nor #"),
    ("file://hunter22/x", "must be http://HOST"),
    ("file:relative", "must be http://HOST"),
    ("mlruns", "must be http://HOST"),
    ("sqlite:///hunter22.db", "must be http://HOST"),
    ("http://", "must be http://HOST"),
    ("http://h:0", "must be http://HOST"),
    ("http://h:99999", "its host or port cannot be read"),
    ("http://[hunter22", "its host or port cannot be read"),
    ("http://h\n.x", "has characters"),
]


@pytest.mark.parametrize(("address", "why"), FAULTS)
def test_an_address_that_nothing_can_be_sent_to_is_not_repeated(address, why):
    with pytest.raises(ConfigError, match=r"tracking\.mlflow: ") as caught:
        parse(json.dumps({"tracking": {"mlflow": address}}), "c", {})
    assert why in caught.value.message
    assert "hunter22" not in caught.value.message


def test_an_address_with_a_password_is_refused_on_the_command_line_as_well(folder):
    done = evalrouter("eval", "track", "x", "--mlflow", FAULTS[0][0], check=2)
    assert "has a user or a password in it" in done.stderr
    assert "hunter22" not in done.stderr


def test_passwords_come_from_mlflows_variables():
    environ = {"MLFLOW_TRACKING_USERNAME": "jo", "MLFLOW_TRACKING_PASSWORD": "p", "X": "y"}
    tracking = parse("tracking: {username: al}", "c", environ).tracking
    assert (tracking.username, tracking.password.reveal()) == ("al", "p")
    assert "'p'" not in repr(tracking)


@pytest.fixture
def outcome(folder):
    done = evalrouter("eval", "run", folder / "run.json", "--json", *write_config(folder, ""))
    return msgspec.json.decode(done.stdout, type=Outcome)


def test_names_and_values_are_such_as_mlflow_takes(outcome, tmp_path):
    route = "r" * 300
    routes = [
        msgspec.structs.replace(outcome.report.routes[0], route=name)
        for name in ("a/b", "a:b", "a b", "é/b", "ö/b", route, f"{route}x")
    ]
    named = numbers(msgspec.structs.replace(outcome.report, routes=tuple(routes)))
    assert all(re.fullmatch(r"[\w.\-: /]{1,250}", name, re.ASCII) for name in named)
    answered = [name for name in named if name.startswith("answered/")]
    assert len(answered) == 7
    document = outcome.run.document | {"notes": "n" * 10_000}
    run = msgspec.structs.replace(outcome.run, document=document, notes="n" * 10_000)
    record = mlflow_run(outcome.__class__(run, outcome.report, []), "file:///x", "e", tmp_path)
    assert max(map(len, record.params.values())) == 5_000
    assert max(map(len, record.tags.values())) == 4_000
    assert os.fspath(tmp_path) == record.folder
