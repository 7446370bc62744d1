"""What all plots share: text of others, tables, sizes, and the stylesheet."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment
from plot_reading import ReadPlot, classes, classes_of, elements

from evaluators.judge.calibration import Item, score_bins
from evaluators.stats.intervals import Interval
from router.records import Attempt
from router.web.plots.attempts import attempts_waterfall
from router.web.plots.differences import sorted_differences
from router.web.plots.distributions import cumulative_shares, histograms
from router.web.plots.figure import (
    MAX_SENTENCES,
    MAX_TABLE_ROWS,
    WIDTH,
    Drawing,
    fitted,
    interval_text,
    isolated,
    label,
    number,
    plot,
    text_width,
)
from router.web.plots.forest import ForestRow, forest
from router.web.plots.frontier import FrontierPoint, scatter
from router.web.plots.history import HistoryPoint, history, sparkline
from router.web.plots.reliability import reliability_diagram

STYLE = (Path(__file__).parents[4] / "router/web/plots.css").read_text(encoding="utf-8")
NAN, INF = float("nan"), float("inf")
ATTACKS = (
    "<script>alert(1)</script>",
    "</title></svg><img src=x onerror=alert(1)>",
    "\" onload='alert(1)' x=\"",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;&#0;",
    "{0} {} {title:>9999999}",
    "]]><!--",
    "two\nlines\r\nand\u2028more\ttabs",
    "\x00\x1b[31mred\x07\x7f\x85",
    "\u202egnp.exe\u2066\u200f",
    "\u0634\u0628\u0643\u0629 router",
    "\ud800 alone",
    "\ufffe\uffff\U000e0001",
    "",
    " \t ",
    "W" * 1_000_000,
    "\u0301" * 10_000,
)
NUMBERS = (None, NAN, INF, -INF, 0.0, 1e308, -1e308, 5e-324, 0.41)


def interval(estimate, low=None, high=None):
    return Interval(estimate=estimate, low=low, high=high, n=3)


def every_plot(name, number=0.5):
    """One plot of each kind, whose texts are all the given one, and one number the given one."""
    low, high = (None, None) if number is None else (number - 0.1, number + 0.1)
    yield forest(
        name,
        [ForestRow(name=name, estimate=number, low=low, high=high, n=3, verdict="better"),
         ForestRow(name=name, estimate=0.2, low=number, high=None, n=3)],
        axis_title=name,
        zero=True,
        margin=number,
    )  # fmt: skip
    yield scatter(
        name,
        [FrontierPoint(name=name, quality=interval(number, low, high), spend=interval(0.1),
                       on_frontier=True),
         FrontierPoint(name=name, quality=interval(0.4), spend=interval(number), on_frontier=None)],
        quality=name,
        higher_is_better=True,
        against="cost_usd",
    )  # fmt: skip
    people = 0.5 if number is None else number
    bins = score_bins([Item(id="1", judge=(0.5,), people=(0.5,))], low=0, high=1)
    bins = [
        type(bins[0])(low=0, high=1, judge=people, people=interval(number, low, high), answers=2)
    ]
    yield reliability_diagram(name, bins, low=0, high=1)
    values = [people, 0.25, NAN]
    yield histograms(name, {name: values})
    yield cumulative_shares(name, {name: values})
    yield sorted_differences(
        name, values, (name, name), higher_is_better=True, mean=interval(number, low, high)
    )
    yield history(
        name,
        [HistoryPoint(at=people, estimate=number, low=low, high=high, run=name, accepted=True),
         HistoryPoint(at=9e8, estimate=None, run=name, reason=name)],
        axis_title=name,
    )  # fmt: skip
    yield sparkline(name, [number, 0.5])
    yield attempts_waterfall(
        [Attempt(name, name, 500, people), Attempt(name, "ok", 200, 0.1)],
        first_byte_s=number,
        total_s=people,
    )


KINDS = [
    "forest", "frontier", "reliability", "histograms", "cumulative", "differences", "history",
    "spark", "attempts",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_text_of_others_is_text(attack):
    usual = [elements(made) for made in every_plot("a")]
    for made, expected in zip(every_plot(attack), usual, strict=True):
        html = str(made.__html__())
        html.encode("utf-8")
        assert ReadPlot(made).title == made.title
        # The same elements with the same attributes' names as with any other text.
        assert [(tag, set(attributes)) for tag, attributes in elements(made)] == [
            (tag, set(attributes)) for tag, attributes in expected
        ]
        assert all(char.isprintable() or char in "\u2068\u2069" for char in html)
        assert len(html) < 30_000


@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_numbers_that_cannot_be_drawn_are_left_out(value):
    for made in every_plot("a", value):
        read = ReadPlot(made)
        words = str(made.svg) + str(made.rows)
        assert "nan" not in words.replace("nano", "")
        assert "inf" not in words.lower()
        assert all(
            -1 <= x <= read.width + 1 and -1 <= y <= read.height + 1 for _, x, y in read.marks
        )


@pytest.mark.parametrize(("n", "kind"), list(enumerate(KINDS)), ids=KINDS)
def test_a_plot_has_words_numbers_and_no_style_of_its_own(n, kind):
    made = list(every_plot("a route"))[n]
    tags = elements(made)
    [svg] = [attributes for tag, attributes in tags if tag == "svg"]
    assert svg["role"] == "img"
    assert svg["viewbox"].startswith("0 0 120 " if kind == "spark" else "0 0 360 ")
    assert not {"width", "height", "style"} & svg.keys()
    assert not [
        name
        for _, attributes in tags
        for name in attributes
        if name == "style" or name.startswith("on")
    ]
    assert not {"script", "style", "foreignobject", "image", "use", "a"} & {tag for tag, _ in tags}
    assert made.description
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert [tag for tag, _ in tags].count("tr") == len(made.rows) + 1
    assert classes(made) <= classes_of(STYLE)


def test_a_template_shows_a_figure_as_it_is():
    made = next(every_plot("<b>"))
    page = Environment(autoescape=True).from_string("{{ plot }}").render(plot=made)
    assert page == str(made.__html__())
    assert page.startswith('<figure class="plot"><figcaption>&lt;b&gt;</figcaption><svg ')
    assert '<th scope="row">&lt;b&gt;</th><td>+0.500</td>' in page


def test_a_plot_of_nothing_says_so_and_has_no_table():
    for made in (
        forest("t", [], axis_title="x"),
        scatter("t", [], quality="q", higher_is_better=True, against="seconds"),
        reliability_diagram("t", [], low=1, high=5),
        histograms("t", {}),
        histograms("t", {"a": [NAN]}),
        cumulative_shares("t", {}),
        sorted_differences("t", [], ("a", "b"), higher_is_better=None),
        history("t", [], axis_title="x"),
        attempts_waterfall([], first_byte_s=None, total_s=1),
    ):
        [(kind, text, x, _)] = ReadPlot(made).texts
        assert (kind, x) == ("quiet", WIDTH / 2)
        assert made.description == f"{text}."
        assert "details" not in {tag for tag, _ in elements(made)}


def test_many_things_leave_a_plot_small():
    many = 100_000
    values = np.random.default_rng(0).normal(size=many)
    rows = [ForestRow(name="a", estimate=0.1, low=0, high=1, n=3)] * many
    points = [
        FrontierPoint(name="a", quality=interval(n), spend=interval(n), on_frontier=True)
        for n in range(5000)
    ]
    for made in (
        forest("t", rows, axis_title="x"),
        scatter("t", points, quality="q", higher_is_better=True, against="seconds"),
        histograms("t", {"a": values}),
        histograms("t", {str(n): [1.0, 2.0] for n in range(2000)}),
        cumulative_shares("t", {"a": values}),
        sorted_differences("t", values, ("a", "b"), higher_is_better=True),
        history("t", [HistoryPoint(at=n, estimate=1.0) for n in range(9000)], axis_title="x"),
        sparkline("t", values.tolist()),
        attempts_waterfall(
            [Attempt("a", "timeout", None, 1.0)] * 3000, first_byte_s=None, total_s=9
        ),
    ):
        assert len(made.svg) < 50_000
        assert len(made.rows) <= 1000
        assert len(made.description) < 3000
    assert forest("t", rows, axis_title="x").left_out == many - 1000
    assert "99,000 more rows are not shown" in str(forest("t", rows, axis_title="x").__html__())


def test_what_is_not_described_is_counted():
    rows = [ForestRow(name=f"r{n}", estimate=0.1, low=0, high=1, n=3) for n in range(50)]
    made = forest("t", rows, axis_title="x")
    assert made.description.startswith("The plot shows the first 40 of 50. r0: 0.10, 95% interval")
    assert made.description.endswith(
        "r10: 0.10, 95% interval 0.00 to 1.00, 3 samples. 29 more are in the table."
    )


@pytest.mark.parametrize(
    ("value", "places", "sign", "text"),
    [
        (0.1234, 3, False, "0.123"),
        (-0.1234, 3, True, "\u22120.123"),
        (0.1234, 3, True, "+0.123"),
        (-0.0001, 3, True, "0.000"),
        (12345.6, 0, False, "12,346"),
        (1e15, 3, False, "1e+15"),
        (-1e12, 3, True, "\u22121e+12"),
        (999_999_999_999.0, 0, False, "999,999,999,999"),
        (None, 3, False, "-"),
        (NAN, 3, False, "-"),
        (2e300, 3, False, "-"),
    ],
)
def test_numbers_are_formatted(value, places, sign, text):
    assert number(value, places, sign=sign) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(1, 2, "1.0 to 2.0"), (None, 2, "up to 2.0"), (1, INF, "from 1.0"), (None, NAN, "-")],
)
def test_intervals_are_formatted(low, high, text):
    assert interval_text(low, high, 1) == text


def test_names_are_cut_to_what_fits():
    assert fitted("short", 100) == "short"
    assert fitted("x" * 99, 50).endswith("x\u2026")
    for text in ("i" * 300, "W" * 300, "\u8981" * 300, "aBc " * 100):
        cut = fitted(text, 100)
        assert 85 < text_width(cut) <= 100
    assert label("x" * 300) == "x" * 199 + "\u2026"
    assert label(" a \n b ") == "a b"
    assert label("\n") == "(no name)"


def test_names_from_right_to_left_keep_to_themselves_in_a_sentence():
    assert isolated("abc") == "abc"
    assert isolated("\u0661\u0662") == "\u2068\u0661\u0662\u2069"
    assert isolated("\u05d0") == "\u2068\u05d0\u2069"
    assert isolated("\u0634\u0628") == "\u2068\u0634\u0628\u2069"


# The stylesheet.


def colours():
    """The colours of the stylesheet: name to its light and dark sRGB values, from 0 to 1."""
    pairs = {}
    for name, *digits in re.findall(r"--plot-([\w-]+): #(\w\w)(\w\w)(\w\w);", STYLE):
        pairs.setdefault(name, []).append(tuple(int(text, 16) / 255 for text in digits))
    assert {len(pair) for pair in pairs.values()} == {2}
    return pairs


def linear(colour):
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]


def contrast(first, second):
    """WCAG 2.2's contrast ratio."""
    luminances = sorted(
        np.dot([0.2126, 0.7152, 0.0722], linear(colour)) for colour in (first, second)
    )
    return (luminances[1] + 0.05) / (luminances[0] + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
VISIONS = {
    "all": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colour, vision):
    """CIE L*a*b* (D65) of a colour as a person of that vision sees it."""
    seen = np.clip(np.dot(VISIONS[vision], linear(colour)), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116
        for v in np.dot(to_xyz, seen) / [0.95047, 1, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_wants_of_them(scheme):
    pairs = colours()
    background = pairs["background"][scheme]
    for name, pair in pairs.items():
        if name in {"ink", "quiet"}:  # text, which may stand on the band
            assert contrast(pair[scheme], background) >= 4.5, name
            assert contrast(pair[scheme], pairs["band"][scheme]) >= 4.5, name
        elif name not in {"background", "band", "grid"}:
            assert contrast(pair[scheme], background) >= 3, name


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_differ_for_people_who_see_fewer(scheme, vision):
    pairs = colours()
    groups = [["better", "worse", "point"], [f"series-{n}" for n in range(1, 7)]]
    for group in groups:
        for first, second in itertools.combinations(group, 2):
            seen = [lab(pairs[name][scheme], vision) for name in (first, second)]
            assert np.linalg.norm(seen[0] - seen[1]) >= 12, (first, second)


def test_each_class_has_a_rule_and_each_colour_a_use():
    used = set().union(*(classes(made) for made in every_plot("a")))
    kinds = classes_of(STYLE)
    assert {"plot-label", "plot-mark", "plot-grid"} <= used & kinds
    for name in colours():
        assert f"var(--plot-{name})" in STYLE
    for n in range(1, 7):
        assert f".plot-series-{n} {{" in STYLE


# Drawings.


def test_elements_are_drawn_as_they_are_named():
    drawing = Drawing(100)
    drawing.line(1, 2.5, 3.123, -0.001, "grid")
    drawing.box(1, 2, 3, 4, "bar", hint="a < b")
    drawing.box(1, 2, 3, 4, "band")
    drawing.path([(1, 2), (3, 4), (5.5, 6)], "course")
    drawing.path([(1, 2)], "course")
    drawing.text(1, 2, "a & b", "label")
    drawing.text(1, 2, "c", "tick", anchor="end")
    assert drawing.svg("t", "d") == (
        '<svg class="plot-picture" role="img" viewBox="0 0 360 100"><title>t</title><desc>d</desc>'
        '<line class="plot-grid" x1="1" y1="2.5" x2="3.12" y2="0"/>'
        '<rect class="plot-bar" x="1" y="2" width="3" height="4"><title>a &lt; b</title></rect>'
        '<rect class="plot-band" x="1" y="2" width="3" height="4"></rect>'
        '<polyline class="plot-course" points="1,2 3,4 5.5,6"/>'
        '<text class="plot-label" x="1" y="2" text-anchor="start">a &amp; b</text>'
        '<text class="plot-tick" x="1" y="2" text-anchor="end">c</text></svg>'
    )


def test_a_mark_says_where_its_middle_is():
    drawing = Drawing(100)
    drawing.mark("diamond", 100, 50, "point", hint="0.5")
    assert (
        '<polygon class="plot-mark plot-point" data-shape="diamond" data-x="100" data-y="50" '
        'points="100,44.8 105.2,50 100,55.2 94.8,50"><title>0.5</title></polygon>'
    ) in drawing.svg("t", "d")


@pytest.mark.parametrize(
    ("shape", "corners", "radius"),
    [("circle", 16, 4.0), ("square", 4, 5.09), ("diamond", 4, 5.2), ("cross", 12, 4.77)],
)
def test_shapes_are_symmetrical_about_their_middle(shape, corners, radius):
    points = outline(shape)
    assert len(set(points)) == corners
    for mirrored in ([(-x, y) for x, y in points], [(x, -y) for x, y in points]):
        assert sorted(mirrored) == sorted(points)
    assert sorted((y, x) for x, y in points) == sorted(points)
    assert max(np.hypot(x, y) for x, y in points) == pytest.approx(radius, abs=0.01)


def test_triangles_point_up_and_down():
    assert outline("up") == [(0, -5), (4.8, 3.6), (-4.8, 3.6)]
    assert outline("down") == [(0, 5), (4.8, -3.6), (-4.8, -3.6)]


def outline(shape):
    """The corners of a shape, from its middle."""
    drawing = Drawing(100)
    drawing.mark(shape, 0, 0, "point")
    text = drawing.svg("t", "d").split('points="')[1].split('"')[0]
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_a_figure_is_a_picture_and_a_table():
    made = plot(Drawing(9), "t<", ["One.", "Two."], ("a", "b"), [("1", "<2>"), ("3", "4")], count=2)
    assert str(made.__html__()) == (
        '<figure class="plot"><figcaption>t&lt;</figcaption>'
        '<svg class="plot-picture" role="img" viewBox="0 0 360 9"><title>t&lt;</title>'
        '<desc>One. Two.</desc></svg><details class="plot-numbers"><summary>Numbers</summary>'
        '<div class="plot-table" tabindex="0" role="region" aria-label="Numbers: t&lt;"><table>'
        '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead><tbody>'
        '<tr><th scope="row">1</th><td>&lt;2&gt;</td></tr>'
        '<tr><th scope="row">3</th><td>4</td></tr></tbody></table></div></details></figure>'
    )


@pytest.mark.parametrize("more", [0, 1, 2])
def test_sentences_and_rows_have_a_limit_that_is_exact(more):
    count = MAX_TABLE_ROWS + more
    made = plot(
        Drawing(9), "t", ["A."] * (MAX_SENTENCES + more), ("a",), [("1",)] * count, count=count
    )
    assert len(made.rows) == MAX_TABLE_ROWS
    assert made.left_out == more
    assert (f"<p>{more} more rows are not shown.</p>" in made.__html__()) is bool(more)
    rest = f" {more} more are in the table." if more else ""
    assert made.description == " ".join(["A."] * MAX_SENTENCES) + rest


@pytest.mark.parametrize(
    ("char", "width"),
    [
        ("i", 0.36),
        ("W", 0.95),
        ("a", 0.64),
        ("A", 0.72),
        ("\u8981", 1.05),
        ("\u0301", 0.0),
        ("5", 0.64),
        ("+", 0.95),
    ],
)
def test_widths_of_characters_are_rather_too_large(char, width):
    assert text_width(char * 10) == pytest.approx(110 * width)
