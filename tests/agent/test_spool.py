"""The spool's own promises: one transaction, order, bounds, deletion, space, errors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from duramen.api import EnvelopeUpload
from duramen.errors import ConfigurationError, DuramenError, StorageError, UsageError
from duramen.statement import Block, parse_block_header
from duramen_agent.event import AgentEvent, EventKind
from duramen_agent.generation import Chunk
from duramen_agent.position import Position
from duramen_agent.sealer import Contents
from duramen_agent.source import DEFAULT_SLOT, Source
from duramen_agent.spool import EVENTS_KEPT, Spool, SpoolFull
from duramen_agent.spoolschema import mapped
from tests.agent.rig import READER, Host, append


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.start()
    return host


def grow(host: Host, blocks: int, size: int = 100) -> None:
    source = Source("app", (), (), {}, DEFAULT_SLOT)
    for _ in range(blocks):
        chunk = Chunk(source, b"/a", os.urandom(8).hex(), 0, os.urandom(size), 1, 1, more=False)
        chunk = replace(chunk, raw=chunk.raw.replace(b"\n", b"x"))
        host.engine._sealer.seal(Contents(DEFAULT_SLOT, [chunk]), host.now())


def test_an_empty_spool_and_a_second_opener(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s.db"))
    assert spool.load() is None
    assert (spool.usage().blocks, spool.usage().oldest_ns) == (0, None)
    assert spool.blocks(0, 1, 1) == []
    assert spool.seen() == (0, bytes(32))
    assert spool.losses() == (0, 0)
    with pytest.raises(ConfigurationError, match="in use by another agent"):
        Spool(str(tmp_path / "s.db"))
    spool.close()
    Spool(str(tmp_path / "s.db")).close()


def test_blocks_come_in_order_and_within_bounds(host: Host) -> None:
    grow(host, 20, 1000)
    everything = host.spool.blocks(0, 2**40, 1000)
    assert [item.seq for item in everything] == list(range(23))
    sizes = [len(item.header_bytes) + 64 + len(item.body) for item in everything]
    assert [item.seq for item in host.spool.blocks(5, 1, 10)] == [5]
    assert [item.seq for item in host.spool.blocks(5, 10**9, 3)] == [5, 6, 7]
    assert [item.seq for item in host.spool.blocks(5, sizes[5] + sizes[6], 10)] == [5, 6]
    assert [item.seq for item in host.spool.blocks(5, sizes[5] + sizes[6] - 1, 10)] == [5]
    assert host.spool.blocks(23, 10**9, 10) == []
    assert host.spool.entries(3, 4) == [item.header_bytes + item.signature for item in everything[3:7]]


def test_publishing_deletes_a_prefix_and_remembers_the_checkpoint(host: Host) -> None:
    grow(host, 10)
    spool = host.spool
    spool.mark_accepted(4)
    assert spool.load().accepted_seq == 4
    spool.mark_accepted(10**6)
    assert spool.load().accepted_seq == 12
    spool.mark_published(6, 99, b"r" * 32, b"note", 0, 1)
    state = spool.load()
    assert (state.first_seq, state.published_seq, state.accepted_seq) == (7, 6, 12)
    assert (state.seen_size, state.seen_root, state.seen_note) == (99, b"r" * 32, b"note")
    spool.mark_accepted(2)
    assert spool.load().accepted_seq == 6
    assert spool.blocks(0, 10**9, 100)[0].seq == 7
    assert spool.usage().blocks == 6
    with pytest.raises(UsageError, match="has not reached it"):
        spool.mark_published(13, 100, b"q" * 32, b"", 0, 1)
    assert spool.load().seen_size == 99
    spool.mark_published(12, 100, b"q" * 32, b"", 0, 1)
    assert spool.load().first_seq == 13
    assert spool.usage().oldest_ns is None
    host.restart()
    assert host.spool.blocks(0, 10**9, 100)[0].seq == 13


def test_receipts_keep_holds_blocks_back(host: Host) -> None:
    grow(host, 3)
    host.spool.mark_published(2, 9, b"r" * 32, b"", 100, 1000)
    host.spool.mark_published(4, 9, b"r" * 32, b"", 100, 1050)
    assert host.spool.load().first_seq == 0
    host.spool.prune(100, 1099)
    assert host.spool.load().first_seq == 0
    host.spool.prune(100, 1100)
    assert host.spool.load().first_seq == 3
    host.spool.prune(0, 1100)
    assert host.spool.load().first_seq == 5


def waiting(host: Host) -> list[bytes]:
    """Data keys whose envelopes no collector has taken, in chain order."""
    return [
        dek for (dek,) in host.spool._rows("SELECT dek FROM envelope WHERE NOT accepted ORDER BY keys_seq")
    ]


def test_envelopes_stay_for_as_long_as_their_blocks_may_be_sent(host: Host) -> None:
    (first,) = waiting(host)
    assert isinstance(host.spool.envelopes(first), EnvelopeUpload)
    host.spool.mark_envelopes_accepted(first)
    assert waiting(host) == []
    host.spool.mark_envelopes_accepted(first, accepted=False)
    assert waiting(host) == [first]
    host.spool.mark_envelopes_accepted(first)
    host.engine._sealer.set_recipients([READER.recipient])
    grow(host, 2)
    second = waiting(host)[0]
    host.spool.mark_published(1, 9, b"r" * 32, b"", 0, 1)
    assert host.spool.envelopes(first) is not None
    host.spool.mark_published(2, 9, b"r" * 32, b"", 0, 1)
    assert host.spool.envelopes(first) is None
    assert host.spool.envelopes(second) is not None


def test_deleted_space_is_reused_and_given_back(host: Host) -> None:
    path = host.state_dir / "spool.db"
    for _ in range(12):
        grow(host, 40, 100_000)
        host.spool.mark_published(host.engine._sealer.state.seq, 1, b"r" * 32, b"", 0, 1)
    steady = path.stat().st_size
    assert steady < 2 * 40 * 110_000
    grow(host, 400, 100_000)
    assert path.stat().st_size > 30 * 2**20
    for _ in range(20):
        host.spool.mark_published(host.engine._sealer.state.seq, 1, b"r" * 32, b"", 0, 1)
        grow(host, 1)
    assert path.stat().st_size < 24 * 2**20
    assert (host.state_dir / "spool.db-wal").stat().st_size < 16 * 2**20
    assert host.spool.usage().bytes < 2**20


def test_events_are_kept_in_a_bounded_number(host: Host) -> None:
    events = [AgentEvent(EventKind.TRUNCATED, i, {"n": i}, lost_bytes=i % 2) for i in range(EVENTS_KEPT + 50)]
    host.engine._sealer.seal(Contents(DEFAULT_SLOT, events=events), host.now())
    kept = host.spool.events()
    assert len(kept) == EVENTS_KEPT
    assert kept[-1] == events[-1].encode()
    assert host.spool.events(2) == [events[-2].encode(), events[-1].encode()]
    assert host.spool.losses() == ((EVENTS_KEPT + 50) // 2, (EVENTS_KEPT + 50) // 2)
    assert b'"lost_bytes":1' in events[1].encode()


def test_positions_hold_what_the_kernel_may_say(host: Host) -> None:
    position = Position(77, "app", b"\xff\0x", 2**64 - 1, 2**64 - 2, 5, 6, 4, b"h" * 16, continuing=True)
    host.spool.write_positions([position])
    assert host.spool.load().positions == (position,)
    assert host.spool.load().next_generation == 78
    assert position.file == "ffffffffffffffff-fffffffffffffffe-77"
    host.spool.write_positions([replace(position, gone=True)])
    assert host.spool.load().positions == ()
    assert host.spool.load().next_generation == 78


def test_a_failed_append_leaves_nothing_behind(host: Host, tmp_path: Path) -> None:
    before = host.spool.load()
    blocks = host.spool.blocks(0, 10**9, 100)
    broken = Position(1, "app", b"p", 1, 1, -(2**70), 0, 0, b"")  # SQLite cannot hold the number
    contents = Contents(DEFAULT_SLOT, events=(AgentEvent(EventKind.STOP, 1),), positions=(broken,))
    with pytest.raises((DuramenError, OverflowError)):
        host.engine._sealer.seal(contents, host.now())
    assert host.spool.load() == before
    assert host.spool.blocks(0, 10**9, 100) == blocks
    grow(host, 1)
    with pytest.raises(UsageError, match="with its own chain state"):
        host.spool.append(old_block(host), b"", host.engine._sealer.state)


def old_block(host: Host) -> Block:
    stored = host.spool.blocks(1, 1, 1)[0]
    return Block(parse_block_header(stored.header_bytes), stored.header_bytes, stored.signature)


def test_a_full_disk_is_told_apart_and_changes_nothing(host: Host) -> None:
    pages = host.spool._db.pragma("page_count")
    host.spool._db.pragma("max_page_count", pages)
    before = host.spool.load()
    with pytest.raises(SpoolFull):
        grow(host, 2, 500_000)
    assert host.spool.load() == before
    host.spool._db.pragma("max_page_count", 10**6)
    grow(host, 2, 500_000)
    host.verify()


def test_what_is_no_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database, but a text that is long enough to be seen as one" * 100)
    with pytest.raises(StorageError, match="is damaged"):
        Spool(str(tmp_path / "s.db"))
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Spool(str(tmp_path / "absent" / "s.db"))
    spool = Spool(str(tmp_path / "t.db"))
    spool._db.pragma("user_version", 9)
    spool.close()
    with pytest.raises(ConfigurationError, match="schema 9, and this release knows 1"):
        Spool(str(tmp_path / "t.db"))


def test_every_error_of_the_library_becomes_one_of_ours() -> None:
    found = [item for item in vars(apsw).values() if isinstance(item, type) and issubclass(item, apsw.Error)]
    assert len(found) > 30
    for kind in found:
        with pytest.raises(DuramenError), mapped("spool.db"):
            raise kind("x")


def test_a_crash_keeps_what_was_appended(host: Host) -> None:
    append(host.logs / "a.log", b"x\n")
    host.run(11)
    head = host.spool.load().chain
    copy = host.root / "copy"
    copy.mkdir()
    for name in ("spool.db", "spool.db-wal"):
        (copy / name).write_bytes((host.state_dir / name).read_bytes())
    assert Spool(str(copy / "spool.db")).load().chain == head
