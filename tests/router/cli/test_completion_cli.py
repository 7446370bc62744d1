"""Shell completion: what click proposes for our commands, and bash with the printed script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from router.cli import main

CONFIG = """
providers: {up: {kind: vllm, models: [one, "two words"]}}
routes: {assistant: {targets: [{model: up/one}]}, helper: {targets: [{model: up/one}]}}
"""
DOCUMENT = """
dataset: rows.jsonl
routes: [baseline/echo]
metrics: [length]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def proposed(*args, incomplete=""):
    shell = BashComplete(main, {}, "evalrouter", "_EVALROUTER_COMPLETE")
    return [item.value for item in shell.get_completions([*args], incomplete)]


def test_commands_and_options_are_proposed():
    assert proposed(incomplete="do") == ["doctor"]
    assert proposed("chat", "m", incomplete="--sys") == ["--system"]
    assert proposed("completion") == ["bash", "zsh", "fish"]


def test_routes_and_listed_models_are_proposed():
    Path("evalrouter.yaml").write_text(CONFIG)
    assert proposed("chat", incomplete="a") == ["assistant"]
    assert proposed("chat", incomplete="up/") == ["up/one"]
    assert "baseline/lead-3" in proposed("chat", incomplete="baseline/")
    assert proposed("providers", "test", incomplete="u") == ["up"]
    Path("other.yaml").write_text("routes: {mine: {targets: [{model: baseline/echo}]}}")
    assert proposed("chat", "--config", "other.yaml", incomplete="m") == ["mine"]


def test_runs_are_proposed_and_nothing_is_created(folder):
    assert proposed("eval", "show", incomplete="run_") == []
    assert list(folder.iterdir()) == []
    Path("rows.jsonl").write_text('{"input": "a"}\n')
    Path("run.yaml").write_text(DOCUMENT)
    done = CliRunner().invoke(main, ["eval", "run", "run.yaml"])
    assert done.exit_code == 0, done.output
    [run_id] = proposed("eval", "show", incomplete="run_")
    assert run_id.startswith("run_")
    assert proposed("eval", "compare", incomplete=run_id[:-1]) == [run_id]
    assert proposed("eval", "show", incomplete="x") == []


@pytest.mark.parametrize("text", ["routs: {}", "storage: {database: 'postgresql://h/x'}"])
def test_where_nothing_can_be_read_nothing_is_proposed(folder, text):
    Path("evalrouter.yaml").write_text(text)
    Path("evalrouter.db").write_bytes(b"no database")
    assert proposed("eval", "show", incomplete="run_") == []
    Path("evalrouter.yaml").unlink()
    assert proposed("eval", "show", incomplete="run_") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_EVALROUTER_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_with_the_script():
    Path("evalrouter.yaml").write_text(CONFIG)
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    typed = "COMP_WORDS=(evalrouter chat he); COMP_CWORD=2; _evalrouter_completion evalrouter"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{typed}\necho "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
        # The installed command has the name that the script is for.
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert (done.stdout, done.stderr) == ("helper\n", "")
