"""Hosts for local models on Ray Serve. Start reading in `serve/deployment/app.py`."""
