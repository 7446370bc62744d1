"""Where runs, samples, answers and scores are kept. `base.py` is the protocol and the rows."""

import sys

# sqlite-utils imports pandas wherever it is installed, for types that we never store: most of a
# second and 70 MB, for each process. A None there reads as "not installed".
if "pandas" not in sys.modules:
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        import sqlite_utils.db  # noqa: F401  # imported for its effect
    finally:
        del sys.modules["pandas"]
