"""Fetches datasets, and stores those that are registered."""
