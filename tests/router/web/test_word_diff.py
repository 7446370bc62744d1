"""Differences word by word: what both have, and what only one has; of texts of any length."""

import pytest

from router.web.word_diff import MAX_WORDS, DiffPiece, word_diff


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("", "", []),
        ("one two", "one two", [("same", "one two")]),
        ("one  two ", "one\ntwo", [("same", "one\ntwo")]),
        ("", "new words", [("added", "new words")]),
        ("old words", "", [("removed", "old words")]),
        (
            "It is bad.",
            "It is good.",
            [("same", "It is "), ("removed", "bad."), ("added", "good.")],
        ),
        ("a c", "a b c", [("same", "a "), ("added", "b "), ("same", "c")]),
        ("  <b>x</b>", "<b>x</b>", [("same", "<b>x</b>")]),
        ("你好世界", "你好", [("same", "你好"), ("removed", "世界")]),
        ("مرحبا بك", "مرحبا", [("same", "مرحبا"), ("removed", "بك")]),
    ],
)
def test_pieces_are_the_second_text_with_what_only_the_first_has(before, after, pieces):
    found = word_diff(before, after)
    assert [tuple(piece) for piece in found] == pieces
    assert "".join(text for kind, text in found if kind != "removed") == after


def test_words_behind_the_first_ones_are_not_compared():
    start, rest = "a b " * (MAX_WORDS // 2), "c d"
    assert word_diff(start + rest, start + rest) == [
        DiffPiece("same", start),
        DiffPiece("not compared", rest),
    ]
    # A megabyte is cut off quickly, and nothing is lost.
    long = "x " * 500_000
    assert "".join(piece.text for piece in word_diff("x", long)) == long
