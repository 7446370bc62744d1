"""Turns OpenAI's requests and answers into a host's, and back."""
