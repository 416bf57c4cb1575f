"""A step of the agent's state machine: what goes in, what comes out, and the forwarder's side of it.

Nothing here does anything. Adapters (watchdog, httpx, timers, signals) translate the world into events and
carry out effects; the simulation does the same with a world of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from duramen_agent.agentstatus import ForwardStatus
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks, ns."""

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class PathsChanged:
    """Something happened to these paths; ``None`` when the adapter lost count (an inotify overflow)."""

    paths: frozenset[bytes] | None


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Seal what is there, say stop, and end."""


Event = PathsChanged | StopRequested | HttpResponse | HttpFailure
"""A tick is a step without events."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a step wants done."""

    requests: tuple[HttpRequest, ...]
    deadline_ns: int | None
    """Monotonic ns at which the next step is due without events; None: only at the next event."""
    stopped: bool = False
    """The stop is sealed (or could not be, and status says why): the process may end."""


class Forwarder(Protocol):
    """The half that talks to collectors.

    It reads the spool and marks in it what was accepted and published.
    """

    def poll(self, now_monotonic_ns: int) -> list[HttpRequest]:
        """The requests that are due now."""
        ...

    def deadline_ns(self) -> int | None:
        """When :meth:`poll` is due next without any event; monotonic ns."""
        ...

    def on_response(self, response: HttpResponse, now_wall_ns: int, now_monotonic_ns: int) -> None:
        """Take an answer."""
        ...

    def on_failure(self, failure: HttpFailure, now_monotonic_ns: int) -> None:
        """Take the lack of one."""
        ...

    def on_sealed(self) -> None:
        """There are new blocks in the spool."""
        ...

    def status(self, now_wall_ns: int) -> ForwardStatus:
        """How it is going."""
        ...
