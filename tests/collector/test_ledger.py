"""The database's part: which pack is next, what is recorded, what is refused.

And the receipts that come of it.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from duramen.errors import IntegrityError, StorageError
from duramen.merkle import EMPTY_ROOT, leaf_hash, root_of
from duramen.names import ChainId, Digest, Seq
from duramen.receipt import MAX_STATEMENTS, parse_receipt, verify_receipt
from duramen.tiles import TilePath
from duramen_collector.heads import LOWEST, Remembered
from duramen_collector.ledger import EMPTY_POSITION, Ledger
from duramen_collector.receipts import build_receipt
from duramen_collector.register import NO_BALLOT, Ballot
from duramen_collector.replica import TwoKeySigner
from duramen_collector.schema import chains, checkpoints, entries, sequencing
from tests.collector.region_lab import (
    MemoryStore,
    Site,
    block,
    blocks,
    connect,
    genesis,
    know_chain,
    land,
)
from tests.collector.test_sequencer import SIGNER, initialise

CHAIN = b"c" * 32


@pytest.fixture
def connection():
    return connect()


@pytest.fixture
def ledger(connection):
    return Ledger(connection, "acme")


def record(ledger, note=b"note"):
    pending = ledger.next_pack(1 << 20)
    ledger.record(pending, ledger.root_after(pending.pack.header.first_leaf, pending.entries), note, 1)
    return pending


def seqs(pending):
    return [(frame.statement.chain[:1], frame.statement.header.seq) for frame in pending.pack.frames]


def test_nothing(ledger):
    assert ledger.next_pack(100) is None
    assert ledger.position() == EMPTY_POSITION
    assert ledger.backlog().count == 0
    assert (ledger.signed(), ledger.seen_size(), ledger.checkpoint(0), ledger.remembered()) == (
        None,
        0,
        None,
        {},
    )
    assert ledger.last_ballot() == NO_BALLOT
    assert ledger.root_at(0) == EMPTY_ROOT


def test_bytes_are_fixed_until_finished(connection, ledger):
    land(connection, "acme", blocks(3))
    first = ledger.next_pack(1 << 20)
    land(connection, "acme", blocks(3, first=4))
    assert ledger.next_pack(1 << 20) == first
    assert Ledger(connection, "acme").next_pack(10) == first
    record(ledger)
    assert seqs(ledger.next_pack(1 << 20)) == [(b"c", 4), (b"c", 5), (b"c", 6)]


def test_fixed_pack_is_made_anew_where_the_log_went_another_way(connection, ledger):
    """Another sequencer's pack was decided in its place; what it holds already is dropped."""
    land(connection, "acme", blocks(3))
    mine = ledger.next_pack(1 << 20)
    other = connect()
    land(other, "acme", [*blocks(2), (genesis("x"), b"")])
    theirs = Ledger(other, "acme").next_pack(1 << 20)
    ledger.record(theirs, ledger.root_after(0, theirs.entries), None, 1)
    again = ledger.next_pack(1 << 20)
    assert again.digest != mine.digest
    assert seqs(again) == [(b"c", 3)]
    assert again.pack.header.previous == theirs.digest


def test_size_of_a_pack(connection, ledger):
    land(connection, "acme", blocks(10, size=1000))
    backlog = ledger.backlog()
    assert backlog.count == 10
    frames = [ledger.next_pack(5000)]
    assert len(frames[0].data) <= 5000
    assert frames[0].pack.header.count == 3
    record(ledger)
    assert ledger.next_pack(1).pack.header.count == 1, "always one"


def test_backlog_measures_what_a_pack_will_hold(connection, ledger):
    land(connection, "acme", blocks(10, size=1000))
    backlog = ledger.backlog()
    assert backlog.size_bytes == len(ledger.next_pack(1 << 20).data) - 90


def test_one_class_a_pack_and_every_chain_in_order(connection, ledger):
    def one(chain, seq, retention_class):
        body = b"" if retention_class is None else b"%d" % seq
        return block(chain * 32, seq, body=body, retention_class=retention_class or 0), body

    land(
        connection,
        "acme",
        [
            one(b"x", 1, 0),
            one(b"x", 2, 1),
            one(b"y", 1, 0),
            one(b"x", 3, 0),
            one(b"z", 1, None),
            one(b"y", 2, 1),
        ],
    )
    assert seqs(record(ledger)) == [(b"x", 1), (b"y", 1), (b"z", 1)]
    second = record(ledger)
    assert second.pack.header.retention_class == 1
    assert seqs(second) == [(b"x", 2), (b"y", 2)]
    assert seqs(record(ledger)) == [(b"x", 3)]
    assert ledger.next_pack(1 << 20) is None


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([b"x", b"y", b"z"]), st.sampled_from([None, 0, 1, 2]), st.integers(1, 300)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 3000),
)
def test_every_order_of_classes_ends_and_keeps_chains(script, max_bytes):
    connection = connect()
    ledger = Ledger(connection, "acme")
    next_seq = {b"x": 1, b"y": 1, b"z": 1}
    landed = []
    for chain, retention_class, size in script:
        body = b"" if retention_class is None else bytes(size)
        landed.append(
            (block(chain * 32, next_seq[chain], body=body, retention_class=retention_class or 0), body)
        )
        next_seq[chain] += 1
    land(connection, "acme", landed)
    log = []
    while (pending := ledger.next_pack(max_bytes)) is not None:
        ledger.record(pending, ledger.root_after(len(log), pending.entries), None, 1)
        log += seqs(pending)
    assert len(log) == len(landed)
    for chain, end in next_seq.items():
        assert [seq for name, seq in log if name == chain] == list(range(1, end))
    leaves = [statement.entry for statement, _ in landed]
    if landed:
        with connection.begin():
            count = connection.execute(select(func.count()).select_from(entries)).scalar()
        assert count == len(leaves)
        assert ledger.position().root == ledger.root_at(len(leaves))


def test_record_is_one_transaction_and_idempotent(connection, ledger):
    know_chain(connection, "acme", CHAIN)
    land(connection, "acme", blocks(300))
    pending = ledger.next_pack(1 << 20)
    root = ledger.root_after(0, pending.entries)
    seen = []

    def observer(transaction, pack):
        assert transaction.in_transaction()
        seen.append(pack.header.count)
        if len(seen) == 1:
            raise StorageError("no")

    watched = Ledger(connection, "acme", observer)
    with pytest.raises(StorageError):
        watched.record(pending, root, b"note", 7)
    assert ledger.position() == EMPTY_POSITION
    assert ledger.backlog().count == 300
    for _ in range(2):
        watched.record(pending, root, b"note", 7)
    assert seen == [300, 300]
    assert ledger.position().root == root == root_of([leaf_hash(entry) for entry in pending.entries])
    assert ledger.backlog().count == 0
    assert ledger.checkpoint(300) == b"note"
    assert len(ledger.tile(TilePath(0, 0))) == 8192
    assert len(ledger.tile(TilePath(0, 1, 44))) == 44 * 32
    with pytest.raises(StorageError, match="rebuild"):
        ledger.tile(TilePath(0, 1, 45))
    with connection.begin():
        assert connection.execute(select(chains.c.published_seq)).scalar() == 300


def test_record_refuses_what_does_not_follow(connection, ledger):
    land(connection, "acme", blocks(3))
    record(ledger)
    other = connect()
    land(other, "acme", blocks(9, first=10))
    theirs = Ledger(other, "acme").next_pack(1 << 20)
    with pytest.raises(IntegrityError, match="does not follow"):
        ledger.record(theirs, Digest(bytes(32)), None, 1)


def test_guard(ledger):
    one, two = Digest(b"1" * 32), Digest(b"2" * 32)
    ledger.guard(5, one)
    ledger.guard(5, one)
    assert ledger.signed() == (5, one)
    for size, root in ((5, two), (4, one), (4, two)):
        with pytest.raises(IntegrityError) as caught:
            ledger.guard(size, root)
        assert caught.value.code == "equivocation"
    ledger.guard(6, two)
    ledger.guard(5, one)  # what was signed before may be shown again
    assert ledger.signed() == (6, two)


def test_guard_is_committed_before_it_returns(connection, ledger):
    ledger.guard(5, Digest(b"1" * 32))
    connection.rollback()
    assert ledger.signed() is not None


def test_memory_of_heads_only_rises(ledger):
    low, high = Ballot(1, bytes(16)), Ballot(2, b"x" * 16)
    ledger.remember({"a": Remembered(high, (low, 3))})
    ledger.remember({"a": Remembered(low, (low, 9)), "b": LOWEST})
    assert ledger.remembered() == {"a": Remembered(high, (low, 9)), "b": LOWEST}
    ledger.record_ballot(high)
    ledger.record_ballot(low)
    assert ledger.last_ballot() == high
    assert ledger.remembered()["a"] == Remembered(high, (low, 9))
    ledger.remember({"a": Remembered(Ballot(2**62, b"z" * 16), (low, 2**62))})
    assert ledger.remembered()["a"].accepted == (low, 2**62)
    assert ledger.last_ballot() == high


def test_ballot_that_is_none(connection, ledger):
    ledger.record_ballot(Ballot(1, bytes(16)))
    with connection.begin():
        connection.execute(sequencing.update().values(remembered={"ballot": ["1", "00"], "regions": {}}))
    with pytest.raises(StorageError, match="ballot"):
        ledger.last_ballot()


def test_errors_of_the_database_are_mapped(connection, ledger):
    with connection.begin():
        connection.exec_driver_sql("DROP TABLE sequencing")
    with pytest.raises(StorageError, match="no such table"):
        ledger.position()


def test_tenants_are_apart(connection, ledger):
    land(connection, "acme", blocks(3))
    land(connection, "other", blocks(2, chain=b"o" * 32))
    record(ledger)
    other = Ledger(connection, "other")
    assert other.position() == EMPTY_POSITION
    assert seqs(record(other)) == [(b"o", 1), (b"o", 2)]
    assert ledger.position().size == 3


# Receipts


def receipt_for(connection, first, seen_size=0):
    with connection.begin():
        return build_receipt(connection, ChainId(CHAIN), Seq(first), seen_size)


def test_receipts_prove_what_agents_check():
    stores = {name: MemoryStore() for name in "abc"}
    initialise(stores)
    site = Site(stores, signer=TwoKeySigner(SIGNER))
    site.acquire()
    assert receipt_for(site.connection, 1) is None
    mine = [statement.entry for statement, _ in blocks(1500)]
    site.land(blocks(600))
    site.publish()
    site.land(blocks(40, chain=b"o" * 32))
    site.land(blocks(900, first=601))
    assert receipt_for(site.connection, 601) is None, "landed is not published"
    site.publish()
    with site.connection.begin():
        sizes = (
            site.connection.execute(select(checkpoints.c.size).order_by(checkpoints.c.size)).scalars().all()
        )
    roots = {size: site.ledger.root_at(size) for size in sizes}
    assert sizes == [600, 1540]
    keys = SIGNER.keys()
    for first, seen in ((1, 0), (1, 600), (599, 600), (601, 600), (1000, 1540), (1500, 0)):
        receipt = receipt_for(site.connection, first, seen)
        assert parse_receipt(receipt.to_json()) == receipt
        assert len(receipt.proofs) == min(MAX_STATEMENTS, 1500 - first + 1)
        proven = mine[first - 1 : first - 1 + len(receipt.proofs)]
        seen_root = roots.get(seen, Digest(bytes(32)))
        assert verify_receipt(receipt, proven, keys, seen, seen_root).checkpoint.size == 1540
    assert receipt_for(site.connection, 1501) is None
    assert receipt_for(site.connection, 0) is None
    with pytest.raises(IntegrityError) as caught:
        receipt_for(site.connection, 1, 1541)
    assert caught.value.code == "checkpoint_rollback"


def test_receipt_needs_a_checkpoint_over_it(connection, ledger):
    """Within a rebuild, entries are there before their checkpoint is."""
    land(connection, "acme", blocks(3))
    record(ledger, note=None)
    assert receipt_for(connection, 1) is None
