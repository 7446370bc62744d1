"""One file per metric. `registry.py` lists them; that list is the only place to add one."""
