"""Positions: how far each file generation has been sealed, as the spool keeps it.

A *generation* is one life of a file: from its creation (or truncation) to its truncation, or to the end of
what can still be read of it after it was renamed or unlinked. Device and inode find a file again after a
restart; they may be reused, so the position holds a fingerprint of the first bytes, too. It is keyed with a
key that lies in the same spool and is never sealed or sent: it keeps a guess from being confirmed by
whoever sees a position without the spool.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

FINGERPRINT_MAX_BYTES: Final = 1024
"""How many of a file's first bytes tell it from another file under the same inode."""
FINGERPRINT_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Position:
    """One generation, and what of it is sealed."""

    generation: int
    """Numbered by the agent, in one sequence for its whole chain."""
    stream: str
    path: bytes
    """Under which the generation was found first."""
    device: int
    inode: int
    offset: int
    """Everything before it is sealed."""
    size: int
    """Largest size in bytes at which the generation was seen."""
    head_size: int
    """How many first bytes ``head`` covers."""
    head: bytes
    """:func:`fingerprint` of the first bytes."""
    continuing: bool = False
    """Whether the last sealed bytes were a piece of an over-long line."""
    gone: bool = False
    """Nothing more will be read: the position is deleted instead of stored."""

    @property
    def file(self) -> str:
        """How manifests name the generation."""
        return f"{self.device:x}-{self.inode:x}-{self.generation}"


def fingerprint(key: bytes, head: bytes) -> bytes:
    """BLAKE2b, 16 bytes, keyed with ``key`` (32), of a file's first bytes."""
    return hashlib.blake2b(head, digest_size=_DIGEST_BYTES, key=key).digest()
