"""Sends requests to judges, for runs, calibrations and comparisons, and reports on the judges."""
