"""The layout of a region: which key holds what, below ``<prefix>/<tenant>/`` (DESIGN 8).

Tile and entry paths are C2SP tlog-tiles' (:mod:`duramen.tiles`), packs are named in :mod:`duramen.frame`.
"""

from __future__ import annotations

from typing import Final

from duramen.names import DataKeyId, Digest

HEAD_KEY: Final = "head"
"""The deciding register of PROTOCOL.md."""
CHECKPOINT_KEY: Final = "checkpoint"
PACKS_PREFIX: Final = "packs/"
KEPT_CHECKPOINTS_PREFIX: Final = "checkpoints/"
ENVELOPES_PREFIX: Final = "envelopes/"
"""Beside the tenants: envelopes live apart from what they open."""


def kept_checkpoint_key(size: int) -> str:
    """Where the hourly checkpoint of ``size`` is kept."""
    return f"{KEPT_CHECKPOINTS_PREFIX}{size}"


def envelope_key(tenant: str, dek: DataKeyId, key_hash: Digest) -> str:
    """Where the envelope of ``dek`` for one reader lies, below the region's prefix."""
    return f"{ENVELOPES_PREFIX}{tenant}/{dek.hex()}/{key_hash.hex()}"
