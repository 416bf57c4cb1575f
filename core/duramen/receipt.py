"""Receipts: what lets an agent delete blocks from its spool (DESIGN 7).

A receipt names one checkpoint, proves the inclusion of consecutive statements of one chain under it, and
proves that it is consistent with the checkpoint that the agent held before. It proves that the collector
has committed to these statements before everyone; that the bodies lie in k regions is the collector's
signed promise.

It travels as JSON: ``{"checkpoint": note, "consistency": [hash...], "first": seq, "old_size": n, "proofs":
[[index, hash...]...]}``, hashes in base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from duramen import canonical
from duramen.checkpoint import LogKeys, SignedCheckpoint, open_checkpoint
from duramen.errors import FormatError, IntegrityError
from duramen.limits import NOTE_MAX_BYTES
from duramen.merkle import leaf_hash, verify_consistency, verify_inclusion
from duramen.names import Digest, Seq
from duramen.policy import Policy

MAX_STATEMENTS: Final = 1024
"""Statements that one receipt may cover."""
_MAX_HASHES: Final = 2 * 64


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Where one statement lies in the tenant log, and the path to the root."""

    index: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """For the statements ``first`` .. ``first + len(proofs) - 1`` of one chain."""

    checkpoint: bytes
    """The signed note."""
    old_size: int
    """Size of the checkpoint that ``consistency`` starts from; 0 when the agent held none."""
    consistency: tuple[bytes, ...]
    first: Seq
    proofs: tuple[InclusionProof, ...]

    def to_json(self) -> canonical.Json:
        """The receipt as JSON values."""
        return {
            "checkpoint": self.checkpoint.decode(),
            "consistency": [_text(item) for item in self.consistency],
            "first": canonical.wide(self.first),
            "old_size": canonical.wide(self.old_size),
            "proofs": [[canonical.wide(proof.index), *map(_text, proof.hashes)] for proof in self.proofs],
        }


def parse_receipt(value: canonical.Json) -> Receipt:
    """A receipt from JSON values; FormatError otherwise."""
    fields = canonical.Fields(value, "a receipt")
    receipt = Receipt(
        checkpoint=fields.text("checkpoint", NOTE_MAX_BYTES).encode(),
        old_size=fields.uint("old_size", 2**63 - 1),
        consistency=tuple(_hash(item) for item in fields.items("consistency", _MAX_HASHES)),
        first=Seq(fields.uint("first", 2**63 - 1)),
        proofs=tuple(_parse_proof(item) for item in fields.items("proofs", MAX_STATEMENTS)),
    )
    fields.finish()
    return receipt


def verify_receipt(
    receipt: Receipt,
    statements: Sequence[bytes],
    keys: LogKeys,
    seen_size: int,
    seen_root: Digest,
    policy: Policy | None = None,
) -> SignedCheckpoint:
    """Check all that a receipt for ``statements`` (bytes, in chain order) claims; return its checkpoint.

    ``seen_size`` and ``seen_root`` are the checkpoint that this agent verified last (0 before the first).
    IntegrityError with code ``checkpoint_invalid``, ``below_policy``, ``checkpoint_rollback``,
    ``equivocation`` or ``tree_mismatch``.
    """
    signed = open_checkpoint(receipt.checkpoint, keys, policy)
    checkpoint = signed.checkpoint
    if checkpoint.size < seen_size:
        raise IntegrityError(
            f"the collector shows a tenant log of {checkpoint.size} statements after one of {seen_size}",
            code="checkpoint_rollback",
        )
    if receipt.old_size != seen_size:
        raise FormatError(f"the receipt proves consistency from {receipt.old_size}, not from {seen_size}")
    if len(receipt.proofs) != len(statements):
        raise FormatError(f"the receipt proves {len(receipt.proofs)} statements, not {len(statements)}")
    _check_consistency(receipt, checkpoint.size, checkpoint.root, seen_size, seen_root)
    last = -1
    for proof, statement in zip(receipt.proofs, statements, strict=True):
        if proof.index <= last:
            raise IntegrityError("the tenant log holds this chain's statements out of order", code="order")
        last = proof.index
        verify_inclusion(leaf_hash(statement), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return signed


def _check_consistency(receipt: Receipt, size: int, root: bytes, seen_size: int, seen_root: Digest) -> None:
    if seen_size == 0:
        if receipt.consistency:
            raise FormatError("a receipt from an empty log carries no consistency proof")
        return
    try:
        verify_consistency(seen_size, seen_root, size, root, receipt.consistency)
    except IntegrityError as error:
        raise IntegrityError(
            f"the collector's tenant log of {size} statements does not continue the one of {seen_size} "
            "that this agent verified: two histories are being shown",
            code="equivocation",
        ) from error


def _parse_proof(value: canonical.Json) -> InclusionProof:
    if not isinstance(value, list) or not 1 <= len(value) <= 1 + _MAX_HASHES:
        raise FormatError("an inclusion proof is an index with at most 128 hashes")
    index = canonical.Fields({"index": value[0]}, "an inclusion proof").uint("index", 2**63 - 1)
    return InclusionProof(index, tuple(_hash(item) for item in value[1:]))


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _hash(value: canonical.Json) -> bytes:
    try:
        digest = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("a proof holds something else than base64 hashes") from error
    if len(digest) != 32 or _text(digest) != value:
        raise FormatError("a proof holds something else than base64 of 32 bytes")
    return digest
