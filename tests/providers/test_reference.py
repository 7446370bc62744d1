"""The reference page says what the reports say, and leaves no kind out."""

from provider_reference import FOLDER, PAGE, page

from providers.kinds import KINDS


def test_the_table_is_made_from_the_reports():
    text = PAGE.read_text(encoding="utf-8")
    assert list(FOLDER.glob("*.json"))
    assert page(text) == text, "run: python tests/provider_reference.py --write"


def test_every_kind_is_there():
    text = PAGE.read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []
