"""Ingest: what is accepted, what is refused and with which code, and what is kept of a refusal."""

import hashlib
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duramen import api
from duramen.envelope import KeyList
from duramen.errors import DuramenError, FormatError, IntegrityError, LimitError
from duramen.frame import encode_frame
from duramen.names import ChainId, DataKeyId, Digest, Seq
from duramen.ratchet import Ratchet
from duramen.statement import BlockKind, Notice, parse_statement
from duramen_collector import schema
from duramen_collector.authority import AgentIdentity
from duramen_collector.ingest import MAX_BLOCKS, parse_blocks
from duramen_collector.refusal import Refused

Site = Any
FakeAgent = Any


def landed(site: Site, agent: FakeAgent) -> list[tuple[int, bytes]]:
    rows = site.rows(schema.landing)
    return sorted((row.seq, row.hash) for row in rows if row.chain == agent.chain)


def notices(site: Site, type_: str) -> list[Notice]:
    found = [parse_statement(row.statement) for row in site.rows(schema.landing) if row.chain is None]
    return [notice for notice in found if isinstance(notice, Notice) and notice.type == type_]


def test_blocks_are_accepted_in_order_and_land(site: Site) -> None:
    agent = site.ready()
    sent = [agent.seal_records(3), agent.seal_empty(), agent.seal_records(2, b"more")]
    judged = site.send(agent, *sent)
    assert judged.problem is None
    assert judged.stored.state.seq == 4
    assert site.stored(agent.chain).state == judged.stored.state
    assert judged.stored.state.records == 5
    assert landed(site, agent) == [(i, item.block.hash) for i, item in enumerate(agent.blocks)]
    rows = {row.seq: row for row in site.rows(schema.landing) if row.chain == agent.chain}
    assert rows[2].body == b"sealed"
    assert rows[2].statement == sent[0].block.entry
    assert rows[2].header_size == len(sent[0].block.header_bytes)
    assert (rows[2].dek, rows[2].retention_class) == (agent.dek, 0)
    assert (rows[3].dek, rows[3].retention_class) == (None, None)


def test_the_same_blocks_again_change_nothing(site: Site) -> None:
    agent = site.ready()
    first, second = agent.seal_records(), agent.seal_records()
    site.send(agent, first)
    before = landed(site, agent)
    assert site.send(agent, first).problem is None
    assert landed(site, agent) == before
    judged = site.send(agent, first, second, second, first)
    assert judged.problem is None
    assert judged.stored.state.seq == 3
    assert site.rows(schema.forks) == []


def test_a_gap_is_answered_with_the_head(site: Site) -> None:
    agent = site.ready()
    agent.seal_records()
    judged = site.send(agent, agent.seal_records())
    assert judged.problem is not None
    assert (judged.problem.status, judged.problem.code) == (409, "gap")
    assert (judged.problem.accepted_seq, judged.problem.head) == (1, agent.blocks[1].block.hash)
    assert len(landed(site, agent)) == 2


def test_blocks_in_another_order_stop_at_the_gap(site: Site) -> None:
    agent = site.ready()
    one, two, three = agent.seal_records(), agent.seal_records(), agent.seal_records()
    judged = site.send(agent, one, three, two)
    assert judged.problem is not None
    assert judged.problem.code == "gap"
    assert judged.problem.accepted_seq == 2
    assert len(landed(site, agent)) == 3


def test_what_was_good_before_a_bad_block_is_kept(site: Site) -> None:
    agent = site.ready()
    good = agent.seal_records()
    bad = replace(agent.seal_records(), block=agent.sign(agent.blocks[-1].block.header, agent.ratchet))
    judged = site.send(agent, good, bad)
    assert judged.problem is not None
    assert (judged.problem.status, judged.problem.code) == (422, "signature_invalid")
    assert judged.problem.accepted_seq == 2
    assert site.stored(agent.chain).state.seq == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"start": 7}, "header_corrupt"),
        ({"step": 3}, "header_corrupt"),
        ({"dek": DataKeyId(b"x" * 16)}, "header_corrupt"),
        ({"group": 2}, "header_corrupt"),
        ({"retention_class": 9}, "header_corrupt"),
        ({"chain": ChainId(b"c" * 32)}, "link_broken"),
        ({"sealed_ns": 2**64 - 1}, "header_corrupt"),
        ({"seen_size": 2**63, "seen_root": Digest(b"r" * 32)}, "header_corrupt"),
    ],
)
def test_headers_that_do_not_follow(site: Site, changes: dict[str, Any], code: str) -> None:
    agent = site.ready()
    judged = site.send(agent, agent.seal_records(**changes))
    assert judged.problem is not None
    assert (judged.problem.status, judged.problem.code) == (422, code)
    assert len(landed(site, agent)) == 2
    assert site.rows(schema.forks) == []


def test_a_fork_in_a_place_that_is_taken_is_refused_and_kept(site: Site) -> None:
    agent = site.ready()
    ratchet = agent.ratchet
    accepted = agent.seal_records()
    site.send(agent, accepted)
    other = replace(accepted, block=agent.sign(replace(accepted.block.header, sealed_ns=5), ratchet))
    for _ in range(3):
        judged = site.send(agent, other)
        assert judged.problem is not None
        assert (judged.problem.status, judged.problem.code) == (409, "fork")
        assert judged.problem.head == accepted.block.hash
    (row,) = site.rows(schema.forks)
    assert (row.seq, row.hash, row.statement, row.signature) == (
        2,
        other.block.hash,
        other.block.entry,
        "valid",
    )
    (notice,) = notices(site, "fork")
    assert notice.fields["accepted"] == accepted.block.hash.hex()
    assert notice.fields["other"] == other.block.hash.hex()
    assert site.stored(agent.chain).state.head == accepted.block.hash


def test_a_fork_with_a_forged_signature_is_only_refused(site: Site) -> None:
    agent = site.ready()
    accepted = agent.seal_records()
    site.send(agent, accepted)
    forged = replace(accepted, block=agent.sign(replace(accepted.block.header, sealed_ns=5)))
    judged = site.send(agent, forged)
    assert judged.problem is not None
    assert judged.problem.code == "signature_invalid"
    assert site.rows(schema.forks) == []


def test_a_fork_of_what_is_published_is_kept_with_its_signature_unchecked(site: Site) -> None:
    agent = site.ready()
    ratchet = agent.ratchet
    accepted = agent.seal_records()
    site.send(agent, accepted)

    def publish(connection: sa.Connection) -> None:
        for leaf, item in enumerate(agent.blocks):
            connection.execute(
                schema.entries.insert().values(
                    tenant="acme", leaf=leaf, hash=item.block.hash, chain=agent.chain, seq=leaf
                )
            )
        connection.execute(schema.landing.delete().where(schema.landing.c.chain == agent.chain))

    site.write(publish)
    assert site.send(agent, accepted).problem is None
    other = replace(accepted, block=agent.sign(replace(accepted.block.header, sealed_ns=5), ratchet))
    judged = site.send(agent, other)
    assert judged.problem is not None
    assert judged.problem.code == "fork"
    (row,) = site.rows(schema.forks)
    assert row.signature == "unchecked"
    site.write(lambda connection: connection.execute(schema.entries.delete()))
    judged = site.send(agent, accepted)
    assert judged.problem is not None
    assert judged.problem.code == "replay"


def test_a_successor_of_another_past_is_a_fork(site: Site) -> None:
    agent = site.ready()
    site.send(agent, agent.seal_records())
    other_head = Digest(hashlib.sha256(b"another past").digest())
    judged = site.send(agent, agent.seal_records(prev=other_head))
    assert judged.problem is not None
    assert judged.problem.code == "fork"
    (row,) = site.rows(schema.forks)
    assert (row.seq, row.hash) == (2, other_head)


def test_a_successor_of_another_past_with_a_forged_signature_is_no_fork(site: Site) -> None:
    agent = site.ready()
    site.send(agent, agent.seal_records())
    agent.ratchet = Ratchet(agent.ratchet.index, bytes(32))
    judged = site.send(agent, agent.seal_records(prev=Digest(bytes(31) + b"x")))
    assert judged.problem is not None
    assert judged.problem.code == "signature_invalid"
    assert site.rows(schema.forks) == []


def test_forks_without_end_are_not_kept_without_end(site: Site) -> None:
    agent = site.ready()
    ratchet = agent.ratchet
    accepted = agent.seal_records()
    site.send(agent, accepted)
    for i in range(70):
        other = replace(accepted, block=agent.sign(replace(accepted.block.header, sealed_ns=i), ratchet))
        judged = site.send(agent, other)
        assert judged.problem is not None
        assert judged.problem.code == "fork"
    assert len(site.rows(schema.forks)) == 64
    assert len(notices(site, "fork")) == 64


def test_missing_envelopes_are_wanted_and_nothing_after_is_accepted(site: Site) -> None:
    agent = site.enrolled()
    dek, upload = agent.upload()
    empty, keys, records = agent.seal_empty(), agent.seal_keys(dek, upload), agent.seal_records()
    judged = site.send(agent, empty, keys, records)
    assert judged.want == (dek,)
    assert judged.problem is None
    assert site.stored(agent.chain).state.seq == 1
    short = api.EnvelopeUpload(upload.envelopes[:1])
    site.put(agent, dek, short)
    assert site.send(agent, keys, records).want == (dek,)
    changed = [(key, bytes([*envelope[:-1], envelope[-1] ^ 1])) for key, envelope in upload.envelopes]
    site.put(agent, dek, api.EnvelopeUpload(tuple(changed)))
    assert site.send(agent, keys, records).want == (dek,)
    site.put(agent, dek, upload)
    judged = site.send(agent, keys, records)
    assert not judged.want
    assert judged.stored.state.seq == 3
    assert {row.keys_seq for row in site.rows(schema.envelopes)} == {2}


def test_envelopes_are_fixed_once_a_keys_block_commits_to_them(site: Site) -> None:
    agent = site.enrolled()
    dek, upload = agent.upload()
    site.put(agent, dek, upload)
    site.send(agent, agent.seal_keys(dek, upload))
    site.put(agent, dek, upload)
    with pytest.raises(Refused) as caught:
        site.put(agent, dek, api.EnvelopeUpload(upload.envelopes[:1]))
    assert (caught.value.problem.status, caught.value.problem.code) == (409, "conflict")
    other = site.enrolled("web-2")
    with pytest.raises(Refused) as caught:
        site.put(other, dek, upload)
    assert caught.value.problem.code == "conflict"
    assert len(site.rows(schema.envelopes)) == 2


def test_envelopes_without_keys_blocks_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duramen_collector.ingest.MAX_KEYS_WAITING", 2)
    agent = site.ready()
    uploads = [agent.upload(tag) for tag in (b"a", b"b", b"c")]
    for dek, upload in uploads[:2]:
        site.put(agent, dek, upload)
    with pytest.raises(LimitError, match="2 data keys"):
        site.put(agent, *uploads[2])
    site.put(agent, uploads[0][0], api.EnvelopeUpload(uploads[0][1].envelopes[:1]))
    site.put(agent, *uploads[0])
    assert not site.send(agent, agent.seal_keys(*uploads[0])).want
    site.put(agent, *uploads[2])


def test_a_data_key_is_introduced_once(site: Site) -> None:
    agent = site.ready()
    old = agent.dek
    dek, upload = agent.upload(b"second")
    site.put(agent, dek, upload)
    site.send(agent, agent.seal_keys(dek, upload))
    rows = [row for row in site.rows(schema.envelopes) if row.dek == old]
    again = api.EnvelopeUpload(
        tuple((row.key_hash, row.envelope) for row in sorted(rows, key=lambda r: r.key_hash))
    )
    judged = site.send(agent, agent.seal_keys(old, again))
    assert judged.problem is not None
    assert judged.problem.code == "header_corrupt"


def test_a_keys_block_about_another_key_than_its_header(site: Site) -> None:
    agent = site.enrolled()
    dek, upload = agent.upload()
    site.put(agent, dek, upload)
    listed = tuple((key, Digest(hashlib.sha256(item).digest())) for key, item in upload.envelopes)
    body = KeyList("default", 1, 0, dek, listed).encode()
    header = agent.header(BlockKind.KEYS, dek=dek, body=Digest(hashlib.sha256(body).digest()), size=len(body))
    judged = site.send(agent, agent._add(header, body))
    assert judged.problem is not None
    assert judged.problem.code == "header_corrupt"


def test_a_keys_block_whose_body_is_no_list(site: Site) -> None:
    agent = site.enrolled()
    dek, _ = agent.upload()
    body = b"{}"
    header = agent.header(BlockKind.KEYS, dek=dek, body=Digest(hashlib.sha256(body).digest()), size=len(body))
    judged = site.send(agent, agent._add(header, body))
    assert judged.problem is not None
    assert (judged.problem.status, judged.problem.code) == (422, "malformed")


def test_foreign_chains_and_identities_are_refused_alike(site: Site) -> None:
    agent, other = site.ready(), site.enrolled("web-2")
    uploads = parse_blocks(agent.seal_records().frame)
    unknown = ChainId(b"u" * 32)
    details = set()
    for peer, chain in (
        (other.identity, agent.chain),
        (agent.identity, other.chain),
        (agent.identity, unknown),
        (AgentIdentity("beta", agent.agent), agent.chain),
    ):
        with pytest.raises(Refused) as caught:
            site.write(lambda connection: site.service.receive(connection, peer, chain, uploads))  # noqa: B023  # the lambda is called before the loop goes on
        assert (caught.value.problem.status, caught.value.problem.code) == (403, "not_enrolled")
        details.add(caught.value.problem)
    assert len(details) == 1
    with pytest.raises(Refused) as caught:
        site.write(lambda connection: site.service.receive(connection, None, agent.chain, uploads))
    assert caught.value.problem.status == 401


def test_a_chain_uses_a_bounded_number_of_keys(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duramen_collector.ingest.MAX_KEYS_IN_FORCE", 0)
    agent = site.enrolled()
    dek, upload = agent.upload()
    site.put(agent, dek, upload)
    judged = site.send(agent, agent.seal_keys(dek, upload))
    assert judged.problem is not None
    assert (judged.problem.status, judged.problem.code) == (413, "too_large")


def test_after_stepping_down_nothing_is_accepted(site: Site) -> None:
    agent = site.ready()
    site.service.step_down("acme", "ballot 7 has taken over; go to another collector")
    with pytest.raises(Refused) as caught:
        site.send(agent, agent.seal_records())
    assert (caught.value.problem.status, caught.value.problem.code) == (503, "stepped_down")
    assert "ballot 7" in str(caught.value)
    site.service.resume("acme")
    assert site.send(agent, agent.blocks[-1]).problem is None


def test_requests_that_are_no_blocks(site: Site) -> None:
    agent = site.ready()
    frame = agent.seal_records().frame
    for data in (b"", frame[:-1], frame + b"x", b"DRMN", frame[:10] + b"\xff" + frame[11:]):
        with pytest.raises(FormatError):
            parse_blocks(data)
    with pytest.raises(FormatError, match="genesis"):
        parse_blocks(agent.blocks[0].frame)
    notice = site.keys.notice.sign("hold", 1, {})
    frame = encode_frame(notice.header_bytes, notice.signature, b"")
    with pytest.raises(FormatError, match="notices"):
        parse_blocks(frame)
    with pytest.raises(IntegrityError) as caught:
        parse_blocks(replace(agent.blocks[-1], body=b"seaIed").frame)
    assert caught.value.code == "body_corrupt"


def test_a_request_holds_a_bounded_number_of_blocks(site: Site) -> None:
    agent = site.enrolled()
    frame = agent.seal_empty().frame
    parse_blocks(frame * MAX_BLOCKS)
    with pytest.raises(LimitError):
        parse_blocks(frame * (MAX_BLOCKS + 1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_blocks_or_refused(site: Site, data: st.DataObject) -> None:
    agent = FakeAgentOnce.of(site)
    frames = b"".join(item.frame for item in agent.blocks[1:])
    cut = data.draw(st.integers(0, len(frames) - 1))
    end = data.draw(st.integers(cut, len(frames)))
    mutated = frames[:cut] + data.draw(st.binary(max_size=8)) + frames[end:]
    try:
        uploads = parse_blocks(mutated)
    except DuramenError:
        return
    judged = site.write(
        lambda connection: site.service.receive(connection, agent.identity, agent.chain, uploads)
    )
    known = {item.block.hash for item in agent.blocks}
    assert {hash_ for _, hash_ in landed(site, agent)} <= known
    assert judged.stored.state.seq <= agent.blocks[-1].block.header.seq


class FakeAgentOnce:
    """One agent a site, so that examples build on each other."""

    agents: ClassVar[dict[int, Any]] = {}

    @classmethod
    def of(cls, site: Site) -> Any:
        if id(site) not in cls.agents:
            agent = site.ready()
            for i in range(4):
                agent.seal_records(1, b"body%d" % i)
            cls.agents = {id(site): agent}
        return cls.agents[id(site)]


# Heartbeats


def test_a_heartbeat_is_heard_at_the_time_of_its_nonce(site: Site) -> None:
    agent = site.ready()
    nonce = site.nonce(agent)
    made_ns = site.clock.now_ns
    site.clock.now_ns += 10 * 10**9
    beat = agent.beat(nonce)
    judged = site.heartbeat(agent, beat)
    assert judged.problem is None
    assert site.stored(agent.chain).announced_seq == 2
    assert site.stored(agent.chain).heard_ns == made_ns
    site.clock.now_ns += 200 * 10**9
    site.heartbeat(agent, beat)
    assert site.stored(agent.chain).heard_ns == made_ns


@pytest.mark.parametrize("change", ["old", "future", "foreign", "forged"])
def test_a_nonce_that_is_not_live_gets_a_fresh_one(site: Site, change: str) -> None:
    agent, other = site.ready(), site.enrolled("web-2")
    nonce = site.nonce(agent)
    if change == "old":
        site.clock.now_ns += 301 * 10**9
    elif change == "future":
        site.clock.now_ns -= 1
    elif change == "foreign":
        nonce = site.nonce(other)
    else:
        nonce = nonce[:-1] + bytes([nonce[-1] ^ 1])
    with pytest.raises(Refused) as caught:
        site.heartbeat(agent, agent.beat(nonce))
    problem = caught.value.problem
    assert (problem.status, problem.code) == (409, "stale_nonce")
    assert problem.nonce is not None
    assert site.heartbeat(agent, agent.beat(problem.nonce)).problem is None


def test_a_forged_heartbeat(site: Site) -> None:
    agent = site.ready()
    beat = replace(agent.beat(site.nonce(agent)), signature=bytes(64))
    with pytest.raises(IntegrityError) as caught:
        site.heartbeat(agent, beat)
    assert caught.value.code == "signature_invalid"


def test_a_heartbeat_for_what_is_here_already(site: Site) -> None:
    agent = site.ready()
    beat = agent.beat(site.nonce(agent))
    site.send(agent, agent.seal_records())
    with pytest.raises(Refused) as caught:
        site.heartbeat(agent, beat)
    assert (caught.value.problem.status, caught.value.problem.code) == (409, "replay")
    assert caught.value.problem.head == agent.head


def test_a_heartbeat_over_another_head_is_a_fork(site: Site) -> None:
    agent = site.ready()
    other = Digest(b"o" * 32)
    judged = site.heartbeat(agent, agent.beat(site.nonce(agent), head=other))
    assert judged.problem is not None
    assert judged.problem.code == "fork"
    (row,) = site.rows(schema.forks)
    assert (row.seq, row.hash, row.statement, row.signature) == (1, other, None, "valid")


def test_a_heartbeat_ahead_is_checked_when_the_chain_gets_there(site: Site) -> None:
    agent = site.ready()
    sent = [agent.seal_records()]
    site.heartbeat(agent, agent.beat(site.nonce(agent)))
    sent.append(agent.seal_records())
    site.heartbeat(agent, agent.beat(site.nonce(agent)))
    late = replace(agent.beat(site.nonce(agent)), next_seq=Seq(3))
    site.heartbeat(agent, late)
    (row,) = site.rows(schema.announcements)
    assert row.next_seq == 4
    assert site.stored(agent.chain).announced_seq == 0
    sent.append(agent.seal_records())
    assert site.send(agent, *sent).problem is None
    assert site.rows(schema.announcements) == []
    assert site.stored(agent.chain).announced_seq == 4


def test_an_announcement_of_another_head_is_a_fork_and_a_forged_one_nothing(site: Site) -> None:
    agent = site.ready()
    sent = agent.seal_records()
    other = Digest(b"o" * 32)
    site.heartbeat(agent, agent.beat(site.nonce(agent), head=other))
    assert site.send(agent, sent).problem is None
    (row,) = site.rows(schema.forks)
    assert (row.seq, row.hash) == (2, other)
    sent = agent.seal_records()
    site.heartbeat(agent, replace(agent.beat(site.nonce(agent)), signature=bytes(64)))
    assert site.send(agent, sent).problem is None
    assert site.rows(schema.announcements) == []
    assert len(site.rows(schema.forks)) == 1


def test_progress_and_head(site: Site) -> None:
    agent = site.ready()
    head = site.read(lambda connection: site.service.head(connection, agent.identity, agent.chain))
    assert (head.accepted_seq, head.head, head.published_seq) == (1, agent.head, -1)
    answer = site.read(
        lambda connection: site.service.progress(connection, agent.identity, agent.chain, 0, 0, beat=True)
    )
    assert (answer.accepted_seq, answer.published_seq, answer.receipt) == (1, -1, None)
    assert answer.nonce == site.nonce(agent)
