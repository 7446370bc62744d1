"""The suite's surroundings are the same whatever the caller's are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from isolation import ROOT

# What a developer, a CI runner or a cluster may have set.
HOSTILE = {
    "ANTHROPIC_API_KEY": "key",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "COLUMNS": "40",
    "EVALROUTER_CONFIG": "/nowhere",
    "FORCE_COLOR": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "POSIX",
    "OPENAI_API_KEY": "key",
    "OPENAI_BASE_URL": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "PYTHONHASHSEED": "7",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "RAY_ADDRESS": "127.0.0.1:9",
    "S3_BUCKET": "bucket",
    "TERM": "xterm-256color",
    "TZ": "Asia/Kolkata",
    "all_proxy": "socks5://127.0.0.1:9",
}

MAKE_DOCS = ("-E", "-m", "tooling")

# Prints what a child of an isolated process inherits, and its isolated parent's own view.
CHILD = """
import json, os, signal, sys
names = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGCHLD")
print(json.dumps({
    "environ": dict(os.environ),
    "home": sorted(os.listdir(os.environ["HOME"])),
    "ignored": [one for one in names if signal.getsignal(signal.Signals[one]) is signal.SIG_IGN],
    "blocked": sorted(int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "stdin": sys.stdin.read(),
    "cwd": os.getcwd(),
    "umask": os.umask(0),
}))
"""
PARENT = f"""
import os, signal, subprocess, sys
from isolation import isolate
isolate()
assert sys.stdin is not None
os.kill(os.getpid(), signal.SIGINT)  # ignored still, as the caller wanted
done = subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True, check=True)
print(done.stdout, os.environ["HOME"])
"""


def hostile(
    folder: Path, *command: str, home: Path, check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell would in the background: signals ignored, no standard input."""
    script = "trap '' INT QUIT HUP CHLD; umask 077; exec \"$@\" <&-"
    return subprocess.run(
        ["sh", "-c", script, "sh", *command],
        cwd=folder,
        env=HOSTILE
        | {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
        | environ,
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.fixture
def home(tmp_path):
    """A home folder in which a WordNet of no words is installed."""
    folder = tmp_path / "home" / "data" / "evalrouter" / "nltk_data" / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for part in ("adj", "adv", "noun", "verb"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    (folder / "index.sense").write_text("")
    return tmp_path / "home"


def test_children_inherit_nothing_of_the_caller(tmp_path, home):
    tests = str(ROOT / "tests")
    # -O would strip this test's own assertions.
    done = hostile(
        tmp_path, sys.executable, "-c", PARENT, home=home, PYTHONPATH=tests, PYTHONOPTIMIZE=""
    )
    told, _, inner_home = done.stdout.rpartition(" ")
    child = json.loads(told)
    environ = child.pop("environ")
    assert {name: environ[name] for name in ("LANG", "TZ")} == {"LANG": "C.UTF-8", "TZ": "UTC"}
    assert set(environ) & set(HOSTILE) == {"LANG", "TZ"}
    assert "XDG_DATA_HOME" not in environ
    assert environ["HOME"] == inner_home.strip() != str(home)
    assert not Path(environ["HOME"]).exists()
    assert child == {
        "home": [],
        "ignored": [],
        "blocked": [],
        "stdin": "",
        "cwd": str(ROOT),
        "umask": 0o022,
    }


def test_the_suites_own_surroundings():
    assert not set(os.environ) & (set(HOSTILE) - {"LANG", "TZ"})
    assert os.environ["HOME"] != str(Path("~root").expanduser())


def test_the_committed_pages_are_what_make_docs_generates(home):
    done = hostile(ROOT / "docs", sys.executable, *MAKE_DOCS, "--check", home=home, check=False)
    assert (done.returncode, done.stderr) == (0, "")
