"""Has samples answered and scored, in lanes and worker processes."""
