"""Names: each class has one of its own, and none of the words that CONTRIBUTING advises against."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("router", "evaluators", "providers", "serve")
# Of the SDK, whose types mirror what the server sends.
MIRRORS = ("router/client/",)
# As parts of a class's name; CONTRIBUTING, Style, has what to write instead.
WORDS = frozenset(
    [
        "Asked",
        "Asker",
        "Asking",
        "Beat",
        "Bench",
        "Inquiry",
        "Kept",
        "Klass",
        "Loading",
        "Look",
        "Most",
        "Opened",
        "Own",
        "Places",
        "Said",
        "Tally",
        "Told",
        "Trail",
        "Visit",
        "Wanted",
        "Wish",
        "Work",
    ]
)
MODULES = frozenset(
    [
        "again",
        "border",
        "check",
        "common",
        "complete",
        "frames",
        "helpers",
        "hub",
        "kept",
        "labels",
        "local",
        "manager",
        "turns",
        "utils",
        "writing",
    ]
)


def public_classes():
    """Every public class at a module's top level, with its file."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name, name


def test_no_public_class_has_the_name_of_another():
    places = defaultdict(list)
    for name, path in public_classes():
        if not path.startswith(MIRRORS):
            places[name].append(path)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_classes_are_named_in_standard_terms():
    odd = {
        f"{path}: {name}"
        for name, path in public_classes()
        if WORDS.intersection(re.findall(r"[A-Z][a-z]*", name))
    }
    assert not odd


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_named_after_what_they_do(package):
    names = {path.stem for path in (ROOT / package).rglob("*.py")}
    assert not names & MODULES
