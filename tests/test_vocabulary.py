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
# As parts of the name of a function, a parameter, an attribute or a variable.
BINDINGS = frozenset(
    [
        "asked",
        "asker",
        "asking",
        "beat",
        "bench",
        "bout",
        "bouts",
        "duel",
        "found",
        "inquiry",
        "kept",
        "klass",
        "look",
        "most",
        "nobody",
        "opened",
        "said",
        "somebody",
        "tally",
        "told",
        "trail",
        "visit",
        "wanted",
        "wish",
        "wishes",
    ]
)
# As a whole name: with another word they can say what a thing is.
WHOLE = frozenset(["one", "ones", "own", "work"])
# Fields that users have in JSON, or databases as columns, from before the words were settled.
SETTLED = frozenset(
    [
        ("evaluators/judge/calibration.py", "most"),
        ("evaluators/reports/gates.py", "found"),
        ("router/api/evals.py", "asked_at"),
        ("router/store/judgements.py", "asked_again"),
        ("router/store/results.py", "asked_at"),
        ("router/store/runs.py", "wish"),
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


def bindings(tree):
    """Every name that a module binds, imports without `as` aside."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name


def is_odd(name):
    low = name.lower().strip("_")
    # "At most" is a bound in plain English.
    return low != "at_most" and (low in WHOLE or not BINDINGS.isdisjoint(low.split("_")))


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


def odd_bindings(package):
    for path in (ROOT / package).rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        for name in bindings(ast.parse(path.read_text(encoding="utf-8"))):
            if is_odd(name):
                yield where, name


@pytest.mark.parametrize("package", PACKAGES)
def test_bindings_are_named_in_standard_terms(package):
    assert set(odd_bindings(package)) == {at for at in SETTLED if at[0].startswith(f"{package}/")}


@pytest.mark.parametrize("name", ["found", "_found", "was_told", "one", "most_at_once"])
def test_odd_bindings_are_noticed(name):
    for source in (f"{name} = 1", f"def f({name}): ...", f"def {name}(): ...", f"a.{name} = 1"):
        assert any(is_odd(bound) for bound in bindings(ast.parse(source)))


@pytest.mark.parametrize("name", ["foundation", "one_of_many", "utmost", "keep", "workers"])
def test_other_bindings_are_not(name):
    assert not is_odd(name)
