"""Evaluates routes: runs, how they are executed, and their results."""
