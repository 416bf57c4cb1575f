"""When a tenant log is acquired, published and repaired: a single-threaded state machine over its sequencer.

Events come in (:meth:`Publisher.tick`, :meth:`Publisher.answers`), effects come out: a :class:`Batch` of
region calls to perform and to answer, or a :class:`Wait` until a time. It never runs two operations at
once, and begins none by itself: whoever drives it ticks it when a wait is over or something arrived.

::

    acquiring ──► holding ◄──► publishing · repairing
        │ ▲          │
        │ └─ backoff ┘          too few regions answered: the same again, later
        ▼
    stepped down, stopped       for good; only promote() leads back to acquiring

Times are monotonic nanoseconds of the caller's, but for ``backlog.oldest_ns``, which is wall time:
:meth:`tick` takes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from duramen.errors import StorageError
from duramen_collector.heads import RegionCall, Steps
from duramen_collector.ledger import Ledger
from duramen_collector.outcome import (
    Acquired,
    Idle,
    Outcome,
    Published,
    Repaired,
    SteppedDown,
    Stopped,
    Unavailable,
)
from duramen_collector.register import Ballot
from duramen_collector.sequencer import RegionStatus, Sequencer
from duramen_collector.store.port import Answer

BACKOFF_FIRST_NS: Final = 10**9
BACKOFF_LAST_NS: Final = 60 * 10**9
PUBLISH_APART_NS: Final = 10**9
"""An object is updated at most this often: once a second is the most that GCS takes."""
LOOK_NS: Final = 10**9
"""How long a wait is at most: how often ``landing`` is looked at when nobody ticks in between."""


class PublisherState(StrEnum):
    """Where a tenant log's publication stands."""

    ACQUIRING = "acquiring"
    HOLDING = "holding"
    STEPPED_DOWN = "stepped_down"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls to perform, in parallel if liked.

    The answers, in the same order, go to :meth:`Publisher.answers`.
    """

    calls: tuple[RegionCall, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until_ns`` (monotonic); None: nothing until promoted."""

    until_ns: int | None


Effect = Batch | Wait


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """What status and metrics show; ``reason`` is one sentence when something is wrong."""

    state: PublisherState
    reason: str | None
    code: str | None
    """A finding code of the contract when stopped."""
    ballot: Ballot | None
    """The own ballot when holding; the other one when stepped down."""
    size: int
    regions: tuple[RegionStatus, ...]


class Publisher:
    """Drives one tenant log.

    Publishes when ``interval_ns`` has passed since the oldest waiting statement came, or ``max_bytes``
    wait.
    """

    def __init__(self, sequencer: Sequencer, ledger: Ledger, *, interval_ns: int, max_bytes: int) -> None:
        self._sequencer = sequencer
        self._ledger = ledger
        self._interval_ns = interval_ns
        self._max_bytes = max_bytes
        self._state = PublisherState.ACQUIRING
        self._steps: Steps[Outcome] | None = None
        self._batch: Batch | None = None
        self._is_promotion_wanted = False
        self._is_promotion = False
        self._reason: str | None = None
        self._code: str | None = None
        self._other: Ballot | None = None
        self._failures = 0
        self._not_before_ns = 0
        self._is_retry = False
        self._repair_at_ns: dict[str, int] = {}
        self._repair_failures: dict[str, int] = {}
        self._repairing: str | None = None

    def tick(self, now_ns: int, wall_ns: int) -> Effect:
        """Time has passed, or something has come in. While a batch is out it is answered again, unchanged."""
        if self._batch is not None:
            return self._batch
        if self._state in (PublisherState.STEPPED_DOWN, PublisherState.STOPPED):
            return Wait(None)
        if now_ns < self._not_before_ns:
            return Wait(self._not_before_ns)
        if self._state is PublisherState.ACQUIRING:
            self._is_promotion = self._is_promotion or self._is_promotion_wanted
            self._is_promotion_wanted = False
            return self._begin(self._sequencer.acquire(promote=self._is_promotion), now_ns)
        try:
            is_due = self._is_retry or self._is_due(wall_ns)
        except StorageError as error:
            return self._ended(Unavailable(str(error)), now_ns)
        if is_due:
            return self._begin(self._sequencer.publish(), now_ns)
        for name in self._sequencer.lagging():
            if now_ns >= self._repair_at_ns.get(name, 0):
                self._repairing = name
                return self._begin(self._sequencer.repair(name), now_ns)
        return Wait(now_ns + LOOK_NS)

    def answers(self, answers: Sequence[Answer], now_ns: int) -> Effect:
        """The answers to the batch that is out, in its order."""
        if self._steps is None or self._batch is None or len(answers) != len(self._batch.calls):
            raise AssertionError("answers come once, and one for each call of the batch that is out")
        self._batch = None
        return self._resume(self._steps, answers, now_ns)

    def promote(self) -> None:
        """The operator wants this collector to take the log, whoever has it.

        At the next tick, or after what is under way.
        """
        self._is_promotion_wanted = True
        if self._batch is None:
            self._enter(PublisherState.ACQUIRING, None, None)

    def is_accepting(self) -> bool:
        """Whether ingest may accept blocks.

        Not after stepping down or stopping, when they might never be published.
        """
        return self._state in (PublisherState.ACQUIRING, PublisherState.HOLDING)

    def status(self) -> PublisherStatus:
        """Where things stand."""
        ballot = self._other if self._state is PublisherState.STEPPED_DOWN else self._sequencer.ballot
        return PublisherStatus(
            self._state, self._reason, self._code, ballot, self._sequencer.size, self._sequencer.status()
        )

    def _is_due(self, wall_ns: int) -> bool:
        backlog = self._ledger.backlog()
        if not backlog.count:
            return False
        age_ns = wall_ns - backlog.oldest_ns
        # A clock set back makes the oldest one lie in the future: that is due as well.
        return backlog.size_bytes >= self._max_bytes or age_ns >= self._interval_ns or age_ns < 0

    def _begin(self, steps: Steps[Outcome], now_ns: int) -> Effect:
        self._steps = steps
        return self._resume(steps, None, now_ns)

    def _resume(self, steps: Steps[Outcome], answers: Sequence[Answer] | None, now_ns: int) -> Effect:
        try:
            calls = next(steps) if answers is None else steps.send(answers)
        except StopIteration as stop:
            self._steps = None
            return self._ended(stop.value, now_ns)
        self._batch = Batch(tuple(calls))
        return self._batch

    def _ended(self, outcome: Outcome, now_ns: int) -> Effect:
        repairing, self._repairing = self._repairing, None
        match outcome:
            case Acquired():
                self._is_promotion = False
                self._enter(PublisherState.HOLDING, None, None)
            case Published():
                self._succeeded(now_ns + PUBLISH_APART_NS)
            case Idle():
                self._succeeded(now_ns)
            case Repaired():
                self._repair_failures.pop(outcome.region, None)
            case Unavailable():
                self._failed(outcome.reason, repairing, now_ns)
            case SteppedDown():
                self._is_promotion = False
                self._other = outcome.ballot
                self._enter(PublisherState.STEPPED_DOWN, outcome.reason, None)
            case Stopped():
                self._is_promotion = False
                self._enter(PublisherState.STOPPED, outcome.reason, outcome.code)
        if self._is_promotion_wanted:
            self._enter(PublisherState.ACQUIRING, self._reason, None)
        return Wait(max(now_ns, self._not_before_ns) if self.is_accepting() else None)

    def _enter(self, state: PublisherState, reason: str | None, code: str | None) -> None:
        self._state, self._reason, self._code = state, reason, code
        self._failures, self._is_retry, self._not_before_ns = 0, False, 0

    def _failed(self, reason: str, repairing: str | None, now_ns: int) -> None:
        if self._sequencer.ballot is None:
            self._state = PublisherState.ACQUIRING
        if repairing is not None:
            failures = self._repair_failures[repairing] = self._repair_failures.get(repairing, 0) + 1
            self._repair_at_ns[repairing] = now_ns + _backoff_ns(failures)
            return
        self._failures += 1
        self._reason = reason
        self._is_retry = self._state is PublisherState.HOLDING
        self._not_before_ns = now_ns + _backoff_ns(self._failures)

    def _succeeded(self, not_before_ns: int) -> None:
        self._failures, self._is_retry, self._reason = 0, False, None
        self._not_before_ns = not_before_ns


def _backoff_ns(failures: int) -> int:
    """Doubling from one second to a minute; one sequencer a log needs no jitter."""
    return min(BACKOFF_LAST_NS, BACKOFF_FIRST_NS << min(failures - 1, 16))
