"""Every input that a fuzzer was given as a seed, or that once failed, through its property."""

import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.append(str(FUZZ))

from properties import PROPERTIES  # noqa: E402

INPUTS = sorted(path.relative_to(FUZZ / "corpus") for path in (FUZZ / "corpus").rglob("*.*"))


def test_there_are_seeds_for_every_property():
    assert {path.parts[0] for path in INPUTS} == set(PROPERTIES)


@pytest.mark.parametrize("path", INPUTS, ids=str)
def test_an_input_of_the_corpus(path):
    PROPERTIES[path.parts[0]]((FUZZ / "corpus" / path).read_bytes())
