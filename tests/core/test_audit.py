"""Each defect of a region is found, named by code and place, and nothing else is."""

import hashlib
import itertools
import random

import pytest

from duramen import frame, names, tiles
from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, Depth
from duramen.checkpoint import Checkpoint, LogSigner
from duramen.policy import parse_policy
from duramen.region import envelope_key
from duramen.statement import Block, BlockKind, Flags, parse_statement
from duramen.verdict import Code, Severity, Verdict
from tests.core.builder import LogBuilder, MemoryRegion, Source, sample


def audit(log, objects=None, *, lists=True, **options):
    region = MemoryRegion(log.objects if objects is None else objects, lists=lists)
    return audit_region(region, log.tenant, log.keys, AuditOptions(region="eu", **options))


def found(report):
    return sorted((str(f.code), f.key.rsplit("/", 1)[-1][:12], f.leaf) for f in report.findings)


def codes(report):
    return sorted(str(f.code) for f in report.findings)


@pytest.fixture(scope="module")
def log():
    return sample()


@pytest.fixture
def objects(log):
    return dict(log.objects)


def leaf_of(log, agent, seq):
    return log.entries.index(log.agents[agent].blocks[seq].entry)


def pack_of(log, leaf):
    """(key, offset of the leaf's frame, offset of its body, end) in the pack that holds it."""
    for key in log.packs:
        data = log.objects[key]
        header = frame.parse_pack_header(data)
        if header.first_leaf <= leaf < header.first_leaf + header.count:
            at = frame.PACK_HEADER_BYTES
            for number, item in enumerate(frame.parse_pack(data).frames, header.first_leaf):
                size = frame.frame_size(len(item.statement.header_bytes), len(item.body))
                if number == leaf:
                    return key, at, at + size - len(item.body), at + size
                at += size
    raise AssertionError


def flip(objects, key, at, bit=1):
    data = bytearray(objects[key])
    data[at] ^= bit
    objects[key] = bytes(data)


def test_clean_log_has_no_findings(log):
    report = audit(log, depth=Depth.RECORDS, reader_key=log.readers[0])
    assert report.findings == ()
    assert report.verdict is Verdict.VERIFIED
    assert report.is_proven
    assert report.counts.entries == log.size
    assert report.counts.opened == 8
    assert report.counts.unopened == 0
    assert [chain.agent for chain in report.chains] == ["web-1", "db-1", "cron-1"]
    assert [chain.stopped for chain in report.chains] == [False, False, True]
    assert report.to_json()["checkpoint"]["size"] == log.size


@pytest.mark.parametrize("depth", list(Depth))
def test_clean_at_every_depth_and_without_listing(log, objects, depth):
    tip = log.packs[-1].rsplit("/", 1)[-1].removesuffix(".pack")
    objects["acme/head"] = b'{"accepted": {"pack": "%s"}}' % tip.encode()
    assert codes(audit(log, objects, lists=False, depth=depth)) == []


def test_flipped_body_names_block_and_pack(log, objects):
    leaf = leaf_of(log, "web-1", 3)
    key, _, body, end = pack_of(log, leaf)
    flip(objects, key, body + 20)
    report = audit(log, objects)
    (finding,) = report.findings
    assert (finding.code, finding.key, finding.leaf) == (Code.BODY_CORRUPT, key, leaf)
    assert (finding.chain, finding.seq) == (log.agents["web-1"].state.chain.hex(), 3)
    assert (finding.region, finding.tenant) == ("eu", "acme")
    assert report.verdict is Verdict.FAILED
    assert str(body) in finding.detail
    assert str(end - 1) in finding.detail


def test_flipped_statement_in_pack(log, objects):
    leaf = leaf_of(log, "db-1", 2)
    key, start, _, _ = pack_of(log, leaf)
    flip(objects, key, start + 9 + 60)
    assert found(audit(log, objects)) == [("header_corrupt", key.rsplit("/", 1)[-1][:12], leaf)]


@pytest.mark.parametrize("offset", [0, 4, 5, 8])
def test_flipped_frame_head(log, objects, offset):
    leaf = leaf_of(log, "db-1", 2)
    key, start, _, _ = pack_of(log, leaf)
    flip(objects, key, start + offset)
    assert found(audit(log, objects)) == [("replica_corrupt", key.rsplit("/", 1)[-1][:12], leaf)]


@pytest.mark.parametrize("number", [0, 1, 4, -1])
@pytest.mark.parametrize("offset", [0, 5, 6, 13, 14, 17, 18, 25, 26, 57, 58, 89])
@pytest.mark.parametrize("head", [False, True])
def test_flipped_pack_header(log, objects, number, offset, head):
    key = log.packs[number]
    if head:
        tip = log.packs[-1].rsplit("/", 1)[-1].removesuffix(".pack")
        objects["acme/head"] = b'{"accepted": {"pack": "%s"}}' % tip.encode()
    first = frame.parse_pack_header(objects[key]).first_leaf
    flip(objects, key, offset)
    assert found(audit(log, objects)) == [("replica_corrupt", key.rsplit("/", 1)[-1][:12], first)]


@pytest.mark.parametrize("number", range(10))
def test_missing_pack(log, objects, number):
    key = log.packs[number]
    first = frame.parse_pack_header(objects.pop(key)).first_leaf
    for depth in Depth:
        report = audit(log, objects, depth=depth)
        assert codes(report) == ["replica_missing"]
        assert report.findings[0].leaf == first
        if number < 9:
            assert report.findings[0].key == key


def test_all_packs_missing(log, objects):
    for key in log.packs:
        del objects[key]
    report = audit(log, objects)
    assert codes(report) == ["replica_missing"]
    assert f"0 to {log.size - 1}" in report.findings[0].detail


@pytest.mark.parametrize("number", range(10))
def test_truncated_and_extended_pack(log, objects, number):
    key = log.packs[number]
    whole = objects[key]
    header = frame.parse_pack_header(whole)
    for cut in (len(whole) - 1, 100, 89, 1, 0):
        objects[key] = whole[:cut]
        report = audit(log, objects)
        assert codes(report) == ["replica_corrupt"], cut
        assert report.findings[0].key == key
        assert header.first_leaf <= report.findings[0].leaf < header.first_leaf + header.count
    objects[key] = whole + b"\0"
    assert found(audit(log, objects)) == [("replica_corrupt", key.rsplit("/", 1)[-1][:12], header.first_leaf)]


def test_two_swapped_packs(log, objects):
    one, other = log.packs[2], log.packs[5]
    objects[one], objects[other] = objects[other], objects[one]
    report = audit(log, objects)
    assert set(codes(report)) == {"replica_corrupt"}
    assert {finding.key for finding in report.findings} == {one, other}


def test_neighbouring_packs_damaged_beyond_recognition_are_both_named(log, objects):
    for number in range(1, len(log.packs)):
        damaged = dict(objects)
        for key in log.packs[number - 1 : number + 1]:
            damaged[key] = bytes(len(damaged[key]))
        report = audit(log, damaged)
        assert set(codes(report)) == {"replica_corrupt"}
        assert {finding.key for finding in report.findings} == set(log.packs[number - 1 : number + 1])


def test_any_two_swapped_packs_are_both_named(log, objects):
    for one, other in itertools.combinations(log.packs, 2):
        damaged = {**objects, one: objects[other], other: objects[one]}
        assert {finding.key for finding in audit(log, damaged).findings} == {one, other}


def test_body_replaced_by_another_of_its_length_in_a_renamed_pack(log, objects):
    """An attacker who rebuilds a pack gives it another name; the chain of packs names the old one."""
    leaf = leaf_of(log, "web-1", 3)
    key, _, body, end = pack_of(log, leaf)
    data = objects.pop(key)
    data = data[:body] + bytes(end - body) + data[end:]
    objects["acme/" + frame.pack_key(frame.pack_digest(data))] = data
    report = audit(log, objects)
    assert codes(report) == ["replica_missing"]
    assert report.findings[0].key == key


def test_renamed_tip_pack_without_head(log, objects):
    key, _, _body, _end = pack_of(log, log.size - 1)
    data = bytearray(objects.pop(key))
    data[-70] ^= 1  # the last block has no body: this is its signature
    objects["acme/" + frame.pack_key(frame.pack_digest(bytes(data)))] = bytes(data)
    assert audit(log, objects).verdict is Verdict.FAILED


def test_orphan_packs_are_no_findings(log, objects):
    for number, key in enumerate(log.packs):
        pack = frame.parse_pack(objects[key])
        header = frame.PackHeader(
            pack.header.retention_class,
            pack.header.first_leaf,
            pack.header.count,
            names.Digest(hashlib.sha256(b"%d" % number).digest()),
            pack.header.previous,
        )
        data = frame.encode_pack(header, [item.encode() for item in pack.frames])
        if number < len(log.packs) - 1:
            objects["acme/" + frame.pack_key(frame.pack_digest(data))] = data
    objects["acme/packs/" + 64 * "0" + ".pack"] = b"not a pack"
    objects["acme/packs/readme"] = b"not even a name of one"
    assert codes(audit(log, objects)) == []


def test_tiles_and_bundles(log, objects):
    for path in tiles.tile_paths_for(0, log.size):
        key = "acme/" + path.path()
        whole = objects[key]
        for damaged, code in (
            (None, "replica_missing"),
            (whole[:-1], "replica_corrupt"),
            (whole + b"\0", "replica_corrupt"),
            (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], "tree_mismatch"),
        ):
            if damaged is None:
                del objects[key]
            else:
                objects[key] = damaged
            report = audit(log, objects)
            assert codes(report) == [code], (key, code)
            assert report.findings[0].key == key
            assert report.is_proven  # the packs gave what the bundle could not
        objects[key] = whole


def test_checkpoint_defects(log, objects):
    key = "acme/checkpoint"
    whole = objects[key]
    for at in range(0, len(whole), 41):
        flip(objects, key, at)
        report = audit(log, objects)
        assert codes(report) == ["checkpoint_invalid"], at
        assert report.signed is None
        assert not report.is_proven
        objects[key] = whole
    del objects[key]
    assert found(audit(log, objects)) == [("replica_missing", "checkpoint", None)]
    other = LogBuilder(99)
    other.publish()
    objects[key] = other.objects[key]
    assert codes(audit(log, objects)) == ["checkpoint_invalid"]


def test_below_policy_is_loud_and_the_rest_is_still_checked(log, objects):
    witness = LogSigner("witness.example", bytes([1] * 32), bytes([2] * 32)).keys().mldsa44
    policy = parse_policy(f"witness w {witness.encode()}\nquorum w\n".encode())
    assert codes(audit(log, objects, policy=policy)) == ["below_policy"]
    flip(objects, *pack_of(log, leaf_of(log, "web-1", 3))[::2][:2])
    assert codes(audit(log, objects, policy=policy)) == ["below_policy", "body_corrupt"]


def test_older_checkpoint_replayed():
    log = LogBuilder(1)
    log.agent("a").idle()
    first = log.publish()
    old = log.objects["acme/checkpoint"]
    log.agents["a"].idle()
    second = log.publish()
    log.objects["acme/checkpoint"] = old
    assert "checkpoint_rollback" in codes(audit(log))
    assert "checkpoint_rollback" in codes(audit(log, remembered=second))
    for key in [key for key in log.objects if "checkpoints/" in key]:
        del log.objects[key]
    assert codes(audit(log, remembered=second)).count("checkpoint_rollback") == 1
    assert first.size < second.size


def test_two_histories():
    """The log's keys sign another history of the same length: whoever remembers the first one finds out."""
    one, other = LogBuilder(1), LogBuilder(1)
    for log, name in ((one, "a"), (other, "b")):
        log.agent(name).idle()
        log.publish(keep=False)
    report = audit(other, remembered=Checkpoint(one.keys.origin, one.size, one.range.root()))
    assert codes(report) == ["equivocation"]
    one.agents["a"].idle()
    one.publish()
    assert codes(audit(one, remembered=Checkpoint(one.keys.origin, one.size - 1, bytes(32)))) == [
        "equivocation"
    ]


def test_kept_checkpoints(log, objects):
    key = "acme/checkpoints/4"
    assert key in objects
    for at in (0, 30, 100, -2):
        flip(objects, key, at)
        assert found(audit(log, objects)) == [("checkpoint_invalid", "4", None)]
        objects[key] = log.objects[key]
    objects["acme/checkpoints/5"] = objects[key]
    assert found(audit(log, objects)) == [("checkpoint_invalid", "5", None)]
    objects["acme/checkpoints/5"] = log.signer.sign(Checkpoint(log.keys.origin, 5, bytes(32)), 1)
    assert found(audit(log, objects)) == [("equivocation", "5", None)]


def test_envelopes(log, objects):
    block = log.agents["web-1"].blocks[1]
    assert block.header.kind is BlockKind.KEYS
    keys = [envelope_key("acme", block.header.dek, reader.recipient.key_hash) for reader in log.readers]
    leaf = leaf_of(log, "web-1", 1)
    flip(objects, keys[0], 500)
    report = audit(log, objects)
    assert [(f.code, f.key, f.leaf, f.seq) for f in report.findings] == [
        (Code.REPLICA_CORRUPT, keys[0], leaf, 1)
    ]
    del objects[keys[0]]
    report = audit(log, objects)
    assert [(f.code, f.key, f.leaf, f.seq) for f in report.findings] == [
        (Code.REPLICA_MISSING, keys[0], leaf, 1)
    ]
    del objects[keys[1]]
    report = audit(log, objects)
    assert [(f.code, f.leaf) for f in report.findings] == [(Code.UNEXPLAINED_LOSS, leaf)]
    report = audit(log, objects, exists_elsewhere=lambda key: key == keys[0])
    assert codes(report) == ["replica_missing", "replica_missing"]


def test_erased_by_policy():
    log = LogBuilder(1)
    agent = log.agent("a")
    block = agent.key()
    log.notice("erase", dek=block.header.dek.hex())
    log.publish()
    for key in [key for key in log.objects if key.startswith("envelopes/")]:
        del log.objects[key]
    report = audit(log)
    assert codes(report) == ["erased_by_policy"]
    assert report.verdict is Verdict.VERIFIED
    log.notice("erase", dek="zz")
    log.publish()
    assert codes(audit(log)) == ["erased_by_policy", "header_corrupt"]


# ---------------------------------------------------------------- what the log itself holds


def test_every_gap_is_listed():
    log = LogBuilder(1)
    agent = log.agent("a")
    for number in range(12):
        agent.idle(publish=number not in (2, 5, 6, 9))
    log.publish()
    report = audit(log)
    assert [(f.code, f.seq) for f in report.findings] == [(Code.GAP, 3), (Code.GAP, 6), (Code.GAP, 10)]
    assert "6 to 7" in report.findings[1].detail


def test_gap_that_swallows_a_keys_block_is_only_a_gap():
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.seal([Source("s", b"/f", b"1\n")])
    agent.key(group=7, publish=False)
    agent.idle()
    agent.seal([Source("s", b"/f", b"2\n")])
    agent.seal([Source("s", b"/f", b"3\n")], group=7)
    log.publish()
    assert codes(audit(log)) == ["gap"]


def test_missing_genesis():
    log = LogBuilder(1)
    agent = log.agent("a", chain_log=False)
    agent.idle()
    agent.idle()
    log.publish()
    report = audit(log)
    assert [(f.code, f.seq) for f in report.findings] == [(Code.GAP, 0)]


def test_order():
    log = LogBuilder(1)
    agent = log.agent("a")
    blocks = [agent.idle(publish=False) for _ in range(5)]
    for number in (0, 2, 1, 4, 3):
        log.add(blocks[number])
    log.publish()
    report = audit(log)
    assert [(f.code, f.seq) for f in report.findings] == [(Code.ORDER, 2), (Code.ORDER, 4)]


def test_order_backwards_and_forwards_within_a_gap():
    log = LogBuilder(1)
    agent = log.agent("a")
    blocks = [agent.idle(publish=False) for _ in range(6)]
    for number in (5, 0, 1, 4, 3, 2):
        log.add(blocks[number])
    log.publish()
    assert codes(audit(log)) == ["order"] * 5


def test_replay_and_fork():
    log = LogBuilder(1)
    agent = log.agent("a")
    first = agent.idle()
    state, ratchet = agent.state, agent.ratchet
    agent.idle()
    log.add(first)
    agent.state, agent.ratchet = state, ratchet
    agent.idle(Flags.CRASH)
    agent.idle()
    log.add(agent.blocks[0])
    log.publish()
    report = audit(log)
    assert [(f.code, f.seq) for f in report.findings] == [
        (Code.REPLAY, 1),
        (Code.FORK, 2),
        (Code.FORK, 3),
        (Code.REPLAY, 0),
    ]


def test_signature_and_link():
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.idle()
    block = agent.blocks[-1]
    log.pending[-1] = (parse_statement(block.header_bytes + bytes(64)), b"")
    log.publish()
    assert [(f.code, f.seq) for f in audit(log).findings] == [(Code.SIGNATURE_INVALID, 1)]
    agent.idle()
    log.publish()
    assert [(f.code, f.seq) for f in audit(log).findings] == [
        (Code.SIGNATURE_INVALID, 1),
        (Code.LINK_BROKEN, 2),
    ]


def test_bad_genesis():
    log = LogBuilder(1)
    block = log.agent("a", chain_log=False).blocks[0]
    log.add(parse_statement(block.header_bytes + bytes(64)))
    log.agent("b", tenant="other")
    log.agent("c", log_hash=bytes(32))
    log.publish()
    assert codes(audit(log)) == ["header_corrupt", "header_corrupt", "signature_invalid"]


def test_record_numbers_that_do_not_follow():
    log = LogBuilder(1)
    agent = log.agent("a")
    block = agent._sign(agent._header(BlockKind.RECORDS, start=5))
    log.add(block)
    log.publish()
    assert codes(audit(log)) == ["header_corrupt"]


def test_succession():
    log = LogBuilder(1)
    old = log.agent("a")
    old.idle()
    log.agent("a", replaces=old)
    log.publish()
    (finding,) = audit(log).findings
    assert (finding.code, finding.severity) == (Code.DISCONTINUITY, Severity.WARNING)

    log = LogBuilder(1)
    old = log.agent("a")
    state = old.state
    old.idle()
    now, old.state = old.state, state
    log.agent("a", replaces=old)
    log.publish()
    assert codes(audit(log)) == ["rollback"]

    log = LogBuilder(1)
    log.agent("a")
    log.agent("a")
    log.agent("b", replaces=log.agent("c", chain_log=False))
    log.publish()
    report = audit(log)
    assert codes(report) == ["discontinuity", "discontinuity"]
    assert report.verdict is Verdict.FAILED
    assert now.seq == 1


def test_testimony_of_another_history():
    log = LogBuilder(1)
    agent = log.agent("a")
    checkpoint = log.publish()
    agent.saw(Checkpoint(checkpoint.origin, checkpoint.size, bytes([1] * 32)))
    agent.idle()
    agent.saw(Checkpoint(checkpoint.origin, 1000, bytes([1] * 32)))
    agent.idle()
    agent.saw(checkpoint)
    agent.idle()
    log.publish()
    assert [(f.code, f.seq) for f in audit(log).findings] == [(Code.EQUIVOCATION, 1), (Code.EQUIVOCATION, 2)]


def test_clock_jump_is_a_note():
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.idle(sealed_ns=log.now_ns + 3600 * 10**9)
    agent.idle()
    agent.boot = bytes(8)
    agent.idle(sealed_ns=log.now_ns - 3600 * 10**9)
    log.publish()
    report = audit(log)
    assert codes(report) == ["clock_jump"] * 3
    assert report.verdict is Verdict.VERIFIED


def test_notices():
    log = LogBuilder(1, notice_key=False)
    log.notice("enrol", agent="a")
    log.publish()
    assert codes(audit(log)) == ["signature_invalid"]
    assert codes(audit(log, notice_public=log.notice_public)) == []
    log = LogBuilder(1)
    log.notice("key", public=LogBuilder(2).notice_public.hex())
    log.notice("enrol", seed=LogBuilder(2).notice_seed, agent="a")
    log.publish()
    assert codes(audit(log)) == []
    log.notice("enrol", seed=bytes([7] * 32), agent="a")
    log.notice("key", seed=bytes([7] * 32), public=LogBuilder(3).notice_public.hex())
    log.notice("key", public="00")
    notice = log.pending[0][0]
    log.pending.append((parse_statement(notice.header_bytes + bytes(64)), b""))
    log.publish()
    assert codes(audit(log)) == ["header_corrupt"] + ["signature_invalid"] * 3


def test_fork_that_the_collector_reports():
    log = LogBuilder(1)
    agent = log.agent("a")
    log.notice("fork", chain=agent.state.chain.hex(), seq=3, accepted="", other="")
    log.notice("fork", chain="?", seq=3)
    log.publish()
    report = audit(log)
    assert [(f.code, f.seq) for f in report.findings] == [(Code.FORK, 3), (Code.HEADER_CORRUPT, None)]


def test_entry_that_is_no_statement():
    log = LogBuilder(1)
    log.agent("a")
    log.publish()

    class Opaque:
        entry = b"?" * 100
        header_bytes = entry[:-64]
        signature = entry[-64:]

    log.pending.append((Opaque(), b""))
    log.publish()
    log.objects["acme/head"] = b'{"accepted":{"pack":"%s"}}' % log.previous.hex().encode()
    assert codes(audit(log)) == ["header_corrupt"]


def test_keys_block_that_lists_something_else():
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.key()
    body = log.pending[-1][1]
    for other in (b"{}", body.replace(b'"class":0', b'"class":1')):
        header = agent._header(
            BlockKind.KEYS,
            dek=names.DataKeyId(other[:16].ljust(16, b"x")),
            body=names.Digest(hashlib.sha256(other).digest()),
            size=len(other),
        )
        agent.append(header, other)
    log.publish()
    assert codes(audit(log)) == ["body_corrupt", "header_corrupt"]


def test_contents_that_the_header_does_not_commit_to():
    """At depth records a body that opens but holds other records than the root says is found."""
    log = LogBuilder(1)
    agent = log.agent("a")
    agent.seal([Source("s", b"/f", b"1\n")])
    sealed, body = log.pending.pop()
    agent.state = agent.state.__class__(
        **{
            **{name: getattr(agent.state, name) for name in agent.state.__slots__},
            "seq": names.Seq(sealed.header.seq - 1),
            "head": sealed.header.prev,
            "records": 0,
        }
    )
    log.publish()
    assert codes(audit(log, depth=Depth.RECORDS, reader_key=log.readers[0])) == []
    flipped = body[:-1] + bytes([body[-1] ^ 1])
    log = LogBuilder(1)
    agent = log.agent("a")
    key = agent.key()
    agent.append(
        agent._header(
            BlockKind.RECORDS,
            dek=key.header.dek,
            count=1,
            root=names.Digest(bytes([1] * 32)),
            body=names.Digest(hashlib.sha256(flipped).digest()),
            size=len(flipped),
        ),
        flipped,
    )
    log.publish()
    assert codes(audit(log)) == []
    assert codes(audit(log, depth=Depth.RECORDS, reader_key=log.readers[0])) == ["body_corrupt"]
    other = LogBuilder(5).readers[0]
    report = audit(log, depth=Depth.RECORDS, reader_key=other)
    assert (report.counts.opened, report.counts.unopened) == (0, 1)


def test_wrong_log_keys(log):
    assert codes(audit_region(MemoryRegion(log.objects), "acme", LogBuilder(5).keys)) == [
        "checkpoint_invalid"
    ]


# ---------------------------------------------------------------- the whole region, byte by byte


def test_any_flipped_byte_of_a_region_is_found(log, objects):
    rng = random.Random(7)
    keys = sorted(objects)
    for _ in range(400):
        key = rng.choice(keys)
        at = rng.randrange(len(objects[key]))
        flip(objects, key, at, 1 << rng.randrange(8))
        report = audit(log, objects)
        assert report.verdict is Verdict.FAILED, (key, at)
        assert all(f.key == key for f in report.findings), (key, at, report.findings)
        objects[key] = log.objects[key]


def test_any_removed_object_is_found(log, objects):
    for key in sorted(objects):
        if "checkpoints/" in key:
            continue  # documented: nobody can tell which checkpoints were kept
        del objects[key]
        report = audit(log, objects)
        assert codes(report) == ["replica_missing"], key
        objects[key] = log.objects[key]


def test_several_defects_are_all_named(log, objects):
    leaves = [leaf_of(log, "web-1", 2), leaf_of(log, "web-1", 4), leaf_of(log, "db-1", 3)]
    for leaf in leaves:
        key, _, body, _ = pack_of(log, leaf)
        flip(objects, key, body)
    flip(objects, "acme/" + tiles.TilePath(0, 0, log.size).path(), 3)
    report = audit(log, objects)
    assert sorted(f.leaf for f in report.findings if f.code is Code.BODY_CORRUPT) == sorted(leaves)
    assert codes(report) == ["body_corrupt"] * 3 + ["tree_mismatch"]


def test_log_that_goes_on_while_it_is_audited(log):
    """The region moves on between two reads: the audit stays with the checkpoint it began with."""
    growing = sample(3)
    size = growing.size

    class Moving(MemoryRegion):
        moved = False

        def read(self, key):
            data = super().read(key)
            if key.startswith("acme/packs/") and not self.moved:
                self.moved = True
                growing.agents["web-1"].idle()
                growing.publish()
            return data

    report = audit_region(Moving(growing.objects), "acme", growing.keys)
    assert codes(report) == []
    assert report.signed.checkpoint.size == size < growing.size
    assert codes(audit(growing)) == []


def test_large_log_with_full_tiles():
    log = LogBuilder(1)
    agent = log.agent("a")
    for number in range(600):
        agent.idle()
        if number % 97 == 0:
            agent.saw(log.publish())
    log.publish()
    assert codes(audit(log)) == []
    objects = dict(log.objects)
    key = "acme/tile/entries/001"
    flip(objects, key, 5000)
    report = audit(log, objects)
    assert codes(report) == ["tree_mismatch"]
    assert report.is_proven
    del objects[key]
    report = audit(log, objects)
    assert found(report) == [("replica_missing", "001", 256)]
    # without the bundle and the packs under it, what is missing is missing
    for pack in log.packs[3:5]:
        del objects[pack]
    report = audit(log, objects)
    assert {"gap", "replica_missing"} == set(codes(report))
    assert not report.is_proven


def test_blocks_of_the_visitor_are_good_ones(log, objects):
    seen = []
    leaf = leaf_of(log, "web-1", 3)
    key, _, body, _ = pack_of(log, leaf)
    flip(objects, key, body)
    audit(log, objects, depth=Depth.RECORDS, reader_key=log.readers[1], on_block=seen.append)
    assert all(isinstance(visit.block, Block) for visit in seen)
    damaged = [visit for visit in seen if visit.leaf == leaf]
    assert [visit.body for visit in damaged] == [None]
    assert sum(visit.payload is not None for visit in seen) == 7
