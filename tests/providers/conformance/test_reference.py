"""The reference page leaves no kind of provider out."""

from providers.kinds import KINDS
from tooling.conformance import REPORTS
from tooling.markdown import REFERENCE


def test_every_kind_is_there():
    text = (REFERENCE / "providers.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_there_are_reports_for_the_table():
    assert list(REPORTS.glob("*.json"))
