"""Deploys models on Ray Serve. Start reading in `app.py`."""
