"""Numbers in the digits and with the separators of any locale."""

# ruff: noqa: RUF001  # the texts are in other scripts on purpose

import pytest

from evaluators.text.numerals import numerals


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        # What the option decides.
        ("1,234", ".", [1234]),
        ("1.234", ".", [1.234]),
        ("1.234", ",", [1234]),
        ("3,14", ",", [3.14]),
        ("1.5", ",", [1.5]),
        # What can be read in one way only.
        ("1.234,56", ".", [1234.56]),
        ("1.234.567,89", ".", [1234567.89]),
        ("1.234.567", ".", [1234567]),
        ("1,234.56", ",", [1234.56]),
        ("1,234,567", ",", [1234567]),
        # Other ways of grouping.
        ("12,34,567.89", ".", [1234567.89]),
        ("1'234.5", ".", [1234.5]),
        ("1\u2019234", ".", [1234]),
        ("1\u202f234,5", ",", [1234.5]),
        ("1\u00a0234.5", ".", [1234.5]),
        ("1 234,5", ",", [1234.5]),
        ("1 234 567", ".", [1234567]),
        ("2023 100", ".", [2023, 100]),
        ("5 100", ".", [5, 100]),
        # Other digits and separators.
        ("٣٥", ".", [35]),
        ("١٬٢٣٤٫٥", ".", [1234.5]),
        ("۱۲", ".", [12]),
        ("१२३", ".", [123]),
        ("๑๒", ".", [12]),
        ("１，２３４．５", ".", [1234.5]),
        ("－５", ".", [-5]),
        ("有100，200", ".", [100, 200]),
        # Next to letters of scripts without blanks.
        ("共计35元", ".", [35]),
        ("총35개", ".", [35]),
        ("x2 and B12", ".", []),
        # Units.
        ("3.5万", ".", [35000]),
        ("1亿2000万", ".", [120_000_000]),
        ("5천", ".", [5000]),
        ("3千万円", ".", [30_000_000]),
        # Chinese characters, only where the text has no digits.
        ("三百二十", ".", [320]),
        ("一万二千三百四十五", ".", [12345]),
        ("二〇二四年", ".", [2024]),
        ("十五", ".", [15]),
        ("負三点五", ".", [-3.5]),
        ("答案是35，一共", ".", [35]),
        # As before.
        ("3-4", ".", [3, 4]),
        ("is -4", ".", [-4]),
        ("\u22124", ".", [-4]),
        ("$1,000.50 (USD)", ".", [1000.5]),
        ("1e5", ".", [100_000]),
        ("1.2.3", ".", [1.2]),
        ("1,2,3", ".", [1, 2, 3]),
        ("1.000,000", ".", [1, 0]),
    ],
)
def test_numbers(text, decimal, expected):
    found = [number.value for number in numerals(text, decimal=decimal)]
    assert found == pytest.approx(expected)


def test_what_may_be_one_number_with_a_comma_is_marked():
    assert [number.beside_comma for number in numerals("3,14 or 5", decimal=".")] == [
        True,
        True,
        False,
    ]
    assert not any(number.beside_comma for number in numerals("3,14", decimal=","))


def test_a_long_row_of_digits_is_read_in_no_time():
    assert len(numerals("1" * 100_000 + ",", decimal=".")) == 1
    assert len(numerals("1," * 20_000, decimal=".")) == 20_000
    assert len(numerals("1.234" * 20_000, decimal=".")) > 0
