"""Evaluates routes: runs, their work and their results."""
