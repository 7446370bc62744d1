"""Routes requests to targets: the hot path, its limits and its records."""
