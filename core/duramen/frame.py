"""Frames and packs: how statements travel and lie in regions with their bodies (DESIGN 5).

Frame: ``"DRMN" || u8 1 || u32 header length || header || signature(64) || u32 body length || body``. A
notice's body is empty.

Pack: ``"DRMP" || u8 1 || u8 class || u64 first leaf || u32 count || u64 tree size before || root before(32)
|| SHA-256 of the pack before(32)``, then ``count`` frames. Its key is its SHA-256. One class a pack;
notices and blocks without a data key
(genesis, empty) go with any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from duramen import wire
from duramen.errors import FormatError
from duramen.limits import BODY_MAX_BYTES, PACK_MAX_BYTES, STATEMENT_MAX_BYTES
from duramen.merkle import EMPTY_ROOT
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, Digest
from duramen.statement import SIGNATURE_BYTES, Block, Notice, Statement, parse_statement

FRAMES_MEDIA_TYPE: Final = "application/vnd.duramen.frames"
FRAME_OVERHEAD_BYTES: Final = 4 + 1 + 4 + 4
PACK_HEADER_BYTES: Final = 4 + 1 + 1 + 8 + 4 + 8 + 32 + 32

_FRAME_MAGIC: Final = b"DRMN\x01"
_PACK_MAGIC: Final = b"DRMP\x01"


@dataclass(frozen=True, slots=True)
class Frame:
    """A statement with its body; that the body is the one its header names is not checked here."""

    statement: Statement
    body: bytes

    def encode(self) -> bytes:
        """The frame's bytes."""
        return encode_frame(self.statement.header_bytes, self.statement.signature, self.body)


def encode_frame(header: bytes, signature: bytes, body: bytes) -> bytes:
    """A frame's bytes from its parts."""
    return b"".join(
        (_FRAME_MAGIC, wire.uint(len(header), 4), header, signature, wire.uint(len(body), 4), body)
    )


def frame_size(header_size: int, body_size: int) -> int:
    """The length of a frame in bytes."""
    return FRAME_OVERHEAD_BYTES + SIGNATURE_BYTES + header_size + body_size


def parse_frames(data: bytes, what: str = "a frame") -> Iterator[Frame]:
    """The frames in ``data``, one after the other to its last byte; FormatError at the first defect."""
    reader = wire.Reader(data, what)
    while reader.offset < len(data):
        yield _parse_frame(reader)


def _parse_frame(reader: wire.Reader) -> Frame:
    if reader.take(5) != _FRAME_MAGIC:
        raise FormatError("a frame begins with DRMN and version 1")
    statement = parse_statement(
        reader.prefixed(4, STATEMENT_MAX_BYTES - SIGNATURE_BYTES) + reader.take(SIGNATURE_BYTES)
    )
    body = reader.prefixed(4, BODY_MAX_BYTES)
    if isinstance(statement, Notice) and body:
        raise FormatError("a notice has no body")
    return Frame(statement, body)


@dataclass(frozen=True, slots=True)
class PackHeader:
    """What a pack says of itself before its frames."""

    retention_class: int
    first_leaf: int
    """Equal to the tree size before."""
    count: int
    root_before: Digest
    previous: Digest
    """SHA-256 of the pack before; zero for the first."""

    def encode(self) -> bytes:
        """The header's 90 bytes."""
        return b"".join(
            (
                _PACK_MAGIC,
                wire.uint(self.retention_class, 1),
                wire.uint(self.first_leaf, 8),
                wire.uint(self.count, 4),
                wire.uint(self.first_leaf, 8),
                self.root_before,
                self.previous,
            )
        )


@dataclass(frozen=True, slots=True)
class Pack:
    """A parsed pack."""

    header: PackHeader
    frames: tuple[Frame, ...]


def pack_digest(data: bytes) -> Digest:
    """A pack's name: SHA-256 of its bytes."""
    return Digest(hashlib.sha256(data).digest())


def pack_key(digest: Digest) -> str:
    """A pack's key below its tenant's prefix."""
    return f"packs/{digest.hex()}.pack"


def encode_pack(header: PackHeader, frames: Sequence[bytes]) -> bytes:
    """A pack's bytes from encoded frames."""
    data = b"".join((header.encode(), *frames))
    if len(frames) != header.count or not frames or len(data) > PACK_MAX_BYTES:
        raise FormatError(
            f"a pack holds the frames it counts, at least one, in at most {PACK_MAX_BYTES} bytes"
        )
    return data


def parse_pack_header(data: bytes) -> PackHeader:
    """The header at the start of a pack's bytes (90 are enough)."""
    reader = wire.Reader(data, "a pack")
    if reader.take(5) != _PACK_MAGIC:
        raise FormatError("a pack begins with DRMP and version 1")
    retention_class, first_leaf, count = reader.uint(1), reader.uint(8), reader.uint(4)
    if reader.uint(8) != first_leaf or not count or first_leaf + count >= 2**63:
        raise FormatError("a pack's first leaf is the tree size before it, and it counts at least one leaf")
    root_before, previous = Digest(reader.take(32)), Digest(reader.take(32))
    if (first_leaf == 0) != (root_before == EMPTY_ROOT) or (first_leaf == 0) != (previous == ZERO_DIGEST):
        raise FormatError("the first pack, and only it, begins with the empty root and no pack before it")
    return PackHeader(retention_class, first_leaf, count, root_before, previous)


def parse_pack(data: bytes) -> Pack:
    """A pack with its frames; FormatError unless every byte is accounted for."""
    if len(data) > PACK_MAX_BYTES:
        raise FormatError(f"a pack has at most {PACK_MAX_BYTES} bytes, not {len(data)}")
    header = parse_pack_header(data)
    frames = tuple(parse_frames(data[PACK_HEADER_BYTES:], "a pack"))
    if len(frames) != header.count:
        raise FormatError(f"the pack counts {header.count} frames and holds {len(frames)}")
    for frame in frames:
        statement = frame.statement
        if isinstance(statement, Block) and _class_of(statement) not in {None, header.retention_class}:
            raise FormatError("a pack holds a block of another retention class than its own")
    return Pack(header, frames)


def _class_of(block: Block) -> int | None:
    """The retention class that a block demands of its pack: none without a data key (genesis, empty)."""
    return None if block.header.dek == ZERO_DATA_KEY_ID else block.header.retention_class
