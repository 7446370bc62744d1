"""Examines how well a host speaks OpenAI's API."""
