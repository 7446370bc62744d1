"""Runs models in this process: transformers, vLLM and llama.cpp."""
