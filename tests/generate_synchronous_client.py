"""Writes the SDK's synchronous client from the asynchronous one: `make client`.

Tokens are replaced, not text, so that nothing inside a word or a message changes by accident; ruff
then sorts the imports, drops those that are left over, and lays the lines out anew.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from itertools import accumulate
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "router" / "client"
SOURCE, TARGET = CLIENT / "asynchronous.py", CLIENT / "synchronous.py"
HEAD = '''\
# Generated from `asynchronous.py` by `make client`: change that file, not this one.
"""`Client`: the SDK for programs that wait. `asynchronous.py` has the same methods, awaited."""
'''
# Names that begin with `Async` lose it; these have a form of their own.
NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "aiter_lines": "iter_lines",
    "aread": "read",
}
_ASYNC_NAME = re.compile(r"Async(?=[A-Z])")
_KEYWORD = re.compile(r"\b(async|await) ")
# What asyncio does for one client, and how the other one does it.
_CALLS = (
    (re.compile(r"\basyncio\.sleep\("), "time.sleep("),
    (re.compile(r"\basyncio\.to_thread\(([\w.]+), "), r"\1("),
)


def synchronous(source: str) -> str:
    """Return the synchronous client's source for that of the asynchronous one."""
    edits: list[tuple[int, int, str]] = []
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            edits.append((start, end + 1, ""))
        elif token.type == tokenize.NAME:
            name = NAMES.get(token.string, _ASYNC_NAME.sub("", token.string))
            edits.append((start, end, name))
        elif token.type == tokenize.COMMENT and "noqa: ASYNC" in token.string:
            edits.append((start, end, ""))
        elif token.type == tokenize.STRING and token.string.startswith('"""'):
            edits.append((start, end, _KEYWORD.sub("", _ASYNC_NAME.sub("", token.string))))
    for start, end, text in reversed(edits):
        source = source[:start] + text + source[end:]
    for pattern, replacement in _CALLS:
        source = pattern.sub(replacement, source)
    _, first, rest = source.partition("\nfrom __future__")
    return _ruff("format", _ruff("check", HEAD + first + rest))


def _ruff(command: str, source: str) -> str:
    fix = ["--fix", "--unsafe-fixes", "--quiet", "--select", "F401,I,UP028"]
    arguments = ["--stdin-filename", str(TARGET), *(fix if command == "check" else ()), "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", command, *arguments],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    TARGET.write_text(synchronous(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
