"""Runs work on a Ray cluster for a process that does not import Ray."""
