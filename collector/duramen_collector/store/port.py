"""The port to an object store: what PROTOCOL.md and DESIGN 8 need of one, and nothing else.

Calls are *described* (:class:`Get`, :class:`Create`, ...) and answered with values, so that the sequencer
can be a generator that yields calls, a driver can run them in threads, and a simulation can delay, lose or
tear each of them. :class:`ObjectStore` performs one call at a time; one conformance suite holds every
implementation to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Get:
    """Read an object, or ``length`` bytes of it from ``offset``.

    Answered by :class:`Found` or :class:`Absent`.
    """

    key: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """Ask for an object's size without reading it.

    Answered by :class:`Found` with empty data or :class:`Absent`.
    """

    key: str


@dataclass(frozen=True, slots=True)
class Create:
    """Write an object that must not exist yet; answered by :class:`Stored` or :class:`Conflict`.

    When it exists with the same bytes the answer is :class:`Stored`; with others :class:`Conflict`.
    ``retain_until_s`` (Unix seconds) asks for a retention lock.
    """

    key: str
    data: bytes
    retain_until_s: int | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Replace an object if its version is still ``expected`` (None: if there is none).

    ``Stored`` or ``Conflict``.
    """

    key: str
    data: bytes
    expected: str | None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object in all versions; answered by :class:`Stored` whether it was there or not."""

    key: str


@dataclass(frozen=True, slots=True)
class List:
    """Up to ``limit`` keys that begin with ``prefix``, ascending, after ``after``.

    Answered by :class:`Listed`.
    """

    prefix: str
    after: str = ""
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """An object: its bytes, its version for :class:`Swap`, and its full size."""

    data: bytes
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The write is durable; ``version`` is for a later :class:`Swap`."""

    version: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The condition did not hold; nothing was written."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Keys in ascending order; ``more`` when there are others after the last."""

    keys: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The store did not answer or answered with an error: a write may or may not have happened."""

    reason: str


Call = Get | Stat | Create | Swap | Delete | List
Answer = Found | Absent | Stored | Conflict | Listed | Failed


class ObjectStore(Protocol):
    """One region. Errors of the store come back as :class:`Failed`; only a bug raises."""

    def perform(self, call: Call) -> Answer:
        """Perform one call; durable before it returns. Safe to call from several threads."""
        ...
