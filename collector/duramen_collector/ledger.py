"""What the database knows of one tenant log: everything the sequencer reads or writes there.

Each method is one transaction on the given connection, committed before it returns, so that none is ever
open while calls to regions are under way. What the order of commits guarantees:

- a pack's bytes are fixed (:meth:`Ledger.next_pack`) before any region sees them; - a ballot is recorded
(:meth:`Ledger.record_ballot`) before it is used, so that a restart knows its own ballots from others'; - a
size and root are recorded (:meth:`Ledger.guard`) before they are signed, and no other root is ever recorded
for that size, nor a smaller size after it; - :meth:`Ledger.record` makes entries, tiles, checkpoint,
published marks and the removal from ``landing`` true together.

The database may be behind the regions (it lost a commit, or was lost); ``record`` catches up pack by pack.
It is not the truth about what has been published and cannot be ahead of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from duramen import canonical
from duramen.errors import IntegrityError, StorageError
from duramen.frame import (
    PACK_HEADER_BYTES,
    Frame,
    Pack,
    PackHeader,
    encode_frame,
    encode_pack,
    frame_size,
    pack_digest,
    parse_pack,
)
from duramen.limits import PACK_MAX_BYTES
from duramen.merkle import EMPTY_ROOT, HASH_BYTES, CompactRange, HashReader, leaf_hash, range_nodes, root_from
from duramen.names import ZERO_DIGEST, DataKeyId, Digest
from duramen.statement import Block
from duramen.tiles import TileHashReader, TilePath, edge_paths, grow
from duramen_collector.heads import LOWEST, Remembered
from duramen_collector.register import NO_BALLOT, UUID_BYTES, Ballot
from duramen_collector.schema import (
    chains,
    checkpoints,
    entries,
    envelopes,
    landing,
    sequencing,
    signed,
    tiles,
)

SCAN_ROWS: Final = 10_000
"""Landing rows looked at for one pack, and so the most statements in it."""
_MANY: Final = 500  # hashes in one SQL list

PackObserver = Callable[[Connection, Pack], None]


# Asked every second or oftener: made once, because making a statement costs more than its execution.
_WAITING: Final = select(
    func.count(),
    func.coalesce(func.sum(landing.c.header_size + func.length(landing.c.body)), 0),
    func.coalesce(func.min(landing.c.accepted_ns), 0),
).where(landing.c.tenant == bindparam("tenant"))
_SEQUENCING: Final = select(sequencing).where(sequencing.c.tenant == bindparam("tenant"))


@dataclass(frozen=True, slots=True)
class Position:
    """How far the database is.

    Size, root, and the digest of the last finished pack (zero before the first).
    """

    size: int
    root: Digest
    pack: Digest


EMPTY_POSITION: Final = Position(0, Digest(EMPTY_ROOT), ZERO_DIGEST)


@dataclass(frozen=True, slots=True)
class PendingPack:
    """A pack's exact bytes with what they hold."""

    data: bytes
    digest: Digest
    pack: Pack

    @property
    def size(self) -> int:
        """The tree size after it."""
        return self.pack.header.first_leaf + self.pack.header.count

    @property
    def entries(self) -> list[bytes]:
        """The leaf entries."""
        return [frame.statement.entry for frame in self.pack.frames]

    @property
    def data_keys(self) -> list[DataKeyId]:
        """The data keys whose envelopes have to be in place, ascending."""
        blocks = (frame.statement for frame in self.pack.frames)
        return sorted(
            {block.header.dek for block in blocks if isinstance(block, Block) and any(block.header.dek)}
        )


def open_pack(data: bytes) -> PendingPack:
    """A pack from its bytes; FormatError otherwise."""
    return PendingPack(data, pack_digest(data), parse_pack(data))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in ``landing``.

    Statements, their bytes as frames, and when the oldest was accepted (Unix ns, 0: none).
    """

    count: int
    size_bytes: int
    oldest_ns: int


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One envelope as it has to lie in a region."""

    dek: DataKeyId
    key_hash: Digest
    envelope: bytes


class DatabaseTiles:
    """A :class:`duramen.tiles.TileReader` over the table ``tiles``.

    Partial tiles are prefixes of what is there.
    """

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def read(self, path: TilePath) -> bytes:
        """The bytes of a hash tile; StorageError when the database does not hold so much of it."""
        data = self._connection.execute(
            select(tiles.c.hashes).where(
                tiles.c.tenant == self._tenant, tiles.c.level == path.level, tiles.c.tile == path.index
            )
        ).scalar()
        if data is None or len(data) < path.width * HASH_BYTES:
            raise StorageError(
                f"the database lacks {path.path()} of {self._tenant}; rebuild it from a region"
            )
        return bytes(data[: path.width * HASH_BYTES])


class Ledger:
    """The database of the tenant log of ``tenant``.

    ``on_published`` is called within the transaction that records a pack, for whoever keeps marks of its
    own (chain heads that a rebuild has to bring back).
    """

    def __init__(self, connection: Connection, tenant: str, on_published: PackObserver | None = None) -> None:
        self._connection = connection
        self._tenant = tenant
        self._on_published = on_published

    # Where the log stands

    def position(self) -> Position:
        """The finished size, root and pack."""
        with self._transaction():
            row = self._row()
            return EMPTY_POSITION if row is None else _position(row)

    def hash_reader(self, size: int) -> HashReader:
        """Hashes of the first ``size`` leaves."""
        return TileHashReader(DatabaseTiles(self._connection, self._tenant), size)

    def root_at(self, size: int) -> Digest:
        """The root of the first ``size`` leaves, which must not be more than are finished."""
        with self._transaction():
            return Digest(root_from(self.hash_reader(size), size))

    def root_after(self, size: int, leaf_entries: Iterable[bytes]) -> Digest:
        """The root when ``leaf_entries`` are added to the first ``size`` leaves."""
        with self._transaction():
            reader = self.hash_reader(size)
            compact = CompactRange(
                size, [reader.hash_at(node.level, node.index) for node in range_nodes(0, size)]
            )
        compact.extend(map(leaf_hash, leaf_entries))
        return Digest(compact.root())

    def tiles_after(self, size: int, leaf_entries: Iterable[bytes]) -> dict[TilePath, bytes]:
        """The hash tiles to write when ``leaf_entries`` are added to the first ``size`` leaves."""
        with self._transaction():
            return self._grow(size, leaf_entries)

    def tile(self, path: TilePath) -> bytes:
        """A hash tile of what is finished."""
        with self._transaction():
            return DatabaseTiles(self._connection, self._tenant).read(path)

    # What is to be published

    def backlog(self) -> Backlog:
        """How much waits."""
        fixed_bytes = frame_size(0, 0)
        with self._transaction():
            count, total, oldest = self._connection.execute(_WAITING, {"tenant": self._tenant}).one()
        return Backlog(count, int(total) + count * fixed_bytes, oldest)

    def next_pack(self, max_bytes: int) -> PendingPack | None:
        """The pack to publish now, its bytes fixed: the same again until it is finished; None: nothing waits.

        At most about ``max_bytes`` long, but always one statement. Of one retention class, that of the
        first statement that has one; statements of another class wait, and the rest of their chains with
        them, so that a chain's order is kept. What ``entries`` holds already leaves ``landing``.
        """
        with self._transaction():
            row = self._row()
            position = EMPTY_POSITION if row is None else _position(row)
            if row is not None and row.pending_pack is not None:
                fixed = open_pack(bytes(row.pending_pack))
                if _follows(fixed.pack.header, position):
                    return fixed
            self._drop_published()
            pending = self._gather(position, min(max_bytes, PACK_MAX_BYTES))
            self._update(row, pending_pack=None if pending is None else pending.data)
            return pending

    def envelopes(self, deks: Sequence[DataKeyId]) -> list[WrappedKey]:
        """The envelopes of data keys, as far as the database has them."""
        found: list[WrappedKey] = []
        with self._transaction():
            for start in range(0, len(deks), _MANY):
                rows = self._connection.execute(
                    select(envelopes.c.dek, envelopes.c.key_hash, envelopes.c.envelope)
                    .where(
                        envelopes.c.tenant == self._tenant, envelopes.c.dek.in_(deks[start : start + _MANY])
                    )
                    .order_by(envelopes.c.dek, envelopes.c.key_hash)
                )
                found += [WrappedKey(DataKeyId(dek), Digest(key_hash), data) for dek, key_hash, data in rows]
        return found

    # What has happened

    def remembered(self) -> dict[str, Remembered]:
        """The highest head seen of each region."""
        with self._transaction():
            row = self._row()
            return {} if row is None else _remembered(row.remembered)

    def remember(self, seen: Mapping[str, Remembered]) -> None:
        """Keep the highest heads, merged with what is remembered."""
        with self._transaction():
            row = self._row()
            known = {} if row is None else _remembered(row.remembered)
            merged = {name: seen.get(name, LOWEST).merge(known.get(name, LOWEST)) for name in {*seen, *known}}
            if merged != known:
                self._update(row, remembered=_remembered_json(merged, _ballot(row)))

    def last_ballot(self) -> Ballot:
        """The last ballot drawn with this database."""
        with self._transaction():
            return _ballot(self._row())

    def record_ballot(self, ballot: Ballot) -> None:
        """Keep a ballot before it is used."""
        with self._transaction():
            row = self._row()
            known = {} if row is None else _remembered(row.remembered)
            self._update(row, remembered=_remembered_json(known, max(ballot, _ballot(row))))

    def guard(self, size: int, root: Digest) -> None:
        """Allow signing ``root`` at ``size``, and remember it; IntegrityError when something else was signed.

        To be called, and so committed, before the signature is made.
        """
        with self._transaction():
            last = self._last_signed()
            if last is not None and last[0] >= size:
                if self._signed_root(size) == root:
                    return
                raise IntegrityError(
                    f"the log of {self._tenant} was signed at size {last[0]} and is not signed at {size} "
                    "with another root or at a smaller size: an operator has to look",
                    code="equivocation",
                )
            self._connection.execute(insert(signed).values(tenant=self._tenant, size=size, root=root))

    def signed(self) -> tuple[int, Digest] | None:
        """The largest size that was allowed to be signed, and its root."""
        with self._transaction():
            return self._last_signed()

    def seen_size(self) -> int:
        """The largest checkpoint that an agent of this tenant says it has verified."""
        with self._transaction():
            return (
                self._connection.execute(
                    select(func.max(chains.c.seen_size)).where(chains.c.tenant == self._tenant)
                ).scalar()
                or 0
            )

    def checkpoint(self, size: int) -> bytes | None:
        """The signed note for exactly ``size``."""
        with self._transaction():
            note = self._connection.execute(
                select(checkpoints.c.note).where(
                    checkpoints.c.tenant == self._tenant, checkpoints.c.size == size
                )
            ).scalar()
        return None if note is None else str(note).encode()

    def record(self, pending: PendingPack, root: Digest, note: bytes | None, signed_ns: int) -> None:
        """Make a decided pack part of the database: all of it, or nothing; doing it again does nothing.

        ``note`` is the checkpoint after it, or None where a rebuild passes over a size nobody asks for.
        """
        with self._transaction():
            row = self._row()
            position = EMPTY_POSITION if row is None else _position(row)
            if position.size < pending.size:
                if not _follows(pending.pack.header, position):
                    raise IntegrityError(
                        f"the pack {pending.digest.hex()} does not follow on what the database holds",
                        code="equivocation",
                    )
                self._append(pending)
                self._update(row, size=pending.size, root=root, pack_digest=pending.digest, pending_pack=None)
                if self._on_published is not None:
                    self._on_published(self._connection, pending.pack)
            if note is not None:
                self._put_checkpoint(pending.size, note, signed_ns)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._connection.begin():
                yield
        except DBAPIError as error:
            raise StorageError(f"the database failed; it is tried again: {error.orig}") from error

    # Within a transaction

    def _row(self) -> Row[Any] | None:
        return self._connection.execute(_SEQUENCING, {"tenant": self._tenant}).first()

    def _update(self, row: Row[Any] | None, **values: object) -> None:
        if row is not None:
            self._connection.execute(
                update(sequencing).where(sequencing.c.tenant == self._tenant).values(**values)
            )
            return
        first: dict[str, object] = {
            "tenant": self._tenant,
            "pack_digest": EMPTY_POSITION.pack,
            "size": 0,
            "root": EMPTY_POSITION.root,
            "pending_pack": None,
            "remembered": _remembered_json({}, NO_BALLOT),
        }
        self._connection.execute(insert(sequencing).values(first | values))

    def _drop_published(self) -> None:
        known = select(entries.c.hash).where(
            entries.c.tenant == self._tenant, entries.c.hash == landing.c.hash
        )
        self._connection.execute(delete(landing).where(landing.c.tenant == self._tenant, known.exists()))

    def _gather(self, position: Position, max_bytes: int) -> PendingPack | None:
        rows = self._connection.execute(
            select(
                landing.c.landing_id,
                landing.c.chain,
                landing.c.retention_class,
                landing.c.header_size,
                func.length(landing.c.body).label("body_size"),
            )
            .where(landing.c.tenant == self._tenant)
            .order_by(landing.c.landing_id)
            .limit(SCAN_ROWS)
        )
        chosen, retention_class = _choose(rows.all(), max_bytes)
        if not chosen:
            return None
        frames = self._frames(chosen)
        header = PackHeader(retention_class, position.size, len(frames), position.root, position.pack)
        return open_pack(encode_pack(header, frames))

    def _frames(self, ids: Sequence[int]) -> list[bytes]:
        found: dict[int, bytes] = {}
        for start in range(0, len(ids), _MANY):
            rows = self._connection.execute(
                select(
                    landing.c.landing_id, landing.c.statement, landing.c.header_size, landing.c.body
                ).where(landing.c.landing_id.in_(ids[start : start + _MANY]))
            )
            for number, statement, header_size, body in rows:
                found[number] = encode_frame(statement[:header_size], statement[header_size:], body)
        return [found[number] for number in ids]

    def _append(self, pending: PendingPack) -> None:
        first = pending.pack.header.first_leaf
        hashes = [frame.statement.hash for frame in pending.pack.frames]
        self._connection.execute(
            insert(entries),
            [_entry(self._tenant, first + offset, frame) for offset, frame in enumerate(pending.pack.frames)],
        )
        for path, data in self._grow(first, pending.entries).items():
            key = and_(
                tiles.c.tenant == self._tenant, tiles.c.level == path.level, tiles.c.tile == path.index
            )
            self._connection.execute(delete(tiles).where(key))
            self._connection.execute(
                insert(tiles).values(tenant=self._tenant, level=path.level, tile=path.index, hashes=data)
            )
        for start in range(0, len(hashes), _MANY):
            self._connection.execute(
                delete(landing).where(
                    landing.c.tenant == self._tenant, landing.c.hash.in_(hashes[start : start + _MANY])
                )
            )
        last_seqs: dict[bytes, int] = {}
        for frame in pending.pack.frames:
            if isinstance(frame.statement, Block):
                last_seqs[frame.statement.chain] = frame.statement.header.seq
        if last_seqs:
            self._connection.execute(
                update(chains)
                .where(chains.c.chain == bindparam("key"), chains.c.published_seq < bindparam("last"))
                .values(published_seq=bindparam("last")),
                [{"key": chain, "last": seq} for chain, seq in last_seqs.items()],
            )

    def _grow(self, size: int, leaf_entries: Iterable[bytes]) -> dict[TilePath, bytes]:
        stored = DatabaseTiles(self._connection, self._tenant)
        edge = {path: stored.read(path) for path in edge_paths(size) if path.level is not None}
        return grow(size, edge, [leaf_hash(entry) for entry in leaf_entries])

    def _last_signed(self) -> tuple[int, Digest] | None:
        row = self._connection.execute(
            select(signed.c.size, signed.c.root)
            .where(signed.c.tenant == self._tenant)
            .order_by(signed.c.size.desc())
            .limit(1)
        ).first()
        return None if row is None else (row.size, Digest(bytes(row.root)))

    def _signed_root(self, size: int) -> bytes | None:
        root = self._connection.execute(
            select(signed.c.root).where(signed.c.tenant == self._tenant, signed.c.size == size)
        ).scalar()
        return None if root is None else bytes(root)

    def _put_checkpoint(self, size: int, note: bytes, signed_ns: int) -> None:
        same: ColumnElement[bool] = and_(checkpoints.c.tenant == self._tenant, checkpoints.c.size == size)
        if self._connection.execute(select(checkpoints.c.size).where(same)).first() is None:
            self._connection.execute(
                insert(checkpoints).values(
                    tenant=self._tenant, size=size, note=note.decode(), signed_ns=signed_ns
                )
            )


def _entry(tenant: str, leaf: int, frame: Frame) -> dict[str, object]:
    statement = frame.statement
    chain, seq = (statement.chain, statement.header.seq) if isinstance(statement, Block) else (None, None)
    return {"tenant": tenant, "leaf": leaf, "hash": statement.hash, "chain": chain, "seq": seq}


def _choose(rows: Iterable[Any], max_bytes: int) -> tuple[list[int], int]:
    """Which landing rows go into one pack, and the pack's class."""
    retention_class: int | None = None
    waiting: set[bytes] = set()
    chosen: list[int] = []
    total = PACK_HEADER_BYTES
    for row in rows:
        if row.retention_class is not None and retention_class is None and row.chain not in waiting:
            retention_class = row.retention_class
        if row.chain in waiting or row.retention_class not in (None, retention_class):
            if row.chain is not None:
                waiting.add(bytes(row.chain))
            continue
        total += frame_size(row.header_size, row.body_size)
        if chosen and total > max_bytes:
            break
        chosen.append(row.landing_id)
    return chosen, retention_class or 0


def _follows(header: PackHeader, position: Position) -> bool:
    return (header.first_leaf, header.root_before, header.previous) == (
        position.size,
        position.root,
        position.pack,
    )


def _position(row: Row[Any]) -> Position:
    return Position(row.size, Digest(bytes(row.root)), Digest(bytes(row.pack_digest)))


def _remembered_json(seen: Mapping[str, Remembered], ballot: Ballot) -> canonical.Json:
    regions: dict[str, canonical.Json] = {
        name: [*_ballot_json(known.promised), *_ballot_json(known.accepted[0]), str(known.accepted[1])]
        for name, known in seen.items()
    }
    return {"ballot": _ballot_json(ballot), "regions": regions}


def _remembered(value: canonical.Json) -> dict[str, Remembered]:
    fields = canonical.Fields(value, "sequencing.remembered")
    if not fields.has("regions"):
        return {}
    seen = {}
    for name, item in _mapping(fields.take("regions")).items():
        counter, uuid, accepted_counter, accepted_uuid, size = map(
            str, item if isinstance(item, list) else ()
        )
        seen[name] = Remembered(
            Ballot(int(counter), bytes.fromhex(uuid)),
            (Ballot(int(accepted_counter), bytes.fromhex(accepted_uuid)), int(size)),
        )
    return seen


def _ballot(row: Row[Any] | None) -> Ballot:
    fields = canonical.Fields({} if row is None else row.remembered, "sequencing.remembered")
    if not fields.has("ballot"):
        return NO_BALLOT
    counter, uuid = fields.items("ballot", 2)
    ballot = Ballot(int(str(counter)), bytes.fromhex(str(uuid)))
    if len(ballot.uuid) != UUID_BYTES:
        raise StorageError("the database holds a ballot that is none; restore it or rebuild it from a region")
    return ballot


def _ballot_json(ballot: Ballot) -> list[canonical.Json]:
    return [str(ballot.counter), ballot.uuid.hex()]


def _mapping(value: canonical.Json) -> dict[str, canonical.Json]:
    return value if isinstance(value, dict) else {}
