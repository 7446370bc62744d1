"""Measures the router, beside the floor and its peers. Start with `gateway.py`, or `README.md`."""
