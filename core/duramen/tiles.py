"""C2SP tlog-tiles: the names and bytes in which a log's tree and entries are stored.

A hash tile at level l holds up to 256 consecutive nodes of height 8 * l; an entry bundle holds the up to
256 entries under the level-0 tile of the same index. Only the rightmost tile of a level is partial, and its
width is part of its name, so every object is written once and never changes.

:func:`grow` and :func:`grow_entries` say what to write when a log gets longer; :class:`TileHashReader`
reads proofs back out. Neither trusts nor checks the tiles it is given beyond their length: a proof made of
wrong tiles fails at whoever verifies it, and :mod:`duramen.logreader` is what finds the wrong tile.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from duramen.errors import FormatError, StorageError, UsageError
from duramen.limits import STATEMENT_MAX_BYTES
from duramen.merkle import HASH_BYTES, SIZE_LIMIT, root_of
from duramen.wire import Reader, prefixed

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
LEVEL_MAX: Final = 63
"""The highest level that a path may name (C2SP tlog-tiles)."""
ENTRY_BUNDLE_MAX_BYTES: Final = TILE_WIDTH * (2 + STATEMENT_MAX_BYTES)
"""The largest object of a log; whoever reads from a place that is not trusted stops there."""
CACHE_TILES: Final = 64
"""Tiles that a :class:`TileHashReader` keeps: 64 * 8 KiB."""

_PATH: Final = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TilePath:
    """Which tile: level (None for an entry bundle), index within the level, width in hashes or entries."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= LEVEL_MAX:
            raise FormatError(f"a tile's level is between 0 and {LEVEL_MAX}, not {self.level}")
        if not 0 <= self.index < SIZE_LIMIT:
            raise FormatError(f"a tile's index is between 0 and 2**63 - 1, not {self.index}")
        if not 1 <= self.width <= TILE_WIDTH:
            raise FormatError(f"a tile's width is between 1 and {TILE_WIDTH}, not {self.width}")

    @property
    def is_partial(self) -> bool:
        """Whether fewer than 256 items are in it."""
        return self.width < TILE_WIDTH

    def full(self) -> TilePath:
        """The full tile that will replace, or has replaced, this one."""
        return TilePath(self.level, self.index)

    def path(self) -> str:
        """The name below the log's prefix, such as ``tile/0/x001/x234/067.p/5`` or ``tile/entries/000``."""
        index, digits = divmod(self.index, 1000)
        name = f"{digits:03}"
        while index:
            index, digits = divmod(index, 1000)
            name = f"x{digits:03}/{name}"
        level = "entries" if self.level is None else self.level
        suffix = f".p/{self.width}" if self.is_partial else ""
        return f"tile/{level}/{name}{suffix}"


def parse_tile_path(text: str) -> TilePath:
    """Read a name back; anything but the one that :meth:`TilePath.path` writes is a FormatError."""
    found = _PATH.fullmatch(text)
    if found is None:
        raise FormatError("this is not the name of a tile or an entry bundle")
    level, index, width = found.groups()
    path = TilePath(
        None if level == "entries" else int(level),
        int(index.replace("x", "").replace("/", "")),
        TILE_WIDTH if width is None else int(width),
    )
    if path.path() != text:  # leading x000 elements, a width of 256 spelled out
        raise FormatError("the name of a tile is not in its canonical form")
    return path


def tile_paths_for(old_size: int, new_size: int) -> list[TilePath]:
    """The entry bundles, then the hash tiles level by level, to write when a log grows.

    Full ones first within a level, the new partial one last. From ``old_size`` 0 these are all the objects
    that a checkpoint of ``new_size`` requires.
    """
    if not 0 <= old_size <= new_size < SIZE_LIMIT:
        raise UsageError(f"a log cannot grow from {old_size} to {new_size} entries")
    paths = _level_paths(None, old_size, new_size)
    level = 0
    while new_size:
        paths += _level_paths(level, old_size, new_size)
        old_size >>= TILE_HEIGHT
        new_size >>= TILE_HEIGHT
        level += 1
    return paths


def edge_paths(size: int) -> list[TilePath]:
    """The partial entry bundle, if any, and the partial hash tiles of a log: what growth needs."""
    if not 0 <= size < SIZE_LIMIT:
        raise UsageError(f"a log cannot have {size} entries")
    paths = []
    if size % TILE_WIDTH:
        paths.append(TilePath(None, size // TILE_WIDTH, size % TILE_WIDTH))
    level = 0
    while size:
        if size % TILE_WIDTH:
            paths.append(TilePath(level, size // TILE_WIDTH, size % TILE_WIDTH))
        size >>= TILE_HEIGHT
        level += 1
    return paths


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry behind its length in two bytes; at most 256 of at most 65,535 bytes."""
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise FormatError(f"an entry bundle holds 1 to {TILE_WIDTH} entries, not {len(entries)}")
    return b"".join([prefixed(entry, 2) for entry in entries])


def parse_entries(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` entries; missing ones, extra ones and trailing bytes are a FormatError."""
    if not 1 <= count <= TILE_WIDTH:
        raise FormatError(f"an entry bundle holds 1 to {TILE_WIDTH} entries, not {count}")
    reader = Reader(data, "the entry bundle")
    entries = [reader.prefixed(2, STATEMENT_MAX_BYTES) for _ in range(count)]
    reader.finish()
    return entries


def parse_tile(data: bytes, width: int) -> list[bytes]:
    """The ``width`` hashes of a tile; any other length is a FormatError."""
    if len(data) != width * HASH_BYTES:
        raise FormatError(f"a tile of {width} hashes has {width * HASH_BYTES} bytes, not {len(data)}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def grow(size: int, edge: Mapping[TilePath, bytes], leaf_hashes: Sequence[bytes]) -> dict[TilePath, bytes]:
    """Every hash tile to write when ``leaf_hashes`` are added to a log of ``size``.

    ``edge`` holds at least the partial hash tiles of :func:`edge_paths`; a missing one is a UsageError, one
    of the wrong length a FormatError. The result's keys are those hash tiles of :func:`tile_paths_for`, in
    that order.
    """
    if not 0 <= size <= size + len(leaf_hashes) < SIZE_LIMIT:
        raise UsageError(f"a log of {size} entries cannot take {len(leaf_hashes)} more")
    if any(len(item) != HASH_BYTES for item in leaf_hashes):
        raise UsageError(f"a leaf hash has {HASH_BYTES} bytes")
    written: dict[TilePath, bytes] = {}
    added = list(leaf_hashes)
    level, count = 0, size
    while added:
        index, width = divmod(count, TILE_WIDTH)
        hashes = parse_tile(_edge(edge, TilePath(level, index, width)), width) if width else []
        hashes += added
        added = []
        for start in range(0, len(hashes), TILE_WIDTH):
            piece = hashes[start : start + TILE_WIDTH]
            written[TilePath(level, index, len(piece))] = b"".join(piece)
            if len(piece) == TILE_WIDTH:
                added.append(root_of(piece))
            index += 1
        level += 1
        count >>= TILE_HEIGHT
    return written


def grow_entries(
    size: int, edge: Mapping[TilePath, bytes], entries: Sequence[bytes]
) -> dict[TilePath, bytes]:
    """Every entry bundle to write when ``entries`` are added; ``edge`` as in :func:`grow`."""
    if not 0 <= size <= size + len(entries) < SIZE_LIMIT:
        raise UsageError(f"a log of {size} entries cannot take {len(entries)} more")
    if not entries:
        return {}
    index, width = divmod(size, TILE_WIDTH)
    kept = parse_entries(_edge(edge, TilePath(None, index, width)), width) if width else []
    kept += entries
    pieces = [kept[start : start + TILE_WIDTH] for start in range(0, len(kept), TILE_WIDTH)]
    return {
        TilePath(None, index + number, len(piece)): encode_entries(piece)
        for number, piece in enumerate(pieces)
    }


class TileReader(Protocol):
    """Where tiles are fetched from."""

    def read(self, path: TilePath) -> bytes:
        """The bytes of a tile. Raises :class:`StorageError` when it is absent or cannot be read."""
        ...


class TileHashReader:
    """A :class:`duramen.merkle.HashReader` over the tiles of a log with a checkpoint of ``size``.

    Only tiles that this size requires are fetched, each at its own width; where a partial one is gone the
    full tile stands in for it, as C2SP allows. At most :data:`CACHE_TILES` tiles are kept.
    """

    __slots__ = ("_cache", "_size", "_tiles")

    def __init__(self, tiles: TileReader, size: int) -> None:
        if not 0 <= size < SIZE_LIMIT:
            raise UsageError(f"a log cannot have {size} entries")
        self._tiles = tiles
        self._size = size
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def hash_at(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree.

        Raises UsageError outside of the tree, StorageError for a missing tile, FormatError for one of wrong
        length.
        """
        if level < 0 or index < 0 or (index + 1) << level > self._size:
            raise UsageError(f"a log of {self._size} has no complete subtree at level {level}, index {index}")
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, start = divmod(index << height, TILE_WIDTH)
        hashes = self._tile(tile_level, tile_index)
        return root_of(hashes[start : start + (1 << height)])

    def _tile(self, level: int, index: int) -> list[bytes]:
        hashes = self._cache.get((level, index))
        if hashes is None:
            width = min(TILE_WIDTH, (self._size >> TILE_HEIGHT * level) - index * TILE_WIDTH)
            hashes = self._fetch(TilePath(level, index, width))
            self._cache[level, index] = hashes
            if len(self._cache) > CACHE_TILES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end((level, index))
        return hashes

    def _fetch(self, path: TilePath) -> list[bytes]:
        try:
            return parse_tile(self._tiles.read(path), path.width)
        except StorageError:
            if not path.is_partial:
                raise
            return parse_tile(self._tiles.read(path.full()), TILE_WIDTH)[: path.width]


def _level_paths(level: int | None, old_count: int, new_count: int) -> list[TilePath]:
    if old_count == new_count:
        return []
    whole, width = divmod(new_count, TILE_WIDTH)
    paths = [TilePath(level, index) for index in range(old_count // TILE_WIDTH, whole)]
    if width:
        paths.append(TilePath(level, whole, width))
    return paths


def _edge(edge: Mapping[TilePath, bytes], path: TilePath) -> bytes:
    try:
        return edge[path]
    except KeyError:
        raise UsageError(f"growing the log needs its current {path.path()}") from None
