"""Carries requests to hosts: connections, content codings, event streams."""
