import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.ed25519 import check_public, public_from_seed, sign, verify
from duramen.errors import FormatError, IntegrityError

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
L = 2**252 + 27742317777372353535851937790883648493


def add(a, b):
    """The complete addition law of RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = a, b
    both = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P
    return x, y


def times(scalar, point):
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def x_of(y):
    """A square root of (y^2 - 1) / (d y^2 + 1), or None (RFC 8032 section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return x if x * x % P == square else None


def encode(x, y):
    return (y | (x & 1) << 255).to_bytes(32, "little")


def torsion():
    """All eight points of small order: a point times L has no other part left."""
    found = set()
    y = 2
    while len(found) < 8:
        if (x := x_of(y)) is not None:
            point = times(L, (x, y))
            for count in range(8):
                found.add(times(count, point))
        y += 1
    return found


def test_every_point_of_small_order_is_refused():
    points = torsion()
    assert all(times(8, point) == (0, 1) for point in points)
    for point in points:
        with pytest.raises(FormatError, match="small order"):
            check_public(encode(*point))


def test_every_encoding_that_is_not_canonical_is_refused():
    for sign_bit in (0, 1 << 255):
        for y in range(P, 2**255):
            with pytest.raises(FormatError, match="canonical"):
                check_public((y | sign_bit).to_bytes(32, "little"))
        for y in (1, P - 1):  # x = 0 has no second sign
            with pytest.raises(FormatError):
                check_public((y | sign_bit).to_bytes(32, "little"))


def test_lengths_are_demanded():
    for size in (0, 31, 33):
        with pytest.raises(FormatError):
            check_public(bytes(size))
        with pytest.raises(FormatError):
            sign(bytes(size), b"")
        with pytest.raises(FormatError):
            public_from_seed(bytes(size))
    public = public_from_seed(bytes(32))
    for size in (0, 63, 65):
        with pytest.raises(IntegrityError):
            verify(public, b"", bytes(size))


def test_rfc_8032_test_2():
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert public_from_seed(seed) == public
    assert sign(seed, b"\x72") == signature
    verify(public, b"\x72", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50), st.integers(0, 511))
def test_a_flipped_bit_is_found(seed, message, bit):
    public, signature = public_from_seed(seed), sign(seed, message)
    verify(public, message, signature)
    bad = (int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little")
    with pytest.raises(IntegrityError) as caught:
        verify(public, message, bad)
    assert caught.value.code == "signature_invalid"
    with pytest.raises(IntegrityError):
        verify(public, message + b"x", signature)


def test_a_signature_has_no_second_form():
    seed = bytes(range(32))
    signature = sign(seed, b"message")
    raised = int.from_bytes(signature[32:], "little") + L
    with pytest.raises(IntegrityError):
        verify(public_from_seed(seed), b"message", signature[:32] + raised.to_bytes(32, "little"))


def test_a_key_that_is_no_point_verifies_nothing():
    y = next(y for y in range(2, 100) if x_of(y) is None)
    with pytest.raises(IntegrityError):
        verify(y.to_bytes(32, "little"), b"", bytes(64))
