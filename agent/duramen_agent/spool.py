"""The spool: one SQLite database of sealed blocks, and of everything that has to change together with them.

Guarantees

- :meth:`Spool.append` is one transaction: block, body, chain state, file positions, envelopes, events.
After it returns, all of it is on disk (WAL, ``synchronous=FULL``: the WAL is synced at every commit); if
the process or the machine dies before, none of it is there. So no line is lost and none is sealed twice. -
Nothing is deleted but by :meth:`Spool.mark_published` and :meth:`Spool.prune`: a prefix of what is
published. - One process at a time: the database is opened in exclusive locking mode, and a second opener is
refused. - No method returns or holds more than the caller's bound plus one block.

Space. Deleted pages are reused before the file grows, so in steady state nothing is written beyond the
blocks themselves. After a long outage the file would stay large: ``auto_vacuum=INCREMENTAL`` gives pages
beyond :data:`_KEPT_FREE_PAGES` back to the file system, at most :data:`_VACUUM_PAGES` a call, so that a
prune does not stall the agent. The WAL is checkpointed every 1,000 pages and cut back to 8 MiB after a
large transaction.

It holds no key that opens a body and none that signs: data keys live in memory, the ratchet's seed in a
file of its own. A spool that was rolled back shows by a seed file that leads it
(:mod:`duramen_agent.sealer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw

from duramen.api import EnvelopeUpload, parse_envelope_upload
from duramen.chain import ChainState
from duramen.errors import ConfigurationError, UsageError
from duramen.names import ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq
from duramen.statement import Block, BlockKind
from duramen_agent.event import AgentEvent
from duramen_agent.position import Position
from duramen_agent.spoolschema import SCHEMA, SCHEMA_VERSION, SpoolFull, mapped
from duramen_agent.spoolstate import (
    Identity,
    ShredGroup,
    SpoolState,
    SpoolUsage,
    StoredBlock,
    encode_keys,
    parse_keys,
)

__all__ = [
    "EVENTS_KEPT",
    "Identity",
    "ShredGroup",
    "Spool",
    "SpoolFull",
    "SpoolState",
    "SpoolUsage",
    "StoredBlock",
]

EVENTS_KEPT: Final = 1000
"""Events that stay readable in the clear; all of them are in the chain."""
_KEPT_FREE_PAGES: Final = 4096
_VACUUM_PAGES: Final = 2048


class Spool:
    """The spool in the SQLite file ``path``.

    ``vfs`` names a registered apsw VFS (the default is the system's).
    """

    def __init__(self, path: str, vfs: str | None = None) -> None:
        with mapped(path):
            self._db = apsw.Connection(path, vfs=vfs)
        self._path = path
        try:
            with mapped(path):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        db.pragma("locking_mode", "EXCLUSIVE")  # before WAL is entered: the wal-index then stays in memory
        version = db.pragma("user_version")
        if version == 0:
            db.pragma("auto_vacuum", 2)  # INCREMENTAL; only takes before the first table
        db.pragma("journal_mode", "WAL")
        db.pragma("synchronous", "FULL")
        db.pragma("journal_size_limit", 8 * 1024 * 1024)
        db.pragma("cache_size", -2048)
        db.pragma("secure_delete", False)  # bodies are ciphertext
        with self._transaction():  # takes the exclusive lock, which is then kept
            if version == 0:
                db.execute(SCHEMA)
                db.pragma("user_version", SCHEMA_VERSION)
            elif version != SCHEMA_VERSION:
                raise ConfigurationError(
                    f"{self._path} has the spool schema {version}, and this release knows {SCHEMA_VERSION}: "
                    "use the release that wrote it"
                )

    def close(self) -> None:
        """Release the database; the WAL is checkpointed into it."""
        with mapped(self._path):
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with mapped(self._path):
            self._db.execute("BEGIN EXCLUSIVE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _row(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...] | None:
        with mapped(self._path):
            return next(iter(self._db.execute(sql, values)), None)

    def _rows(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        with mapped(self._path):
            return list(self._db.execute(sql, values))

    # Reading

    def load(self) -> SpoolState | None:
        """Everything but the blocks; None before :meth:`initialise`."""
        row = self._row(
            "SELECT tenant, agent, chain, seq, head, records, next_public, sealed_ns, stopped, keys, "
            "accepted_seq, published_seq, seen_size, seen_root, seen_note, configuration, fingerprint_key, "
            "next_generation, lost_bytes, loss_events FROM chain"
        )
        if row is None:
            return None
        chain = ChainState(
            chain=ChainId(row[2]),
            tenant=row[0],
            agent=row[1],
            seq=Seq(row[3]),
            head=Digest(row[4]),
            records=row[5],
            next_public=row[6],
            sealed_ns=row[7],
            stopped=bool(row[8]),
            keys=parse_keys(row[9]),
        )
        return SpoolState(
            identity=Identity(row[0], row[1], ChainId(row[2])),
            chain=chain,
            positions=tuple(self._positions()),
            groups=tuple(ShredGroup(*item) for item in self._rows("SELECT number, name FROM shred_group")),
            first_seq=self._first_seq(chain.seq),
            accepted_seq=row[10],
            published_seq=row[11],
            seen_size=row[12],
            seen_root=Digest(row[13]),
            seen_note=row[14],
            configuration=Digest(row[15]),
            fingerprint_key=row[16],
            next_generation=row[17],
            lost_bytes=row[18],
            loss_events=row[19],
        )

    def _positions(self) -> Iterator[Position]:
        for row in self._rows("SELECT * FROM position ORDER BY generation"):
            number, stream, path, device, inode, offset, size, head_size, head, continuing = row
            yield Position(
                number, stream, path, int(device), int(inode), offset, size, head_size, head, bool(continuing)
            )

    def _first_seq(self, head: Seq) -> Seq:
        row = self._row("SELECT min(seq) FROM block")
        return Seq(head + 1 if row is None or row[0] is None else row[0])

    def blocks(self, first_seq: int, max_bytes: int, max_count: int) -> list[StoredBlock]:
        """Consecutive blocks from ``first_seq``, or from the lowest kept after it.

        At most ``max_count``, and as many as have at most ``max_bytes`` together, but at least one if there
        is one.
        """
        last, total = None, 0
        sizes = self._rows(
            "SELECT seq, size FROM block WHERE seq >= ? ORDER BY seq LIMIT ?", (first_seq, max_count)
        )
        for seq, size in sizes:
            total += size
            if last is not None and total > max_bytes:
                break
            last = seq
        if last is None:
            return []
        rows = self._rows(
            "SELECT seq, header, signature, body FROM block WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (first_seq, last),
        )
        return [StoredBlock(Seq(seq), header, signature, body) for seq, header, signature, body in rows]

    def entries(self, first_seq: int, count: int) -> list[bytes]:
        """Statements of at most ``count`` consecutive blocks from ``first_seq``, without bodies."""
        return [
            header + signature
            for header, signature in self._rows(
                "SELECT header, signature FROM block WHERE seq >= ? AND seq < ? ORDER BY seq",
                (first_seq, first_seq + count),
            )
        ]

    def envelopes(self, dek: DataKeyId) -> EnvelopeUpload | None:
        """The envelopes of a data key; None once they are no longer needed."""
        row = self._row("SELECT upload FROM envelope WHERE dek = ?", (dek,))
        return None if row is None else parse_envelope_upload(row[0])

    def usage(self) -> SpoolUsage:
        """How much there is."""
        # Only prefixes are deleted, so the ends say how many there are; counting would read every page.
        ends = "SELECT seq, sealed_ns FROM block ORDER BY seq"
        first, last = self._row(f"{ends} LIMIT 1"), self._row(f"{ends} DESC LIMIT 1")
        count = 0 if first is None or last is None else last[0] - first[0] + 1
        with mapped(self._path):
            pages = self._db.pragma("page_count") - self._db.pragma("freelist_count")
            size = self._db.pragma("page_size")
        return SpoolUsage(count, pages * size, None if first is None else first[1])

    def seen(self) -> tuple[int, Digest]:
        """Size and root of the last checkpoint that was verified; 0 and zeros before the first."""
        row = self._row("SELECT seen_size, seen_root FROM chain")
        return (0, ZERO_DIGEST) if row is None else (row[0], Digest(row[1]))

    def losses(self) -> tuple[int, int]:
        """Bytes lost and loss events, over the life of the chain."""
        row = self._row("SELECT lost_bytes, loss_events FROM chain")
        return (0, 0) if row is None else (row[0], row[1])

    def events(self, count: int = EVENTS_KEPT) -> list[bytes]:
        """The latest ``count`` agent events as they were sealed (JSON lines), oldest first."""
        rows = self._rows("SELECT record FROM event ORDER BY id DESC LIMIT ?", (count,))
        return [row[0] for row in reversed(rows)]

    # Writing

    def initialise(
        self, genesis: Block, state: ChainState, configuration: Digest, fingerprint_key: bytes
    ) -> None:
        """Begin a chain with its ``genesis``; UsageError when there is one already."""
        with self._transaction():
            if self._row("SELECT 1 FROM chain") is not None:
                raise UsageError(
                    "this spool holds a chain already; move the state directory aside to enrol anew"
                )
            self._db.execute(
                "INSERT INTO chain (id, tenant, agent, chain, seq, head, records, next_public, sealed_ns, "
                "stopped, keys, seen_root, configuration, fingerprint_key) "
                "VALUES (1, ?, ?, ?, 0, x'', 0, x'', 0, 0, x'', ?, ?, ?)",
                (state.tenant, state.agent, state.chain, ZERO_DIGEST, configuration, fingerprint_key),
            )
            self._write_state(state)
            self._write_block(genesis, b"")

    def append(
        self,
        block: Block,
        body: bytes,
        state: ChainState,
        positions: Sequence[Position] = (),
        envelopes: EnvelopeUpload | None = None,
        *,
        events: Sequence[AgentEvent] = (),
        group: ShredGroup | None = None,
        configuration: Digest | None = None,
    ) -> None:
        """Make ``block`` durable together with all that follows from it, in one transaction.

        ``positions`` are those that changed; ``envelopes`` come with a keys block, with the ``group`` it
        names; ``configuration`` is the digest that a start event recorded. SpoolFull and StorageError leave
        everything as it was.
        """
        if state.seq != block.header.seq or (envelopes is not None) != (block.header.kind is BlockKind.KEYS):
            raise UsageError("a block is spooled with its own chain state, and a keys block with envelopes")
        with self._transaction():
            self._write_block(block, body)
            self._write_state(state)
            self._write_positions(positions)
            if envelopes is not None:
                header = block.header
                self._db.execute(
                    "INSERT INTO envelope (dek, keys_seq, shred_group, class, upload) VALUES (?, ?, ?, ?, ?)",
                    (header.dek, header.seq, header.group, header.retention_class, envelopes.encode()),
                )
            if group is not None:
                self._db.execute(
                    "INSERT OR IGNORE INTO shred_group VALUES (?, ?)", (group.number, group.name)
                )
            if configuration is not None:
                self._db.execute("UPDATE chain SET configuration = ?", (configuration,))
            self._write_events(block.header.seq, events)

    def _write_block(self, block: Block, body: bytes) -> None:
        header = block.header
        size = len(block.header_bytes) + len(block.signature) + len(body)
        self._db.execute(
            "INSERT INTO block (seq, size, sealed_ns, header, signature, body) VALUES (?, ?, ?, ?, ?, ?)",
            (header.seq, size, header.sealed_ns, block.header_bytes, block.signature, body),
        )

    def _write_state(self, state: ChainState) -> None:
        self._db.execute(
            "UPDATE chain SET seq = ?, head = ?, records = ?, next_public = ?, sealed_ns = ?, stopped = ?, "
            "keys = ?",
            (
                state.seq,
                state.head,
                state.records,
                state.next_public,
                state.sealed_ns,
                state.stopped,
                encode_keys(state.keys),
            ),
        )

    def _write_positions(self, positions: Sequence[Position]) -> None:
        for item in positions:
            if item.gone:
                self._db.execute("DELETE FROM position WHERE generation = ?", (item.generation,))
            else:
                self._db.execute(
                    "INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        item.generation,
                        item.stream,
                        item.path,
                        str(item.device),  # as text: both may be unsigned 64-bit numbers
                        str(item.inode),
                        item.offset,
                        item.size,
                        item.head_size,
                        item.head,
                        item.continuing,
                    ),
                )
        if positions:
            self._db.execute(
                "UPDATE chain SET next_generation = max(next_generation, ?)",
                (max(item.generation for item in positions) + 1,),
            )

    def _write_events(self, seq: Seq, events: Sequence[AgentEvent]) -> None:
        for item in events:
            self._db.execute("INSERT INTO event (seq, record) VALUES (?, ?)", (seq, item.encode()))
        losses = [item.lost_bytes for item in events if item.is_loss]
        if losses:
            self._db.execute(
                "UPDATE chain SET lost_bytes = lost_bytes + ?, loss_events = loss_events + ?",
                (sum(losses), len(losses)),
            )
        if events:
            self._db.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", (EVENTS_KEPT,))

    def write_positions(self, positions: Sequence[Position]) -> None:
        """Store positions that changed without a block.

        A rotated file that was sealed to its end is given up.
        """
        with self._transaction():
            self._write_positions(positions)

    def mark_envelopes_accepted(self, dek: DataKeyId, *, accepted: bool = True) -> None:
        """The collector holds the envelopes of ``dek``.

        Or, ``accepted=False``, it says that it lacks them.
        """
        with self._transaction():
            self._db.execute("UPDATE envelope SET accepted = ? WHERE dek = ?", (accepted, dek))

    def mark_accepted(self, seq: int) -> None:
        """The collector holds everything up to ``seq``.

        It may fall back, to the published seq at most: a collector that lost its database is sent again
        what had no receipt.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE chain SET accepted_seq = max(published_seq, min(seq, ?))",
                (seq,),
            )

    def mark_published(
        self, through_seq: int, size: int, root: Digest, note: bytes, keep_ns: int, now_ns: int
    ) -> None:
        """A verified receipt covers everything up to ``through_seq``; -1 when only its checkpoint is new.

        Remembers the checkpoint (``size``, ``root``, the signed ``note``) and deletes what was published at
        least ``keep_ns`` ago. UsageError for a seq that the chain has not reached.
        """
        with self._transaction():
            row = self._row("SELECT seq FROM chain")
            if row is None or through_seq > row[0]:
                raise UsageError(f"block {through_seq} cannot be published: the chain has not reached it")
            self._db.execute(
                "UPDATE chain SET published_seq = max(published_seq, ?), "
                "accepted_seq = max(accepted_seq, ?), seen_size = ?, seen_root = ?, seen_note = ?",
                (through_seq, through_seq, size, root, note),
            )
            self._db.execute(
                "UPDATE block SET published_ns = ? WHERE seq <= ? AND published_ns IS NULL",
                (now_ns, through_seq),
            )
            self._delete(keep_ns, now_ns)
        self._give_back()

    def prune(self, keep_ns: int, now_ns: int) -> None:
        """Delete what was published at least ``keep_ns`` ago."""
        with self._transaction():
            self._delete(keep_ns, now_ns)
        self._give_back()

    def _delete(self, keep_ns: int, now_ns: int) -> None:
        # Only a prefix of the chain is deleted: the oldest block that has to stay keeps all after it.
        self._db.execute(
            "DELETE FROM block WHERE seq < coalesce((SELECT seq FROM block "
            "WHERE published_ns IS NULL OR published_ns > ? ORDER BY seq LIMIT 1), 9223372036854775807)",
            (now_ns - keep_ns,),
        )
        # Envelopes are needed while a block under their data key is kept: until a later key of the same group
        # and class was introduced before the oldest block left.
        self._db.execute(
            "DELETE FROM envelope WHERE accepted AND EXISTS (SELECT 1 FROM envelope AS later "
            "WHERE later.shred_group = envelope.shred_group AND later.class = envelope.class "
            "AND later.keys_seq > envelope.keys_seq "
            "AND later.keys_seq <= coalesce((SELECT min(seq) FROM block), (SELECT seq FROM chain)))"
        )

    def _give_back(self) -> None:
        with mapped(self._path):
            surplus = self._db.pragma("freelist_count") - _KEPT_FREE_PAGES
            if surplus > 0:
                self._db.execute(f"PRAGMA incremental_vacuum({min(surplus, _VACUUM_PAGES)})").fetchall()
