"""The learned route: predicts from a prompt which target is the cheapest that is good enough."""
