"""Performs batches of region calls on threads: the adapter between sequencers and stores.

Each region has threads of its own, so that one that hangs delays nobody else. A call that gives no answer
in time is answered with :class:`~duramen_collector.store.port.Failed`: it may have happened, or may happen
later, which is what the sequencer expects. One that had not begun is taken back and will not.

A thread that hangs in the kernel cannot be ended; :meth:`RegionDriver.close` does not wait for it, but the
interpreter does at exit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

from duramen.ports import Clock
from duramen.system import SystemClock
from duramen_collector.heads import RegionCall, Steps, T
from duramen_collector.store.port import Answer, Failed, ObjectStore

THREADS: Final = 8
"""Calls of one region that run at once."""


class RegionDriver:
    """Performs calls on ``stores``, by region name; ``timeout_seconds`` is for a whole batch."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        timeout_seconds: float,
        clock: Clock | None = None,
        threads: int = THREADS,
    ) -> None:
        self._stores = dict(stores)
        self._timeout_seconds = timeout_seconds
        self._clock = clock or SystemClock()
        self._pools = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"region-{name}") for name in self._stores
        }

    def perform(self, calls: Sequence[RegionCall]) -> list[Answer]:
        """Perform a batch; answers in its order, within the timeout.

        A bug in a store comes through as its exception.
        """
        deadline_ns = self._clock.monotonic_ns() + round(self._timeout_seconds * 1e9)
        futures: list[Future[Answer]] = [
            self._pools[call.region].submit(self._stores[call.region].perform, call.call) for call in calls
        ]
        return [self._answer(future, deadline_ns) for future in futures]

    def run(self, steps: Steps[T]) -> T:
        """Run one operation to its end."""
        try:
            calls = next(steps)
            while True:
                calls = steps.send(self.perform(calls))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Take back what has not begun; what runs goes on."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, future: Future[Answer], deadline_ns: int) -> Answer:
        try:
            return future.result(max(0, deadline_ns - self._clock.monotonic_ns()) / 1e9)
        except FutureTimeoutError:
            if future.cancel():
                return Failed(f"the region was busy for {self._timeout_seconds:g} s; nothing was written")
            return Failed(
                f"the region gave no answer within {self._timeout_seconds:g} s; a write may yet happen"
            )
