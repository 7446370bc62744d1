"""Tasks: run documents that are filled in but for the dataset and the routes."""
