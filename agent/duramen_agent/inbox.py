"""The one queue in front of the state machine, and the one thing that wakes it.

Threads (transport, file events, status socket) and signal handlers put things in; the main loop takes
everything at once. Changed paths are a set, so that a thousand writes to a file between two rounds are one
entry, and cost one wake-up; past :data:`MAX_PATHS` distinct ones they become "anything may have changed".

:meth:`Inbox.put` takes no lock, because a signal handler may interrupt the main loop anywhere.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import Final, Generic, TypeVar

MAX_PATHS: Final = 65_536

T = TypeVar("T")


class Inbox(Generic[T]):
    """Many may put; one may take and wait."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._paths: set[bytes] = set()
        self._lost_count = False
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._eventfd, select.POLLIN)

    def put(self, item: T) -> None:
        """Add ``item`` and wake the taker; safe in threads and signal handlers."""
        self._items.append(item)
        os.eventfd_write(self._eventfd, 1)

    def changed(self, *paths: bytes) -> None:
        """Something happened to ``paths``; safe in threads."""
        with self._lock:
            wake = not self._paths and not self._lost_count
            if len(self._paths) < MAX_PATHS:
                self._paths.update(paths)
            else:
                self._lost_count = True
        if wake:
            os.eventfd_write(self._eventfd, 1)

    def take(self) -> tuple[list[T], frozenset[bytes] | None]:
        """Everything put since the last time, and the changed paths (None: anything may have changed)."""
        items = []
        while self._items:
            items.append(self._items.popleft())
        with self._lock:
            paths = None if self._lost_count else frozenset(self._paths)
            self._paths.clear()
            self._lost_count = False
        return items, paths

    def wait(self, timeout_ns: int | None) -> None:
        """Sleep until something was put, or for ``timeout_ns``."""
        timeout_ms = None if timeout_ns is None else max(0, -(-timeout_ns // 10**6))
        if self._poll.poll(timeout_ms):
            os.eventfd_read(self._eventfd)

    def close(self) -> None:
        """Release the descriptor; nothing may be put any more."""
        os.close(self._eventfd)
