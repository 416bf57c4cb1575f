"""One tenant log's sequencer: acquire, publish, finish, repair, exactly as PROTOCOL.md says.

Operations are generators over batches of region calls (:mod:`.heads`); the database is read and written
between batches, never while one is out. They must run one at a time, each to its end or dropped; after a
dropped one, as after a crash, the next operation is :meth:`Sequencer.acquire`, which repairs whatever was
left half done.

What holds, with any number of sequencers at work at once, each with a database of its own or all with the
same one:

- only what k regions accepted under one ballot gets tiles, a signature, a checkpoint, a place in the
database; - a region accepts only when it holds everything below (``Region.complete``), and when k regions
have given the pack and its envelopes back as they were written; - a ballot is drawn fresh by every
acquisition and recorded in the database before it is used, and proposes one pack at a time: the database
fixes the pack's bytes until it is finished; - acquire adopts the highest accepted value among the fenced
regions, and stops if a signed checkpoint that it knows of is not a prefix of it.

An acquisition that finds a ballot higher than any this database has drawn steps down, unless it is a
promotion: an old primary that comes back does not take the log from the standby that replaced it. Databases
that lost their memory need a promotion too.

What it does not do yet: members (a change of configuration), and cosignatures, which have no part in what
is decided. Rebuilding a lost database reads one header a pack backwards and then every pack once, and keeps
one 32-byte digest a pack in memory. Superseded partial tiles are deleted when their full tile is in place;
those that a crash or a dead region leaves stay and do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from duramen.checkpoint import Checkpoint
from duramen.errors import FormatError, IntegrityError, StorageError
from duramen.merkle import EMPTY_ROOT
from duramen.names import Digest
from duramen.ports import Clock, Random
from duramen.tiles import TilePath, grow_entries
from duramen_collector.heads import Heads, Remembered, Steps, T
from duramen_collector.holdings import Holdings, edge_bundle, superseded
from duramen_collector.ledger import Ledger, PendingPack, Position
from duramen_collector.logsettings import LogSettings, Retention
from duramen_collector.outcome import (
    Acquired,
    Idle,
    Outcome,
    Published,
    Repaired,
    SteppedDown,
    SteppedDownError,
    Stopped,
    StoppedError,
    Unavailable,
    UnavailableError,
)
from duramen_collector.register import COUNTER_MAX, UUID_BYTES, Accepted, Ballot, Value
from duramen_collector.replica import CheckpointSigner, Replicas

__all__ = ["KEEP_CHECKPOINT_NS", "LogSettings", "RegionStatus", "Retention", "Sequencer"]

KEEP_CHECKPOINT_NS: Final = 3600 * 10**9
"""How far apart kept checkpoints are."""


@dataclass(frozen=True, slots=True)
class RegionStatus:
    """One region as the sequencer knows it; ``behind`` is how many leaves it lacks (None: not known)."""

    name: str
    behind: int | None
    error: str | None
    quarantine: str | None


class Sequencer:
    """The sequencer of one tenant log; see the module for what holds."""

    def __init__(
        self, settings: LogSettings, ledger: Ledger, signer: CheckpointSigner, clock: Clock, random: Random
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._signer = signer
        self._clock = clock
        self._random = random
        self._ballot: Ballot | None = None
        self._value: Value | None = (
            None  # decided and finished under the ballot, if anything was ever published
        )
        self._heads: Heads
        self._replicas: Replicas
        self._holdings: Holdings
        self._kept_ns: int | None = None
        self._start({})

    def acquire(self, *, promote: bool = False) -> Steps[Outcome]:
        """Take the log: fence, adopt, finish what was decided, bring the database up to it."""
        self._ballot = None
        return (yield from self._ended(self._acquire(promote=promote)))

    def publish(self) -> Steps[Outcome]:
        """Publish one pack of what waits; after :class:`Unavailable`, the same pack again."""
        return (yield from self._ended(self._publish()))

    def repair(self, name: str) -> Steps[Outcome]:
        """Give one region everything it lacks: packs, envelopes, tiles, then head, then checkpoint."""
        return (yield from self._ended(self._repair(name)))

    @property
    def ballot(self) -> Ballot | None:
        """The ballot under which this sequencer holds the log, or None."""
        return self._ballot

    @property
    def size(self) -> int:
        """How many leaves are decided and finished."""
        return 0 if self._value is None else self._value.size

    def lagging(self) -> list[str]:
        """Regions that repair can help: not quarantined, and not known to be well and to hold everything."""
        return [
            name
            for name, region in self._heads.regions.items()
            if not region.quarantine
            and (region.head is None or region.error is not None or region.complete < self.size)
        ]

    def status(self) -> tuple[RegionStatus, ...]:
        """All regions."""
        return tuple(
            RegionStatus(
                region.name,
                max(0, self.size - region.complete) if region.complete >= 0 else None,
                region.error,
                region.quarantine,
            )
            for region in self._heads.regions.values()
        )

    # Operations

    def _acquire(self, *, promote: bool) -> Steps[Outcome]:
        ledger = self._ledger
        self._start(ledger.remembered())
        yield from self._heads.read()
        drawn = ledger.last_ballot()
        newest = self._heads.newest
        if newest > drawn and not promote:
            raise SteppedDownError(
                newest,
                f"the ballot {newest} of another sequencer holds this log; promote this collector to take it",
            )
        ballot = self._draw_ballot(max(newest, drawn))
        ledger.record_ballot(ballot)
        fenced = yield from self._heads.promise(ballot)
        ledger.remember(self._heads.highest)
        if len(fenced) < self._fence_quorum():
            raise UnavailableError(
                f"{len(fenced)} of the {self._fence_quorum()} regions needed to take over the log answered: "
                f"{self._errors()}"
            )
        accepted = [
            head.accepted for name in fenced if (head := self._heads.regions[name].head) and head.accepted
        ]
        yield from self._confirmed(ballot, self._adopt(ballot, self._choose(accepted)))
        self._ballot = ballot
        return Acquired(ballot, self.size)

    def _publish(self) -> Steps[Outcome]:
        ballot = self._demand_ballot()
        position = self._ledger.position()
        self._demand_own(position)
        pending = self._ledger.next_pack(self._settings.max_bytes)
        if pending is None:
            return Idle()
        root = self._ledger.root_after(position.size, pending.entries)
        value = Value(
            pending.size, root, position.size, position.root, pending.digest, self._settings.configuration
        )
        for name in self._heads.regions:
            ready = self._holdings.ready(position.size)
            if len(ready) < self._copies and name not in ready:
                yield from self._confirmed(ballot, self._attempt_repair(name, ballot))
        yield from self._confirmed(ballot, self._decide_and_finish(ballot, value, pending))
        return Published(value.size, pending.pack.header.count)

    def _repair(self, name: str) -> Steps[Outcome]:
        ballot = self._demand_ballot()
        self._demand_own(self._ledger.position())
        region = self._heads.regions[name]
        if not (yield from self._confirmed(ballot, self._attempt_repair(name, ballot))):
            raise UnavailableError(
                f"the region {name} is not repaired: {region.quarantine or region.error or 'no answer'}"
            )
        return Repaired(name, self.size)

    def _attempt_repair(self, name: str, ballot: Ballot) -> Steps[bool]:
        """Repair a region if that can be done now; whether it is whole, and under this ballot."""
        region = self._heads.regions[name]
        if region.quarantine:
            return False
        yield from self._heads.read([name])
        if region.head is None:
            return False
        value = self._value
        known = yield from self._replicas.read_checkpoints([name])
        if region.complete < 0:
            return False
        if value is None:
            return True  # nothing to hold yet; its promise comes with the first value
        if not (yield from self._holdings.catch_up(region, Position(value.size, value.root, value.pack))):
            return False
        if name not in (yield from self._heads.accept(ballot, value, [name])):
            return False
        self._ledger.remember(self._heads.highest)
        if name in known and known[name].size >= value.size:
            return True
        note = self._ledger.checkpoint(value.size)
        if note is None:
            raise StorageError(
                f"the database lacks the checkpoint of {value.size} entries; acquire the log again"
            )
        checkpoint = Checkpoint(self._signer.origin, value.size, value.root)
        return name in (yield from self._replicas.place_checkpoint(note, checkpoint, [name]))

    # Adopting what was decided before

    def _adopt(self, ballot: Ballot, accepted: Accepted | None) -> Steps[None]:
        position = self._ledger.position()
        reachable = [name for name, region in self._heads.regions.items() if region.error is None]
        known = yield from self._replicas.read_checkpoints(reachable)
        if accepted is None:
            self._demand_prefixes({0: Digest(EMPTY_ROOT)}, position, 0, known)
            self._value = None
            return
        value = accepted.value
        yield from self._follow(value, known)
        pending = yield from self._replicas.fetch_pack(value.pack, self._holdings.sources())
        self._demand_value(value, pending)
        before = Position(value.size_before, value.root_before, pending.pack.header.previous)
        for region in self._heads.regions.values():
            if len(self._holdings.ready(before.size)) >= self._copies:
                break
            if region.head is not None and not region.quarantine and region.complete >= 0:
                yield from self._holdings.catch_up(region, before)
        yield from self._decide_and_finish(ballot, value, pending, is_adopted=True)

    def _follow(self, value: Value, known: Mapping[str, Checkpoint]) -> Steps[None]:
        """Bring the database up to what lies before ``value``, if all that is signed is a prefix of it.

        First by the packs' headers alone; where that fails, because a region's copy is damaged, by whole
        packs.
        """
        for is_whole in (False, True):
            position = self._ledger.position()
            try:
                packs, boundaries = yield from self._trace(value, position, is_whole=is_whole)
                self._demand_prefixes(boundaries, position, value.size, known)
                for digest in packs[:-1]:
                    yield from self._record_pack(digest, boundaries)
            except (StoppedError, UnavailableError):
                if is_whole:
                    raise
            else:
                return

    def _trace(
        self, value: Value, position: Position, *, is_whole: bool
    ) -> Steps[tuple[list[Digest], dict[int, Digest]]]:
        """The packs from ``position`` to ``value``, oldest first, and the roots between them.

        Headers read alone are not yet proven: the whole packs are, before anything comes of them.
        """
        boundaries = {
            value.size: value.root,
            value.size_before: value.root_before,
            position.size: position.root,
        }
        if position.size >= value.size:  # not more, as _demand_prefixes finds
            if position.size == value.size:
                self._demand_same(position, Position(value.size, value.root, value.pack))
            return [value.pack], boundaries
        packs = [value.pack]
        header = yield from self._holdings.header(value.pack, is_whole=is_whole)
        while header.first_leaf > position.size:
            packs.append(header.previous)
            older = yield from self._holdings.header(header.previous, is_whole=is_whole)
            if older.first_leaf >= header.first_leaf:
                raise StoppedError("the packs' chain does not lead back to the first leaf", "tree_mismatch")
            boundaries[older.first_leaf] = older.root_before
            header = older
        self._demand_same(position, Position(header.first_leaf, header.root_before, header.previous))
        return packs[::-1], boundaries

    def _record_pack(self, digest: Digest, boundaries: Mapping[int, Digest]) -> Steps[None]:
        """Take one pack below the adopted value into the database, if its successor states its root."""
        pending = yield from self._replicas.fetch_pack(digest, self._holdings.sources())
        root = self._ledger.root_after(pending.pack.header.first_leaf, pending.entries)
        if boundaries.get(pending.size) != root:
            raise StoppedError(
                f"the pack {digest.hex()} does not give the root its successor states", "tree_mismatch"
            )
        self._ledger.record(pending, root, None, self._clock.wall_ns())

    def _demand_prefixes(
        self, boundaries: Mapping[int, Digest], position: Position, size: int, known: Mapping[str, Checkpoint]
    ) -> None:
        """Stop unless everything known to be signed is a prefix of the log of ``size``."""
        evidence = [(f"the region {name}", shown.size, shown.root) for name, shown in known.items()]
        signed = self._ledger.signed()
        if signed is not None:
            evidence.append(("this database", *signed))
        evidence.append(("this database's published log", position.size, position.root))
        for who, signed_size, root in evidence:
            if signed_size < position.size <= size:
                expected: bytes | None = self._ledger.root_at(signed_size)
            else:
                expected = boundaries.get(signed_size) if signed_size <= size else None
            if expected != root:
                raise StoppedError(
                    f"{who} has a signed log of {signed_size} entries, and the log of {size} that the "
                    "regions decided does not begin with it; an operator has to decide",
                    "checkpoint_rollback" if signed_size > size else "equivocation",
                )
        if self._ledger.seen_size() > size:
            raise StoppedError(
                f"an agent has verified {self._ledger.seen_size()} entries, and the regions have decided "
                f"{size}; an operator has to decide",
                "checkpoint_rollback",
            )

    def _demand_value(self, value: Value, pending: PendingPack) -> None:
        header = pending.pack.header
        root = self._ledger.root_after(value.size_before, pending.entries)
        if (pending.size, root, header.first_leaf, header.root_before) != (
            value.size,
            value.root,
            value.size_before,
            value.root_before,
        ):
            raise StoppedError(
                f"the accepted log of {value.size} entries is not what its pack {value.pack.hex()} gives",
                "tree_mismatch",
            )

    def _demand_same(self, ours: Position, theirs: Position) -> None:
        if ours != theirs:
            raise StoppedError(
                f"the database's log of {ours.size} entries is not the one that the regions decided; "
                "an operator has to decide",
                "equivocation",
            )

    # Deciding and finishing

    def _confirmed(self, ballot: Ballot, steps: Steps[T]) -> Steps[T]:
        """Run ``steps``; before an alarm is raised, look whether another sequencer has only gone on.

        What is signed was accepted in k regions under its ballot, and every fence quorum meets those.
        """
        try:
            return (yield from steps)
        except (StoppedError, IntegrityError) as error:
            yield from self._heads.read()
            if self._heads.newest > ballot:
                raise SteppedDownError(
                    self._heads.newest, f"the ballot {self._heads.newest} of another sequencer holds this log"
                ) from error
            if len(self._heads.usable()) < self._fence_quorum():
                raise UnavailableError(f"{error} (not confirmed: {self._errors()})") from error
            raise

    def _decide_and_finish(
        self, ballot: Ballot, value: Value, pending: PendingPack, *, is_adopted: bool = False
    ) -> Steps[None]:
        accepted = yield from self._decide(ballot, value, pending, is_adopted=is_adopted)
        yield from self._finish(value, pending, accepted)

    def _decide(
        self, ballot: Ballot, value: Value, pending: PendingPack, *, is_adopted: bool = False
    ) -> Steps[list[str]]:
        """Get ``value`` accepted in at least k regions that hold all of it; those regions."""
        ready = yield from self._place(
            pending, self._holdings.ready(value.size_before), is_adopted=is_adopted
        )
        if len(ready) < self._copies:
            raise UnavailableError(
                f"{len(ready)} of the {self._copies} regions needed hold the next pack: {self._errors()}"
            )
        accepted = yield from self._heads.accept(ballot, value, ready)
        self._ledger.remember(self._heads.highest)
        self._demand_decided(accepted)
        return accepted

    def _place(self, pending: PendingPack, names: list[str], *, is_adopted: bool) -> Steps[list[str]]:
        """Put envelopes and pack into regions and read them back."""
        return (yield from self._holdings.place(pending, names, is_adopted=is_adopted))

    def _finish(self, value: Value, pending: PendingPack, names: list[str]) -> Steps[None]:
        """Make a decided value visible: tiles, signatures, checkpoints, database. Idempotent."""
        tail = yield from self._holdings.load_tail(value.size_before, pending.pack.header.previous)
        objects = {
            **grow_entries(value.size_before, edge_bundle(value.size_before, tail), pending.entries),
            **self._ledger.tiles_after(value.size_before, pending.entries),
        }
        until_s = self._holdings.tiles_until_s()
        stored = yield from self._replicas.place_tiles(objects, names, until_s)
        self._demand_copies(stored, "took the tiles")
        if self._ledger.position().size > value.size:
            raise SteppedDownError(self._ledger.last_ballot(), "another sequencer of this database went on")
        self._ledger.guard(value.size, value.root)
        checkpoint = Checkpoint(self._signer.origin, value.size, value.root)
        note = self._ledger.checkpoint(value.size) or self._signer.sign(checkpoint, self._holdings.now_s())
        shown = yield from self._replicas.place_checkpoint(note, checkpoint, stored)
        self._demand_copies(shown, "took the checkpoint")
        self._ledger.record(pending, value.root, note, self._clock.wall_ns())
        for name in shown:
            self._heads.regions[name].complete = max(self._heads.regions[name].complete, value.size)
        self._value = value
        self._holdings.keep_tail(value.size, [*tail, *pending.entries])
        yield from self._tidy(note, value, objects, shown)

    def _tidy(self, note: bytes, value: Value, objects: Iterable[TilePath], names: list[str]) -> Steps[None]:
        """What nothing waits for: the hourly checkpoint, and partial tiles that full ones have superseded."""
        now_ns = self._clock.wall_ns()
        if self._kept_ns is None or now_ns - self._kept_ns >= KEEP_CHECKPOINT_NS:
            until_s = self._holdings.tiles_until_s()
            if (yield from self._replicas.keep_checkpoint(note, value.size, names, until_s)):
                self._kept_ns = now_ns
        completed = superseded(objects, value.size_before)
        yield from self._replicas.drop_partials(completed, names)

    # Rules, each in one place

    @property
    def _copies(self) -> int:
        return self._settings.configuration.copies

    def _fence_quorum(self) -> int:
        return self._settings.fence

    def _draw_ballot(self, highest: Ballot) -> Ballot:
        if highest.counter >= COUNTER_MAX:
            raise StoppedError(
                f"a head has promised the ballot {highest}, and there is none higher; find out who wrote it",
                "sequencer_change",
            )
        return Ballot(highest.counter + 1, self._random.draw(UUID_BYTES))

    def _choose(self, accepted: Sequence[Accepted]) -> Accepted | None:
        return max(accepted, key=lambda item: item.rank, default=None)

    def _demand_decided(self, accepted: Sequence[str]) -> None:
        self._demand_copies(accepted, "accepted")

    def _demand_copies(self, names: Sequence[str], what: str) -> None:
        if len(names) < self._copies:
            raise UnavailableError(
                f"{len(names)} of the {self._copies} regions needed {what}: {self._errors()}"
            )

    def _demand_ballot(self) -> Ballot:
        if self._ballot is None:
            raise UnavailableError("the log has not been acquired")
        return self._ballot

    def _demand_own(self, position: Position) -> None:
        """Step down when another sequencer that shares this database has gone on.

        Under the own ballot it was this one, whose commit was reported as failed: the log is acquired again.
        """
        if position.size != self.size:
            is_own = self._ledger.last_ballot() == self._ballot
            self._ballot = None
            if is_own:
                raise UnavailableError("the database has moved on; the log has to be acquired again")
            raise SteppedDownError(
                self._ledger.last_ballot(), "another sequencer of this database has published in the meantime"
            )

    # Bits

    def _start(self, remembered: Mapping[str, Remembered]) -> None:
        """Forget everything about the regions but what the database remembers."""
        self._heads = Heads(
            self._settings.tenant,
            self._signer.origin,
            self._settings.configuration,
            self._random,
            remembered,
        )
        self._replicas = Replicas(self._settings.tenant, self._signer, self._heads.regions)
        self._holdings = Holdings(self._settings, self._ledger, self._replicas, self._heads, self._clock)

    def _errors(self) -> str:
        found = [
            f"{region.name}: {region.quarantine or region.error}"
            for region in self._heads.regions.values()
            if region.quarantine or region.error
        ]
        return "; ".join(found) or "the others lag behind"

    def _ended(self, steps: Steps[Outcome]) -> Steps[Outcome]:
        """What an operation came to, as a value."""
        try:
            return (yield from steps)
        except (UnavailableError, StorageError) as error:
            return Unavailable(str(error))
        except SteppedDownError as error:
            self._ballot = None
            return SteppedDown(error.ballot, str(error))
        except StoppedError as error:
            self._ballot = None
            return Stopped(str(error), error.code)
        except IntegrityError as error:
            self._ballot = None
            return Stopped(str(error), error.code)
        except FormatError as error:
            self._ballot = None
            return Stopped(f"the database holds what it should not: {error}", "header_corrupt")
