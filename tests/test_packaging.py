"""The four import packages are plain names: they must resolve to us, and be nobody else's."""

import importlib
import importlib.metadata
import importlib.resources
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("router", "providers", "evaluators", "serve")
HEAVY = ("torch", "ray", "pandas", "pyarrow", "vllm", "llama_cpp", "transformers", "evaluate")


@pytest.mark.parametrize("name", PACKAGES)
def test_each_name_resolves_to_this_project(name):
    module = importlib.import_module(name)
    assert Path(module.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_tells_type_checkers_that_it_is_typed(name):
    assert importlib.resources.files(name).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_ships_the_name(name):
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"evalrouter"}


def test_no_init_file_under_tests_shadows_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_server_starts_without_the_heavy_packages():
    code = (
        "import sys, router.app, router.cli\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_names_a_registry_or_what_only_this_machine_has():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # Git asks nothing about a checkout that is another user's.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files"]
    tracked = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    banned = ("/work" + "/", "pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js")
    banned += ("../sha" + "red", '/ "sha' + 'red"')
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [word for word in banned if word in text], name
