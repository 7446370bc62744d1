"""Markdown that a model wrote, as HTML that a page may show.

    rendered = render_markdown("**bold** <script>", pictures=False)
    rendered.html                # <p><strong>bold</strong> [HTML]</p>

GitHub's cmark takes no HTML from the text, and nh3 then removes every element and attribute that
is not listed here. Pictures are only shown when a person requests them, and only those that the
text itself contains: one of another host would tell that host who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from providers.errors import RequestError

MAX_CHARACTERS = 100_000
# nh3 takes a time that grows with the square of it: a hundredth of a second for this many.
MAX_DEPTH = 200
# What follows cmark takes microseconds for each; cmark fills up the short rows of tables, so that
# a text of 6,000 characters may have a million.
MAX_TAGS = 60_000

_TAGS = frozenset(
    {"a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img"}
    | {"li", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
)
_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "*": frozenset(),
    "a": frozenset({"href", "title"}),
    "img": frozenset({"src", "alt", "title"}),
    "ol": frozenset({"start"}),
}
# What cmark writes, in which quotation marks of texts are escaped.
_OMITTED = "<!-- raw HTML omitted -->"
_TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)")
_EMPTY = frozenset({"br", "hr", "img", "input"})
_PICTURE = re.compile(r'<img src="([^"]*)" alt="([^"]*)"(?: title="[^"]*")? />')
_ABSOLUTE = re.compile(r"(?i)https?://|mailto:")
_CONTAINED = re.compile(r"data:image/(?:gif|png|jpeg|webp);base64,[A-Za-z0-9+/=%]*")


class RenderedMarkdown(msgspec.Struct, frozen=True, kw_only=True):
    """Markdown as HTML.

    Attributes:
        html: the HTML; `[HTML]` stands where the text has some.
        hidden_pictures: how many pictures of the text it does not show, and would on request.
    """

    html: str
    hidden_pictures: int


def render_markdown(text: str, *, pictures: bool) -> RenderedMarkdown:
    """Return Markdown as HTML.

    Args:
        text: what a model wrote.
        pictures: whether to show the pictures that the text contains.

    Raises:
        RequestError: it is too long, has too many tags, or is nested too deep.
    """
    # Only this needs them, and a server starts sooner without.
    import cmarkgfm  # noqa: PLC0415
    import nh3  # noqa: PLC0415

    if len(text) > MAX_CHARACTERS:
        raise RequestError(
            f"A text of more than {MAX_CHARACTERS:,} characters is not shown as Markdown.",
            param="text",
        )
    hidden = 0

    def words_or_picture(match: re.Match[str]) -> str:
        nonlocal hidden
        source, words = match[1], match[2]
        named = f"picture: {words}" if words else "picture"
        if _CONTAINED.fullmatch(source) is None:
            return f'[<a href="{source}">{named}</a>]'
        if not pictures:
            hidden += 1
            return f"[{named}]"
        return match[0]

    made: str = cmarkgfm.github_flavored_markdown_to_html(text)
    # Elsewhere cmark escapes it.
    if made.count("<") > MAX_TAGS:
        raise RequestError(
            f"A text that has more than {MAX_TAGS:,} tags as HTML, of a table's cells for example, "
            "is not shown as Markdown.",
            param="text",
        )
    if _depth(made) > MAX_DEPTH:
        raise RequestError(
            f"A text that is nested more than {MAX_DEPTH} deep is not shown as Markdown.",
            param="text",
        )
    made = _PICTURE.sub(words_or_picture, made.replace(_OMITTED, "[HTML]"))
    cleaned = nh3.clean(
        made,
        tags=set(_TAGS),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=_allowed,
        url_schemes={"http", "https", "mailto", "data"},
        # Where a link leads, the answers on this page would be gone.
        set_tag_attribute_values={"a": {"target": "_blank"}},
        link_rel="noopener noreferrer nofollow",
    )
    return RenderedMarkdown(html=cleaned, hidden_pictures=hidden)


def _depth(html: str) -> int:
    deepest = depth = 0
    for closes, name in _TAG.findall(html):
        if name not in _EMPTY:
            depth += -1 if closes else 1
            deepest = max(deepest, depth)
    return deepest


def _allowed(_: str, name: str, value: str) -> str | None:
    """Return an attribute's value; None for one that is left out."""
    if name == "href":
        # Not an address of this server: a model does not know it, and might mean harm.
        return value if _ABSOLUTE.match(value) else None
    if name == "src":
        return value if _CONTAINED.fullmatch(value) else None
    return value
