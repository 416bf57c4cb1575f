"""The packs of a region held against the log's entries, frame by frame.

The entries are authority: they say which statement each frame must hold, and each statement says how long
its body is and what its hash is. So the exact layout of every pack is known but for the bodies' bytes, and
a damaged pack is read on past the damage: each wrong statement and body is named by its own leaf. Where the
bytes have shifted the rest of the pack is reported as one defect. One pack is in memory at a time.

Where an entry itself could not be read from its bundle, the pack gives it (:meth:`PackContents.entry_at`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from duramen import wire
from duramen.errors import FormatError
from duramen.frame import (
    PACK_HEADER_BYTES,
    PackHeader,
    encode_frame,
    pack_digest,
    pack_key,
    parse_frames,
    parse_pack_header,
)
from duramen.lineage import Report
from duramen.names import ZERO_DIGEST, Digest
from duramen.packs import PackSlot
from duramen.ports import ObjectReader
from duramen.region import PACKS_PREFIX
from duramen.statement import Block, Statement
from duramen.verdict import Code

_STATEMENT_OFFSET: Final = 9
"""Of a statement in its frame."""


@dataclass(slots=True)
class _OpenPack:
    key: str
    slot: PackSlot
    data: bytes
    header: PackHeader | None
    offset: int = PACK_HEADER_BYTES
    is_lost: bool = False
    """Whether what follows ``offset`` cannot be told apart."""
    is_reported: bool = False
    """Whether anything wrong with it has been reported."""


class PackContents:
    """The packs of one region, to be walked through leaf by leaf in ascending order."""

    def __init__(
        self,
        reader: ObjectReader,
        prefix: str,
        slots: Sequence[PackSlot],
        report: Report,
        *,
        reads_bodies: bool,
    ) -> None:
        self._reader = reader
        self._prefix = prefix
        self._slots = slots
        self._report = report
        self._reads_bodies = reads_bodies
        self._at = -1
        self._open: _OpenPack | None = None
        self.bytes = 0
        """Bytes of packs that were read."""

    def entry_at(self, leaf: int) -> bytes | None:
        """The entry that the pack at ``leaf`` holds there: not proven by anything.

        None if it cannot be read.
        """
        pack = self._pack_at(leaf)
        if pack is not None and not pack.data:
            self._fetch(pack, None)
        if pack is None or pack.is_lost:
            return None
        try:
            return next(parse_frames(pack.data[pack.offset :])).statement.entry
        except (FormatError, StopIteration):
            pack.is_lost = True
            self._corrupt(pack, leaf, None, f"the pack cannot be read from byte {pack.offset} on")
            return None

    def begins(self, leaf: int) -> bool:
        """Whether a pack begins at ``leaf``."""
        pack = self._pack_at(leaf)
        return pack is not None and pack.slot.first == leaf

    def lose(self, leaf: int) -> None:
        """Say that what lies at ``leaf`` is not known, so that the rest of its pack cannot be told apart."""
        pack = self._pack_at(leaf)
        if pack is not None:
            pack.is_lost = True

    def take(
        self, leaf: int, entry: bytes, statement: Statement | None, root_before: Digest | None
    ) -> bytes | None:
        """Check the frame of ``leaf``; its body if that is what the statement says, None otherwise.

        ``statement`` is what ``entry`` parses to, ``root_before`` the log's root before this leaf, where
        known. Without bodies to read, every answer is None and only absent packs are found.
        """
        pack = self._pack_at(leaf)
        if pack is None:
            return None
        block = statement if isinstance(statement, Block) else None
        if leaf == pack.slot.first and pack.slot.is_missing:
            self._missing(pack, leaf, block)
        if self._reads_bodies and not pack.data and not pack.is_lost:
            self._fetch(pack, block)
        if leaf == pack.slot.first and pack.data and not pack.is_lost:
            self._check_header(pack, block, root_before)
        return self._frame(pack, leaf, entry, block) if pack.data and not pack.is_lost else None

    def finish(self) -> None:
        """Close the last pack."""
        self._close()

    def _pack_at(self, leaf: int) -> _OpenPack | None:
        while self._open is None or leaf >= self._open.slot.end:
            self._close()
            if self._at + 1 >= len(self._slots):
                return None
            self._at += 1
            slot = self._slots[self._at]
            key = self._prefix + (pack_key(slot.digest) if slot.digest is not None else PACKS_PREFIX)
            self._open = _OpenPack(key, slot, b"", None, is_lost=slot.is_missing)
        return self._open

    def _missing(self, pack: _OpenPack, leaf: int, block: Block | None) -> None:
        named = "the pack" if pack.slot.digest is not None else "no pack"
        be = "is missing" if pack.slot.digest is not None else "is there"
        self._corrupt(
            pack,
            leaf,
            block,
            f"{named} with the leaves {leaf} to {pack.slot.end - 1} {be}",
            Code.REPLICA_MISSING,
        )

    def _fetch(self, pack: _OpenPack, block: Block | None) -> None:
        data = None if pack.is_lost else self._reader.read(pack.key)
        if data is None:
            if not pack.is_lost:
                pack.is_lost = True
                self._missing(pack, pack.slot.first, block)
            return
        pack.data = data
        self.bytes += len(data)
        try:
            pack.header = parse_pack_header(data)
        except FormatError:
            pack.header = None
        if len(data) < PACK_HEADER_BYTES:
            pack.is_lost = True
            self._corrupt(
                pack, pack.slot.first, block, f"the pack ends after {len(data)} bytes, in its header"
            )

    def _check_header(self, pack: _OpenPack, block: Block | None, root_before: Digest | None) -> None:
        header, slot = pack.header, pack.slot
        before = self._slots[self._at - 1].digest if self._at else ZERO_DIGEST
        wrong = (
            ["magic, version or leaf numbers"]
            if header is None
            else [
                name
                for name, is_wrong in (
                    ("first leaf", header.first_leaf != slot.first),
                    ("count", header.count != slot.end - slot.first),
                    ("root before", root_before is not None and header.root_before != root_before),
                    ("pack before", before is not None and header.previous != before),
                )
                if is_wrong
            ]
        )
        if wrong:
            self._corrupt(pack, slot.first, block, f"the pack's header is wrong: {', '.join(wrong)}")

    def _frame(self, pack: _OpenPack, leaf: int, entry: bytes, block: Block | None) -> bytes | None:
        size = block.header.size if block is not None else 0
        expected = encode_frame(entry[:-64], entry[-64:], b"")[:-4] + wire.uint(size, 4)
        start, end = pack.offset, pack.offset + len(expected)
        found = pack.data[start:end]
        if len(found) < len(expected) or len(pack.data) < end + size:
            pack.is_lost = True
            rest = f"the leaves {leaf} to {pack.slot.end - 1} are cut off"
            self._corrupt(pack, leaf, block, f"the pack ends after {len(pack.data)} bytes: {rest}")
            return None
        pack.offset = end + size
        if found != expected and not self._differs(pack, leaf, block, found, expected, len(entry)):
            return None
        body = pack.data[end : end + size]
        if block is None:
            return body
        if hashlib.sha256(body).digest() != block.header.body:
            self._corrupt(
                pack,
                leaf,
                block,
                f"the body of block {block.header.seq}, bytes {end} to {end + size - 1} of the pack, is not "
                "the one that its header names",
                Code.BODY_CORRUPT,
            )
            return None
        if (
            size
            and pack.header is not None
            and not pack.is_reported
            and pack.header.retention_class != block.header.retention_class
        ):
            self._corrupt(
                pack,
                pack.slot.first,
                None,
                "the pack's header is wrong: another retention class than its bodies'",
            )
        return body

    def _differs(
        self, pack: _OpenPack, leaf: int, block: Block | None, found: bytes, expected: bytes, entry_size: int
    ) -> bool:
        """Report what differs in a frame's statement and lengths; whether the frame can be read on."""
        wrong = [at for at, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
        place = f"from byte {pack.offset - (block.header.size if block else 0) - len(expected) + wrong[0]} on"
        if len(wrong) > len(expected) // 2:
            pack.is_lost = True
            self._corrupt(
                pack,
                leaf,
                block,
                f"the pack holds something else than the leaves {leaf} to {pack.slot.end - 1} {place}",
            )
            return False
        if any(_STATEMENT_OFFSET <= at < _STATEMENT_OFFSET + entry_size for at in wrong):
            self._corrupt(
                pack,
                leaf,
                block,
                f"the pack's statement differs from the log's entry {leaf} in {len(wrong)} bytes {place}",
                Code.HEADER_CORRUPT,
            )
        else:
            self._corrupt(pack, leaf, block, f"the frame of leaf {leaf} is damaged {place}")
        return True

    def _close(self) -> None:
        pack, self._open = self._open, None
        if pack is None or not pack.data or pack.is_lost:
            return
        if len(pack.data) > pack.offset:
            extra = len(pack.data) - pack.offset
            self._corrupt(pack, pack.slot.first, None, f"the pack has {extra} bytes after its end")
        if not pack.is_reported and pack_digest(pack.data) != pack.slot.digest:
            self._corrupt(pack, pack.slot.first, None, "the pack's bytes are not what its name says")

    def _corrupt(
        self,
        pack: _OpenPack,
        leaf: int,
        block: Block | None,
        detail: str,
        code: Code = Code.REPLICA_CORRUPT,
    ) -> None:
        pack.is_reported = True
        self._report(
            code,
            detail,
            key=pack.key,
            leaf=leaf,
            chain=block.chain if block is not None else None,
            seq=block.header.seq if block is not None else None,
        )
