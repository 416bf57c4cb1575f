"""The signing ratchet: one Ed25519 key a block, each replaced by the next (DESIGN 2.3).

``seed[i+1] = HKDF-SHA256(seed[i], info "duramen/ratchet/v1")``; the key that signs block i comes from
``HKDF-SHA256(seed[i], info "duramen/sign/v1")``. Block i names the public key of block i+1, so anyone
can follow the chain, and whoever steals seed[i+1] cannot sign block i again.

The seed lies in a file of one sector, overwritten in place after its block is durable. It may lag behind
the chain (:meth:`Ratchet.forward_to` derives the rest), and never lead it: that is a rolled-back chain.
What this does not do: erase copies that a snapshot or a journalling file system keeps of old sectors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from duramen import ed25519, wire
from duramen.errors import FormatError, IntegrityError
from duramen.kdf import derive
from duramen.names import ChainId, Digest, Seq

SEED_BYTES: Final = 32
SEED_FILE_BYTES: Final = 512
NONCE_BYTES: Final = 32
MAX_LAG: Final = 4096
"""How far a seed file may lag behind its chain before start-up refuses to derive forward."""

_MAGIC: Final = b"DRMS\x01"
_HEARTBEAT: Final = b"duramen/heartbeat/v1\n"


@dataclass(frozen=True, slots=True)
class Ratchet:
    """The signing state for block ``index``."""

    index: Seq
    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES or not 0 <= self.index < 2**63:
            raise FormatError("a ratchet is a 32-byte seed with an index below 2**63")

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(derive(self.seed, b"duramen/sign/v1"))

    def public(self) -> bytes:
        """The public key, 32 bytes, that verifies block ``index``."""
        return self._key().public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes, with the key of block ``index``."""
        return self._key().sign(message)

    def next(self) -> Ratchet:
        """The state for the block after."""
        return Ratchet(Seq(self.index + 1), derive(self.seed, b"duramen/ratchet/v1"))

    def forward_to(self, index: int) -> Ratchet:
        """The state for block ``index``; IntegrityError ``rollback`` when this seed is already past it."""
        if index < self.index:
            raise IntegrityError(
                f"the seed file is at block {self.index}, but the chain ends before block {index}: "
                "the spool was rolled back; move the state directory aside and enrol this host again as a "
                "replacement",
                code="rollback",
            )
        if index - self.index > MAX_LAG:
            raise IntegrityError(
                f"the seed file lags {index - self.index} blocks behind the chain, more than {MAX_LAG}: "
                "it was restored from an old copy; enrol this host again as a replacement",
                code="rollback",
            )
        state = self
        while state.index < index:
            state = state.next()
        return state

    def heartbeat(self, chain: ChainId, head: Digest, nonce: bytes) -> bytes:
        """Signature, 64 bytes, that says: ``head`` is the hash of block ``index - 1``, now."""
        return self.sign(heartbeat_message(chain, self.index, head, nonce))

    def encode(self) -> bytes:
        """The seed file: magic and version (5), index (8), seed (32), SHA-256 of those (32), zeros to 512."""
        head = _MAGIC + wire.uint(self.index, 8) + self.seed
        return (head + hashlib.sha256(head).digest()).ljust(SEED_FILE_BYTES, b"\0")


def parse_seed_file(data: bytes) -> Ratchet:
    """A ratchet from the bytes of a seed file; FormatError when torn, foreign or damaged."""
    if len(data) != SEED_FILE_BYTES:
        raise FormatError(f"a seed file has {SEED_FILE_BYTES} bytes, not {len(data)}")
    reader = wire.Reader(data, "the seed file")
    if reader.take(5) != _MAGIC:
        raise FormatError("the seed file does not begin with its magic and version")
    index, seed = reader.uint(8), reader.take(SEED_BYTES)
    if reader.take(32) != hashlib.sha256(data[: 5 + 8 + SEED_BYTES]).digest():
        raise FormatError("the checksum of the seed file does not match: it is torn or damaged")
    if any(data[reader.offset :]):
        raise FormatError("the seed file has bytes after its end")
    return Ratchet(Seq(index), seed)


def heartbeat_message(chain: ChainId, next_seq: int, head: Digest, nonce: bytes) -> bytes:
    """What a heartbeat signs.

    Domain, chain (32), next seq (8), hash of the head (32), collector's nonce (32).
    """
    if len(chain) != 32 or len(head) != 32 or len(nonce) != NONCE_BYTES:
        raise FormatError("a heartbeat names a chain, a head and a nonce of 32 bytes each")
    return _HEARTBEAT + chain + wire.uint(next_seq, 8) + head + nonce


def verify_heartbeat(
    public: bytes, chain: ChainId, next_seq: int, head: Digest, nonce: bytes, signature: bytes
) -> None:
    """Check a heartbeat under ``public``, the key that the head names as next; IntegrityError otherwise."""
    ed25519.verify(public, heartbeat_message(chain, next_seq, head, nonce), signature)
