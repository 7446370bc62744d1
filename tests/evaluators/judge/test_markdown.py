"""What counts as markdown."""

import pytest

from evaluators.judge.markdown import elements


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Plain prose - with a dash, 3. of it * and #5.", 0),
        ("# Title\n\n- **one**\n- two", 4),
        ("1. a\n2) b\n  * c\n+ d", 4),
        ("### a\n####### b", 1),
        ("**a** and __b__ and ** c **", 2),
        ("- ", 1),
    ],
)
def test_elements_are_counted(text, count):
    assert elements(text) == count
