"""The head's codec: one encoding, parsed or refused with the one error."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.errors import FormatError
from duramen.names import Digest
from duramen_collector.register import (
    HEAD_MAX_BYTES,
    NO_BALLOT,
    Accepted,
    Ballot,
    Configuration,
    Head,
    Value,
    parse_head,
)

uints = st.integers(0, 2**63 - 1)
uuids = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=32, max_size=32).map(Digest)
ballots = st.builds(Ballot, st.integers(0, 2**53), uuids)
configurations = st.builds(
    lambda names, copies, epoch: Configuration(epoch, tuple(sorted(names)), min(copies, len(names))),
    st.sets(st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True), min_size=1, max_size=6),
    st.integers(1, 6),
    uints,
)
values = st.builds(
    lambda sizes, *rest: Value(max(sizes), rest[0], min(sizes), *rest[1:]),
    st.sets(uints, min_size=2, max_size=2),
    digests,
    digests,
    digests,
    configurations,
)


@st.composite
def heads(draw):
    promised = draw(ballots)
    accepted = None
    if draw(st.booleans()):
        accepted = Accepted(min(promised, draw(ballots)), draw(values))
    return Head(
        draw(st.text(max_size=80)),
        draw(st.sampled_from("abc")),
        draw(configurations),
        promised,
        accepted,
        draw(uuids),
    )


@given(heads())
def test_round_trip(head):
    assert parse_head(head.encode()) == head


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_raise_the_one_error(data):
    with pytest.raises(FormatError):
        parse_head(data)


@given(heads(), st.data())
def test_one_encoding_only(head, data):
    """A changed byte is refused, or is another head with that very encoding."""
    encoded = bytearray(head.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse_head(bytes(encoded))
    except FormatError:
        return
    assert parsed.encode() == bytes(encoded)
    assert parsed != head


CONFIGURATION = Configuration(1, ("a", "b"), 2)
VALUE = Value(5, Digest(b"r" * 32), 3, Digest(b"q" * 32), Digest(b"p" * 32), CONFIGURATION)
HEAD = Head("o", "a", CONFIGURATION, Ballot(2, b"u" * 16), Accepted(Ballot(1, b"v" * 16), VALUE), b"w" * 16)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"write": "00"},
        {"write": "AB" * 16},
        {"region": 1},
        {"promised": {"counter": -1, "uuid": "00" * 16}},
        {"promised": {"counter": str(2**53 + 1), "uuid": "00" * 16}},
        {"promised": {"counter": True, "uuid": "00" * 16}},
        {"promised": {"counter": 0, "uuid": "00" * 16}},  # below the accepted ballot
        {"configuration": {"epoch": 1, "k": 2, "regions": ["b", "a"]}},
        {"configuration": {"epoch": 1, "k": 2, "regions": ["a", "a"]}},
        {"configuration": {"epoch": 1, "k": 0, "regions": ["a"]}},
        {"configuration": {"epoch": 1, "k": 2, "regions": ["a"]}},
        {"configuration": {"epoch": 1, "k": 1, "regions": []}},
        {"configuration": {"epoch": 1, "k": 1, "regions": ["A"]}},
        {"configuration": {"epoch": 1, "k": 1, "regions": [1]}},
        {"configuration": {"epoch": 1, "k": 1, "regions": [f"r{n:02}" for n in range(17)]}},
        {"accepted": {}},
        {"accepted": 3},
    ],
)
def test_defects(change):
    fields = json.loads(HEAD.encode()) | change
    with pytest.raises(FormatError):
        parse_head(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("missing", ["log", "region", "configuration", "promised", "accepted", "write"])
def test_missing_fields(missing):
    fields = json.loads(HEAD.encode())
    del fields[missing]
    with pytest.raises(FormatError):
        parse_head(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def test_bounds():
    with pytest.raises(FormatError, match="at most"):
        parse_head(HEAD.encode() + b" " * HEAD_MAX_BYTES)
    with pytest.raises(FormatError, match="canonical"):
        parse_head(HEAD.encode() + b"\n")
    with pytest.raises(FormatError, match="longer"):
        parse_head(replace(HEAD, accepted=Accepted(Ballot(1, b"v" * 16), replace(VALUE, size=3))).encode())
    with pytest.raises(FormatError, match="promised"):
        replace(HEAD, promised=NO_BALLOT)


def test_order_of_ballots():
    ordered = [
        NO_BALLOT,
        Ballot(0, b"\1" * 16),
        Ballot(1, bytes(16)),
        Ballot(1, b"\1" * 16),
        Ballot(10, bytes(16)),
    ]
    assert sorted({*ordered}) == ordered
    assert str(Ballot(3, b"\xab" * 16)) == "3.abababab"
