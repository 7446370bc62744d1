"""Writes the generated parts of docs/reference: `make docs`."""
