"""How an operation of the sequencer can end; as values for its callers, as exceptions within it."""

from __future__ import annotations

from dataclasses import dataclass

from duramen_collector.register import Ballot


@dataclass(frozen=True, slots=True)
class Acquired:
    """The log is this sequencer's, under ``ballot``; everything decided before is finished."""

    ballot: Ballot
    size: int


@dataclass(frozen=True, slots=True)
class Published:
    """A pack is decided, signed and in the database; the log now has ``size`` leaves."""

    size: int
    count: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """A region holds everything again."""

    region: str
    size: int


@dataclass(frozen=True, slots=True)
class Idle:
    """There was nothing to publish."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Too few regions answered; the same again, later, is right."""

    reason: str


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """A higher ballot is at work, for good: only an operator's promotion takes the log back."""

    ballot: Ballot
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Something that must not be went wrong; nothing more is written until an operator has decided."""

    reason: str
    code: str
    """A finding code of the contract."""


Outcome = Acquired | Published | Repaired | Idle | Unavailable | SteppedDown | Stopped


class UnavailableError(Exception):
    """Becomes :class:`Unavailable`."""


class SteppedDownError(Exception):
    """Becomes :class:`SteppedDown`."""

    def __init__(self, ballot: Ballot, reason: str) -> None:
        super().__init__(reason)
        self.ballot = ballot


class StoppedError(Exception):
    """Becomes :class:`Stopped`."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code
