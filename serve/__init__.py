"""Hosts for local models on Ray Serve. Empty until the engines land; see docs/decisions."""
