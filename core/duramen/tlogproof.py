"""C2SP tlog-proof: one file that proves, offline, that an entry is in a log.

It carries the entry's index, the inclusion proof and the checkpoint note; not the entry itself. The
optional extra data is authenticated by nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from duramen.checkpoint import LogKeys, SignedCheckpoint, open_checkpoint
from duramen.errors import FormatError
from duramen.limits import NOTE_MAX_BYTES
from duramen.merkle import HASH_BYTES, SIZE_LIMIT, leaf_hash, verify_inclusion
from duramen.note import encode_base64, parse_base64, parse_note
from duramen.policy import Policy

PROOF_MAX_HASHES: Final = 63
"""The height of the largest tree."""
EXTRA_MAX_BYTES: Final = 64 * 1024
"""Extra data, decoded."""

_HEADER: Final = "c2sp.org/tlog-proof@v1"
_TEXT_MAX_BYTES: Final = EXTRA_MAX_BYTES * 2 + NOTE_MAX_BYTES + 8192
_DECIMAL: Final = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlogProof:
    """Leaf index, inclusion proof from the leaf's sibling up, checkpoint note, extra data or None."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint_note: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < SIZE_LIMIT:
            raise FormatError(f"a proof's index is between 0 and 2**63 - 1, not {self.index}")
        if len(self.hashes) > PROOF_MAX_HASHES or any(len(item) != HASH_BYTES for item in self.hashes):
            raise FormatError(f"a proof has at most {PROOF_MAX_HASHES} hashes of {HASH_BYTES} bytes")
        if self.extra is not None and len(self.extra) > EXTRA_MAX_BYTES:
            raise FormatError(f"a proof's extra data has at most {EXTRA_MAX_BYTES} bytes")
        parse_note(self.checkpoint_note)

    def encode(self) -> bytes:
        """The file's bytes."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines += [encode_base64(item) for item in self.hashes]
        return "\n".join(lines).encode("ascii") + b"\n\n" + self.checkpoint_note


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read a proof file; anything that :meth:`TlogProof.encode` would not write is a FormatError."""
    if len(data) > _TEXT_MAX_BYTES:
        raise FormatError(f"the proof has {len(data)} bytes; at most {_TEXT_MAX_BYTES} are allowed")
    head, blank, note = data.partition(b"\n\n")
    try:
        header, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("the proof is not in ASCII above its checkpoint") from error
    if header != _HEADER or not blank:
        raise FormatError(f"this is not a proof: it does not begin with {_HEADER}, or ends early")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = parse_base64(lines.pop(0).removeprefix("extra "), "the proof's extra data")
    index = lines.pop(0) if lines else ""
    if not index.startswith("index ") or not _DECIMAL.fullmatch(index.removeprefix("index ")):
        raise FormatError("the proof has no valid index line")
    hashes = tuple(parse_base64(line, "a hash of the proof") for line in lines)
    return TlogProof(int(index.removeprefix("index ")), hashes, note, extra)


def verify_tlog_proof(
    proof: TlogProof, entry: bytes, keys: LogKeys, policy: Policy | None = None
) -> SignedCheckpoint:
    """Demand that ``entry`` is in the log with these keys; returns the checkpoint that says so.

    Raises what :func:`duramen.checkpoint.open_checkpoint` raises, and IntegrityError ``tree_mismatch``.
    """
    signed = open_checkpoint(proof.checkpoint_note, keys, policy)
    checkpoint = signed.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return signed
