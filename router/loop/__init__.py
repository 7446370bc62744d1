"""The closed loop: traffic becomes evidence, and evidence moves traffic."""
