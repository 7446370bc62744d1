"""What "good" means: datasets, replay, metrics, statistics, reports.

Start with `base.py` (the types), then `evaluators/execution/evaluation.py` (replay and score).
Imports `providers` for its errors only; how an answer is obtained is injected.
"""
