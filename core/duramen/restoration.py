"""Files put together again from what was sealed of them.

A *generation* is one file as its agent followed it: agent, stream, path and the file's identity. Its runs,
in the order of their offsets, are its bytes. :class:`Restoration` takes the blocks of an audit, hands raw
bytes to a spool, and says at the end which bytes make up which file, which are missing (holes) and which
were sealed twice (overlaps: the run that was sealed first stands).

Nothing is believed here: the audit gives blocks only whose signatures, links, bodies and records hold, and
whoever writes files does so after it is known that the blocks are in the log
(:meth:`Restoration.keep_leaves`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from duramen.auditreport import BlockVisit
from duramen.merkle import leaf_hash


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file: ``size`` bytes at ``offset`` of it, kept at ``spooled`` in the spool."""

    offset: int
    size: int
    spooled: int
    leaf: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One file, as far as it was sealed."""

    agent: str
    stream: str
    path: bytes
    file: str
    pieces: tuple[Piece, ...]
    holes: tuple[tuple[int, int], ...]
    """(offset, size) of what is missing before, or between, the pieces."""
    overlaps: int
    """Bytes that were sealed more than once and not used."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return sum(piece.size for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files; None stands for all."""

    agent: str | None = None
    stream: str | None = None
    path: bytes | None = None


@dataclass(slots=True)
class _Parts:
    pieces: list[Piece] = field(default_factory=list)


class Restoration:
    """Collects the pieces of files; ``spool`` keeps bytes and returns where."""

    def __init__(self, selection: Selection, spool: Callable[[bytes], int]) -> None:
        self._selection = selection
        self._spool = spool
        self._parts: dict[tuple[str, str, bytes, str], _Parts] = {}
        self._leaves: dict[int, bytes] = {}

    def take(self, visit: BlockVisit) -> None:
        """Take a block of the audit, if its contents were opened."""
        if visit.payload is None or self._selection.agent not in (None, visit.agent):
            return
        for run, _, raw in visit.payload.runs:
            if self._selection.stream not in (None, run.stream) or self._selection.path not in (
                None,
                run.path,
            ):
                continue
            parts = self._parts.setdefault((visit.agent, run.stream, run.path, run.file), _Parts())
            parts.pieces.append(Piece(run.offset, len(raw), self._spool(raw), visit.leaf))
            self._leaves[visit.leaf] = leaf_hash(visit.block.entry)

    def keep_leaves(self, is_included: Callable[[int, bytes], bool]) -> int:
        """Drop what came from leaves that are not proven, by (leaf, leaf hash); how many there were."""
        dropped = {leaf for leaf, digest in self._leaves.items() if not is_included(leaf, digest)}
        for parts in self._parts.values():
            parts.pieces = [piece for piece in parts.pieces if piece.leaf not in dropped]
        return len(dropped)

    def generations(self) -> list[Generation]:
        """The files, in the order in which the log first speaks of them."""
        return [
            _generation(*identity, parts.pieces) for identity, parts in self._parts.items() if parts.pieces
        ]


def _generation(agent: str, stream: str, path: bytes, file: str, pieces: list[Piece]) -> Generation:
    kept: list[Piece] = []
    holes: list[tuple[int, int]] = []
    end = overlaps = 0
    for piece in sorted(pieces, key=lambda item: (item.offset, item.leaf, item.spooled)):
        skipped = min(max(end - piece.offset, 0), piece.size)
        overlaps += skipped
        if piece.offset > end:
            holes.append((end, piece.offset - end))
        if skipped < piece.size:
            kept.append(
                Piece(piece.offset + skipped, piece.size - skipped, piece.spooled + skipped, piece.leaf)
            )
            end = max(end, piece.offset + piece.size)
    return Generation(agent, stream, path, file, tuple(kept), tuple(holes), overlaps)
