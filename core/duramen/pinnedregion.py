"""A region held still while its log goes on: the checkpoint of one moment with its right edge.

A collector replaces a log's partial tiles as it grows. Whoever audits a checkpoint needs the ones that
belong to it, so they are read together with it: some tiles and at most one bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from duramen.packs import RegionReader
from duramen.region import CHECKPOINT_KEY
from duramen.tiles import edge_paths

_PIN_TRIES: Final = 5


class PinnedRegion:
    """A region whose checkpoint and right edge stay as they were at one moment, though the log goes on."""

    def __init__(self, reader: RegionReader, pinned: Mapping[str, bytes | None]) -> None:
        self._reader = reader
        self._pinned = pinned

    def read(self, key: str) -> bytes | None:
        """The object as it was pinned, or as it is."""
        return self._pinned[key] if key in self._pinned else self._reader.read(key)

    def read_start(self, key: str, count: int) -> bytes | None:
        """As the region has it."""
        return self._reader.read_start(key, count)

    def keys(self, prefix: str) -> Iterable[str] | None:
        """As the region has them."""
        return self._reader.keys(prefix)

    def read_now(self, key: str) -> bytes | None:
        """The object as it is now."""
        return self._reader.read(key)


def pin_region(reader: RegionReader, tenant: str) -> PinnedRegion:
    """Read a checkpoint with the partial tiles of its edge, again while a new one takes their place."""
    if isinstance(reader, PinnedRegion):
        return reader
    prefix = f"{tenant}/"
    key = prefix + CHECKPOINT_KEY
    data = reader.read(key)
    for _ in range(_PIN_TRIES):
        pinned = {key: data}
        for path in edge_paths(stated_size(data)):
            name = prefix + path.path()
            found = reader.read(name)
            if found is not None:
                pinned[name] = found
        now = reader.read(key)
        if now == data:
            break
        data = now
    return PinnedRegion(reader, pinned)


def stated_size(data: bytes | None) -> int:
    """The size that a checkpoint states, unverified; 0 for anything else."""
    lines = (data or b"").split(b"\n", 2)
    text = lines[1] if len(lines) == 3 else b""
    return int(text) if text.isdigit() and len(text) < 19 else 0
