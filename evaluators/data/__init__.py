"""Reads datasets and makes samples of their rows."""
