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
        ("廿五", ".", [25]),
        # What groups is neither sign, so either begins the decimals.
        ("1\u202f234,56 €", ".", [1234.56]),
        ("1\u00a0234.56", ",", [1234.56]),
        ("1'234,5", ".", [1234.5]),
        ("1 234 567,89", ".", [1234567.89]),
        ("12,34,567", ",", [1234567]),
        ("1_000_000", ".", [1_000_000]),
        # No group follows a zero, or more than three digits.
        ("0,123", ".", [0.123]),
        ("0.123", ",", [0.123]),
        ("1234.567", ",", [1234.567]),
        # Decimals without a zero.
        (".5 and -.25", ".", [0.5, -0.25]),
        (",5", ",", [0.5]),
        ("see fig.5", ".", []),
        # Powers of ten.
        ("1.5×10^3", ".", [1500]),
        ("1,5 · 10⁻³", ",", [0.0015]),
        (r"6.02 \times 10^{23}", ".", [6.02e23]),
        ("10^6 or 10⁶", ".", [1e6, 1e6]),
        ("2 x 10 = 20", ".", [2, 10, 20]),
        # Fractions.
        ("3/4", ".", [0.75]),
        ("-1⁄2", ".", [-0.5]),
        ("2 1/2 or 2½", ".", [2.5, 2.5]),
        (r"\frac{1}{2}, 3\dfrac{1}{4}, -\frac12", ".", [0.5, 3.25, -0.5]),
        ("1/2/2024", ".", [1, 2, 2024]),
        ("1/0", ".", [float("inf")]),
        ("三分之一", ".", [1 / 3]),
        ("3分の1", ".", [1 / 3]),
        ("百分之五十", ".", [50]),
        # Signs before a currency, and as typographers write them.
        ("-$5, \u2212€ 3", ".", [-5, -3]),
        ("\u20135 degrees", ".", [-5]),
        ("10\u201320", ".", [10, 20]),
        ("- 5", ".", [5]),
        # Markup.
        ("_42_ and **7**", ".", [42, 7]),
        ("x_1", ".", []),
        (r"10{,}000 and 1\,234 and 5,\!000", ".", [10_000, 1234, 5000]),
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
    assert len(numerals("12," * 20_000, decimal=".")) > 0
    assert len(numerals("12," * 20_000, decimal=",")) > 0
