"""Finds datasets, and keeps those that are registered."""
