"""LLM judges: what they are asked, what their answers mean, and how far they can be trusted."""
