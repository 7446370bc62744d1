"""Requests over time: bars as high as the axis says, and every number in the table."""

import pytest
from plot_reading import ReadPlot

from router.web.plots.usage import UsedStretch, usage_plot

HOUR = 3600.0


def stretch(n, requests, failures=0, usd=0.0):
    return UsedStretch(
        since=1_764_000_000.0 // HOUR * HOUR + n * HOUR,
        requests=requests,
        failures=failures,
        tokens=10 * requests,
        usd=usd,
        unpriced=0,
    )


def test_bars_are_as_high_as_there_were_requests():
    stretches = [stretch(0, 40, 10), stretch(1, 0), stretch(2, 20, 20, 1.5)]
    plot = usage_plot("Requests", stretches, step=HOUR)
    read = ReadPlot(plot)
    bars, failed = read.boxes("bar"), read.boxes("bar-worse")
    assert [bar[3] / bars[0][3] for bar in bars] == pytest.approx([1.0, 0.5])
    assert [bar[3] / bars[0][3] for bar in failed] == pytest.approx([0.25, 0.5])
    # The second hour has none, and the third its place behind it.
    assert bars[1][0] - bars[0][0] == pytest.approx(2 * (bars[0][2] + 0.8), abs=0.1)
    assert [row[1:] for row in plot.rows] == [
        ("20", "20", "200", "1.5000", "0"),
        ("0", "0", "0", "0.0000", "0"),
        ("40", "10", "400", "0.0000", "0"),
    ]
    assert "20 requests, 20 failed, 1.5000 US dollars" in plot.description


@pytest.mark.parametrize("stretches", [[], [stretch(0, 0)], [stretch(0, 10**12)]])
def test_nothing_and_very_much_can_be_drawn(stretches):
    read = ReadPlot(usage_plot("Requests", stretches, step=HOUR))
    assert len(read.boxes("bar")) == sum(1 for one in stretches if one.requests)
