"""How often a block may be sealed: at once after quiet, at a bounded rate in a sustained trickle.

A token bucket that holds ``burst`` blocks and gets one back every ``max_delay``. So an isolated line is
sealed at once, a trickle seals at most one block each ``max_delay`` once the burst is spent, and no line
waits longer than ``max_delay`` for its block. Blocks that are full by size do not ask.
"""

from __future__ import annotations


class Allowance:
    """One bucket; times are monotonic ns."""

    __slots__ = ("_capacity_ns", "_level_ns", "_refill_ns", "_seen_ns")

    def __init__(self, burst: int, refill_ns: int, now_ns: int) -> None:
        self._refill_ns = refill_ns
        self._capacity_ns = burst * refill_ns
        self._level_ns = self._capacity_ns
        self._seen_ns = now_ns

    def available_at_ns(self, now_ns: int) -> int:
        """When a block may be sealed next: ``now_ns`` if at once."""
        self._level_ns = min(self._capacity_ns, self._level_ns + max(0, now_ns - self._seen_ns))
        self._seen_ns = now_ns
        return now_ns + max(0, self._refill_ns - self._level_ns)

    def take(self) -> None:
        """Count one block that was sealed when it was available."""
        self._level_ns -= self._refill_ns
