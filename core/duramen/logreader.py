"""Reading a stored log, and finding every byte of it that is wrong.

:func:`check_log` reads the checkpoint, every entry bundle and every hash tile that the checkpoint's size
requires, recomputes all hashes, and lists all defects it finds. Entries are opaque bytes here. If the list
is empty, the entries handed to the visitor are exactly those that the checkpoint commits to.

Authority runs from the top: the checkpoint's root proves the tiles of the right edge, each proven tile
proves the full tiles below it, a proven level-0 tile proves its bundle. So a wrong tile is named itself,
and what lies below is not blamed for it: the hashes that a missing or wrong tile should hold are recomputed
from below, and if they give what was expected they take its place. Only where neighbours in the tree are
damaged in the same place can it stay open which of them is wrong; then the report says so,
and nothing below is taken for proven.

The walk goes from left to right and keeps one tile a level and one bundle in memory; what it recomputes, it
reads again. The log's key holder decides the size, so the number of defects is bounded: past
``defects_max`` the walk stops and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import Final, TypeAlias

from duramen.checkpoint import Checkpoint, SignedCheckpoint
from duramen.errors import FormatError, IntegrityError, StorageError
from duramen.merkle import combine, leaf_hash, range_nodes, root_of
from duramen.ports import ObjectReader
from duramen.tiles import TILE_HEIGHT, TILE_WIDTH, TilePath, edge_paths, parse_entries, parse_tile

DEFECTS_MAX: Final = 10_000

_OPEN: Final = "and it stays open which of the two is wrong"

EntryVisitor: TypeAlias = Callable[[int, bytes], None]
CheckpointOpener: TypeAlias = Callable[[bytes], SignedCheckpoint]


@dataclass(frozen=True, slots=True)
class LogDefect:
    """One object that is wrong.

    ``index_range`` is the half-open range of the entries concerned (an entry itself may still be good),
    ``code`` a finding code: ``checkpoint_invalid``, ``below_policy``, ``replica_missing`` (no such object),
    ``replica_corrupt`` (not of its format), ``tree_mismatch`` (not what the tree says).
    """

    path: str
    index_range: tuple[int, int]
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """What :func:`check_log` found; ``signed`` is None without a valid checkpoint; then nothing was read.

    ``entries`` is how many entries were read and given to the visitor. ``is_complete`` is False when the walk
    stopped at its bound of defects.
    """

    signed: SignedCheckpoint | None
    entries: int
    defects: tuple[LogDefect, ...]
    is_complete: bool

    @property
    def is_sound(self) -> bool:
        """Whether the whole log was read and is what its checkpoint says."""
        return self.signed is not None and self.is_complete and not self.defects


class ObjectTileReader:
    """A :class:`duramen.tiles.TileReader` over an object reader, below ``prefix``."""

    __slots__ = ("_prefix", "_reader")

    def __init__(self, reader: ObjectReader, prefix: str = "") -> None:
        self._reader = reader
        self._prefix = prefix

    def read(self, path: TilePath) -> bytes:
        """The bytes of a tile; StorageError when it is absent."""
        key = self._prefix + path.path()
        data = self._reader.read(key)
        if data is None:
            raise StorageError(f"the log has no object {key}; repair it from another copy")
        return data


def check_log(
    reader: ObjectReader,
    open_checkpoint: CheckpointOpener,
    prefix: str = "",
    *,
    on_entry: EntryVisitor | None = None,
    defects_max: int = DEFECTS_MAX,
) -> LogReport:
    """Check the whole log below ``prefix`` (which ends in a slash unless it is empty).

    ``open_checkpoint`` verifies the checkpoint's bytes against known keys; its FormatError and IntegrityError
    become defects. ``on_entry(index, entry)`` is called, in ascending order, for every entry the checkpoint
    proves; where the objects above an entry are too damaged for that, it is not called, and a defect covers
    the entry. Errors of the reader (StorageError) and of the visitor come through unchanged.
    """
    data = reader.read(prefix + "checkpoint")
    if data is None:
        return _no_checkpoint("replica_missing", "there is no checkpoint")
    try:
        signed = open_checkpoint(data)
    except IntegrityError as error:
        return _no_checkpoint(error.code, str(error))
    except FormatError as error:
        return _no_checkpoint("checkpoint_invalid", str(error))
    walk = _Walk(_Objects(reader, prefix), signed.checkpoint, on_entry, defects_max)
    try:
        walk.check()
    except _TooManyDefectsError:
        return LogReport(signed, walk.entries, tuple(walk.defects), is_complete=False)
    return LogReport(signed, walk.entries, tuple(walk.defects), is_complete=True)


class _Trust(Enum):
    """How far what stands above an object vouches for it."""

    PROVEN = auto()
    """The checkpoint's root leads here, hash by hash."""
    REFUTED = auto()
    """The root leads to the tile above, and neither that nor this is what should be there."""
    OPEN = auto()
    """Something above could not be proven: all that can be said is whether neighbours agree."""


class _TooManyDefectsError(Exception):
    """Ends the walk."""


class _Walk:
    """One pass over a log, depth first and left to right."""

    def __init__(
        self,
        objects: _Objects,
        checkpoint: Checkpoint,
        on_entry: EntryVisitor | None,
        defects_max: int,
    ) -> None:
        self._objects = objects
        self._checkpoint = checkpoint
        self._on_entry = on_entry
        self._defects_max = defects_max
        self.entries = 0
        self.defects: list[LogDefect] = []

    def check(self) -> None:
        """Prove the right edge by the checkpoint's root, and everything left of it by the edge."""
        edge = _edge_tiles(self._checkpoint.size)
        stored = [self._load_tile(path) for path in edge]
        proven = self._prove_edge(edge, stored)
        if proven is None:
            self._defect(
                "checkpoint",
                (0, self._checkpoint.size),
                "tree_mismatch",
                "neither the tiles of the right edge nor what is below them give the checkpoint's root",
            )
        for number, path in enumerate(edge):
            if proven is None:
                self._below(path, stored[number], _Trust.OPEN)
            else:
                self._compare_tile(path, stored[number], proven[number], _Trust.PROVEN)
                self._below(path, proven[number], _Trust.PROVEN)

    def _prove_edge(
        self, edge: Sequence[TilePath], stored: Sequence[list[bytes] | None]
    ) -> tuple[list[bytes], ...] | None:
        """The hashes of the edge's tiles that give the root: as stored, or else recomputed from below."""
        root = self._checkpoint.root
        whole = [hashes for hashes in stored if hashes is not None]
        if len(whole) == len(edge) and _edge_root(whole) == root:
            return tuple(whole)
        candidates = []
        for path, hashes in zip(edge, stored, strict=True):
            found = [] if hashes is None else [hashes]
            found += [other for other in self._recomputed(path, hashes) if other not in found]
            candidates.append(found)
        # At most eight tiles, and more than one candidate only where something is damaged.
        return next((choice for choice in product(*candidates) if _edge_root(choice) == root), None)

    def _full_tile(self, path: TilePath, wanted: bytes | None, trust: _Trust) -> None:
        """Check a full tile, and all below it, against the hash its parent has for it, if that is known."""
        stored = self._load_tile(path)
        if wanted is None:
            self._below(path, stored, _Trust.OPEN)
        elif stored is not None and root_of(stored) == wanted:
            self._below(path, stored, trust)
        else:
            recomputed = self._recomputed(path, stored)
            right = next((hashes for hashes in recomputed if root_of(hashes) == wanted), None)
            self._compare_tile(path, stored, right, trust)
            if right is not None:
                self._below(path, right, trust)
            else:
                self._below(path, stored, _Trust.REFUTED if trust is _Trust.PROVEN else _Trust.OPEN)

    def _below(self, path: TilePath, hashes: list[bytes] | None, trust: _Trust) -> None:
        """Check what is below a tile against the tile's hashes, if they are known."""
        if path.level == 0:
            self._bundle(path, hashes, trust)
            return
        if trust is _Trust.REFUTED:
            detail = "no entry below this tile can be proven"
            self._defect(path.path(), _entry_range(path), "tree_mismatch", detail)
            trust = _Trust.OPEN
        for offset, child in enumerate(_children(path)):
            self._full_tile(child, None if hashes is None else hashes[offset], trust)

    def _bundle(self, tile: TilePath, hashes: list[bytes] | None, trust: _Trust) -> None:
        """Check an entry bundle against its level-0 tile's hashes, and visit the entries that are proven."""
        path = TilePath(None, tile.index, tile.width)
        try:
            entries = self._objects.entries(path)
        except _DamagedError as error:
            self._defect(path.path(), _entry_range(path), error.code, error.detail)
            return
        if trust is _Trust.REFUTED:
            detail = "the bundle does not give the hash that the tree has for it"
            self._defect(path.path(), _entry_range(path), "tree_mismatch", detail)
            return
        first = tile.index * TILE_WIDTH
        wrong = []
        for offset, entry in enumerate(entries):
            if hashes is not None and leaf_hash(entry) != hashes[offset]:
                wrong.append(first + offset)
            elif trust is _Trust.PROVEN:
                self.entries += 1
                if self._on_entry is not None:
                    self._on_entry(first + offset, entry)
        if wrong:
            against = "the tree" if trust is _Trust.PROVEN else f"the level-0 tile, {_OPEN}"
            detail = f"{len(wrong)} entries of the bundle, from {wrong[0]} on, differ from {against}"
            self._defect(path.path(), (wrong[0], wrong[-1] + 1), "tree_mismatch", detail)

    def _recomputed(self, path: TilePath, stored: list[bytes] | None) -> Iterator[list[bytes]]:
        """What a tile's hashes may be, recomputed from the objects below it; reports nothing.

        First from the tiles right below; then with the damaged tile's own hashes for those missing there;
        then, where the two disagree or there is nothing to compare, from the entries themselves.
        """
        if path.level == 0:
            with suppress(_DamagedError):
                entries = self._objects.entries(TilePath(None, path.index, path.width))
                yield [leaf_hash(entry) for entry in entries]
            return
        children = _children(path)
        nearest = [self._tile_root(child) for child in children]
        yield from _complete(nearest)
        if stored is not None:
            yield from _complete([near or own for near, own in zip(nearest, stored, strict=True)])
        deepest: list[bytes | None] = []
        for offset, child in enumerate(children):
            near = nearest[offset]
            if near is None or stored is None or near != stored[offset]:
                near = self._entries_root(child) or near
            if near is None:
                return
            deepest.append(near)
        yield from _complete(deepest)

    def _tile_root(self, path: TilePath) -> bytes | None:
        """The hash of a full tile as it is stored."""
        try:
            return root_of(self._objects.hashes(path))
        except _DamagedError:
            return None

    def _entries_root(self, path: TilePath) -> bytes | None:
        """The hash of a full tile from the entries below it; a tile stands in where entries cannot be read.

        Ends at the first thing that cannot be had at all, so that a mostly missing log costs little.
        """
        if path.level == 0:
            try:
                return root_of(
                    [leaf_hash(entry) for entry in self._objects.entries(TilePath(None, path.index))]
                )
            except _DamagedError:
                return None
        hashes = []
        for child in _children(path):
            found = self._entries_root(child) or self._tile_root(child)
            if found is None:
                return None
            hashes.append(found)
        return root_of(hashes)

    def _load_tile(self, path: TilePath) -> list[bytes] | None:
        """A tile's hashes; a missing or malformed one is reported."""
        try:
            return self._objects.hashes(path)
        except _DamagedError as error:
            self._defect(path.path(), _entry_range(path), error.code, error.detail)
            return None

    def _compare_tile(
        self, path: TilePath, stored: list[bytes] | None, right: list[bytes] | None, trust: _Trust
    ) -> None:
        """Report a tile that is readable but not what it should be, as exactly as is known."""
        if stored is None or stored == right:
            return
        if right is None:
            detail = "neither the tile nor what is below it has the hash that its parent has for it"
            if trust is not _Trust.PROVEN:
                detail = f"{detail}, {_OPEN}"
            self._defect(path.path(), _entry_range(path), "tree_mismatch", detail)
            return
        wrong = [offset for offset in range(path.width) if stored[offset] != right[offset]]
        first, last = (path.index * TILE_WIDTH + offset for offset in (wrong[0], wrong[-1]))
        height = TILE_HEIGHT * (path.level or 0)
        self._defect(
            path.path(),
            (first << height, (last + 1) << height),
            "tree_mismatch",
            f"{len(wrong)} hashes of the tile, the first of them at {wrong[0]}, are not those of the tree",
        )

    def _defect(self, path: str, index_range: tuple[int, int], code: str, detail: str) -> None:
        if len(self.defects) >= self._defects_max:
            raise _TooManyDefectsError
        self.defects.append(LogDefect(path, index_range, code, detail))


class _DamagedError(Exception):
    """An object that is missing or not of its format."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Objects:
    """Tiles and bundles of one log, parsed; a full one stands in for a partial one that is gone."""

    def __init__(self, reader: ObjectReader, prefix: str) -> None:
        self._reader = reader
        self._prefix = prefix

    def hashes(self, path: TilePath) -> list[bytes]:
        """The hashes of a tile. Raises :class:`_DamagedError`."""
        return self._parsed(path, parse_tile)

    def entries(self, path: TilePath) -> list[bytes]:
        """The entries of a bundle. Raises :class:`_DamagedError`."""
        return self._parsed(path, parse_entries)

    def _parsed(self, path: TilePath, parse: Callable[[bytes, int], list[bytes]]) -> list[bytes]:
        found = path
        data = self._reader.read(self._prefix + path.path())
        if data is None and path.is_partial:
            found = path.full()
            data = self._reader.read(self._prefix + found.path())
        if data is None:
            raise _DamagedError("replica_missing", "the checkpoint requires this object, and it is not there")
        try:
            return parse(data, found.width)[: path.width]
        except FormatError as error:
            what = "" if found is path else "the full one that stands in for it: "
            raise _DamagedError("replica_corrupt", f"{what}{error}") from error


def _edge_tiles(size: int) -> list[TilePath]:
    """The partial hash tiles, highest level (leftmost entries) first."""
    return [path for path in reversed(edge_paths(size)) if path.level is not None]


def _edge_root(tiles: Iterable[list[bytes]]) -> bytes:
    """The root that the hashes of the edge's tiles give, highest level first."""
    nodes = []
    for hashes in tiles:
        for node in range_nodes(0, len(hashes)):
            start = node.index << node.level
            nodes.append(root_of(hashes[start : start + (1 << node.level)]))
    return combine(nodes)


def _children(path: TilePath) -> list[TilePath]:
    """The full tiles below a tile of level 1 or higher, one for each of its hashes."""
    first = path.index * TILE_WIDTH
    return [TilePath((path.level or 0) - 1, first + offset) for offset in range(path.width)]


def _entry_range(path: TilePath) -> tuple[int, int]:
    """The entries that a tile or bundle covers."""
    height = TILE_HEIGHT * (path.level or 0)
    first = path.index * TILE_WIDTH
    return first << height, (first + path.width) << height


def _complete(hashes: Sequence[bytes | None]) -> Iterator[list[bytes]]:
    """The list itself if nothing in it is missing."""
    found = [item for item in hashes if item is not None]
    if len(found) == len(hashes):
        yield found


def _no_checkpoint(code: str, detail: str) -> LogReport:
    defect = LogDefect("checkpoint", (0, 0), code, detail)
    return LogReport(None, 0, (defect,), is_complete=False)
