"""Evidence bundles: one file with all that the numbers of a run or a rollout were made of.

`export.py` writes it, `verification.py` recomputes the numbers of it, on any machine, without the
database, the config or a network. docs/decisions/0016-evidence-bundles.md has the reasons.
"""
