"""Key derivation: HKDF-SHA256 (RFC 5869) with an empty salt, 32 bytes out."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key: bytes, info: bytes) -> bytes:
    """32 bytes from ``key`` (32 bytes) for the purpose that ``info`` names."""
    return HKDF(SHA256(), 32, None, info).derive(key)
