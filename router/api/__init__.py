"""Thin HTTP handlers, one file per resource: decode, call, encode."""
