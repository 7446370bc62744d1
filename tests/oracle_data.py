"""Data for which many numbers are known; tests/data/NOTICE says where it is from."""

import json
from pathlib import Path

DATA = Path(__file__).parent / "data"
DIALOGUES = DATA / "dialogues"
VICUNA = DATA / "prometheus" / "vicuna_eval.json"
PAIRWISE = DATA / "prometheus" / "autoj_pairwise.jsonl"


def vicuna_rows() -> list[dict]:
    """Return 320 graded answers: four models, 80 questions."""
    return json.loads(VICUNA.read_text(encoding="utf-8"))


def vicuna_pairs() -> list[tuple[str, str]]:
    """Return (answer, reference) of the 320 answers."""
    reference = "###Reference Answer (Score 5):"
    return [
        (
            between(row["instruction"], "###Response to evaluate:", reference),
            between(row["instruction"], reference, "###Score Rubrics:"),
        )
        for row in vicuna_rows()
    ]


def between(text: str, start: str, end: str) -> str:
    """Return what a prompt has between two of its headings."""
    return text.split(start, 1)[1].split(end, 1)[0].strip()
