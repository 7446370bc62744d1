"""Where runs, samples, answers and scores are kept. `base.py` is the protocol and the rows."""
