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


def with_the_command() -> dict[str, str]:
    """An environment in which the installed command has the name that the scripts are for."""
    place = Path(sys.executable).parent
    return os.environ | {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}


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


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_with_the_script():
    Path("evalrouter.yaml").write_text(CONFIG)
    script = CliRunner().invoke(main, ["completion", "fish"]).stdout
    done = subprocess.run(
        ["fish", "--no-config", "-c", f'{script}\ncomplete -C "evalrouter chat he"'],
        capture_output=True,
        text=True,
        check=True,
        env=with_the_command(),
    )
    assert done.stdout.split() == ["helper"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_with_the_script(folder):
    Path("evalrouter.yaml").write_text(CONFIG)
    script = CliRunner().invoke(main, ["completion", "zsh"]).stdout
    Path("script.zsh").write_text(script)
    # A key is pressed in a second zsh, at a terminal of its own.
    Path("type.zsh").write_text(
        "zmodload zsh/zpty\n"
        "zpty shell zsh -f -i\n"
        "zpty -w shell 'autoload -Uz compinit; compinit -u -D; source script.zsh'\n"
        "zpty -w shell 'print REA\"\"DY'\n"
        "zpty -r shell seen '*READY*'\n"
        "zpty -w -n shell $'evalrouter chat he\\t'\n"
        "zpty -r shell seen '*helper *'\n"
        "print -r -- $seen\n"
    )
    done = subprocess.run(
        ["zsh", "-f", "type.zsh"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env=with_the_command() | {"TERM": "dumb"},
    )
    assert "helper " in done.stdout


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
        env=with_the_command(),
    )
    assert (done.stdout, done.stderr) == ("helper\n", "")
