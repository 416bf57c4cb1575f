"""Regions in memory, and the way to them.

Calls are late, lost, or done although the caller was told otherwise.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from duramen.region import ENVELOPES_PREFIX, PACKS_PREFIX
from duramen_collector.heads import RegionCall
from duramen_collector.store.port import (
    Absent,
    Answer,
    Call,
    Conflict,
    Create,
    Delete,
    Failed,
    Found,
    Get,
    List,
    Listed,
    Stat,
    Stored,
    Swap,
)
from tests.sim.clock import SECOND, Timeline, chance

PACKS = f"/{PACKS_PREFIX}"
TIMEOUT_NS = 30 * SECOND


@dataclass
class SimStore:
    """One region (duramen_collector.store.port.ObjectStore)."""

    name: str
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    is_down: bool = False
    lost_request: float = 0.0
    """How likely a call never arrives."""
    lost_answer: float = 0.0
    """How likely a call is done and its answer lost: failed, but persisted."""
    forgets: int = 0
    """How many of the next packs and envelopes are said to be stored and are not."""
    slowest_ns: int = SECOND // 20
    on_write: Callable[[str, bytes], None] = lambda _key, _data: None
    versions: itertools.count[int] = field(default_factory=itertools.count)
    _listed: list[str] | None = None

    def heal(self) -> None:
        """Nothing is lost or late any more."""
        self.lost_request = self.lost_answer = 0.0
        self.slowest_ns = SECOND // 20
        self._listed = None
        self.forgets = 0

    def freeze_listings(self) -> None:
        """Listings show what is there now until it heals; reads and conditional writes are never stale."""
        self._listed = list(self.objects)

    def perform(self, call: Call) -> Answer:
        """Do it, without any fault: for those who look on."""
        if isinstance(call, List):
            names = self.objects if self._listed is None else self._listed
            keys = sorted(key for key in names if key.startswith(call.prefix) and key > call.after)
            return Listed(tuple(keys[: call.limit]), more=len(keys) > call.limit)
        held = self.objects.get(call.key)
        match call:
            case Get():
                if held is None:
                    return Absent()
                end = len(held[0]) if call.length is None else call.offset + call.length
                return Found(held[0][call.offset : end], held[1], len(held[0]))
            case Stat():
                return Absent() if held is None else Found(b"", held[1], len(held[0]))
            case Create():
                if (
                    held is None
                    and self.forgets
                    and (PACKS in call.key or call.key.startswith(ENVELOPES_PREFIX))
                ):
                    self.forgets -= 1
                    return Stored("forgotten")
                if held is not None:
                    return Stored(held[1]) if held[0] == call.data else Conflict()
                return self._put(call.key, call.data)
            case Swap():
                version = None if held is None else held[1]
                return self._put(call.key, call.data) if version == call.expected else Conflict()
            case Delete():
                self.objects.pop(call.key, None)
                return Stored("")

    def _put(self, key: str, data: bytes) -> Stored:
        version = f"v{next(self.versions)}"
        self.objects[key] = (data, version)
        self.on_write(key, data)
        return Stored(version)


class RegionLink:
    """Performs batches for one collector process; what is under way when it dies may still arrive."""

    def __init__(self, timeline: Timeline, rng: random.Random, stores: dict[str, SimStore]) -> None:
        self._timeline, self._rng, self._stores = timeline, rng, stores
        self.cut: set[str] = set()
        """Regions that this collector cannot reach."""
        self._epoch = 0
        self.is_busy = False
        """Whether a batch is under way."""

    def drop(self) -> None:
        """The process died: answers reach nobody."""
        self._epoch += 1
        self.is_busy = False

    def perform(self, calls: Sequence[RegionCall], done: Callable[[list[Answer]], None]) -> None:
        """Perform ``calls``; ``done`` is called once, with answers in their order."""
        answers: list[Answer | None] = [None] * len(calls)
        epoch = self._epoch
        self.is_busy = True
        finished = False

        def conclude() -> None:
            nonlocal finished
            if finished or epoch != self._epoch:
                return
            finished, self.is_busy = True, False
            done([Failed("no answer in time") if answer is None else answer for answer in answers])

        def answered(index: int, answer: Answer) -> None:
            answers[index] = answer
            if all(item is not None for item in answers):
                conclude()

        for index, call in enumerate(calls):
            self._send(call, lambda answer, index=index: answered(index, answer))  # type: ignore[misc]  # mypy: default arguments of lambdas
        self._timeline.after(TIMEOUT_NS, conclude)

    def _send(self, call: RegionCall, answered: Callable[[Answer], None]) -> None:
        rng, store = self._rng, self._stores[call.region]
        if call.region in self.cut or store.is_down:
            self._timeline.after(rng.randrange(SECOND), lambda: answered(Failed("unreachable")))
            return
        if chance(rng, store.lost_request):
            if chance(rng, 0.5):
                self._timeline.after(rng.randrange(SECOND), lambda: answered(Failed("connection reset")))
            return
        is_lost = chance(rng, store.lost_answer)
        there, back = (rng.randrange(1, store.slowest_ns) for _ in range(2))
        if is_lost and chance(rng, 0.3):
            there += rng.randrange(2 * TIMEOUT_NS)  # it arrives long after the caller gave up

        def arrive() -> None:
            if store.is_down:
                return
            answer = store.perform(call.call)
            if not is_lost:
                self._timeline.after(back, lambda: answered(answer))
            elif chance(rng, 0.5):
                self._timeline.after(back, lambda: answered(Failed("failed, but persisted")))

        self._timeline.after(there, arrive)
