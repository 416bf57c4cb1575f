"""Properties of every codec: what is encoded parses back, what parses encodes back, else one error."""

import base64
import contextlib
import hashlib
from dataclasses import replace

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from duramen import body, canonical, datakey, envelope, frame, names, ratchet, records, statement, wire
from duramen.errors import FormatError, IntegrityError, LimitError
from duramen.merkle import EMPTY_ROOT, root_of
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST
from duramen.statement import BlockHeader, BlockKind, Flags

KEY = ratchet.Ratchet(0, bytes(range(32))).public()
digests = st.binary(min_size=32, max_size=32).filter(any)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def headers(draw):
    count = draw(st.integers(0, 2**32 - 1))
    sealed = count > 0
    seen = draw(st.integers(0, 2**63))
    return BlockHeader(
        kind=BlockKind.RECORDS,
        flags=Flags(draw(st.integers(0, 15))),
        chain=draw(digests),
        seq=draw(st.integers(1, 2**63 - 1)),
        prev=draw(digests),
        start=draw(st.integers(0, 2**62)),
        count=count,
        root=draw(digests) if sealed else EMPTY_ROOT,
        body=draw(digests) if sealed else EMPTY_ROOT,
        size=draw(st.integers(1, 8 * 2**20)) if sealed else 0,
        group=draw(st.integers(0, 65_535)),
        retention_class=draw(st.integers(0, 255)),
        dek=draw(st.binary(min_size=16, max_size=16).filter(any)) if sealed else ZERO_DATA_KEY_ID,
        step=draw(st.integers(0, 65_535)) if sealed else 0,
        sealed_ns=draw(st.integers(0, 2**64 - 1)),
        monotonic_ns=draw(st.integers(0, 2**64 - 1)),
        boot=draw(st.binary(min_size=8, max_size=8)),
        seen_size=seen,
        seen_root=draw(digests) if seen else ZERO_DIGEST,
        next=KEY,
    )


@given(headers())
def test_block_header_round_trip(header):
    encoded = header.encode()
    assert len(encoded) == statement.HEADER_BYTES
    assert statement.parse_block_header(encoded) == header


@given(headers(), st.binary(max_size=3), st.integers(0, 275))
def test_block_header_accepts_one_length(header, extra, cut):
    encoded = header.encode()
    for data in (encoded[:cut], encoded + extra):
        if data != encoded:
            with pytest.raises(FormatError):
                statement.parse_block_header(data)


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_any_bytes_parse_or_raise_the_one_error(data):
    for first in (b"", b"\x01", b"{", b"DRMN\x01", b"DRMP\x01"):
        for parser in (
            statement.parse_statement,
            lambda data: list(frame.parse_frames(data)),
            frame.parse_pack,
            body.parse_payload,
            body.parse_run,
            envelope.parse_key_list,
            ratchet.parse_seed_file,
        ):
            with contextlib.suppress(FormatError):
                parser(first + data)


@given(headers(), st.data())
@settings(max_examples=200)
def test_what_parses_encodes_to_the_same_bytes(header, data):
    mutated = bytearray(header.encode())
    mutated[data.draw(st.integers(0, len(mutated) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = statement.parse_block_header(bytes(mutated))
    except FormatError:
        return
    assert parsed.encode() == bytes(mutated)


@given(jsons)
def test_canonical_round_trip(value):
    encoded = canonical.encode(value)
    assert canonical.decode(encoded, "it") == value
    assert canonical.read(encoded, "it") == value


@given(jsons, st.data())
def test_canonical_has_one_encoding(value, data):
    encoded = canonical.encode(value)
    at = data.draw(st.integers(0, len(encoded)))
    spaced = encoded[:at] + b" " + encoded[at:]
    with contextlib.suppress(FormatError):
        assert canonical.encode(canonical.decode(spaced, "it")) == spaced


@pytest.mark.parametrize("value", [1.5, 2**53 + 1, {1: 2}, {"a": {3}}, "\ud800"])
def test_canonical_refuses_to_encode(value):
    with pytest.raises(FormatError):
        canonical.encode(value)


@given(st.integers(0, 2**64 - 1))
def test_wide_integers_have_one_form(number):
    fields = canonical.Fields({"n": canonical.wide(number)}, "it")
    assert fields.uint("n") == number
    other = str(number) if number <= 2**53 else None
    if other is not None:
        with pytest.raises(FormatError):
            canonical.Fields({"n": other}, "it").uint("n")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"n": -1}, lambda f: f.uint("n")),
        ({"n": True}, lambda f: f.uint("n")),
        ({"n": "09007199254740993"}, lambda f: f.uint("n")),
        ({"n": "99999999999999999999"}, lambda f: f.uint("n")),
        ({"n": 7}, lambda f: f.uint("n", 6)),
        ({"n": 1}, lambda f: f.text("n")),
        ({"n": "abc"}, lambda f: f.text("n", 2)),
        ({"n": 1}, lambda f: f.flag("n")),
        ({"n": "AB"}, lambda f: f.hexed("n", 1)),
        ({"n": "zz"}, lambda f: f.hexed("n", 1)),
        ({"n": "ab"}, lambda f: f.hexed("n", 2)),
        ({"n": {}}, lambda f: f.items("n", 1)),
        ({"n": [1, 2]}, lambda f: f.items("n", 1)),
        ({"n": []}, lambda f: f.labels("n")),
        ({"n": {"a": 1}}, lambda f: f.labels("n")),
        ({"n": 1}, lambda f: f.take("m")),
        ({"n": 1}, lambda f: f.finish()),
        ([], lambda _: None),
    ],
)
def test_fields_refuse(value, read):
    with pytest.raises(FormatError):
        read(canonical.Fields(value, "it"))


@given(st.binary(max_size=400))
def test_records_concatenate_to_the_run(run):
    found = records.split(run)
    assert b"".join(found) == run
    assert len(found) == records.count(run)
    assert all(record.endswith(b"\n") for record in found[:-1])
    assert all(b"\n" not in record[:-1] for record in found)


@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.binary(min_size=32, max_size=32)
)
def test_leaves_are_those_of_the_definition(raws, salt_key):
    runs = [(f"run {number}".encode(), records.split(raw)) for number, raw in enumerate(raws)]
    flat = [(line, record) for line, found in runs for record in found]
    stream = records.salts(salt_key, len(flat))
    expected = [
        records.leaf(stream[16 * i : 16 * i + 16], line, record) for i, (line, record) in enumerate(flat)
    ]
    assert records.leaves(salt_key, runs) == expected
    assert records.root(salt_key, runs) == root_of(expected)


def test_salts_want_a_whole_key():
    with pytest.raises(FormatError):
        records.salts(b"short", 1)


@st.composite
def sealed_bodies(draw):
    raws = draw(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
    runs = [
        body.Run(
            stream=draw(texts),
            path=draw(st.binary(max_size=12)),
            file="1-2-3",
            offset=draw(st.integers(0, 2**64 - 1)),
            size=len(raw),
            lines=records.count(raw),
            read_ns=draw(st.integers(0, 2**64 - 1)),
            labels=draw(st.dictionaries(texts, texts, max_size=2)),
        )
        for raw in raws
    ]
    lines = [run.encode() for run in runs]
    salt_key = draw(st.binary(min_size=32, max_size=32))
    root = records.root(salt_key, [(line, records.split(raw)) for line, raw in zip(lines, raws, strict=True)])
    payload = body.encode_payload(salt_key, lines, raws)
    header = replace(
        draw(headers()),
        count=sum(run.lines for run in runs),
        root=root,
        size=1,
        body=bytes(32),
        dek=b"d" * 16,
    )
    aad = body.additional_data(
        header.chain, header.seq, header.group, header.retention_class, header.dek, header.step
    )
    return header, body.seal(payload, bytes(32), bytes(12), aad, body.compressor()), runs, raws


@given(sealed_bodies())
def test_body_round_trip(case):
    header, sealed, runs, raws = case
    opened = body.open_body(header, sealed, bytes(32))
    assert [(run, raw) for run, _, raw in opened.runs] == list(zip(runs, raws, strict=True))


@given(sealed_bodies(), st.data())
def test_body_shows_any_change(case, data):
    header, sealed, _, _ = case
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    for attempt in (bytes(changed), sealed[:-1], sealed + b"\0", b""):
        with pytest.raises(IntegrityError, match="does not open"):
            body.open_body(header, attempt, bytes(32))
    with pytest.raises(IntegrityError, match="does not open"):
        body.open_body(replace(header, seq=header.seq ^ 1), sealed, bytes(32))
    with pytest.raises(IntegrityError, match="not those that its header"):
        body.open_body(replace(header, root=bytes(32)), sealed, bytes(32))
    with pytest.raises(IntegrityError, match="not those that its header"):
        body.open_body(replace(header, count=header.count + 1), sealed, bytes(32))


@given(st.integers(0, 2**40))
def test_padding_is_bounded_and_stable(size):
    padded = body.padded_size(size)
    assert size <= padded <= size * 1.12 + 1
    assert body.padded_size(padded) == padded


def _seal_raw(plain, header):
    aad = body.additional_data(
        header.chain, header.seq, header.group, header.retention_class, header.dek, header.step
    )
    return bytes(12) + AESGCM(bytes(32)).encrypt(bytes(12), plain, aad)


@pytest.mark.parametrize(
    "defect", ["padding", "short", "no size", "bomb", "checksum", "two frames", "not zstd"]
)
def test_body_refuses_other_compressions(defect):
    payload = body.encode_payload(bytes(32), [], [])
    good = body.compressor().compress(payload)
    plain = {
        "padding": good.ljust(body.padded_size(len(good)) + 8, b"\0"),
        "short": good[:-1],
        "no size": zstandard.ZstdCompressor(write_content_size=False).compress(payload),
        "bomb": zstandard.ZstdCompressor().compress(bytes(17 * 2**20)),
        "checksum": zstandard.ZstdCompressor(write_checksum=True).compress(payload),
        "two frames": good + good,
        "not zstd": b"x" * 64,
    }[defect]
    header = statement.parse_block_header(_example_header().encode())
    with pytest.raises(FormatError):
        body.open_body(header, _seal_raw(plain, header), bytes(32))


def _example_header():
    return BlockHeader(
        kind=BlockKind.RECORDS,
        flags=Flags.NONE,
        chain=b"c" * 32,
        seq=3,
        prev=b"p" * 32,
        start=0,
        count=1,
        root=b"r" * 32,
        body=b"b" * 32,
        size=10,
        group=0,
        retention_class=0,
        dek=b"d" * 16,
        step=0,
        sealed_ns=1,
        monotonic_ns=1,
        boot=b"o" * 8,
        seen_size=0,
        seen_root=ZERO_DIGEST,
        next=KEY,
    )


def test_payload_limits():
    with pytest.raises(FormatError, match="manifest has at most"):
        body.encode_payload(bytes(32), [b"x" * (4 * 2**20)], [])
    with pytest.raises(FormatError, match="payload has at most"):
        body.encode_payload(bytes(32), [], [bytes(16 * 2**20)])
    with pytest.raises(FormatError, match="nonce"):
        body.seal(b"", bytes(32), b"short", b"", body.compressor())
    incompressible = hashlib.shake_256(b"x").digest(9 * 2**20)
    with pytest.raises(FormatError, match="seal fewer bytes"):
        body.seal(incompressible, bytes(32), bytes(12), b"", body.compressor())


def test_continued_pieces_are_one_record_without_line_feed():
    raw = b"a" * 10
    run = body.Run("s", b"/p", "f", 0, 10, 1, 0, more=True)
    payload = body.encode_payload(bytes(32), [run.encode()], [raw])
    assert body.parse_payload(payload).runs[0][0].more
    with pytest.raises(FormatError):
        body.parse_payload(body.encode_payload(bytes(32), [run.encode()], [b"aaaaa\naaaa"]))


def test_paths_in_base64_have_one_encoding():
    assert body.parse_run(body.Run("s", b"/\xff", "f", 0, 1, 1, 0).encode()).path == b"/\xff"
    line = body.Run("s", b"/\xff", "f", 0, 1, 1, 0).encode()
    for text in (b"!", base64.b64encode(b"/plain")):
        with pytest.raises(FormatError):
            body.parse_run(line.replace(base64.b64encode(b"/\xff"), text))


@given(st.lists(st.tuples(headers(), st.binary(max_size=50)), max_size=4))
def test_frames_round_trip(items):
    frames = []
    for header, sealed in items:
        encoded = header.encode()
        frames.append(frame.encode_frame(encoded, bytes(64), sealed))
        assert len(frames[-1]) == frame.frame_size(len(encoded), len(sealed))
    parsed = list(frame.parse_frames(b"".join(frames)))
    assert [item.encode() for item in parsed] == frames


def test_pack_limits():
    header = frame.PackHeader(0, 0, 1, ZERO_DIGEST, ZERO_DIGEST)
    with pytest.raises(FormatError):
        frame.encode_pack(header, [])
    with pytest.raises(FormatError):
        frame.encode_pack(header, [bytes(64 * 2**20)])
    with pytest.raises(FormatError):
        frame.parse_pack(bytes(64 * 2**20 + 1))
    assert frame.pack_key(frame.pack_digest(b"")) == f"packs/{EMPTY_ROOT.hex()}.pack"


@given(st.binary(min_size=32, max_size=32), st.integers(0, 40))
def test_ratchet_goes_forward_only(seed, steps):
    start = ratchet.Ratchet(5, seed)
    later = start.forward_to(5 + steps)
    assert ratchet.parse_seed_file(later.encode()) == later
    step = start
    for _ in range(steps):
        step = step.next()
    assert step == later
    if steps:
        with pytest.raises(IntegrityError) as caught:
            later.forward_to(5)
        assert caught.value.code == "rollback"


def test_ratchet_is_bounded():
    start = ratchet.Ratchet(0, bytes(32))
    with pytest.raises(IntegrityError, match="lags"):
        start.forward_to(ratchet.MAX_LAG + 1)
    with pytest.raises(FormatError):
        ratchet.Ratchet(2**63, bytes(32))
    with pytest.raises(FormatError):
        ratchet.Ratchet(0, b"short")
    with pytest.raises(FormatError):
        ratchet.heartbeat_message(b"", 0, bytes(32), bytes(32))


def test_heartbeat_is_bound_to_everything_it_says():
    key = ratchet.Ratchet(4, bytes(32))
    said = [b"c" * 32, 4, b"h" * 32, b"n" * 32]
    signature = key.heartbeat(said[0], said[2], said[3])
    ratchet.verify_heartbeat(key.public(), *said, signature)
    for at, other in enumerate([b"x" * 32, 5, b"x" * 32, b"x" * 32]):
        with pytest.raises(IntegrityError):
            ratchet.verify_heartbeat(key.public(), *said[:at], other, *said[at + 1 :], signature)
    with pytest.raises(IntegrityError):
        ratchet.verify_heartbeat(key.next().public(), *said, signature)


def test_data_keys_go_forward_only_and_are_bounded():
    key = datakey.DataKeyRatchet.start(bytes(32))
    assert key.forward_to(3) == key.next().next().next()
    with pytest.raises(FormatError):
        key.next().forward_to(0)
    with pytest.raises(LimitError):
        key.forward_to(65_536)
    with pytest.raises(LimitError):
        datakey.DataKeyRatchet(key.dek, 65_535, bytes(32)).next()
    with pytest.raises(FormatError):
        datakey.DataKeyRatchet(key.dek, 0, b"short")
    assert key.block_key(b"c" * 32, 1, ZERO_DIGEST) != key.block_key(b"c" * 32, 2, ZERO_DIGEST)


READER = envelope.ReaderKey(bytes(32))
CONTEXT = envelope.EnvelopeContext("acme", b"c" * 32, datakey.data_key_id(bytes(32)), 1, 2)


def test_envelope_opens_only_where_it_belongs():
    sealed = envelope.wrap(bytes(32), READER.recipient, CONTEXT)
    envelope.check_envelope(sealed)
    assert READER.unwrap(sealed, CONTEXT) == bytes(32)
    for other in (
        replace(CONTEXT, tenant="other"),
        replace(CONTEXT, chain=b"x" * 32),
        replace(CONTEXT, dek=b"x" * 16),
        replace(CONTEXT, group=9),
        replace(CONTEXT, retention_class=9),
    ):
        with pytest.raises(IntegrityError):
            READER.unwrap(sealed, other)
    with pytest.raises(IntegrityError):
        envelope.ReaderKey(b"o" * 32).unwrap(sealed, CONTEXT)
    wrong = envelope.wrap(b"k" * 32, READER.recipient, CONTEXT)
    with pytest.raises(IntegrityError, match="holds another key"):
        READER.unwrap(wrong, CONTEXT)
    with pytest.raises(FormatError):
        READER.unwrap(b"\0\0" + sealed[2:], CONTEXT)


@pytest.mark.parametrize("at", [0, 2, 3, 600, 1121, 1122, 1169])
def test_envelope_shows_any_change(at):
    sealed = bytearray(envelope.wrap(bytes(32), READER.recipient, CONTEXT))
    sealed[at] ^= 1
    with pytest.raises((IntegrityError, FormatError)):
        READER.unwrap(bytes(sealed), CONTEXT)


def test_keys_of_the_wrong_size_are_refused():
    with pytest.raises(FormatError):
        envelope.Recipient(b"short")
    with pytest.raises(FormatError):
        envelope.ReaderKey(b"short")
    with pytest.raises(FormatError):
        envelope.wrap(bytes(32), envelope.Recipient(b"\xff" * envelope.PUBLIC_KEY_BYTES), CONTEXT)


@given(st.sets(digests, min_size=1, max_size=5), texts, st.integers(0, 65_535), st.integers(0, 255))
def test_key_list_round_trip(keys, name, group, retention_class):
    listed = envelope.KeyList(
        name,
        group,
        retention_class,
        b"d" * 16,
        tuple((key, hashlib.sha256(key).digest()) for key in sorted(keys)),
    )
    assert envelope.parse_key_list(listed.encode()) == listed


@given(st.binary(max_size=40), st.integers(1, 9))
def test_wire_reads_what_it_wrote(data, size):
    reader = wire.Reader(wire.prefixed(data, 2) + wire.uint(7, size), "it")
    assert (reader.prefixed(2, 40), reader.uint(size)) == (data, 7)
    reader.finish()


def test_wire_refuses():
    with pytest.raises(FormatError):
        wire.uint(256, 1)
    with pytest.raises(FormatError):
        wire.uint(-1, 1)
    with pytest.raises(FormatError):
        wire.Reader(b"", "it").take(1)
    with pytest.raises(FormatError):
        wire.Reader(b"", "it").take(-1)
    with pytest.raises(FormatError):
        wire.Reader(b"\5abcde", "it").prefixed(1, 4)
    with pytest.raises(FormatError):
        wire.Reader(b"x", "it").finish()


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a" * 64, "a\n"])
def test_tenant_names_refused(name):
    with pytest.raises(FormatError):
        names.check_tenant(name)


@pytest.mark.parametrize("name", ["", ".a", "A", "a b", "a" * 254, "é"])
def test_agent_names_refused(name):
    with pytest.raises(FormatError):
        names.check_agent(name)


def test_digests_in_text_are_lower_case_hex():
    assert names.parse_digest("ab" * 32) == b"\xab" * 32
    assert names.parse_data_key_id("ab" * 16) == b"\xab" * 16
    for text in ("AB" * 32, "ab" * 31, "zz" * 32, "ab" * 32 + "\n"):
        with pytest.raises(FormatError):
            names.parse_digest(text)
    with pytest.raises(FormatError):
        names.parse_data_key_id("AB" * 16)


def test_notices():
    header = statement.encode_notice("hold", 2**60, KEY, {"who": "p-1"})
    parsed = statement.parse_statement(header + bytes(64))
    assert (parsed.type, parsed.time_ns, parsed.key_id) == ("hold", 2**60, statement.notice_key_id(KEY))
    assert parsed.entry == header + bytes(64)
    with pytest.raises(FormatError, match="set by its encoder"):
        statement.encode_notice("hold", 1, KEY, {"type": "x"})
    with pytest.raises(FormatError, match="at most"):
        statement.encode_notice("hold", 1, KEY, {"a": "x" * 20_000})
    with pytest.raises(IntegrityError):
        statement.verify_notice(parsed, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"boot": b"short"},
        {"seq": 2**64},
        {"genesis": None, "kind": BlockKind.GENESIS},
        {"kind": BlockKind.KEYS},
        {"count": 0},
        {"prev": ZERO_DIGEST},
    ],
)
def test_encoding_refuses_what_parsing_would(change):
    with pytest.raises(FormatError):
        replace(_example_header(), **change).encode()
