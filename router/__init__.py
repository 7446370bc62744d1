"""The server: the only package that wires the others together. Start with `app.py`."""
