"""The table of modules and the list of survivors say nothing about what is not there."""

from pathlib import Path

import pytest
from mutation import survivors
from mutation.copies import source_path
from mutation.modules import MODULES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_its_tests_and_its_survivors_exist(name):
    module, tests = MODULES[name]
    source = (ROOT / source_path(module)).read_text()
    assert all((ROOT / file).is_file() for file in tests)
    for change in survivors.explained(name):
        assert survivors.may_exist(change, source), change


def test_survivors_are_of_modules_that_are_mutated():
    assert survivors.modules() <= MODULES.keys()


def test_a_survivor_needs_a_reason(tmp_path):
    file = tmp_path / "survivors.toml"
    file.write_text("")
    survivors.add("limits", ["- a\n+ b", "- c\n+ 'd'"], file)
    with pytest.raises(ValueError, match="a survivor of limits lacks its reason"):
        survivors.explained("limits", file)
    file.write_text(file.read_text().replace('reason = ""', 'reason = "equal"'))
    assert survivors.explained("limits", file) == {"- a\n+ b": "equal", "- c\n+ 'd'": "equal"}
    assert survivors.explained("other", file) == {}


@pytest.mark.parametrize(
    ("change", "may"), [("- a = 1\n+ a = 2", True), ("- b = 1\n+ b = 2", False), ("+ a", True)]
)
def test_whether_a_mutant_may_still_exist(change, may):
    assert survivors.may_exist(change, "if x:\n    a = 1\n") is may
