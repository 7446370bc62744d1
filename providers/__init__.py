"""How evalrouter speaks to models. Knows none of the other packages.

Start with `base.py` (the one seam, `Provider.send`), then `kinds.py` (which kinds there are).
"""
