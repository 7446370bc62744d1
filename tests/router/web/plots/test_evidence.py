"""The plot of evidence over time."""

from __future__ import annotations

import math

from router.web.plots.evidence import MAX_POINTS, EvidencePoint, EvidenceSeries, evidence_plot

LIMITS = {"rolls back": 60.0}


def test_every_point_is_drawn_and_in_the_table_and_more_evidence_is_higher():
    points = [EvidencePoint(1000.0 + 600 * n, 10.0**n) for n in range(3)]
    plot = evidence_plot("Evidence", [EvidenceSeries("errors", points)], LIMITS)
    text = plot.svg
    heights = [float(part.split('"')[0]) for part in text.split('data-y="')[1:]]
    assert len(heights) == 3
    assert heights == sorted(heights, reverse=True)
    assert [row[2] for row in plot.rows] == ["100", "10.0", "1.000"]
    assert "errors: 100 at 1970-01-01 00:36." in plot.description
    assert "From 60.0 on, evidence rolls back." in plot.description


def test_what_cannot_be_drawn_is_left_out_and_of_much_the_newest_is_shown():
    odd = [EvidencePoint(math.nan, 1.0), EvidencePoint(1.0, math.inf), EvidencePoint(1.0, 0.0)]
    assert evidence_plot("E", [EvidenceSeries("<b>", odd)], LIMITS).rows[0][1:] == ("<b>", "0.000")
    assert "<b>" not in evidence_plot("E", [EvidenceSeries("<b>", odd)], LIMITS).svg
    many = [EvidencePoint(float(n), 1.0) for n in range(MAX_POINTS + 50)]
    plot = evidence_plot("E", [EvidenceSeries("a", many)], LIMITS)
    assert len(plot.rows) == MAX_POINTS
    assert plot.rows[0][0] == "1970-01-01 00:04"
    assert evidence_plot("E", [], LIMITS).rows == ()


def test_what_is_far_beyond_the_limits_is_drawn_at_the_top():
    points = [EvidencePoint(1000.0, 1e9), EvidencePoint(2000.0, 600.0), EvidencePoint(3000.0, 60.0)]
    plot = evidence_plot("E", [EvidenceSeries("a", points)], LIMITS)
    heights = [float(part.split('"')[0]) for part in plot.svg.split('data-y="')[1:]]
    assert heights[0] == heights[1] < heights[2]
    assert plot.rows[2][2] == "1,000,000,000"
