"""Simulates every interval, verdict and gate on data whose truth is known: `make evidence`."""
