"""Threads that take turns, in the order in which they came.

    turns = TurnLock()
    with turns.hold():             # waits for its turn
        for step in steps:
            step()
            turns.next()           # lets those that wait have theirs first

Several models' texts that are generated in threads of one process fight for Python's lock at every
small operation. One step at a time, each in its turn, they are done in a third of the time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class TurnLock:
    """Gives one thread at a time its turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        # Each waits for a lock of its own, which the thread that ends its turn opens.
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Return a context in which it is this thread's turn, except while `next` waits."""
        with self._lock:
            mine = self._join() if self._taken else None
            self._taken = True
        if mine is not None:
            mine.acquire()
        try:
            yield
        finally:
            with self._lock:
                self._taken = self._hand_over()

    def next(self) -> None:
        """Let all waiting threads have a turn; return at once when none waits."""
        with self._lock:
            if not self._waiting:
                return
            mine = self._join()
            self._hand_over()
        mine.acquire()

    def _join(self) -> threading.Lock:
        mine = threading.Lock()
        mine.acquire()
        self._waiting.append(mine)
        return mine

    def _hand_over(self) -> bool:
        """Begin the turn of the first waiting thread; return False when none waits."""
        if not self._waiting:
            return False
        self._waiting.popleft().release()
        return True
