"""The 320 answers and references of ../shared/data that many numbers are known for."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "prometheus" / "vicuna_eval.json"


def vicuna_pairs() -> list[tuple[str, str]]:
    """(answer, reference) of real models; skips the test where the data is absent."""
    if not DATA.exists():
        pytest.skip("../shared/data is not here")
    reference = "###Reference Answer (Score 5):"
    return [
        (
            _between(prompt, "###Response to evaluate:", reference),
            _between(prompt, reference, "###Score Rubrics:"),
        )
        for prompt in (row["instruction"] for row in json.loads(DATA.read_text(encoding="utf-8")))
    ]


def _between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0].strip()
