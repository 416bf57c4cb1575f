"""The ``head`` registers of all regions of one log: reading, promising, accepting (PROTOCOL.md).

Generators yield batches of calls and take their answers in the same order; a driver may perform a batch in
parallel. What holds whatever happens to a call:

- a write is conditional on the version that its bytes were made from, so one that lands late, after its
caller gave up, lands only where nothing has changed since; - after a conflict, an error or a timeout the
head is read again: one of this operation's write uuids is success; - a head that is missing, foreign,
malformed, or lower than remembered is quarantined until this object is made anew: it is not written to and
counts in no quorum. ``remembered`` is what the database knew *before* anything was read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from duramen.errors import ConfigurationError, FormatError, StorageError
from duramen.ports import Random
from duramen.region import HEAD_KEY
from duramen_collector.outcome import SteppedDownError, StoppedError
from duramen_collector.register import (
    HEAD_MAX_BYTES,
    NO_BALLOT,
    UUID_BYTES,
    Accepted,
    Ballot,
    Configuration,
    Head,
    Value,
    parse_head,
)
from duramen_collector.store.port import (
    Absent,
    Answer,
    Call,
    Conflict,
    Create,
    Failed,
    Found,
    Get,
    Stored,
    Swap,
)

SWAP_ROUNDS: Final = 4
"""How often one operation tries to change a head before it leaves the region alone."""


@dataclass(frozen=True, slots=True)
class RegionCall:
    """A call and the region that is to perform it."""

    region: str
    call: Call


T = TypeVar("T")
Steps: TypeAlias = Generator[list[RegionCall], Sequence[Answer], T]
"""An operation: batches out, answers in, a result at the end."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The highest head seen of a region: what was promised, and the rank of what was accepted."""

    promised: Ballot
    accepted: tuple[Ballot, int]

    def merge(self, other: Remembered) -> Remembered:
        """The higher of both, field by field."""
        return Remembered(max(self.promised, other.promised), max(self.accepted, other.accepted))


LOWEST: Final = Remembered(NO_BALLOT, (NO_BALLOT, 0))


def remembered_of(head: Head) -> Remembered:
    """What is to be remembered of a head."""
    return Remembered(head.promised, LOWEST.accepted if head.accepted is None else head.accepted.rank)


def object_key(tenant: str, name: str) -> str:
    """The key of a tenant's object below the region's root."""
    return f"{tenant}/{name}"


class Region:
    """What the sequencer knows of one region.

    ``complete`` is the size up to which it holds everything (-1: unknown).
    """

    __slots__ = ("complete", "error", "head", "name", "quarantine", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.head: Head | None = None
        self.version: str | None = None
        self.complete = -1
        self.error: str | None = None
        self.quarantine: str | None = None


class Heads:
    """The registers of the regions of ``configuration``, for the log ``origin`` of ``tenant``."""

    def __init__(
        self,
        tenant: str,
        origin: str,
        configuration: Configuration,
        random: Random,
        remembered: Mapping[str, Remembered],
    ) -> None:
        self._key = object_key(tenant, HEAD_KEY)
        self._origin = origin
        self._configuration = configuration
        self._random = random
        self.regions = {name: Region(name) for name in configuration.regions}
        self.highest = {name: remembered.get(name, LOWEST) for name in configuration.regions}
        self.newest = max(known.promised for known in self.highest.values())
        """The highest ballot seen anywhere, quarantined heads included."""

    def usable(self) -> list[str]:
        """Regions whose head was read and is good."""
        return [name for name, region in self.regions.items() if region.head and not region.quarantine]

    def read(self, names: Iterable[str] | None = None) -> Steps[None]:
        """Read heads (of all regions by default); raises StoppedError for another configuration."""
        wanted = [
            name for name in (self.regions if names is None else names) if not self.regions[name].quarantine
        ]
        answers = yield [RegionCall(name, Get(self._key, 0, HEAD_MAX_BYTES + 1)) for name in wanted]
        for name, answer in zip(wanted, answers, strict=True):
            self._take(self.regions[name], answer)

    def promise(self, ballot: Ballot) -> Steps[list[str]]:
        """Make regions promise ``ballot``, keeping what they accepted; those that did."""

        def promised(head: Head) -> Head | None:
            return None if head.promised == ballot else replace(head, promised=ballot)

        return (yield from self._change(self.usable(), ballot, promised))

    def accept(self, ballot: Ballot, value: Value, names: Iterable[str]) -> Steps[list[str]]:
        """Make the regions ``names`` accept ``value`` under ``ballot``; those that have.

        A later value of the same ballot begins with this one and counts as it; a repair must not take it
        back.
        """
        wanted = Accepted(ballot, value)

        def accepted(head: Head) -> Head | None:
            if head.accepted is None or head.accepted.rank < wanted.rank:
                return replace(head, promised=ballot, accepted=wanted)
            if head.accepted.rank == wanted.rank and head.accepted != wanted:
                raise StoppedError(
                    f"the region {head.region} accepted another log under this sequencer's ballot {ballot}; "
                    "an operator has to find out who else uses it",
                    "equivocation",
                )
            return None

        usable = set(self.usable())
        return (yield from self._change([name for name in names if name in usable], ballot, accepted))

    def _change(
        self, names: Iterable[str], ballot: Ballot, make: Callable[[Head], Head | None]
    ) -> Steps[list[str]]:
        """Swap each head for what ``make`` makes of it (None: it is so already); those where that is done."""
        done: list[str] = []
        writes: dict[str, set[bytes]] = {name: set() for name in names}
        left = list(writes)
        for _ in range(SWAP_ROUNDS):
            pending: dict[str, Head] = {}
            for name in left:
                head = self._current(name)
                if head.promised > ballot:
                    raise SteppedDownError(
                        head.promised,
                        f"the region {name} has promised the ballot {head.promised} of another sequencer",
                    )
                made = None if head.write in writes[name] else make(head)
                if made is None:
                    done.append(name)
                else:
                    pending[name] = replace(made, write=self._random.draw(UUID_BYTES))
                    writes[name].add(pending[name].write)
            left = yield from self._swap(pending, done)
            if not left:
                break
        for name in left:
            self.regions[name].error = "its head kept changing; another writer is at work"
        return done

    def _swap(self, pending: Mapping[str, Head], done: list[str]) -> Steps[list[str]]:
        """One round of swaps.

        Those that were not simply stored are read again and, where that works, returned.
        """
        if not pending:
            return []
        answers = yield [
            RegionCall(name, Swap(self._key, head.encode(), self.regions[name].version))
            for name, head in pending.items()
        ]
        unsure = []
        for (name, head), answer in zip(pending.items(), answers, strict=True):
            if isinstance(answer, Stored):
                self._keep(self.regions[name], head, answer.version)
                done.append(name)
            else:
                unsure.append(name)
        if unsure:
            yield from self.read(unsure)
        return [name for name in unsure if name in self.usable() and self.regions[name].error is None]

    def _current(self, name: str) -> Head:
        head = self.regions[name].head
        if head is None:
            raise AssertionError(f"the head of {name} was never read")
        return head

    def _take(self, region: Region, answer: Answer) -> None:
        """Judge what reading a head gave."""
        region.head, region.version = None, None
        if isinstance(answer, Failed):
            region.error = answer.reason
        elif isinstance(answer, Absent):
            region.quarantine = "its head is missing"
        elif isinstance(answer, Found):
            try:
                head = parse_head(answer.data)
            except FormatError as error:
                region.quarantine = f"its head is malformed: {error}"
                return
            self._judge(region, head, answer.version)

    def _judge(self, region: Region, head: Head, version: str) -> None:
        known = self.highest[region.name]
        seen = remembered_of(head)
        if (head.log, head.region) != (self._origin, region.name):
            region.quarantine = f"its head is foreign: it is the one of {head.log} in {head.region}"
            return
        self.newest = max(self.newest, head.promised)
        if seen.merge(known) != seen:
            region.quarantine = "its head is lower than remembered: an old copy was restored"
            return
        configurations = {head.configuration}
        if head.accepted is not None:
            configurations.add(head.accepted.value.configuration)
        if configurations != {self._configuration}:
            raise StoppedError(
                f"the region {region.name} is of another configuration of regions than this collector's; "
                "make the configuration agree with the regions",
                "sequencer_change",
            )
        self._keep(region, head, version)

    def _keep(self, region: Region, head: Head, version: str) -> None:
        region.head, region.version, region.error = head, version, None
        self.highest[region.name] = self.highest[region.name].merge(remembered_of(head))
        self.newest = max(self.newest, head.promised)


def initialise_regions(tenant: str, origin: str, configuration: Configuration, random: Random) -> Steps[None]:
    """The operator's init of one log: create the head in every region, and never again.

    Run again after a crash it creates those that are still missing, as long as nothing has been promised
    anywhere. Raises ConfigurationError when a region already has a head in use or another one's,
    StorageError when a region does not answer.
    """
    key = object_key(tenant, HEAD_KEY)
    names = configuration.regions
    answers = yield [RegionCall(name, Get(key, 0, HEAD_MAX_BYTES + 1)) for name in names]
    missing = []
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Absent):
            missing.append(name)
        else:
            _demand_unused(answer, origin, name, configuration)
    heads = {
        name: Head(origin, name, configuration, NO_BALLOT, None, random.draw(UUID_BYTES)) for name in missing
    }
    if heads:
        answers = yield [RegionCall(name, Create(key, head.encode())) for name, head in heads.items()]
        for name, answer in zip(heads, answers, strict=True):
            if isinstance(answer, Conflict):
                raise ConfigurationError(f"somebody else is initialising the region {name}; run init again")
            if not isinstance(answer, Stored):
                raise StorageError(f"the region {name} could not be initialised: {_reason(answer)}")


def _demand_unused(answer: Answer, origin: str, name: str, configuration: Configuration) -> None:
    if not isinstance(answer, Found):
        raise StorageError(f"the region {name} could not be read: {_reason(answer)}")
    try:
        head = parse_head(answer.data)
    except FormatError as error:
        raise ConfigurationError(
            f"the region {name} holds something else where the head belongs: {error}"
        ) from error
    if (head.log, head.region, head.configuration) != (origin, name, configuration):
        raise ConfigurationError(f"the region {name} belongs to {head.log}, as {head.region}, already")
    if head.promised != NO_BALLOT:
        raise ConfigurationError(f"the region {name} is in use already; init is for new regions only")


def _reason(answer: Answer) -> str:
    return answer.reason if isinstance(answer, Failed) else f"unexpected answer {type(answer).__name__}"
