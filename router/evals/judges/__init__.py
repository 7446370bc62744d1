"""Has judges asked for runs, calibrations and comparisons."""
