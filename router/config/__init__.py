"""Reads the config file and other documents."""
