"""Summarises a run's scores: reports, comparisons and gates."""
