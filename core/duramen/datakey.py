r"""Data keys and the block keys that come from them (DESIGN 4.1).

``ck[0] = DEK``; block key ``BK = HKDF(ck, "duramen/body-key/v1\n" || chain || seq || root)``; then ``ck <-
HKDF(ck, "duramen/dek-next/v1")`` and ``step + 1``. After a block is sealed its key, the old ck and the DEK
exist nowhere on the host: what was sealed cannot be read there again. A reader unwraps the DEK from an
envelope and walks the same steps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from duramen import wire
from duramen.errors import FormatError, LimitError
from duramen.kdf import derive
from duramen.limits import RATCHET_MAX_STEPS
from duramen.names import ChainId, DataKeyId, Digest

DATA_KEY_BYTES: Final = 32


def data_key_id(dek: bytes) -> DataKeyId:
    r"""``SHA-256("duramen/dek/v1\n" || DEK)[:16]``: names a data key without telling it."""
    return DataKeyId(hashlib.sha256(b"duramen/dek/v1\n" + dek).digest()[:16])


@dataclass(frozen=True, slots=True)
class DataKeyRatchet:
    """The state of one data key after ``step`` blocks were sealed under it."""

    dek: DataKeyId
    step: int
    chaining_key: bytes

    def __post_init__(self) -> None:
        if len(self.chaining_key) != DATA_KEY_BYTES or len(self.dek) != 16:
            raise FormatError("a data key has 32 bytes and an id of 16")
        if not 0 <= self.step <= RATCHET_MAX_STEPS:
            raise LimitError(f"a data key is ratcheted at most {RATCHET_MAX_STEPS} times; start a new one")

    @classmethod
    def start(cls, dek: bytes) -> DataKeyRatchet:
        """The first state of the data key ``dek`` (32 random bytes)."""
        return cls(data_key_id(dek), 0, dek)

    def block_key(self, chain: ChainId, seq: int, root: Digest) -> bytes:
        """The AES-256 key, 32 bytes, of the block ``seq`` with record root ``root`` at this step."""
        return derive(self.chaining_key, b"duramen/body-key/v1\n" + chain + wire.uint(seq, 8) + root)

    def next(self) -> DataKeyRatchet:
        """The state after one block; the old one must be forgotten."""
        return DataKeyRatchet(self.dek, self.step + 1, derive(self.chaining_key, b"duramen/dek-next/v1"))

    def forward_to(self, step: int) -> DataKeyRatchet:
        """The state at a later ``step``; FormatError for one that has passed, LimitError past the limit."""
        if step < self.step:
            raise FormatError(f"the data key is at step {self.step} and does not go back to {step}")
        if step > RATCHET_MAX_STEPS:
            raise LimitError(f"a data key is ratcheted at most {RATCHET_MAX_STEPS} times, not {step}")
        state = self
        while state.step < step:
            state = state.next()
        return state
