"""Verification of all regions and the database against them; repair of one region from another."""

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from duramen import frame
from duramen.auditreport import Depth
from duramen.errors import StorageError, UsageError
from duramen.region import envelope_key
from duramen.verdict import Code, Severity, Verdict
from duramen_collector import schema
from duramen_collector.chainverification import Patience
from duramen_collector.database import open_database, reading, upgrade, writing
from duramen_collector.regionreader import OverlayReader, StoreReader
from duramen_collector.repair import repair_region
from duramen_collector.sequencer import Retention
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.port import Absent, Failed, Found, Get, Listed, Swap
from duramen_collector.verification import (
    find_verification,
    finding_identity,
    latest,
    run_verification,
)
from tests.core.builder import LogBuilder, MemoryRegion, Source, sample

SECOND = 10**9


@dataclass
class FixedClock:
    now_ns: int = 2_000_000_000 * SECOND

    def wall_ns(self):
        return self.now_ns


class Counter:
    def __init__(self):
        self._numbers = itertools.count(1)

    def draw(self, count):
        return next(self._numbers).to_bytes(count, "big")


class Site:
    """A log in two file regions, and a database that knows of it."""

    def __init__(self, path, log):
        self.path = path
        self.log = log
        self.clock = FixedClock()
        self.random = Counter()
        self.stores = {}
        for name in ("eu", "us"):
            (path / name).mkdir()
            for key, data in log.objects.items():
                target = path / name / key
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            self.stores[name] = FileStore(path / name)
        self.engine = open_database(path / "collector.db")
        upgrade(self.engine)
        with writing(self.engine) as connection:
            connection.execute(
                schema.tenants.insert().values(
                    tenant="acme", origin=log.keys.origin, public=False, created_ns=0
                )
            )
            connection.execute(
                schema.checkpoints.insert().values(
                    tenant="acme", size=log.size, note=log.objects["acme/checkpoint"].decode(), signed_ns=0
                )
            )
            connection.execute(
                schema.signed.insert().values(tenant="acme", size=log.size, root=log.range.root())
            )
            for name, agent in log.agents.items():
                connection.execute(schema.chains.insert().values(**self._chain(name, agent)))

    def _chain(self, name, agent):
        state = agent.state
        return {
            "chain": state.chain,
            "tenant": "acme",
            "agent": name,
            "seq": state.seq,
            "head": state.head,
            "records": state.records,
            "next_public": state.next_public,
            "sealed_ns": state.sealed_ns,
            "stopped": state.stopped,
            "keys": [],
            "published_seq": state.seq,
            "seen_size": 0,
            "heard_ns": self.clock.now_ns,
            "announced_seq": state.seq + 1,
        }

    def run(self, depth=Depth.BODIES, **options):
        return run_verification(
            self.engine,
            self.stores,
            "acme",
            self.log.keys,
            depth=depth,
            clock=self.clock,
            random=self.random,
            **options,
        )

    def repair(self, region="eu"):
        return repair_region(
            self.stores, region, "acme", self.log.keys, Retention(3600), self.clock.now_ns // SECOND
        )

    def execute(self, statement):
        with writing(self.engine) as connection:
            return connection.execute(statement)

    def file(self, region, key):
        return self.path / region / key

    def flip(self, region, key, at):
        path = self.file(region, key)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)


@pytest.fixture(scope="module")
def log():
    return sample()


@pytest.fixture
def site(tmp_path, log):
    made = Site(tmp_path, log)
    yield made
    made.engine.dispose()


def codes(report):
    return sorted(str(finding.code) for finding in report.findings)


@pytest.mark.parametrize("depth", [Depth.HEADERS, Depth.BODIES])
def test_sound_log_is_verified_and_stored(site, depth):
    seen = []
    report = site.run(depth, progress=lambda *step: seen.append(step))
    assert codes(report) == []
    assert report.verdict is Verdict.VERIFIED
    assert seen == [("eu", "audit"), ("eu", "verified"), ("us", "audit"), ("us", "verified")]
    with reading(site.engine) as connection:
        stored = latest(connection, "acme")
        assert find_verification(connection, "acme", report.verification_id) == stored
        assert find_verification(connection, "other", report.verification_id) is None
        assert latest(connection, "other") is None
    assert stored.verdict == "verified"
    assert stored.depth == str(depth)
    assert stored.report == json.loads(json.dumps(report.to_json()))
    assert stored.report["regions"]["us"]["checkpoint"]["size"] == site.log.size
    assert len(stored.report["chains"]) == 3


def test_flipped_byte_names_region_pack_block_and_the_good_copy(site):
    key = next(item for item in site.log.packs if frame.parse_pack(site.log.objects[item]).frames[-1].body)
    site.flip("eu", key, len(site.log.objects[key]) - 10)
    assert codes(site.run(Depth.HEADERS)) == []  # bodies are not read at this depth, and the report says so
    report = site.run()
    (finding,) = report.findings
    assert (finding.code, finding.region, finding.key) == (Code.BODY_CORRUPT, "eu", key)
    assert finding.seq is not None
    assert "a good copy is in us" in finding.detail
    assert report.verdict is Verdict.FAILED


def test_findings_remember_when_they_were_first_seen(site):
    site.flip("eu", site.log.packs[1], 100)
    first = site.run()
    site.clock.now_ns += 3600 * SECOND
    site.execute(schema.chains.update().values(heard_ns=site.clock.now_ns))
    again = site.run()
    identity = finding_identity(again.findings[0])
    assert again.first_seen_ns[identity] == first.started_ns < again.started_ns


def test_repair_restores_what_was_there_and_keeps_the_damage(site):
    packs = site.log.packs
    wanted = {key: data for key, data in site.log.objects.items() if "head" not in key}
    site.flip("eu", packs[1], 400)
    site.file("eu", packs[3]).unlink()
    site.file("eu", packs[-1]).unlink()
    site.flip("eu", f"acme/tile/0/000.p/{site.log.size}", 3)
    site.file("eu", f"acme/tile/entries/000.p/{site.log.size}").unlink()
    dek = site.log.agents["web-1"].blocks[1].header.dek
    envelope = envelope_key("acme", dek, site.log.readers[0].recipient.key_hash)
    site.file("eu", envelope).unlink()
    damaged = site.file("eu", packs[1]).read_bytes()
    report = site.repair()
    assert codes(report.audit) == []
    assert {key for key, _ in report.repaired} == {
        packs[1],
        packs[3],
        packs[-1],
        f"acme/tile/0/000.p/{site.log.size}",
        f"acme/tile/entries/000.p/{site.log.size}",
        envelope,
    }
    assert all(source == "us" for _, source in report.repaired)
    assert {key: site.file("eu", key).read_bytes() for key in wanted} == wanted
    aside = site.path / "eu" / ".damaged" / f"{packs[1]}.{hashlib.sha256(damaged).hexdigest()}"
    assert aside.read_bytes() == damaged
    assert site.file("eu", packs[1]).stat().st_mode & 0o777 == 0o444
    assert site.file("eu", packs[1]).stat().st_mtime > site.clock.now_ns // SECOND
    assert codes(site.run()) == []
    assert site.repair().repaired == ()


def test_repair_of_a_retained_object_and_twice_the_same_damage(site):
    key = site.log.packs[2]
    for _ in range(2):
        site.flip("eu", key, 300)
        os.utime(site.file("eu", key), (site.clock.now_ns // SECOND + 10**8,) * 2)
        assert codes(site.repair().audit) == []


@pytest.mark.parametrize("damage", ["missing", "flipped", "older"])
def test_repair_of_the_checkpoint(site, damage):
    path = site.file("eu", "acme/checkpoint")
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        site.flip("eu", "acme/checkpoint", 70)
    else:
        path.write_bytes(site.log.objects["acme/checkpoints/4"])
    site.flip("eu", site.log.packs[-1], 100)
    report = site.repair()
    assert codes(report.audit) == []
    assert path.read_bytes() == site.log.objects["acme/checkpoint"]


def test_a_region_that_is_lost_is_rebuilt(site):
    shutil.rmtree(site.path / "eu")
    (site.path / "eu").mkdir()
    report = site.repair()
    assert codes(report.audit) == []
    assert len(report.repaired) > 10


def test_what_is_damaged_everywhere_stays_a_finding(site):
    for region in ("eu", "us"):
        site.flip(region, site.log.packs[1], 400)
    report = site.repair()
    assert report.repaired == ()
    assert len(report.audit.findings) == 1
    assert all("good copy" not in finding.detail for finding in site.run().findings)


def test_repair_takes_nothing_that_is_wrong(site):
    """The other region has something else under the same name: it is not copied."""
    key = f"acme/tile/0/000.p/{site.log.size}"
    site.file("eu", key).unlink()
    site.flip("us", key, 0)
    report = site.repair()
    assert report.repaired == ()
    assert codes(report.audit) == ["replica_missing"]


def test_repair_with_a_source_out_of_reach(site):
    site.stores["asia"] = FileStore(site.path / "asia")
    site.file("eu", site.log.packs[1]).unlink()
    site.file("eu", site.log.packs[-1]).unlink()
    site.file("eu", "acme/checkpoint").unlink()
    shutil.rmtree(site.path / "eu" / "envelopes")
    site.stores = dict(reversed(site.stores.items()))
    report = site.repair()
    assert codes(report.audit) == []
    assert report.to_json()["repaired"][-1] == {"key": "acme/checkpoint", "from": "us"}
    shutil.rmtree(site.path / "us")
    site.file("eu", "acme/checkpoint").unlink()
    assert codes(site.repair().audit) == ["replica_missing"]


def test_repair_that_cannot_write(site, monkeypatch):
    site.file("eu", site.log.packs[1]).unlink()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileStore, "supersede", refuse)
    with pytest.raises(StorageError, match="No space"):
        site.repair()


def test_a_sequencer_s_newer_checkpoint_is_never_set_back(site):
    """Another checkpoint arrives between the audit and the swap."""
    path = site.file("eu", "acme/checkpoint")
    path.write_bytes(b"junk")

    class Racing(FileStore):
        def perform(self, call):
            if isinstance(call, Swap):
                super().perform(Swap(call.key, site.log.objects["acme/checkpoint"], call.expected))
            return super().perform(call)

    site.stores["eu"] = Racing(site.path / "eu")
    with pytest.raises(StorageError, match="changed by somebody else"):
        site.repair()
    assert path.read_bytes() == site.log.objects["acme/checkpoint"]


def test_repair_asks_for_a_region_that_there_is(site):
    with pytest.raises(UsageError, match="eu, us"):
        site.repair("asia")
    site.stores["odd"] = object()
    with pytest.raises(UsageError, match="superseded"):
        site.repair("odd")


def test_a_region_out_of_reach_leaves_it_incomplete(site):
    shutil.rmtree(site.path / "eu")
    report = site.run()
    assert [(f.code, f.severity, f.region) for f in report.findings] == [
        (Code.REPLICA_MISSING, Severity.WARNING, "eu")
    ]
    assert report.verdict is Verdict.INCOMPLETE
    assert report.to_json()["regions"]["eu"]["verdict"] == "incomplete"
    shutil.rmtree(site.path / "us")
    assert site.run().to_json()["chains"] == []


def older(site, size=4, *, keep=False):
    """Region eu as it was when the log had ``size`` statements."""
    site.file("eu", "acme/checkpoint").write_bytes(site.log.objects[f"acme/checkpoints/{size}"])
    for path in site.file("eu", "acme/checkpoints").iterdir():
        if int(path.name) > size and not keep:
            path.unlink()


def test_a_region_that_lags_is_stale(tmp_path):
    log = LogBuilder(1)
    agent = log.agent("a")
    log.publish()
    before = dict(log.objects)
    agent.idle()
    log.publish()
    site = Site(tmp_path, log)
    shutil.rmtree(tmp_path / "eu")
    for key, data in before.items():
        site.file("eu", key).parent.mkdir(parents=True, exist_ok=True)
        site.file("eu", key).write_bytes(data)
    report = site.run()
    assert [(f.code, f.severity, f.region) for f in report.findings] == [
        (Code.CHECKPOINT_STALE, Severity.WARNING, "eu")
    ]
    assert report.verdict is Verdict.INCOMPLETE
    site.execute(schema.checkpoints.update().values(signed_ns=site.clock.now_ns - SECOND))
    assert codes(site.run()) == []  # signed a second ago: it may be on its way
    site.engine.dispose()


def test_a_region_set_back_is_a_rollback(site):
    site.run()
    older(site)
    assert "checkpoint_rollback" in codes(site.run())
    older(site, keep=True)


def test_a_root_that_was_never_signed_by_this_collector(site):
    site.execute(schema.signed.update().values(root=bytes(32)))
    assert codes(site.run()) == ["equivocation", "equivocation"]


def test_published_blocks_that_the_log_lacks(site):
    chain = site.log.agents["web-1"].state.chain
    where = schema.chains.c.chain == chain
    site.execute(schema.chains.update().where(where).values(published_seq=50, seq=60))
    report = site.run()
    assert [(f.code, f.seq, f.region) for f in report.findings] == [
        (Code.UNEXPLAINED_LOSS, 50, "eu"),
        (Code.UNEXPLAINED_LOSS, 50, "us"),
    ]
    site.execute(schema.chains.update().where(where).values(chain=bytes([9] * 32)))
    assert "has nothing of it" in site.run().findings[0].detail
    site.execute(sa.delete(schema.checkpoints))
    site.execute(schema.chains.update().values(published_seq=-1))
    assert codes(site.run()) == []


def test_two_heads(site):
    where = schema.chains.c.agent == "db-1"
    site.execute(schema.chains.update().where(where).values(head=bytes(32)))
    assert codes(site.run()) == ["fork", "fork"]


def test_silence(site):
    site.clock.now_ns += 61 * SECOND
    report = site.run()
    assert [(f.code, f.severity) for f in report.findings] == [(Code.SILENT, Severity.WARNING)] * 2
    assert not any("cron-1" in finding.detail for finding in report.findings)  # it had stopped in good order
    assert codes(site.run(patience=Patience(silent_ns=100 * SECOND))) == []


def test_announced_blocks_that_do_not_come(site):
    state = site.log.agents["web-1"].state
    site.execute(
        schema.announcements.insert().values(
            chain=state.chain,
            next_seq=state.seq + 4,
            head=bytes(32),
            nonce=bytes(32),
            signature=bytes(64),
            heard_ns=site.clock.now_ns,
        )
    )
    assert codes(site.run()) == []
    site.clock.now_ns += 700 * SECOND
    site.execute(schema.chains.update().values(heard_ns=site.clock.now_ns))
    report = site.run()
    assert [(f.code, f.seq) for f in report.findings] == [(Code.TRUNCATED, state.seq + 1)]


def test_blocks_that_wait_for_publication(site):
    state = site.log.agents["web-1"].state
    for number, chain in enumerate((state.chain, None)):
        site.execute(
            schema.landing.insert().values(
                tenant="acme",
                chain=chain,
                seq=None if chain is None else state.seq + 1,
                hash=bytes([number] * 32),
                header_size=275,
                statement=b"",
                body=b"",
                accepted_ns=site.clock.now_ns,
            )
        )
    assert codes(site.run()) == []
    site.clock.now_ns += 400 * SECOND
    site.execute(schema.chains.update().values(heard_ns=site.clock.now_ns))
    report = site.run()
    assert codes(report) == ["receipt_unfulfilled"] * 2
    assert report.verdict is Verdict.INCOMPLETE


def test_envelopes_lost_in_one_region_only_are_a_replica_s_loss(site):
    shutil.rmtree(site.path / "eu" / "envelopes")
    report = site.run()
    assert set(codes(report)) == {"replica_missing"}
    shutil.rmtree(site.path / "us" / "envelopes")
    assert set(codes(site.run())) == {"unexplained_loss"}


def test_publication_in_the_middle_of_a_verification_is_no_finding(tmp_path):
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.seal([Source("s", b"/f", b"1\n")])
    log.publish()
    site = Site(tmp_path, log)

    class Moving:
        def __init__(self, store, region):
            self.store, self.region, self.count = store, region, 0

        def perform(self, call):
            self.count += 1
            if self.count in (3, 9):
                agent.idle()
                log.publish()
                for name in ("eu", "us"):
                    for path in list((tmp_path / name / "acme/tile").rglob("*")):
                        if path.is_file():
                            path.unlink()
                    for key, data in log.objects.items():
                        site.file(name, key).parent.mkdir(parents=True, exist_ok=True)
                        site.file(name, key).write_bytes(data)
            return self.store.perform(call)

    site.stores = {name: Moving(store, name) for name, store in site.stores.items()}
    for _ in range(4):
        assert codes(site.run()) == []
    site.engine.dispose()


def test_readers():
    class Store:
        def __init__(self, *answers):
            self.answers = list(answers)

        def perform(self, call):
            return self.answers.pop(0)

    reader = StoreReader(
        "eu", Store(Absent(), Found(b"ab", "1", 2), Failed("down"), Failed("down"), Absent())
    )
    assert reader.read("k") is None
    assert reader.read("k") == b"ab"
    for call in (reader.read, reader.exists):
        with pytest.raises(StorageError, match="region eu: down"):
            call("k")
    assert not reader.exists("k")
    pages = Store(Listed(("a", "b"), more=True), Listed(("c",), more=False), Failed("down"))
    reader = StoreReader("eu", pages)
    assert list(reader.keys("")) == ["a", "b", "c"]
    with pytest.raises(StorageError):
        list(reader.keys(""))
    overlay = OverlayReader(MemoryRegion({"x/a": b"1"}), {"x/b": b"22"})
    assert overlay.read("x/a") == b"1"
    assert overlay.read("x/b") == b"22"
    assert overlay.read_start("x/b", 1) == b"2"
    assert overlay.read_start("x/a", 1) == b"1"
    assert list(overlay.keys("x/")) == ["x/a", "x/b"]
    assert OverlayReader(MemoryRegion({}, lists=False), {}).keys("") is None


def test_superseding_in_a_file_store(tmp_path):
    store = FileStore(tmp_path)
    store.supersede("a/b", b"1", None)
    assert store.perform(Get("a/b")).data == b"1"
    version = store.perform(Get("a/b")).version
    store.supersede("a/b", b"2", 4_000_000_000)
    found = store.perform(Get("a/b"))
    assert found.data == b"2"
    assert found.version != version
    assert [path.read_bytes() for path in (tmp_path / ".damaged/a").iterdir()] == [b"1"]
    with pytest.raises(UsageError):
        store.supersede("../x", b"", None)


def test_swapped_packs_are_repaired(site):
    one, other = (site.file("eu", key) for key in (site.log.packs[2], site.log.packs[5]))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert codes(site.repair().audit) == []
    assert one.read_bytes() == first
    assert frame.parse_pack_header(first).count
