"""Answers without a host: baselines, scripts and recordings."""
