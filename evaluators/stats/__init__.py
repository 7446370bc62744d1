"""Computes what a score is worth: intervals, differences, agreement."""
