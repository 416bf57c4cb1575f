"""Ed25519 (RFC 8032) with the checks that the library leaves out.

OpenSSL verifies without the cofactor and refuses S >= L, but takes any 32 bytes for a public key. Under a
key of small order a signature can be made that holds for many messages, and a non-canonical encoding is a
second name for the same key; both are refused here, wherever a public key enters. An encoding that is no
point of the curve at all passes :func:`check_public` and then verifies nothing.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from duramen.errors import FormatError, IntegrityError

PUBLIC_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_P: Final = 2**255 - 19
# The points of order 1, 2, 4 and 8, by y. On -x^2 + y^2 = 1 + d x^2 y^2: the neutral element is (0, 1);
# order 2 has x = 0, so y = -1; doubling to (0, -1) takes y = 0; doubling to y = 0 takes x^2 = -y^2, which
# leaves d y^4 + 2 y^2 - 1 = 0 with two roots that are squares' roots, +-_Y8. Every y stands for both signs
# of x.
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def check_public(public: bytes) -> None:
    """Refuse, with a FormatError, a public key that is not 32 bytes, not canonical, or of small order."""
    if len(public) != PUBLIC_BYTES:
        raise FormatError(f"an Ed25519 public key has {PUBLIC_BYTES} bytes, not {len(public)}")
    y = int.from_bytes(public, "little") & (1 << 255) - 1
    if y >= _P:
        raise FormatError("the Ed25519 public key is not in its canonical encoding; make a new key")
    if y in _SMALL_ORDER_Y:  # includes x = 0 with the sign bit set, the other non-canonical encodings
        raise FormatError("the Ed25519 public key is a point of small order; make a new key")


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Demand a valid signature; raises IntegrityError (``signature_invalid``), FormatError for a bad key."""
    check_public(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise IntegrityError("the Ed25519 signature does not hold", code="signature_invalid") from error


def public_from_seed(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte seed (RFC 8032 section 5.1.5)."""
    return _private(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte signature; deterministic."""
    return _private(seed).sign(message)


def _private(seed: bytes) -> Ed25519PrivateKey:
    if len(seed) != SEED_BYTES:
        raise FormatError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
    return Ed25519PrivateKey.from_private_bytes(seed)
