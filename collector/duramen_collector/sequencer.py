"""One tenant log's sequencer: acquire, publish, finish, repair, exactly as PROTOCOL.md says.

Operations are generators over batches of region calls (:mod:`.heads`); the database is read and written between batches,
never while one is out. They must run one at a time, each to its end or dropped; after a dropped one, as after a crash, the
next operation is :meth:`Sequencer.acquire`, which repairs whatever was left half done.

What holds, with any number of sequencers at work at once, each with a database of its own or all with the same one:

- only what k regions accepted under one ballot gets tiles, a signature, a checkpoint, a place in the database;
- a region accepts only when it holds everything below (``Region.complete``), and when k regions have given the pack and its
  envelopes back as they were written;
- a ballot is drawn fresh by every acquisition and recorded in the database before it is used, and proposes one pack at a time: the
  database fixes the pack's bytes until it is finished;
- acquire adopts the highest accepted value among the fenced regions, and stops if a signed checkpoint that it knows of is not a
  prefix of it.

An acquisition that finds a ballot higher than any this database has drawn steps down, unless it is a promotion: an old
primary that comes back does not take the log from the standby that replaced it. Databases that lost their memory need a promotion too.

What it does not do yet: members (a change of configuration), and cosignatures, which have no part in what is decided. Rebuilding a
lost database reads one header a pack backwards and then every pack once, and keeps one 32-byte digest a pack in memory.
Superseded partial tiles are deleted when their full tile is in place; those that a crash or a dead region leaves stay and do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from duramen.checkpoint import Checkpoint
from duramen.errors import ConfigurationError, FormatError, IntegrityError, StorageError
from duramen.frame import PackHeader
from duramen.merkle import EMPTY_ROOT, leaf_hash
from duramen.names import DataKeyId, Digest
from duramen.ports import Clock, Random
from duramen.tiles import TILE_WIDTH, TilePath, encode_entries, grow_entries, tile_paths_for
from duramen_collector.heads import Heads, Region, Remembered, Steps, T
from duramen_collector.ledger import Ledger, PendingPack, Position
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
from duramen_collector.register import UUID_BYTES, Accepted, Ballot, Configuration, Value
from duramen_collector.replica import CheckpointSigner, Replicas

KEEP_CHECKPOINT_NS: Final = 3600 * 10**9
"""How far apart kept checkpoints are."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long objects are retained, in seconds, by retention class; tiles and kept checkpoints as long as the longest."""

    default_s: int
    classes: Mapping[int, int] = field(default_factory=dict)

    def seconds(self, retention_class: int) -> int:
        """The retention of one class."""
        return self.classes.get(retention_class, self.default_s)

    @property
    def longest_s(self) -> int:
        """The longest of all."""
        return max(self.default_s, *self.classes.values()) if self.classes else self.default_s


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What an operator decides about one tenant log."""

    tenant: str
    configuration: Configuration
    retention: Retention
    max_bytes: int
    """About how long a pack may become."""
    fence_extra: int = 1
    """A fence is n - k + ``fence_extra`` regions: 1, or 2 to survive one region restored from an old copy."""

    def __post_init__(self) -> None:
        if self.fence_extra not in (1, 2) or self.fence > len(self.configuration.regions):
            raise ConfigurationError(
                f"a fence of {self.fence} of {len(self.configuration.regions)} regions cannot be had; "
                "raise publish.copies or add a region"
            )

    @property
    def fence(self) -> int:
        """How many regions an acquisition has to fence."""
        return len(self.configuration.regions) - self.configuration.copies + self.fence_extra


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
        self._tail: tuple[int, list[bytes]]  # a size, and the entries of its partial bundle
        self._heads: Heads
        self._replicas: Replicas
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
                f"{len(fenced)} of the {self._fence_quorum()} regions needed to take over the log answered: {self._errors()}"
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
            ready = self._ready(position.size)
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
                f"the region {name} is not repaired: {region.quarantine or region.error or 'it does not answer'}"
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
        if not (yield from self._catch_up(region, Position(value.size, value.root, value.pack))):
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
        pending = yield from self._replicas.fetch_pack(value.pack, self._sources())
        self._demand_value(value, pending)
        before = Position(value.size_before, value.root_before, pending.pack.header.previous)
        for region in self._heads.regions.values():
            if len(self._ready(before.size)) >= self._copies:
                break
            if region.head is not None and not region.quarantine and region.complete >= 0:
                yield from self._catch_up(region, before)
        yield from self._decide_and_finish(ballot, value, pending, is_adopted=True)

    def _follow(self, value: Value, known: Mapping[str, Checkpoint]) -> Steps[None]:
        """Bring the database up to what lies before ``value``, if all that is known to be signed is a prefix of it.

        First by the packs' headers alone; where that fails, because a region's copy is damaged, by whole packs.
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
        """The packs from ``position`` to ``value``, oldest first and the value's own last, and the roots between them.

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
        header = yield from self._header(value.pack, is_whole=is_whole)
        while header.first_leaf > position.size:
            packs.append(header.previous)
            older = yield from self._header(header.previous, is_whole=is_whole)
            if older.first_leaf >= header.first_leaf:
                raise StoppedError("the packs' chain does not lead back to the first leaf", "tree_mismatch")
            boundaries[older.first_leaf] = older.root_before
            header = older
        self._demand_same(position, Position(header.first_leaf, header.root_before, header.previous))
        return packs[::-1], boundaries

    def _header(self, digest: Digest, *, is_whole: bool) -> Steps[PackHeader]:
        if is_whole:
            return (yield from self._replicas.fetch_pack(digest, self._sources())).pack.header
        return (yield from self._replicas.fetch_header(digest, self._sources()))

    def _record_pack(self, digest: Digest, boundaries: Mapping[int, Digest]) -> Steps[None]:
        """Take one pack below the adopted value into the database, once its root is the one its successor states."""
        pending = yield from self._replicas.fetch_pack(digest, self._sources())
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
                    f"{who} has a signed log of {signed_size} entries, and the log of {size} that the regions decided does "
                    "not begin with it; an operator has to decide",
                    "checkpoint_rollback" if signed_size > size else "equivocation",
                )
        if self._ledger.seen_size() > size:
            raise StoppedError(
                f"an agent has verified {self._ledger.seen_size()} entries, and the regions have decided {size}; an operator "
                "has to decide",
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
                f"the database's log of {ours.size} entries is not the one that the regions decided; an operator has to decide",
                "equivocation",
            )

    # Deciding and finishing

    def _confirmed(self, ballot: Ballot, steps: Steps[T]) -> Steps[T]:
        """Run ``steps``; before an alarm is raised, look whether it is only that another sequencer has gone on.

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
        ready = yield from self._place(pending, self._ready(value.size_before), is_adopted=is_adopted)
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
        names = yield from self._place_envelopes(pending.data_keys, names, may_lack=is_adopted)
        until_s = self._now_s() + self._settings.retention.seconds(pending.pack.header.retention_class)
        return (yield from self._replicas.place_pack(pending, names, until_s))

    def _place_envelopes(
        self, deks: Sequence[DataKeyId], names: list[str], *, may_lack: bool
    ) -> Steps[list[str]]:
        """Put the envelopes of ``deks`` into regions.

        What was published once may lack some: an eraser destroyed them, and they are not brought back. What is new may not.
        """
        wrapped = self._ledger.envelopes(deks)
        lacking = [dek for dek in deks if dek not in {key.dek for key in wrapped}]
        if lacking and may_lack:
            wrapped += yield from self._replicas.find_envelopes(lacking, self._sources())
        elif lacking:
            raise UnavailableError(
                f"{len(lacking)} data keys of waiting blocks have no envelope, {lacking[0].hex()} first; they are not published"
            )
        return (yield from self._replicas.place_envelopes(wrapped, deks, names))

    def _finish(self, value: Value, pending: PendingPack, names: list[str]) -> Steps[None]:
        """Make a decided value visible: tiles, signatures, checkpoints, database. Idempotent."""
        tail = yield from self._load_tail(value.size_before, pending.pack.header.previous)
        objects = {
            **grow_entries(value.size_before, _edge(value.size_before, tail), pending.entries),
            **self._ledger.tiles_after(value.size_before, pending.entries),
        }
        until_s = self._now_s() + self._settings.retention.longest_s
        stored = yield from self._replicas.place_tiles(objects, names, until_s)
        self._demand_copies(stored, "took the tiles")
        if self._ledger.position().size > value.size:
            raise SteppedDownError(self._ledger.last_ballot(), "another sequencer of this database went on")
        self._ledger.guard(value.size, value.root)
        checkpoint = Checkpoint(self._signer.origin, value.size, value.root)
        note = self._ledger.checkpoint(value.size) or self._signer.sign(checkpoint, self._now_s())
        shown = yield from self._replicas.place_checkpoint(note, checkpoint, stored)
        self._demand_copies(shown, "took the checkpoint")
        self._ledger.record(pending, value.root, note, self._clock.wall_ns())
        for name in shown:
            self._heads.regions[name].complete = max(self._heads.regions[name].complete, value.size)
        self._value = value
        rest = value.size % TILE_WIDTH
        self._tail = (value.size, [*tail, *pending.entries][-rest:] if rest else [])
        yield from self._tidy(note, value, objects, shown)

    def _tidy(self, note: bytes, value: Value, objects: Iterable[TilePath], names: list[str]) -> Steps[None]:
        """What nothing waits for: the hourly checkpoint, and partial tiles that full ones have superseded."""
        now_ns = self._clock.wall_ns()
        if self._kept_ns is None or now_ns - self._kept_ns >= KEEP_CHECKPOINT_NS:
            until_s = self._now_s() + self._settings.retention.longest_s
            if (yield from self._replicas.keep_checkpoint(note, value.size, names, until_s)):
                self._kept_ns = now_ns
        completed = [
            path for path in objects if not path.is_partial and _was_partial(path, value.size_before)
        ]
        yield from self._replicas.drop_partials(completed, names)

    # Catching up

    def _catch_up(self, region: Region, position: Position) -> Steps[bool]:
        """Give a region every pack, envelope and tile up to ``position``, which the database has reached."""
        region.error = None
        if region.complete >= position.size:
            return True
        start = region.complete - region.complete % TILE_WIDTH
        bundles = _Bundles(start)
        for digest in (yield from self._packs_back_to(position, start)):
            pending = yield from self._replicas.fetch_pack(digest, self._sources())
            if not (yield from self._place(pending, [region.name], is_adopted=True)):
                return False
            bundles.add(pending.pack.header.first_leaf, pending.entries)
            if not (yield from self._put_bundles(region, bundles.take())):
                return False
        if not (yield from self._put_bundles(region, bundles.take_rest())):
            return False
        tiles = {
            path: self._ledger.tile(path)
            for path in tile_paths_for(region.complete, position.size)
            if path.level is not None
        }
        until_s = self._now_s() + self._settings.retention.longest_s
        if not (yield from self._replicas.place_tiles(tiles, [region.name], until_s)):
            return False
        region.complete = position.size
        return True

    def _put_bundles(self, region: Region, bundles: Mapping[TilePath, list[bytes]]) -> Steps[bool]:
        """Write entry bundles that the database's level-0 tiles prove."""
        for path, entries in bundles.items():
            if self._ledger.tile(TilePath(0, path.index, path.width)) != b"".join(map(leaf_hash, entries)):
                raise StoppedError(f"the packs do not give the entries of {path.path()}", "tree_mismatch")
        objects = {path: encode_entries(entries) for path, entries in bundles.items()}
        until_s = self._now_s() + self._settings.retention.longest_s
        return bool((yield from self._replicas.place_tiles(objects, [region.name], until_s)))

    def _packs_back_to(self, position: Position, start: int) -> Steps[list[Digest]]:
        """The packs that hold the leaves from ``start`` (or before) up to ``position``, oldest first."""
        try:
            return (yield from self._walk_back(position, start, is_whole=False))
        except (StoppedError, UnavailableError):
            return (yield from self._walk_back(position, start, is_whole=True))

    def _walk_back(self, position: Position, start: int, *, is_whole: bool) -> Steps[list[Digest]]:
        packs: list[Digest] = []
        digest, before = position.pack, position.size
        while before > start:
            header = yield from self._header(digest, is_whole=is_whole)
            if header.first_leaf >= before:
                raise StoppedError("the packs' chain does not lead back to the first leaf", "tree_mismatch")
            packs.append(digest)
            digest, before = header.previous, header.first_leaf
        return packs[::-1]

    def _load_tail(self, size: int, pack: Digest) -> Steps[list[bytes]]:
        """The entries of the partial bundle of the log of ``size``, whose last pack is ``pack``."""
        width = size % TILE_WIDTH
        if not width:
            return []
        if self._tail[0] == size:
            return self._tail[1]
        leaf_hashes = self._ledger.tile(TilePath(0, size // TILE_WIDTH, width))
        found = yield from self._replicas.fetch_tail(size, leaf_hashes, self._sources())
        if found is not None:
            return found
        bundles = _Bundles(size - width)
        position = Position(size, Digest(EMPTY_ROOT), pack)
        for digest in (yield from self._packs_back_to(position, size - width)):
            pending = yield from self._replicas.fetch_pack(digest, self._sources())
            bundles.add(pending.pack.header.first_leaf, pending.entries)
        (entries,) = bundles.take_rest().values()
        if b"".join(map(leaf_hash, entries)) != leaf_hashes:
            raise StoppedError("the packs do not give the last entries of the log", "tree_mismatch")
        return entries

    # Rules, each in one place

    @property
    def _copies(self) -> int:
        return self._settings.configuration.copies

    def _fence_quorum(self) -> int:
        return self._settings.fence

    def _draw_ballot(self, highest: Ballot) -> Ballot:
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
        """Step down when another sequencer that shares this database has gone on."""
        if position.size != self.size:
            self._ballot = None
            raise SteppedDownError(
                self._ledger.last_ballot(), "another sequencer of this database has published in the meantime"
            )

    # Bits

    def _start(self, remembered: Mapping[str, Remembered]) -> None:
        """Forget everything about the regions but what the database remembers."""
        self._tail = (0, [])
        self._heads = Heads(
            self._settings.tenant,
            self._signer.origin,
            self._settings.configuration,
            self._random,
            remembered,
        )
        self._replicas = Replicas(self._settings.tenant, self._signer, self._heads.regions)

    def _ready(self, size: int) -> list[str]:
        """Regions whose head is known and good, which hold everything up to ``size`` and failed in nothing since."""
        regions = self._heads.regions
        return [
            name
            for name in self._heads.usable()
            if regions[name].complete >= size and regions[name].error is None
        ]

    def _sources(self) -> list[str]:
        """Regions to read from, those that hold most first."""
        regions = self._heads.regions
        return sorted(self._heads.usable(), key=lambda name: -regions[name].complete)

    def _now_s(self) -> int:
        return self._clock.wall_ns() // 10**9

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


class _Bundles:
    """Collects entries from ``start`` (a bundle's first leaf) on, and gives them out by bundle."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._entries: list[bytes] = []

    def add(self, first: int, entries: Sequence[bytes]) -> None:
        """The next entries; those before the start are passed over."""
        self._entries += entries[max(0, self._next + len(self._entries) - first) :]

    def take(self) -> dict[TilePath, list[bytes]]:
        """The bundles that are full."""
        full = {}
        while len(self._entries) >= TILE_WIDTH:
            full[TilePath(None, self._next // TILE_WIDTH)] = self._entries[:TILE_WIDTH]
            self._entries = self._entries[TILE_WIDTH:]
            self._next += TILE_WIDTH
        return full

    def take_rest(self) -> dict[TilePath, list[bytes]]:
        """All bundles, the partial one included."""
        bundles = self.take()
        if self._entries:
            bundles[TilePath(None, self._next // TILE_WIDTH, len(self._entries))] = self._entries
        return bundles


def _edge(size: int, tail: list[bytes]) -> dict[TilePath, bytes]:
    width = size % TILE_WIDTH
    return {TilePath(None, size // TILE_WIDTH, width): encode_entries(tail)} if width else {}


def _was_partial(path: TilePath, size: int) -> bool:
    """Whether the tile or bundle ``path``, now full, was a partial one in the log of ``size``."""
    count = size >> (8 * (path.level or 0))
    return path.index == count // TILE_WIDTH and count % TILE_WIDTH > 0
