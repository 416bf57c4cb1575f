"""Names and numbers with a meaning of their own, so that one cannot stand where another belongs."""

from __future__ import annotations

import re
from typing import Final, NewType

from duramen.errors import FormatError

Seq = NewType("Seq", int)
"""Position of a block in its chain, from 0 without gaps."""
Digest = NewType("Digest", bytes)
"""A SHA-256 digest, 32 bytes."""
ChainId = NewType("ChainId", bytes)
"""Hash of a chain's genesis statement, 32 bytes."""
DataKeyId = NewType("DataKeyId", bytes)
"""First 16 bytes of a domain-separated hash of a data key."""

DIGEST_BYTES: Final = 32
ZERO_DIGEST: Final = Digest(bytes(32))
ZERO_DATA_KEY_ID: Final = DataKeyId(bytes(16))

_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_AGENT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,252}")


def check_tenant(name: str) -> str:
    """``name`` if it is a tenant name: ``[a-z0-9][a-z0-9-]{0,62}``; FormatError otherwise."""
    if not _TENANT.fullmatch(name):
        raise FormatError(
            f"{name!r} is not a tenant name: 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
        )
    return name


def check_agent(name: str) -> str:
    """``name`` if it is an agent name: ``[a-z0-9][a-z0-9._-]{0,252}``; FormatError otherwise."""
    if not _AGENT.fullmatch(name):
        raise FormatError(
            f"{name!r} is not an agent name: 1 to 253 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name


def parse_digest(text: str) -> Digest:
    """A digest from its text form: exactly 64 lower-case hex digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise FormatError("a digest is written as 64 lower-case hex digits")
    return Digest(bytes.fromhex(text))


def parse_data_key_id(text: str) -> DataKeyId:
    """A data key id from its text form: exactly 32 lower-case hex digits."""
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise FormatError("a data key id is written as 32 lower-case hex digits")
    return DataKeyId(bytes.fromhex(text))
