"""The known scores of 320 real answers, computed by our metrics next to the published values.

    python -m loadtests.reference_table tests/data/prometheus/vicuna_eval.json

The values were computed with the reference implementations (rouge-score 0.1.2, sacreBLEU 2.6.0,
NLTK 3.10.4 with WordNet 3.0). METEOR needs `evalrouter data install wordnet`, its first line also
`evalrouter data install punkt`. Exit code 1 when a number differs in its last digit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evaluators.base import Answer, Metric, Sample
from evaluators.metrics.registry import build
from providers.errors import EvalrouterError

REFERENCE = "###Reference Answer (Score 5):"


class Known(NamedTuple):
    """A metric and what it is known to give, one number for each of its outputs."""

    spec: dict[str, Any]
    values: tuple[float, ...]
    decimals: int


TABLE = (
    Known({"name": "rouge"}, (0.421297, 0.175212, 0.251113, 0.327347), 6),
    Known({"name": "rouge", "stemmer": True}, (0.442811, 0.182806, 0.259924, 0.341697), 6),
    Known({"name": "bleu"}, (10.7873,), 4),
    Known({"name": "chrf"}, (47.86,), 2),
    Known({"name": "meteor", "synonyms": "wordnet", "tokenizer": "punkt"}, (0.376426,), 6),
    Known({"name": "meteor", "synonyms": "wordnet", "tokenizer": "nltk"}, (0.359888,), 6),
    Known({"name": "meteor", "synonyms": "wordnet", "tokenizer": "whitespace"}, (0.328087,), 6),
)


def pairs(path: Path) -> list[tuple[Sample, Answer]]:
    """Return references and responses, read from the prompts of Prometheus."""

    def between(text: str, start: str, end: str) -> str:
        return text.split(start, 1)[1].split(end, 1)[0].strip()

    rows = []
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        prompt = row["instruction"]
        reference = between(prompt, REFERENCE, "###Score Rubrics:")
        text = between(prompt, "###Response to evaluate:", REFERENCE)
        rows.append(
            (Sample(id=str(number), messages=(), references=(reference,)), Answer(text=text))
        )
    return rows


def scores(metric: Metric, answered: Sequence[tuple[Sample, Answer]]) -> list[float]:
    """Return a score for each output: the mean, or the corpus score of the summed statistics."""
    rows = [metric.score(sample, answer) for sample, answer in answered]
    totals = []
    for at, output in enumerate(metric.outputs):
        column = [row[at] for row in rows]
        if output.corpus is not None:
            statistics = zip(*(score.statistics for score in column), strict=True)
            totals.append(output.corpus([sum(values) for values in statistics]))
        else:
            totals.append(fmean(score.value for score in column if score.value is not None))
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.reference_table")
    parser.add_argument("path", type=Path, help="vicuna_eval.json")
    answered = pairs(parser.parse_args().path)
    print(f"{len(answered)} pairs\n\n| output | known | computed | signature |\n|---|---|---|---|")
    wrong = 0
    for known in TABLE:
        try:
            metric: Any = build(known.spec)
        except EvalrouterError as error:
            print(f"| {known.spec['name']} | | not computed: {error.message} | |")
            wrong += 1
            continue
        for output, value, computed in zip(
            metric.outputs, known.values, scores(metric, answered), strict=True
        ):
            same = round(computed, known.decimals) == value
            wrong += not same
            mark = "" if same else " **differs**"
            signature = metric.signature.replace("|", "\\|")
            print(
                f"| {output.name} | {value:.{known.decimals}f} "
                f"| {computed:.{known.decimals}f}{mark} | `{signature}` |"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
