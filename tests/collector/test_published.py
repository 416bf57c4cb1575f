"""What is published: blocks back as frames, proofs, receipts, and verification over the API."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duramen.audit import Depth
from duramen.checkpoint import open_checkpoint
from duramen.errors import StorageError, UsageError
from duramen.frame import FRAMES_MEDIA_TYPE, pack_key, parse_frames
from duramen.merkle import leaf_hash, verify_consistency, verify_inclusion
from duramen.names import ZERO_DIGEST, Digest
from duramen.receipt import verify_receipt
from duramen_collector import schema
from duramen_collector.app import Front, create_app
from duramen_collector.configuration import VerificationTimes
from duramen_collector.database import writing_connection
from duramen_collector.driver import RegionDriver
from duramen_collector.heads import initialise_regions, object_key
from duramen_collector.history import find_blocks, pack_index, read_frames
from duramen_collector.ledger import Ledger
from duramen_collector.outcome import Acquired, Published
from duramen_collector.people import people_routes
from duramen_collector.proofs import prove_consistency, prove_inclusion
from duramen_collector.refusal import Refused
from duramen_collector.register import Configuration
from duramen_collector.replica import TwoKeySigner
from duramen_collector.sequencer import LogSettings, Retention, Sequencer
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.port import Found, Get
from duramen_collector.tenancy import Tenant
from duramen_collector.verifications import Job, Verifications
from duramen_collector.writer import Writer


class Regions:
    """Two file regions that publish what the site has accepted."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.stores = {}
        for name in ("eu", "us"):
            root = site.directory / name
            root.mkdir(mode=0o700)
            self.stores[name] = FileStore(root)
        configuration = Configuration(1, ("eu", "us"), 2)
        self.driver = RegionDriver(self.stores, 20.0, site.clock)
        self.driver.run(initialise_regions("acme", site.keys.log.origin, configuration, site.random))
        self.connection = writing_connection(site.engine)
        settings = LogSettings("acme", configuration, Retention(1000), 2**20)
        ledger = Ledger(self.connection, "acme", pack_index("acme"))
        signer = TwoKeySigner(site.keys.log)
        self.sequencer = Sequencer(settings, ledger, signer, site.clock, site.random)
        assert isinstance(self.driver.run(self.sequencer.acquire()), Acquired)

    def publish(self) -> None:
        assert isinstance(self.driver.run(self.sequencer.publish()), Published)

    def copies(self, key: str) -> Iterator[bytes]:
        for store in self.stores.values():
            answer = store.perform(Get(object_key("acme", key)))
            if isinstance(answer, Found):
                yield answer.data

    def file(self, name: str, key: str) -> Path:
        return Path(self.site.directory / name / "acme" / key)


@pytest.fixture
def regions(site: Any) -> Iterator[Regions]:
    regions = Regions(site)
    yield regions
    regions.driver.close()
    regions.connection.close()


@pytest.fixture
def agent(site: Any, regions: Regions) -> Any:
    """An agent with three published blocks, two more published ones, and one that waits."""
    agent = site.ready()
    site.send(agent, agent.seal_records())
    regions.publish()
    site.send(agent, agent.seal_records(2, b"second"), agent.seal_empty())
    regions.publish()
    site.send(agent, agent.seal_records(1, b"waits"))
    return agent


def frames_from(site: Any, regions: Regions, agent: Any, first: int, count: int) -> list[bytes]:
    places = site.read(lambda connection: find_blocks(connection, "acme", agent.chain, first, count))
    return [frame.encode() for frame in parse_frames(read_frames(places, regions.copies))]


def test_blocks_come_back_as_they_were_sent(site: Any, regions: Regions, agent: Any) -> None:
    sent = [item.frame for item in agent.blocks]
    assert len(sent) == 6
    assert frames_from(site, regions, agent, 0, 100) == sent
    assert frames_from(site, regions, agent, 2, 3) == sent[2:5]
    assert frames_from(site, regions, agent, 6, 10) == []
    site.write(lambda connection: connection.execute(schema.packs.delete()))
    assert frames_from(site, regions, agent, 0, 100) == []


def test_an_answer_is_bounded(
    site: Any, regions: Regions, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duramen_collector.history.MAX_BYTES", 1)
    assert frames_from(site, regions, agent, 0, 100) == [agent.blocks[0].frame]
    monkeypatch.setattr("duramen_collector.history.MAX_BLOCKS", 2)
    assert len(site.read(lambda connection: find_blocks(connection, "acme", agent.chain, 0, 2**62))) == 2


def test_a_damaged_pack_is_read_from_the_other_region(site: Any, regions: Regions, agent: Any) -> None:
    digest = Digest(site.rows(schema.packs)[0].digest)
    first = regions.file("eu", pack_key(digest))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.chmod(0o600)
    first.write_bytes(bytes(data))
    assert frames_from(site, regions, agent, 0, 100) == [item.frame for item in agent.blocks]
    regions.file("us", pack_key(digest)).unlink()
    with pytest.raises(StorageError, match="no region"):
        frames_from(site, regions, agent, 0, 100)


def test_proofs(site: Any, regions: Regions, agent: Any) -> None:
    keys = site.keys.log.keys()
    for item in agent.blocks[:5]:
        answer = site.read(lambda connection: prove_inclusion(connection, "acme", item.block.hash))  # noqa: B023  # the lambda is called before the loop goes on
        root = open_checkpoint(answer.checkpoint.encode(), keys).checkpoint.root
        hashes = [bytes.fromhex(text) for text in answer.hashes]
        verify_inclusion(leaf_hash(item.block.entry), answer.leaf, answer.size, hashes, root)
    with pytest.raises(Refused):
        site.read(lambda connection: prove_inclusion(connection, "acme", agent.blocks[5].block.hash))
    sizes = sorted(row.size for row in site.rows(schema.checkpoints))
    old = next(row for row in site.rows(schema.checkpoints) if row.size == sizes[0])
    old_root = open_checkpoint(old.note.encode(), keys).checkpoint.root
    proof = site.read(lambda connection: prove_consistency(connection, "acme", sizes[0]))
    new_root = open_checkpoint(proof.checkpoint.encode(), keys).checkpoint.root
    verify_consistency(
        sizes[0], old_root, proof.size, new_root, [bytes.fromhex(text) for text in proof.hashes]
    )
    for size in (0, proof.size + 1):
        with pytest.raises(UsageError):
            site.read(lambda connection: prove_consistency(connection, "acme", size))  # noqa: B023  # the lambda is called before the loop goes on
    with pytest.raises(Refused):
        site.read(lambda connection: prove_consistency(connection, "beta", 1))


def test_receipts(site: Any, agent: Any) -> None:
    answer = site.read(
        lambda connection: site.service.progress(connection, agent.identity, agent.chain, 0, 0)
    )
    assert answer.published_seq == 4
    entries = [item.block.entry for item in agent.blocks[:5]]
    assert verify_receipt(answer.receipt, entries, site.keys.log.keys(), 0, ZERO_DIGEST)
    answer = site.read(
        lambda connection: site.service.progress(connection, agent.identity, agent.chain, 5, 0)
    )
    assert answer.receipt is None


def test_published_blocks_again_are_passed_over(site: Any, agent: Any) -> None:
    judged = site.send(agent, *agent.blocks[1:])
    assert judged.problem is None
    assert len(site.rows(schema.forks)) == 0


# Over the API


@pytest.fixture
def verifications(site: Any, regions: Regions) -> Iterator[Verifications]:
    made = Verifications(
        site.engine, regions.stores, site.log_keys, VerificationTimes(), site.clock, site.random
    )
    yield made
    made.close()


def finished(verifications: Verifications, job: Job) -> None:
    until = time.monotonic() + 30
    while verifications.find(job.tenant, job.verification_id) is not None:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_over_the_api(
    site: Any, regions: Regions, agent: Any, verifications: Verifications, asgi_client: Any, api_token: Any
) -> None:
    writer = Writer(site.engine)
    front = Front(site.service, writer, site.engine)
    client = asgi_client(create_app(front, people_routes(front, regions.stores, dict, verifications)))
    viewer, auditor = api_token("viewer"), api_token("auditor")
    base = "/v1/tenants/acme"
    blocks = f"{base}/chains/{agent.chain.hex()}/blocks?from=0&count=10"
    assert client.get(blocks, headers=viewer).status_code == 403
    answer = client.get(blocks, headers=auditor)
    assert answer.headers["content-type"] == FRAMES_MEDIA_TYPE
    assert answer.content == b"".join(item.frame for item in agent.blocks)
    assert client.get(blocks.replace(agent.chain.hex(), "00" * 32), headers=auditor).status_code == 404
    inclusion = client.get(f"{base}/proofs/inclusion?statement={agent.head.hex()}", headers=viewer)
    assert inclusion.status_code == 404
    inclusion = client.get(f"{base}/proofs/inclusion?statement={agent.chain.hex()}", headers=viewer)
    assert inclusion.json()["size"] == 7
    assert client.get(f"{base}/proofs/inclusion", headers=viewer).json()["title"] == "malformed"
    assert client.get(f"{base}/proofs/consistency?from=3", headers=viewer).json()["old_size"] == 3
    assert client.get(f"{base}/proofs/consistency?from=99", headers=viewer).status_code == 400
    assert client.get(f"{base}/verification", headers=viewer).status_code == 404
    json = {"content-type": "application/json"}
    started = f"{base}/verifications"
    assert client.post(started, headers={**viewer, **json}, content=b'{"depth":"bodies"}').status_code == 403
    for body in (b"", b"{}", b'{"depth":"records"}', b'{"depth":"bodies","x":1}'):
        assert client.post(started, headers={**auditor, **json}, content=body).status_code == 422
    answer = client.post(started, headers={**auditor, **json}, content=b'{"depth":"bodies"}')
    assert answer.status_code == 202
    location = answer.headers["location"]
    until = time.monotonic() + 30
    while (found := client.get(location, headers=viewer).json())["state"] == "running":
        assert time.monotonic() < until
    assert found["state"] == "finished"
    assert found["report"]["verdict"] == "verified", found
    assert client.get(f"{base}/verification", headers=viewer).json() == found["report"]
    assert client.get(f"{started}/{'0' * 32}", headers=viewer).status_code == 404
    site.write(lambda connection: connection.execute(schema.verifications.update().values(finished_ns=None)))
    assert client.get(location, headers=viewer).json()["state"] == "broken off"


def test_verification_finds_a_flipped_byte(
    site: Any, regions: Regions, agent: Any, verifications: Verifications
) -> None:
    pack = regions.file("us", pack_key(Digest(site.rows(schema.packs)[-1].digest)))
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(bytes(data))
    tenant = Tenant("acme", site.keys.log.origin, public=False, created_ns=site.clock.now_ns)
    finished(verifications, verifications.start(tenant, Depth.BODIES))
    (row,) = site.rows(schema.verifications)
    assert row.verdict == "failed"
    assert "us" in {finding["region"] for finding in row.report["findings"]}


def test_verification_is_due_by_itself(site: Any, agent: Any, verifications: Verifications) -> None:
    def start_due() -> list[str]:
        before = {row.verification_id for row in site.rows(schema.verifications)}
        verifications.start_due()
        for job in list(verifications._jobs.values()):
            finished(verifications, job)
        return [row.depth for row in site.rows(schema.verifications) if row.verification_id not in before]

    assert start_due() == []
    site.clock.now_ns += 3600 * 10**9
    assert start_due() == ["headers"]
    assert start_due() == []
    site.clock.now_ns += 30 * 86_400 * 10**9
    assert start_due() == ["bodies"]
    assert start_due() == []


def test_verifications_wait_in_a_bounded_line(
    site: Any, verifications: Verifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duramen_collector.verifications.WAITING", 2)
    monkeypatch.setattr(verifications._pool, "submit", lambda *_: None)
    first, second, third = (Tenant(name, f"o/{name}", False, 1) for name in ("a", "b", "c"))
    job = verifications.start(first, Depth.HEADERS)
    assert verifications.start(first, Depth.HEADERS) == job
    assert verifications.find("b", job.verification_id) is None
    verifications.start(second, Depth.HEADERS)
    with pytest.raises(Refused) as caught:
        verifications.start(third, Depth.HEADERS)
    assert caught.value.problem.status == 429


def test_a_verification_that_breaks_is_forgotten_and_logged(
    site: Any, verifications: Verifications, agent: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    tenant = Tenant("acme", site.keys.log.origin, False, 1)
    for error in (StorageError("gone"), ZeroDivisionError("defect")):

        def broken(*_: Any, _error: Exception = error, **__: Any) -> None:
            raise _error

        monkeypatch.setattr("duramen_collector.verifications.run_verification", broken)
        finished(verifications, verifications.start(tenant, Depth.HEADERS))
        assert str(error) in caplog.text
    monkeypatch.undo()
    verifications._stopping.set()
    finished(verifications, verifications.start(tenant, Depth.HEADERS))
    assert [row.finished_ns for row in site.rows(schema.verifications)] == [None]
