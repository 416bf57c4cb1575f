"""The reader of fixed layouts: everything written is read back, everything else is one FormatError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen import wire
from duramen.errors import FormatError

fields = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.binary(max_size=200)), max_size=6)


def encode(pieces):
    return b"".join(wire.prefixed(data, size) for size, data in pieces)


def decode(data, sizes, limit=255):
    reader = wire.Reader(data, "a message")
    pieces = [(size, reader.prefixed(size, limit)) for size in sizes]
    reader.finish()
    return pieces


@given(fields)
def test_what_was_written_is_read_back(pieces):
    assert decode(encode(pieces), [size for size, _ in pieces]) == pieces


@given(fields.filter(len), st.data())
def test_every_truncation_is_refused(pieces, data):
    encoded = encode(pieces)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(FormatError):
        decode(encoded[:cut], [size for size, _ in pieces])


@given(fields, st.binary(min_size=1, max_size=10))
def test_every_extension_is_refused(pieces, extra):
    with pytest.raises(FormatError, match=f"has {len(extra)} bytes after its end"):
        decode(encode(pieces) + extra, [size for size, _ in pieces])


@given(st.binary(max_size=64), st.lists(st.sampled_from([1, 2, 4, 8]), max_size=4))
def test_any_bytes_parse_or_raise_the_one_error(data, sizes):
    try:
        pieces = decode(data, sizes)
    except FormatError:
        return
    assert encode(pieces) == data


def test_a_length_past_its_limit_is_refused_before_the_field_is_read():
    with pytest.raises(FormatError, match="field of 256 bytes; at most 255"):
        decode((256).to_bytes(4, "big"), [4])


def test_a_negative_count_moves_nothing():
    reader = wire.Reader(b"abc", "a message")
    reader.take(2)
    with pytest.raises(FormatError):
        reader.take(-1)
    assert reader.offset == 2
    assert reader.take(1) == b"c"


@given(st.integers(0, 2**64 - 1))
def test_integers_are_big_endian(value):
    encoded = wire.uint(value, 8)
    assert encoded == value.to_bytes(8, "big")
    assert wire.Reader(encoded, "a number").uint(8) == value


@pytest.mark.parametrize(("value", "size"), [(256, 1), (-1, 4), (2**64, 8)])
def test_a_number_that_does_not_fit_is_refused(value, size):
    with pytest.raises(FormatError, match="does not fit"):
        wire.uint(value, size)


def test_data_longer_than_its_prefix_can_say_is_refused():
    with pytest.raises(FormatError):
        wire.prefixed(bytes(256), 1)
