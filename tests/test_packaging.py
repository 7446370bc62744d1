"""The four import packages are plain names: they must resolve to us, and be nobody else's."""

import email
import importlib
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("router", "providers", "evaluators", "serve")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
HEAVY = (
    "torch", "ray", "pandas", "pyarrow", "duckdb", "vllm", "llama_cpp", "transformers", "evaluate",
)  # fmt: skip


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


def tree(package):
    """The files that a package consists of."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", folder], check=True, cwd=ROOT, capture_output=True)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == set().union(*map(tree, PACKAGES))
    # Templates, prompts, demo data and prices, not code alone.
    kinds = {Path(name).suffix for name in files if not name.endswith("py.typed")}
    assert {".py", ".html", ".txt", ".yaml", ".jsonl", ".json"} <= kinds


def test_the_wheel_says_what_it_is(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert (metadata["Name"], metadata["License-Expression"]) == ("evalrouter", "Apache-2.0")
    assert metadata["Version"] == VERSION
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert wheel.read(name.replace("METADATA", "licenses/LICENSE"))
    entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "evalrouter = router.cli:main" in entry_points


def test_the_version_is_written_in_one_place_and_known_to_the_changelog():
    assert importlib.metadata.version("evalrouter") == VERSION
    headings = re.findall(r"^## (\S+)", (ROOT / "docs/changelog.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert VERSION in headings


def test_a_tagged_commit_has_the_version_that_its_tag_names():
    tags = git("tag", "--points-at", "HEAD", "--list", "v*").split()
    assert tags in ([], [f"v{VERSION}"])


def git(*arguments):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # Git asks nothing about a checkout that is another user's.
    command = ["git", "-c", f"safe.directory={ROOT}", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


def test_no_file_names_a_registry_or_what_only_this_machine_has():
    tracked = git("ls-files")
    banned = ("/work" + "/", "pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js")
    banned += ("../sha" + "red", '/ "sha' + 'red"')
    for name in tracked.split():
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [word for word in banned if word in text], name
