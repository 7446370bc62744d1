"""Options that open files say so: those of every metric are given a path, and openings are logged.

Over HTTP, only what is declared is confined (`router/evals/confinement.py`), so an option that
opens a path without saying so would let a client read any file.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from metric_options import NEEDED, declared, options

from evaluators.data.paths import is_below
from evaluators.metrics.registry import Opening, openings

# Builds and loads each metric with each option a path, and says whether something was opened there.
PROGRAM = """
import json, os, sys
from pathlib import Path

place, cases = sys.argv[1], json.loads(sys.stdin.read())
opened = []

def log(event, args):
    for one in args:
        if isinstance(one, (str, bytes, os.PathLike)) and place in os.fsdecode(one):
            opened.append(event)

def logged(call):
    def logging(*args, **options):
        log(call.__name__, args)
        return call(*args, **options)
    return logging

sys.addaudithook(log)
# A look at whether something is there is no audited event, and tells a caller something too.
os.stat, os.lstat = logged(os.stat), logged(os.lstat)
from evaluators.metrics.registry import build
found = []
for spec in cases:
    opened.clear()
    try:
        metric = build(spec)
        if hasattr(metric, "load"):
            metric.load()
    except Exception:
        pass
    found.append(bool(opened))
print(json.dumps(found))
"""


def test_an_option_that_opens_what_it_names_declares_it(tmp_path):
    """In one process, as some of their libraries take seconds to import."""
    (tmp_path / "canary.yaml").write_text("{}")
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "config.json").write_text("{}")
    paths = [str(tmp_path / "canary.yaml"), str(tmp_path / "canary")]
    cases = [
        ((name, option), {"name": name, **NEEDED.get(name, {}), option: value})
        for name, option in options()
        for value in (*paths, [paths[0]], {"x": paths[0]})
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        input=json.dumps([spec for _, spec in cases]),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    opened = {
        which
        for (which, _), seen in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True)
        if seen
    }
    undeclared = {which for which in opened if not declared(*which, str(tmp_path / "x.yaml"))}
    assert not undeclared, "give the option's type `Opens(...)`"
    # The log works: these do open what they name.
    assert opened >= {("prometheus", "rubric"), ("judge", "kind")}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("bertscore", [("model", "roberta-large", "m.model")]),
        ({"name": "bertscore", "baseline": "b.tsv"}, [
            ("model", "roberta-large", "m.model"), ("file", "b.tsv", "m.baseline"),
        ]),
        ({"name": "embedding_similarity", "route": "a/b"}, []),
        ({"name": "embedding_similarity", "model": "x"}, [("model", "x", "m.model")]),
        ({"name": "prometheus", "judge": "a/b"}, []),
        ({"name": "prometheus", "judge": "a/b", "rubric": {"criteria": "x"}}, []),
        ({"name": "prometheus", "judge": "a/b", "rubric": "x.yaml"}, [
            ("file", "x.yaml", "m.rubric"),
        ]),
        ({"name": "judge", "judge": "a/b", "kind": "style_concise"}, []),
        ({"name": "judge", "judge": "a/b", "kind": "../x.yaml"}, [("file", "../x.yaml", "m.kind")]),
        ("hf:accuracy", [("hub_metric", "accuracy", "m")]),
        ({"name": "hf:x", "path": "y"}, [("hub_metric", "x", "m"), ("program", "y", "m.path")]),
        ("file:a/b.py", [("program", "a/b.py", "m")]),
        ("f1", []),
    ],
)  # fmt: skip
def test_what_a_metric_would_open(spec, found):
    assert list(openings(spec, param="m")) == [Opening(*one) for one in found]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory `in` with links that lead out of it, and a file beside it."""
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "out.yaml").write_text("x")
    (inside / "a.yaml").write_text("x")
    (inside / "link.yaml").symlink_to(tmp_path / "out.yaml")
    (inside / "up").symlink_to(tmp_path)
    (inside / "near.yaml").symlink_to("a.yaml")
    (inside / "circle").symlink_to("circle")
    monkeypatch.chdir(inside)
    return inside


OUTSIDE = [
    "../out.yaml", "sub/../../out.yaml", "link.yaml", "up/out.yaml", "/etc/passwd", "~/x.yaml",
    "~root/x.yaml", "file:///etc/passwd", "FILE://x", "http://x/y.yaml", "..\\out.yaml",
    "C:\\x.yaml", "a\0.yaml", "a.yaml\n", "a\u202e.yaml", "circle/x", "../in2/x",
]  # fmt: skip


@pytest.mark.parametrize("named", OUTSIDE)
def test_what_is_not_below_a_folder(place, named):
    assert not is_below(named, ["."])


@pytest.mark.parametrize(
    "named", ["a.yaml", "./a.yaml", "sub/../a.yaml", "near.yaml", "not there.yaml", "%2e%2e/x", "."]
)
def test_what_is_below_a_folder(place, named):
    assert is_below(named, ["."])
    assert not is_below(named, ["sub", Path("/nowhere")])
    assert not is_below(named, [])
