"""The sequencer over regions that do as they are told: what is where afterwards, in files and in memory."""

import hashlib
from dataclasses import replace

import pytest
from sqlalchemy import delete, func, select

from duramen.checkpoint import LogSigner, open_checkpoint
from duramen.errors import ConfigurationError, StorageError
from duramen.frame import parse_pack
from duramen.logreader import check_log
from duramen.names import Digest
from duramen.tiles import tile_paths_for
from duramen_collector.heads import initialise_regions
from duramen_collector.outcome import Acquired, Idle, Published, Repaired, SteppedDown, Stopped, Unavailable
from duramen_collector.register import NO_BALLOT, Accepted, Ballot, parse_head
from duramen_collector.replica import TwoKeySigner
from duramen_collector.schema import chains, entries, envelopes
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.port import Create, Failed, Found, Get, List, Swap
from tests.collector.region_lab import (
    ORIGIN,
    CountedRandom,
    MemoryStore,
    Site,
    TurnedClock,
    block,
    blocks,
    dek_of,
    know_chain,
    run,
    settings,
)

SIGNER = LogSigner(ORIGIN, hashlib.sha256(b"ed").digest(), hashlib.sha256(b"ml").digest())


def initialise(stores):
    configuration = settings(names=tuple(sorted(stores))).configuration
    run(stores, initialise_regions("acme", ORIGIN, configuration, CountedRandom("init")))


@pytest.fixture
def stores():
    made = {name: MemoryStore() for name in "abc"}
    initialise(made)
    return made


@pytest.fixture
def site(stores):
    made = Site(stores)
    assert isinstance(made.acquire(), Acquired)
    return made


class StoreReader:
    """A region as an auditor reads it."""

    def __init__(self, store):
        self._store = store

    def read(self, key):
        answer = self._store.perform(Get(f"acme/{key}"))
        if isinstance(answer, Failed):
            raise StorageError(answer.reason)
        return answer.data if isinstance(answer, Found) else None


def check_region(store, expected):
    """The region holds the log ``expected``, under both signatures, and its packs alone give it too."""
    found = []

    def opened(data):
        return open_checkpoint(data, SIGNER.keys())

    report = check_log(StoreReader(store), opened, on_entry=lambda _, entry: found.append(entry))
    assert report.is_sound, report.defects[:3]
    assert found == expected
    head = parse_head(store.perform(Get("acme/head")).data)
    pack, packed = head.accepted.value.pack, []
    while any(pack):
        parsed = parse_pack(store.perform(Get(f"acme/packs/{pack.hex()}.pack")).data)
        packed[:0] = [frame.statement.entry for frame in parsed.frames]
        for dek in {frame.statement.header.dek for frame in parsed.frames if frame.body}:
            assert store.perform(List(f"envelopes/acme/{dek.hex()}/")).keys
        pack = parsed.header.previous
    assert packed == expected


def head_of(store):
    return parse_head(store.perform(Get("acme/head")).data)


def entries_of(*batches):
    return [statement.entry for batch in batches for statement, _ in batch]


# Ordinary life


def test_publish_restart_and_go_on(stores, site):
    assert site.publish() == Idle()
    site.land(blocks(10))
    assert site.publish() == Published(10, 10)
    site.land(blocks(300, first=11))
    assert site.publish() == Published(310, 300)
    assert site.publish() == Idle()
    again = Site(stores, site.connection, "again")
    assert again.acquire() == Acquired(again.sequencer.ballot, 310)
    again.land(blocks(5, first=311))
    assert again.publish() == Published(315, 5)
    assert {head_of(store).accepted.value.size for store in stores.values()} == {315}


def test_real_files_and_real_signatures(tmp_path):
    """Statements by the thousand in several packs; a region goes and comes back; the database is lost."""
    clock = TurnedClock()
    stores = {}
    for name in "abc":
        (tmp_path / name).mkdir()
        stores[name] = FileStore(tmp_path / name, clock)
    initialise(stores)
    site = Site(stores, clock=clock, signer=TwoKeySigner(SIGNER), settings=settings(max_bytes=150_000))
    assert isinstance(site.acquire(), Acquired)
    first = list(blocks(700))
    site.land(first)
    while isinstance(site.publish(), Published):
        clock.now_ns += 10**9
    for store in stores.values():
        check_region(store, entries_of(first))
    # A region goes away, as a volume does that is not mounted.
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    second = list(blocks(1100, first=701, dek=1))
    site.land(second)
    while isinstance(site.publish(), Published):
        clock.now_ns += 10**9
    assert isinstance(site.repair("b"), Unavailable)
    behind = {region.name: region.behind for region in site.sequencer.status()}
    assert behind["a"] == behind["c"] == 0 < behind["b"]
    assert site.sequencer.lagging() == ["b"]
    (tmp_path / "elsewhere").rename(tmp_path / "b")
    assert site.repair("b") == Repaired("b", 1800)
    assert site.sequencer.lagging() == []
    for store in stores.values():
        check_region(store, entries_of(first, second))
    # Superseded partial tiles are gone: what is left is what a checkpoint of this size names.
    allowed = {f"acme/{path.path()}" for path in tile_paths_for(0, 1800)}
    partials = {key for key in stores["a"].perform(List("acme/tile/")).keys if ".p/" in key}
    assert {key.partition(".p/")[0] for key in partials} <= {key.partition(".p/")[0] for key in allowed}
    # The database is lost; a region gives everything back.
    reborn = Site(stores, clock=clock, signer=site.signer, name="reborn", settings=site.settings)
    assert isinstance(reborn.acquire(), SteppedDown)
    assert isinstance(reborn.acquire(promote=True), Acquired)
    with reborn.connection.begin():
        assert reborn.connection.execute(select(func.count()).select_from(entries)).scalar() == 1800
    assert reborn.ledger.position() == site.ledger.position()
    third = list(blocks(3, first=1801))
    reborn.land([*second, *third])  # agents send again what had no receipt
    assert reborn.publish() == Published(1803, 3)
    for store in stores.values():
        check_region(store, entries_of(first, second, third))


def test_region_alone_gives_everything_back(stores, site):
    """k regions hold packs, and any one of them is enough to read from; to publish, k must answer."""
    site.land(blocks(20))
    site.publish()
    stores["a"].is_down = True
    other = Site(stores, name="other")
    assert isinstance(other.acquire(promote=True), Acquired)
    stores["b"].is_down = True
    assert isinstance(other.publish(), Idle)
    other.land(blocks(1, first=21))
    outcome = other.publish()
    assert isinstance(outcome, Unavailable)
    assert "b: down" in outcome.reason
    stores["b"].is_down = False
    assert other.publish() == Published(21, 1)


def test_lagging_region_is_needed_for_the_quorum(stores, site):
    """b was away for long; then c goes, and a and b have to do: publish repairs b first."""
    stores["b"].is_down = True
    site.land(blocks(300))
    site.publish()
    site.land(blocks(300, first=301))
    site.publish()
    stores["b"].is_down, stores["c"].is_down = False, True
    site.land(blocks(1, first=601))
    assert isinstance(site.publish(), Unavailable)  # c was well so far, and is found to be gone
    assert isinstance(site.publish(), Published)
    assert head_of(stores["b"]).accepted.value.size == 601
    assert b"\n601\n" in stores["b"].objects["acme/checkpoint"][0]


def test_lagging_region_is_needed_to_acquire(stores, site):
    stores["b"].is_down = True
    for first in (1, 301):
        site.land(blocks(300, first=first))
        site.publish()
    stores["b"].is_down, stores["c"].is_down = False, True
    site.restart()
    assert site.acquire() == Acquired(site.sequencer.ballot, 600)
    assert b"\n600\n" in stores["b"].objects["acme/checkpoint"][0]


# A crash at every call


@pytest.mark.parametrize("persists", [False, True], ids=["before", "after"])
def test_crash_at_every_call_of_a_publication(persists):
    """Stop before, or after, each store call of a publish.

    Acquire again: the same log, wherever it stopped.
    """
    number = 0
    while True:
        stores = {name: MemoryStore() for name in "abc"}
        initialise(stores)
        site = Site(stores)
        site.acquire()
        site.land(blocks(254))
        site.publish()
        site.land(blocks(5, first=255))
        done = crash_after(stores, site.sequencer.publish(), number, persists=persists)
        site.restart()
        assert isinstance(site.acquire(), Acquired), number
        outcome = site.publish()
        assert isinstance(outcome, Idle | Published), number
        assert site.ledger.position().size == 259, number
        for name in site.sequencer.lagging():
            assert isinstance(site.repair(name), Repaired)
        logs = {store.objects["acme/tile/entries/001.p/3"][0] for store in stores.values()}
        assert len(logs) == 1, number
        assert len(packs_of(stores["a"])) - len(orphans(stores["a"])) == 2
        if done:
            assert number > 20
            return
        number += 1


def crash_after(stores, steps, count, *, persists):
    """Perform ``count`` calls and drop the generator at the next one; True: it came to its end before."""
    try:
        batch = next(steps)
        while True:
            answers = []
            for call in batch:
                if count == 0:
                    if persists:
                        stores[call.region].perform(call.call)
                    steps.close()
                    return False
                count -= 1
                answers.append(stores[call.region].perform(call.call))
            batch = steps.send(answers)
    except StopIteration:
        return True


def packs_of(store):
    return {key for key in store.objects if key.startswith("acme/packs/")}


def orphans(store):
    pack, chain = head_of(store).accepted.value.pack, set()
    while any(pack):
        chain.add(f"acme/packs/{pack.hex()}.pack")
        pack = parse_pack(store.objects[f"acme/packs/{pack.hex()}.pack"][0]).header.previous
    return packs_of(store) - chain


def test_database_lost_its_last_commit(stores, site):
    """The regions are ahead of the database by one publication, which acquire brings back."""
    site.land(blocks(5))
    site.publish()
    raw = site.connection.connection.driver_connection
    before = raw.serialize()
    site.connection.rollback()
    site.land(blocks(5, first=6))
    site.publish()
    site.connection.connection.driver_connection.deserialize(before)
    site.connection.rollback()
    assert site.ledger.position().size == 5
    site.restart()
    assert site.acquire() == Acquired(site.sequencer.ballot, 10)
    assert site.ledger.position().size == 10


# Rivals


def test_old_primary_steps_down_and_stays_down(stores, site):
    site.land(blocks(3))
    site.publish()
    standby = Site(stores, name="standby")
    refused = standby.acquire()
    assert isinstance(refused, SteppedDown)
    assert "promote" in refused.reason
    assert isinstance(standby.acquire(promote=True), Acquired)
    site.land(blocks(1, first=4))
    outcome = site.publish()
    assert isinstance(outcome, SteppedDown)
    assert outcome.ballot == standby.sequencer.ballot
    assert str(outcome.ballot) in outcome.reason
    assert site.sequencer.ballot is None
    assert isinstance(site.publish(), Unavailable)
    site.restart()
    assert isinstance(site.acquire(), SteppedDown), "a restart does not take the log back"
    standby.land(blocks(2, first=4))
    assert standby.publish() == Published(5, 2)


def test_repair_and_idle_notice_the_new_ballot(stores, site):
    site.land(blocks(3))
    site.publish()
    other = Site(stores, name="other")
    other.acquire(promote=True)
    assert isinstance(site.repair("a"), SteppedDown)


def test_shared_database_moves_on(stores, site):
    site.land(blocks(3))
    site.publish()
    other = Site(stores, site.connection, "other")
    other.acquire()
    other.land(blocks(3, first=4))
    other.publish()
    assert isinstance(site.publish(), SteppedDown)


def test_two_values_under_one_ballot_stop(stores, site):
    """Somebody copied this sequencer, ballot and all."""
    site.land(blocks(3))
    twin = Site(stores, name="twin")
    twin.sequencer._ballot = site.sequencer.ballot
    twin.sequencer._heads.newest = site.sequencer.ballot
    run(stores, twin.sequencer._heads.read())
    run(stores, twin.sequencer._replicas.read_checkpoints("abc"))
    twin.land(blocks(2, first=50, chain=b"t" * 32))
    twin.land(blocks(1, first=53, chain=b"t" * 32))
    assert isinstance(twin.publish(), Published)
    outcome = site.publish()
    assert isinstance(outcome, Stopped)
    assert outcome.code == "equivocation"


# Heads and checkpoints that are not what they should be


def test_missing_head_is_quarantined_and_never_made(stores, site):
    site.land(blocks(3))
    site.publish()
    del stores["b"].objects["acme/head"]
    site.land(blocks(3, first=4))
    site.publish()
    site.restart()
    site.acquire()
    (b,) = [region for region in site.sequencer.status() if region.name == "b"]
    assert b.quarantine == "its head is missing"
    assert isinstance(site.repair("b"), Unavailable)
    assert "acme/head" not in stores["b"].objects
    del stores["c"].objects["acme/head"]
    site.restart()
    assert isinstance(site.acquire(), Unavailable)


@pytest.mark.parametrize("damage", ["foreign log", "foreign region", "malformed", "truncated", "huge"])
def test_foreign_head_is_quarantined(stores, site, damage):
    head = head_of(stores["b"])
    data = {
        "foreign log": replace(head, log="logs.example.com/other").encode(),
        "foreign region": head_of(stores["a"]).encode(),
        "malformed": b"{}",
        "truncated": head.encode()[:-1],
        "huge": b" " * 100_000,
    }[damage]
    stores["b"].objects["acme/head"] = (data, "other", 0)
    site.restart()
    assert isinstance(site.acquire(), Acquired)
    (b,) = [region for region in site.sequencer.status() if region.name == "b"]
    assert b.quarantine
    site.land(blocks(3))
    assert isinstance(site.publish(), Published)
    assert stores["b"].objects["acme/head"] == (data, "other", 0)


def test_lower_head_is_quarantined(stores, site):
    """A region restored from an old copy: promise or value lower than remembered."""
    old = stores["b"].objects["acme/head"]
    site.land(blocks(3))
    site.publish()
    stores["b"].objects["acme/head"] = old
    site.restart()
    assert isinstance(site.acquire(), Acquired)
    assert "lower" in {region.name: region.quarantine for region in site.sequencer.status()}["b"]
    stores["c"].objects["acme/head"] = old[0].replace(b'"region":"b"', b'"region":"c"'), "x", 0
    site.restart()
    assert isinstance(site.acquire(), Unavailable), "one head is no fence"


def test_region_restored_under_a_running_sequencer(stores, site):
    old = stores["b"].objects["acme/head"]
    site.land(blocks(3))
    site.publish()
    stores["b"].objects["acme/head"] = (old[0], "restored", 0)
    site.land(blocks(3, first=4))
    assert isinstance(site.publish(), Published)
    assert "lower" in {region.name: region.quarantine for region in site.sequencer.status()}["b"]
    assert stores["b"].objects["acme/head"] == (old[0], "restored", 0)


def test_all_regions_restored_from_before_the_signature(stores, site):
    """Every head is old and the database forgot, but for what it signed: an operator decides."""
    old = {name: dict(store.objects) for name, store in stores.items()}
    site.land(blocks(3))
    site.publish()
    for name, store in stores.items():
        store.objects = old[name]
    with site.connection.begin():
        site.connection.exec_driver_sql(
            "UPDATE sequencing SET remembered = '{}', size = 0, pack_digest = zeroblob(32)"
        )
    site.restart()
    outcome = site.acquire(promote=True)
    assert isinstance(outcome, Stopped)
    assert outcome.code == "checkpoint_rollback"
    assert "operator" in outcome.reason


def test_signed_checkpoint_beyond_what_is_decided(stores, site):
    """A region shows a longer log than the heads have decided: no sequencer goes on."""
    site.land(blocks(3))
    site.publish()
    shown = stores["a"].objects["acme/checkpoint"]
    other = {name: MemoryStore() for name in "abc"}
    initialise(other)
    other["a"].objects["acme/checkpoint"] = shown
    assert isinstance(Site(other).acquire(), Stopped)


def test_agents_have_seen_more(stores, site):
    know_chain(site.connection, "acme", b"c" * 32)
    with site.connection.begin():
        site.connection.execute(chains.update().values(seen_size=7))
    site.restart()
    outcome = site.acquire()
    assert isinstance(outcome, Stopped)
    assert "agent" in outcome.reason


def test_another_configuration_stops(stores, site):
    for changes in ({"copies": 3}, {"names": ("a", "b", "c", "d")}):
        other = Site({**stores, "d": MemoryStore()}, name="other", settings=settings(**changes))
        outcome = other.acquire()
        assert isinstance(outcome, Stopped)
        assert "configuration" in outcome.reason


def test_invalid_checkpoint_is_replaced(stores, site):
    site.land(blocks(3))
    site.publish()
    stores["b"].objects["acme/checkpoint"] = (b"nonsense", "x", 0)
    site.restart()
    site.acquire()
    assert "checkpoint" in str(site.sequencer.status()[1].error) or site.sequencer.lagging() == ["b"]
    for name in site.sequencer.lagging():
        assert isinstance(site.repair(name), Repaired)
    assert b"\n3\n" in stores["b"].objects["acme/checkpoint"][0]


def test_equivocation_shown_by_a_region(stores, site):
    site.land(blocks(3))
    site.publish()
    data = stores["b"].objects["acme/checkpoint"][0]
    root = data.split(b"\n")[2]
    forged = data.replace(root, b"A" * 43 + b"=")
    stores["b"].objects["acme/checkpoint"] = (forged, "x", 0)
    site.restart()
    outcome = site.acquire()
    assert isinstance(outcome, Stopped)
    assert outcome.code == "equivocation"


# Objects that are not what they should be


def test_other_bytes_under_a_tiles_name(stores, site):
    site.land(blocks(3))
    stores["b"].perform(Create("acme/tile/0/000.p/3", b"x" * 96))
    assert isinstance(site.publish(), Published)
    assert "other bytes" in {region.name: region.error for region in site.sequencer.status()}["b"]
    assert "acme/checkpoint" not in stores["b"].objects


def test_damaged_pack_is_read_elsewhere(stores, site):
    """One region's copies of all packs are damaged.

    Rebuilding takes the others', even where only a header differs.
    """
    for first in (1, 4, 7):
        site.land(blocks(3, first=first))
        site.publish()
    for at in (10, 20, 30, 60, 95):
        for key in packs_of(stores["a"]):
            data, version, retained = stores["a"].objects[key]
            stores["a"].objects[key] = (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], version, retained)
        other = Site(stores, name=f"other{at}")
        assert isinstance(other.acquire(promote=True), Acquired), at
        assert other.ledger.position() == site.ledger.position()


def test_pack_that_is_nowhere(stores, site):
    site.land(blocks(3))
    site.publish()
    for store in stores.values():
        for key in packs_of(store):
            store.objects[key] = (b"gone", "x", 0)
    site.restart()
    outcome = site.acquire()
    assert isinstance(outcome, Unavailable)
    assert "pack" in outcome.reason


def test_tail_from_packs_when_bundles_are_damaged(stores, site):
    for first in (1, 4):
        site.land(blocks(3, first=first))
        site.publish()
    for store in stores.values():
        for key in [key for key in store.objects if "tile/entries/" in key]:
            store.objects[key] = (b"damaged", "x", 0)
    site.sequencer._holdings._tail = (0, [])
    site.land(blocks(3, first=7))
    assert isinstance(site.publish(), Published)


# Envelopes


def test_envelopes_come_first(stores, site):
    site.land(blocks(3, dek=5))
    with site.connection.begin():
        site.connection.execute(delete(envelopes))
    outcome = site.publish()
    assert isinstance(outcome, Unavailable)
    assert dek_of(5).hex() in outcome.reason
    assert not packs_of(stores["a"])


def test_envelopes_of_another_collector_are_found_in_the_regions(stores, site):
    stores["c"].is_down = True
    site.land(blocks(3, dek=5))
    site.publish()
    stores["c"].is_down = False
    other = Site(stores, name="other")
    other.acquire(promote=True)
    assert isinstance(other.repair("c"), Repaired)
    key = next(key for key in stores["a"].objects if key.startswith("envelopes/"))
    assert stores["c"].objects[key][0] == stores["a"].objects[key][0] == b"envelope of " + dek_of(5)


# Init


def test_init_again_and_again(stores):
    configuration = settings().configuration
    fresh = {name: MemoryStore() for name in "abc"}
    fresh["b"].is_down = True
    for _ in range(2):
        with pytest.raises(StorageError):
            run(fresh, initialise_regions("acme", ORIGIN, configuration, CountedRandom("x")))
    fresh["b"].is_down = False
    run(fresh, initialise_regions("acme", ORIGIN, configuration, CountedRandom("y")))
    assert {head_of(store).promised for store in fresh.values()} == {NO_BALLOT}
    run(fresh, initialise_regions("acme", ORIGIN, configuration, CountedRandom("z")))
    with pytest.raises(ConfigurationError, match="belongs to"):
        run(fresh, initialise_regions("acme", "other/acme", configuration, CountedRandom("z")))
    Site(fresh).acquire()
    del fresh["a"].objects["acme/head"]
    with pytest.raises(ConfigurationError, match="in use"):
        run(fresh, initialise_regions("acme", ORIGIN, configuration, CountedRandom("z")))
    assert "acme/head" not in fresh["a"].objects
    fresh["b"].objects["acme/head"] = (b"x", "x", 0)
    with pytest.raises(ConfigurationError, match="something else"):
        run(fresh, initialise_regions("acme", ORIGIN, configuration, CountedRandom("z")))


def test_init_races_with_init():
    fresh = {name: MemoryStore() for name in "abc"}
    steps = initialise_regions("acme", ORIGIN, settings().configuration, CountedRandom("1"))
    batch = next(steps)
    batch = steps.send([fresh[call.region].perform(call.call) for call in batch])
    initialise(fresh)
    with pytest.raises(ConfigurationError, match="again"):
        steps.send([fresh[call.region].perform(call.call) for call in batch])


def test_senseless_fences():
    with pytest.raises(ConfigurationError, match="fence"):
        settings(copies=1, fence_extra=2)
    assert settings(copies=2, fence_extra=2).fence == 3


def test_wider_fence_survives_one_restored_region():
    """With f = n-k+2 a region may be an old copy and the database forgetful, and nothing is lost."""
    stores = {name: MemoryStore() for name in "abc"}
    initialise(stores)
    site = Site(stores, settings=settings(fence_extra=2))
    site.acquire()
    old = dict(stores["a"].objects)
    stores["c"].is_down = True
    site.land(blocks(3))
    assert isinstance(site.publish(), Published)  # in a and b
    stores["a"].objects, stores["c"].is_down = old, False
    other = Site(stores, name="forgetful", settings=settings(fence_extra=2))
    assert other.acquire(promote=True) == Acquired(other.sequencer.ballot, 3)


# Who can write one region's head


def test_last_ballot_there_is(stores, site):
    """One region promised the highest number: no ballot is drawn above it, and its head can be set aside."""
    head = head_of(stores["b"])
    stores["b"].objects["acme/head"] = (replace(head, promised=Ballot(2**53, bytes(16))).encode(), "x", 0)
    outcome = site.acquire(promote=True)
    assert isinstance(outcome, Stopped)
    del stores["b"].objects["acme/head"]
    assert isinstance(site.acquire(promote=True), Acquired)


def test_forged_value_that_does_not_fit(stores, site):
    """A head names a log that its pack does not give, or that no pack leads to: nothing is adopted."""
    site.land(blocks(3))
    site.publish()
    head = head_of(stores["b"])
    value = head.accepted.value
    for number, (forged, kind) in enumerate(
        (
            (replace(value, root=Digest(b"x" * 32)), Stopped),
            (replace(value, size=9), Stopped),
            (
                replace(value, size=9, size_before=3, root_before=value.root, pack=Digest(b"p" * 32)),
                Unavailable,
            ),
            (replace(value, size=9, size_before=5, pack=value.pack), Stopped),
            (replace(value, size=2, root=Digest(b"x" * 32)), Stopped),
        )
    ):
        ballot = Ballot(1000 * (number + 1), b"f" * 16)
        data = replace(head, promised=ballot, accepted=Accepted(ballot, forged)).encode()
        stores["b"].objects["acme/head"] = (data, "forged", 0)
        site.restart()
        assert isinstance(site.acquire(promote=True), kind), forged
        assert site.ledger.position().size == 3
    assert all(b"\n3\n" in store.objects["acme/checkpoint"][0] for store in stores.values())


# Stores that fail at one thing


class Picky(MemoryStore):
    """Fails at calls of one kind whose key has one text in it."""

    def __init__(self, kind, text):
        super().__init__()
        self.kind, self.text = kind, text

    def perform(self, call):
        if isinstance(call, self.kind) and self.text in getattr(call, "key", ""):
            return Failed("picky")
        return super().perform(call)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Create, "packs/"),
        (Get, "packs/"),
        (Create, "envelopes/"),
        (Get, "envelopes/"),
        (Swap, "/head"),
        (Create, "tile/entries"),
        (Create, "tile/0"),
        (Get, "/checkpoint"),
        (Swap, "/checkpoint"),
    ],
)
def test_region_that_fails_at_one_thing(kind, text):
    """Two others carry the log; the one is named, not counted, and whole once it works again."""
    stores = {"a": MemoryStore(), "b": Picky(kind, "nothing"), "c": MemoryStore()}
    initialise(stores)
    site = Site(stores)
    site.acquire()
    stores["b"].text = text
    for first in (1, 201):
        site.land(blocks(200, first=first))
        assert isinstance(site.publish(), Published)
    assert site.sequencer.lagging() == ["b"]
    assert {region.name: region.error for region in site.sequencer.status()}["b"]
    assert isinstance(site.repair("b"), Unavailable)
    site.restart()
    assert isinstance(site.acquire(), Acquired)
    stores["b"].text = "nothing"
    assert site.repair("b") == Repaired("b", 400)
    assert site.sequencer.lagging() == []
    assert b"\n400\n" in stores["b"].objects["acme/checkpoint"][0]


def test_commit_that_was_reported_as_failed(stores, site, monkeypatch):
    """The database has the publication, and its caller was told that it failed: the log is acquired again."""
    site.land(blocks(3))
    record = site.ledger.record

    def fail_after(*arguments):
        record(*arguments)
        raise StorageError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(site.ledger, "record", fail_after)
        assert isinstance(site.publish(), Unavailable)
    assert isinstance(site.publish(), Unavailable)
    assert site.sequencer.ballot is None
    assert isinstance(site.acquire(), Acquired)
    assert site.publish() == Idle()


def test_fixed_pack_that_is_damaged(stores, site):
    site.land(blocks(3))
    site.ledger.next_pack(1000)
    with site.connection.begin():
        site.connection.exec_driver_sql("UPDATE sequencing SET pending_pack = x'00'")
    assert isinstance(site.publish(), Stopped)


def test_long_retention_of_packs_and_tiles(stores, site):
    """A pack as its class says, full tiles as the longest class; partial tiles and registers not at all."""
    site.land((block(b"c" * 32, seq, body=b"x", retention_class=1), b"x") for seq in range(1, 300))
    site.publish()
    now = site.clock.now_ns // 10**9
    retained = {key: until for key, (_, _, until) in stores["a"].objects.items()}
    assert {until for key, until in retained.items() if "/packs/" in key} == {now + 10}
    assert retained["acme/tile/0/000"] == retained["acme/tile/entries/000"] == now + 5000
    assert retained["acme/checkpoints/299"] == now + 5000
    assert retained["acme/tile/0/001.p/43"] == retained["acme/head"] == retained["acme/checkpoint"] == 0


def test_kept_checkpoints_are_hourly(stores, site):
    for number in range(1, 5):
        site.land(blocks(1, first=number))
        site.publish()
        site.clock.now_ns += 1600 * 10**9
    kept = {key for key in stores["a"].objects if "/checkpoints/" in key}
    assert kept == {"acme/checkpoints/1", "acme/checkpoints/4"}


def test_partial_tiles_go_when_the_full_one_is_there(stores, site):
    for first, count in ((1, 100), (101, 100), (201, 100)):
        site.land(blocks(count, first=first))
        site.publish()
    assert {key for key in stores["a"].objects if ".p/" in key} == {
        "acme/tile/0/001.p/44",
        "acme/tile/entries/001.p/44",
        "acme/tile/1/000.p/1",
    }
