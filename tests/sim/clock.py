"""Simulated time and randomness.

One queue of events, clocks that can be wrong, bytes that follow from a seed.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

SECOND = 10**9
START_NS = 1_800_000_000 * SECOND


class Timeline:
    """What happens when.

    Everything in a simulation is a call at an instant; ties go in the order of asking.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` ``delay_ns`` from now."""
        heapq.heappush(self._queue, (self.now_ns + max(0, delay_ns), next(self._order), action))

    def run_until(self, end_ns: int) -> None:
        """Let time pass until ``end_ns``."""
        while self._queue and self._queue[0][0] <= end_ns:
            self.now_ns, _, action = heapq.heappop(self._queue)
            action()
        self.now_ns = end_ns


@dataclass
class SimClock:
    """One machine's clock (duramen.ports.Clock): its wall clock may be off, and jump.

    A boot restarts the other.
    """

    timeline: Timeline
    offset_ns: int = 0
    boots: int = 0
    booted_ns: int = 0
    drift_ppm: int = 0
    _since_ns: int = 0
    _gained_ns: int = 0

    def wall_ns(self) -> int:
        return START_NS + self._own_ns() + self.offset_ns

    def monotonic_ns(self) -> int:
        return self._own_ns() - self.booted_ns + SECOND

    def drift(self, ppm: int) -> None:
        """Run too fast by ``ppm``, or too slow, from now on."""
        self._gained_ns = self._own_ns() - self.timeline.now_ns
        self._since_ns, self.drift_ppm = self.timeline.now_ns, ppm

    def _own_ns(self) -> int:
        elapsed = self.timeline.now_ns - self._since_ns
        return self.timeline.now_ns + self._gained_ns + elapsed * self.drift_ppm // 10**6

    def boot_id(self) -> bytes:
        return self.boots.to_bytes(8, "big")

    def reboot(self) -> None:
        self.boots += 1
        self.booted_ns = self._own_ns()


@dataclass
class SimRandom:
    """Randomness of one process (duramen.ports.Random): repeatable from run to run, never within one."""

    label: str
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def draw(self, count: int) -> bytes:
        return hashlib.shake_256(f"{self.label}/{next(self.numbers)}".encode()).digest(count)


def chance(rng: random.Random, probability: float) -> bool:
    """True with ``probability``."""
    return rng.random() < probability
