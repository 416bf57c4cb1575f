"""What each region holds of a log's packs, envelopes and tiles, and bringing a region up to what is decided.

Works for the sequencer, within its operations and by its rules: nothing here decides anything, or signs.
Whatever is read is proven before it is used, by a pack's hash or by the database's tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from duramen.frame import PackHeader
from duramen.merkle import EMPTY_ROOT, leaf_hash
from duramen.names import DataKeyId, Digest
from duramen.ports import Clock
from duramen.tiles import TILE_WIDTH, TilePath, encode_entries, tile_paths_for
from duramen_collector.heads import Heads, Region, Steps
from duramen_collector.ledger import Ledger, PendingPack, Position
from duramen_collector.logsettings import LogSettings
from duramen_collector.outcome import StoppedError, UnavailableError
from duramen_collector.replica import Replicas


class Holdings:
    """The objects of one log in the regions of ``heads``, since the sequencer last acquired it."""

    def __init__(
        self, settings: LogSettings, ledger: Ledger, replicas: Replicas, heads: Heads, clock: Clock
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._heads = heads
        self._clock = clock
        self._tail: tuple[int, list[bytes]] = (0, [])  # a size, and the entries of its partial bundle
        self.replicas = replicas

    def header(self, digest: Digest, *, is_whole: bool) -> Steps[PackHeader]:
        """A pack's header; proven by the pack's hash only if ``is_whole``."""
        if is_whole:
            return (yield from self.replicas.fetch_pack(digest, self.sources())).pack.header
        return (yield from self.replicas.fetch_header(digest, self.sources()))

    def place(self, pending: PendingPack, names: list[str], *, is_adopted: bool) -> Steps[list[str]]:
        """Put envelopes and pack into regions and read them back."""
        names = yield from self._place_envelopes(pending.data_keys, names, may_lack=is_adopted)
        until_s = self.now_s() + self._settings.retention.seconds(pending.pack.header.retention_class)
        return (yield from self.replicas.place_pack(pending, names, until_s))

    def _place_envelopes(
        self, deks: Sequence[DataKeyId], names: list[str], *, may_lack: bool
    ) -> Steps[list[str]]:
        """Put the envelopes of ``deks`` into regions.

        What was published once may lack some: an eraser destroyed them, and they are not brought back. What
        is new may not.
        """
        wrapped = self._ledger.envelopes(deks)
        lacking = [dek for dek in deks if dek not in {key.dek for key in wrapped}]
        if lacking and may_lack:
            wrapped += yield from self.replicas.find_envelopes(lacking, self.sources())
        elif lacking:
            raise UnavailableError(
                f"{len(lacking)} data keys of waiting blocks have no envelope, {lacking[0].hex()} first; "
                "the blocks are not published"
            )
        return (yield from self.replicas.place_envelopes(wrapped, deks, names))

    def catch_up(self, region: Region, position: Position) -> Steps[bool]:
        """Give a region every pack, envelope and tile up to ``position``, which the database has reached."""
        region.error = None
        if region.complete >= position.size:
            return True
        start = region.complete - region.complete % TILE_WIDTH
        bundles = _Bundles(start)
        for digest in (yield from self.packs_back_to(position, start)):
            pending = yield from self.replicas.fetch_pack(digest, self.sources())
            if not (yield from self.place(pending, [region.name], is_adopted=True)):
                return False
            bundles.add(pending.pack.header.first_leaf, pending.entries)
            if not (yield from self._put_bundles(region, bundles.take())):
                return False
        if not (yield from self._put_bundles(region, bundles.take_rest())):
            return False
        tiles = {
            path: self._ledger.tile(path)
            for path in tile_paths_for(region.complete, position.size)
            if path.level is not None
        }
        until_s = self.tiles_until_s()
        if not (yield from self.replicas.place_tiles(tiles, [region.name], until_s)):
            return False
        completed = superseded(tile_paths_for(region.complete, position.size), region.complete)
        region.complete = position.size
        yield from self.replicas.drop_partials(completed, [region.name])
        return True

    def _put_bundles(self, region: Region, bundles: Mapping[TilePath, list[bytes]]) -> Steps[bool]:
        """Write entry bundles that the database's level-0 tiles prove."""
        for path, entries in bundles.items():
            if self._ledger.tile(TilePath(0, path.index, path.width)) != b"".join(map(leaf_hash, entries)):
                raise StoppedError(f"the packs do not give the entries of {path.path()}", "tree_mismatch")
        objects = {path: encode_entries(entries) for path, entries in bundles.items()}
        until_s = self.tiles_until_s()
        return bool((yield from self.replicas.place_tiles(objects, [region.name], until_s)))

    def packs_back_to(self, position: Position, start: int) -> Steps[list[Digest]]:
        """The packs that hold the leaves from ``start`` (or before) up to ``position``, oldest first."""
        try:
            return (yield from self._walk_back(position, start, is_whole=False))
        except (StoppedError, UnavailableError):
            return (yield from self._walk_back(position, start, is_whole=True))

    def _walk_back(self, position: Position, start: int, *, is_whole: bool) -> Steps[list[Digest]]:
        packs: list[Digest] = []
        digest, before = position.pack, position.size
        while before > start:
            header = yield from self.header(digest, is_whole=is_whole)
            if header.first_leaf >= before:
                raise StoppedError("the packs' chain does not lead back to the first leaf", "tree_mismatch")
            packs.append(digest)
            digest, before = header.previous, header.first_leaf
        return packs[::-1]

    def load_tail(self, size: int, pack: Digest) -> Steps[list[bytes]]:
        """The entries of the partial bundle of the log of ``size``, whose last pack is ``pack``."""
        width = size % TILE_WIDTH
        if not width:
            return []
        if self._tail[0] == size:
            return self._tail[1]
        leaf_hashes = self._ledger.tile(TilePath(0, size // TILE_WIDTH, width))
        found = yield from self.replicas.fetch_tail(size, leaf_hashes, self.sources())
        if found is not None:
            return found
        bundles = _Bundles(size - width)
        position = Position(size, Digest(EMPTY_ROOT), pack)
        for digest in (yield from self.packs_back_to(position, size - width)):
            pending = yield from self.replicas.fetch_pack(digest, self.sources())
            bundles.add(pending.pack.header.first_leaf, pending.entries)
        (entries,) = bundles.take_rest().values()
        if b"".join(map(leaf_hash, entries)) != leaf_hashes:
            raise StoppedError("the packs do not give the last entries of the log", "tree_mismatch")
        return entries

    def keep_tail(self, size: int, entries: list[bytes]) -> None:
        """Remember the last ``entries`` of the log of ``size``: its partial bundle, or more."""
        width = size % TILE_WIDTH
        self._tail = (size, entries[-width:] if width else [])

    def ready(self, size: int) -> list[str]:
        """Regions whose head is good, which hold everything up to ``size`` and failed in nothing since."""
        regions = self._heads.regions
        return [
            name
            for name in self._heads.usable()
            if regions[name].complete >= size and regions[name].error is None
        ]

    def sources(self) -> list[str]:
        """Regions to read from, those that hold most first."""
        regions = self._heads.regions
        return sorted(self._heads.usable(), key=lambda name: -regions[name].complete)

    def now_s(self) -> int:
        """Unix seconds."""
        return self._clock.wall_ns() // 10**9

    def tiles_until_s(self) -> int:
        """How long what is written now and belongs to all classes is retained, in Unix seconds."""
        return self.now_s() + self._settings.retention.longest_s


class _Bundles:
    """Collects entries from ``start`` (a bundle's first leaf) on, and gives them out by bundle."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._entries: list[bytes] = []

    def add(self, first: int, entries: Sequence[bytes]) -> None:
        """The next entries; those before the start are passed over."""
        self._entries += entries[max(0, self._next + len(self._entries) - first) :]

    def take(self) -> dict[TilePath, list[bytes]]:
        """The bundles that are full."""
        full = {}
        while len(self._entries) >= TILE_WIDTH:
            full[TilePath(None, self._next // TILE_WIDTH)] = self._entries[:TILE_WIDTH]
            self._entries = self._entries[TILE_WIDTH:]
            self._next += TILE_WIDTH
        return full

    def take_rest(self) -> dict[TilePath, list[bytes]]:
        """All bundles, the partial one included."""
        bundles = self.take()
        if self._entries:
            bundles[TilePath(None, self._next // TILE_WIDTH, len(self._entries))] = self._entries
        return bundles


def edge_bundle(size: int, tail: list[bytes]) -> dict[TilePath, bytes]:
    """The partial bundle of a log of ``size`` as :func:`duramen.tiles.grow_entries` wants it."""
    width = size % TILE_WIDTH
    return {TilePath(None, size // TILE_WIDTH, width): encode_entries(tail)} if width else {}


def superseded(paths: Iterable[TilePath], size: int) -> list[TilePath]:
    """Those of the full tiles and bundles ``paths`` that were partial in the log of ``size``."""
    found = []
    for path in paths:
        count = size >> (8 * (path.level or 0))
        if not path.is_partial and path.index == count // TILE_WIDTH and count % TILE_WIDTH:
            found.append(path)
    return found
