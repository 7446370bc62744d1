"""Runs what takes long for a large request or answer on a thread, so that others have their turn.

fields = await off_loop(call.size, translate, rules, call)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# Reading and writing this much JSON takes the time of a few requests.
LARGE_BYTES = 64 * 1024

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what a function returns, called on a thread if its input is large.

    Args:
        size: bytes of the input.
        function: what to call. It goes on to its end if the caller is cancelled, so its time has
            to be bounded.
        args: its arguments.
        options: its keyword arguments.
    """
    if size > LARGE_BYTES:
        return await asyncio.to_thread(function, *args, **options)
    return function(*args, **options)
