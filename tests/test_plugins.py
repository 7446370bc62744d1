"""Packages that add to evalrouter: the example of the docs, installed, and broken ones."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import serving

from evaluators.base import Answer, Sample, Scorable
from evaluators.execution.remote import RemoteScorer
from evaluators.execution.scoring import Scorer
from evaluators.execution.worker import ScoringBatch, WorkerSetup, encode
from evaluators.judge.kinds import load_kind
from evaluators.metrics.registry import build, installed_metrics, openings
from providers.errors import ConfigError, RunDocumentError
from router.config.loading import parse

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "evalrouter-shout"
CONFIG = """
server: {port: 0}
providers:
  loud: {kind: shout, mark: "?!"}
"""
RUN = """
dataset: data.jsonl
routes: [loud/loud]
metrics: [{name: shout, limit: 0.5}, please]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the example is installed in, as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
    ]
    subprocess.run([sys.executable, "-m", *install, folder, EXAMPLE], check=True)
    return folder


def package(folder, name, version, entry_points, source=""):
    """Write what an installed package leaves in a folder."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [line for group, line in entry_points for line in (f"[evalrouter.{group}]", line)]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (folder / f"{name}.py").write_text(source)
    return folder


def evalrouter(folder, *args, path, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "router", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, *sys.path]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def scored(specs, text):
    async def score():
        async with Scorer(specs) as scorer:
            item = Scorable(Sample(id="1", messages=()), Answer(text=text))
            [found] = await scorer.score([item])
            return [score.value for score in found]

    return asyncio.run(score())


def test_the_example_is_a_host_and_two_metrics_of_a_run(site, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(CONFIG)
    (tmp_path / "data.jsonl").write_text('{"input": "please be loud"}\n')
    (tmp_path / "run.yaml").write_text(RUN)
    done = evalrouter(tmp_path, "eval", "run", "run.yaml", "--json", path=[site])
    report = json.loads(done.stdout)
    [run] = json.loads(evalrouter(tmp_path, "eval", "list", "--json", path=[site]).stdout)
    assert run["metrics"] == {
        "shout": "shout|limit:0.5|v:1|evalrouter-shout:0.1.0",
        "please": "please|entry-point:evalrouter_shout:please|evalrouter-shout:0.1.0"
        "|aggregate:mean|timeout:10s",
    }
    [route] = report["report"]["routes"]
    assert {score["output"]: score["estimate"] for score in route["scores"]} == {
        "shout": 0.5,
        "please": 1.0,
    }


def test_a_server_lists_it_and_names_what_is_broken(site, tmp_path, monkeypatch):
    broken = package(
        tmp_path / "broken",
        "grumble",
        "2.0",
        [("metrics", "grumble = grumble:Grumble"), ("metrics", "rouge = grumble:Rouge")],
        "raise RuntimeError('no good\\n\\x1b[2Jat all')",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [site, broken, *sys.path])))
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "evalrouter.yaml").write_text(CONFIG)
    # A process of its own, which imports what is installed in its own folders.
    with serving(folder, before=("env",)) as server:
        message = {"role": "user", "content": "hello"}
        body = {"model": "loud/loud", "messages": [message]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "HELLO?!"
        metrics = httpx.get(f"{server.url}/eval/metrics").json()["data"]
        plugins = httpx.get(f"{server.url}/plugins").json()["data"]
        run = {"dataset": "x.jsonl", "routes": ["loud/loud"], "metrics": ["grumble"]}
        refused = httpx.post(f"{server.url}/eval", json=run)
    why = "'grumble' of the package grumble 2.0 cannot be used: RuntimeError: no good ?[2Jat all"
    taken = (
        "'rouge' of the package grumble 2.0 cannot be used: evalrouter has something of this name "
        "itself; the package must rename it"
    )
    [shout] = [entry for entry in metrics if entry["name"] == "shout"]
    assert (shout["package"], shout["version"]) == ("evalrouter-shout", "0.1.0")
    assert (shout["options"], shout["outputs"]) == (["limit"], ["shout"])
    assert [entry["package"] for entry in metrics if entry["name"] == "rouge"] == [
        "evalrouter",
        "grumble",
    ]
    assert {(one["group"], one["name"], one["error"]) for one in plugins} == {
        ("evalrouter.metrics", "shout", ""),
        ("evalrouter.metrics", "please", ""),
        ("evalrouter.metrics", "grumble", why),
        ("evalrouter.metrics", "rouge", taken),
        ("evalrouter.providers", "shout", ""),
        ("evalrouter.judges", "volume", ""),
    }
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == f"metrics[0]: {why}"
    for line in (why, taken):
        assert (
            sum(f"ERROR evalrouter.metrics: {line}" in one for one in server.log.splitlines()) == 1
        )
    assert "Traceback" not in server.log


def test_the_commands_list_plugins_and_fail_where_one_is_broken(tmp_path):
    broken = package(tmp_path / "b", "grumble", "2.0", [("metrics", "grumble = nowhere:Grumble")])
    done = evalrouter(tmp_path, "plugins", "list", path=[broken], code=1)
    assert done.stdout == (
        "'grumble' of the package grumble 2.0 cannot be used: ModuleNotFoundError: "
        "No module named 'nowhere'\n"
    )
    listed = json.loads(evalrouter(tmp_path, "metrics", "list", "--json", path=[broken]).stdout)
    assert [entry["error"] for entry in listed if entry["name"] == "grumble"] == [
        done.stdout.strip()
    ]
    shown = evalrouter(tmp_path, "metrics", "list", path=[]).stdout
    assert "rouge\n" in shown
    assert "scores: rouge1, rouge2, rougeL, rougeLsum" in shown


def test_the_doctor_names_what_is_broken_and_what_is_not(site, tmp_path):
    broken = package(tmp_path / "b", "grumble", "2.0", [("judges", "grumble = nowhere:KIND")])
    done = evalrouter(tmp_path, "doctor", "--json", path=[site, broken], code=1)
    found = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "plugins"]
    assert [(one["status"], one["message"]) for one in found if one["status"] != "ok"] == [
        (
            "failure",
            "evalrouter.judges: 'grumble' of the package grumble 2.0 cannot be used: "
            "ModuleNotFoundError: No module named 'nowhere'",
        )
    ]
    assert "evalrouter.metrics: shout of evalrouter-shout 0.1.0" in [
        one["message"] for one in found
    ]


def test_a_worker_of_a_cluster_builds_it_by_its_name(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    scorer = RemoteScorer(encode(WorkerSetup(({"name": "shout", "limit": 0.5},))))
    batch = ScoringBatch((Scorable(Sample(id="1", messages=()), Answer(text="AB")),))
    [[score]] = json.loads(scorer.score(encode(batch)))
    assert (score["output"], score["value"]) == ("shout", 0.5)


def test_options_are_checked_against_their_types(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    assert scored([{"name": "shout", "limit": 0.25}], "AB") == [0.25]
    with pytest.raises(RunDocumentError, match=r"shout: limit: .*<= 1\.0") as caught:
        build({"name": "shout", "limit": 2})
    assert caught.value.param == "metrics.limit"
    with pytest.raises(RunDocumentError, match="shout has no option 'limt'"):
        build({"name": "shout", "limt": 1})
    with pytest.raises(ConfigError, match=r"providers\.loud\.mark: expected `str`, got `int`"):
        parse("providers: {loud: {kind: shout, mark: 1}}", "c", {})
    with pytest.raises(ConfigError, match=r"unknown kind 'shoot'\..*'shout'"):
        parse("providers: {loud: {kind: shoot}}", "c", {})


def test_a_judge_of_a_package_needs_no_file_and_is_named_in_signatures(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    spec = {"name": "judge", "kind": "volume", "judge": "a/b"}
    assert "|evalrouter-shout:0.1.0|" in build(spec).signature
    assert list(openings(spec)) == []
    assert [opening.what for opening in openings({**spec, "kind": "volum"})] == ["file"]
    assert load_kind("volume").needs() == ()
    with pytest.raises(RunDocumentError, match=r"no judge is called 'volum'\..*'volume'"):
        load_kind("volum")


BAD = """
import sys
from evaluators.base import Output
class Base:
    outputs, needs_reference, signature, source = (Output(name="bad"),), False, "bad", "-"
    name = "bad"
    def score(self, sample, answer): ...
class Other(Base): name = "good"
class Strings(Base): outputs = ("bad",)
class NoMethod(Base): score = None
class Raises(Base):
    def __init__(self, *, x: int = 1): raise KeyError("x")
class Slots:
    __slots__ = ()
    name, outputs, needs_reference, signature, source = "bad", (), False, "bad", "-"
    def score(self, sample, answer): ...
class Hints(Base):
    def __init__(self, *, x: "Nowhere" = 1): ...
class Exits(Base):
    def __init__(self): sys.exit(3)
nothing = None
KIND = {"prompt": "{nothing}", "description": "-"}
"""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("bad:Other", "its metric is named 'good'; the name must be the entry point's"),
        ("bad:Strings", "its outputs must be a tuple of evaluators.base.Output"),
        ("bad:NoMethod", "has none of the methods score, score_batch, ask, judge"),
        ("bad:Raises", "KeyError: 'x'"),
        ("bad:Slots", "attribute"),
        ("bad:Hints", "NameError: name 'Nowhere' is not defined"),
        ("bad:Exits", "SystemExit: 3"),
        ("bad:nothing", "TypeError: None is not a callable object"),
        ("bad:absent", "AttributeError: module 'bad' has no attribute 'absent'"),
    ],
)
def test_what_is_no_metric_is_refused_with_its_package(tmp_path, monkeypatch, value, why):
    monkeypatch.syspath_prepend(
        package(tmp_path, "bad", "1.0", [("metrics", f"bad = {value}")], BAD)
    )
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    with pytest.raises(RunDocumentError) as caught:
        build("bad")
    message = caught.value.message
    assert message.startswith("metrics: 'bad' of the package bad 1.0 cannot be used: ")
    assert why in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("two words", "its name must be letters"),
        ("file:x", "its name must be letters"),
        ("a.yaml", "its name must be letters"),
        ("../x", "its name must be letters"),
        ("f1", "evalrouter has something of this name itself"),
    ],
)
def test_names_that_mean_something_else_are_refused(tmp_path, monkeypatch, name, why):
    # configparser ends a name at the first colon; the rest is the value.
    monkeypatch.syspath_prepend(
        package(tmp_path, "bad", "1.0", [("metrics", f"{name} = bad:Base")], BAD)
    )
    found = installed_metrics()
    assert "bad" not in {plugin.package for plugin in found.usable.values()}
    [(_, error)] = [item for item in found.refused if item[0].package == "bad"]
    assert why in str(error)


def test_two_packages_with_one_name_are_both_refused(tmp_path, monkeypatch):
    for n in "ab":
        folder = package(tmp_path / n, f"p{n}", "1.0", [("metrics", "same = p:score")])
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(RunDocumentError, match="more than one thing has this name, of pa, pb"):
        build("same")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("bad:nothing", "its entry point must name a providers.kinds.ProviderKind"),
        ("bad:NAMED", "its config must be a class below providers.base.ProviderConfig"),
        ("bad:absent", "has no attribute"),
    ],
)
def test_what_is_no_kind_of_provider_is_a_mistake_of_the_config(tmp_path, monkeypatch, value, why):
    source = BAD + "from providers.kinds import ProviderKind\nNAMED = ProviderKind(dict, dict)\n"
    monkeypatch.syspath_prepend(
        package(tmp_path, "bad", "1.0", [("providers", f"bad = {value}")], source)
    )
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    with pytest.raises(ConfigError, match=r"providers\.x\.kind: 'bad' of") as caught:
        parse("providers: {x: {kind: bad}}", "c", {})
    assert why in caught.value.message


def test_a_prompt_of_a_package_that_cannot_be_filled_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(
        package(tmp_path, "bad", "1.0", [("judges", "bad = bad:KIND")], BAD)
    )
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    with pytest.raises(RunDocumentError, match=r"judge: 'bad' of the package bad.*'nothing'"):
        load_kind("bad")
