"""What a study of judges looks like on a page."""

from evaluators.judge.sheets import Sheet, fragment, interval
from evaluators.stats.intervals import Interval

PAGE = """\
<section class="judge-study">
<h2>cal_1: &lt;judge&gt;</h2>
<p class="warning">3 &lt; 30 &amp; few.</p>
<table>
<caption>By &#34;model&#34;</caption>
<thead><tr><th></th><th>n</th></tr></thead>
<tbody>
<tr><td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>3</td></tr>
<tr><td>{{ 7 * 7 }}</td><td>4</td></tr>
</tbody>
</table>
<table>
<caption>Empty</caption>
<thead><tr><th>a</th></tr></thead>
<tbody>
</tbody>
</table>
</section>
"""


def test_a_page_shows_what_a_study_says_and_runs_none_of_it():
    rows = [("<script>alert(1)</script>", "3"), ("{{ 7 * 7 }}", "4")]
    sheets = [Sheet('By "model"', ("", "n"), rows), Sheet("Empty", ("a",), [])]
    assert fragment("cal_1: <judge>", sheets, ["3 < 30 & few."]) == PAGE


def test_an_interval_as_text():
    assert interval(Interval(estimate=0.79918, low=0.7333, high=0.851, n=9)) == (
        "0.799 [0.733, 0.851]"
    )
    assert interval(Interval(estimate=0.5, low=None, high=None, n=1), 1) == "0.5"
    assert interval(Interval(estimate=None, low=None, high=None, n=0)) == interval(None) == "-"
