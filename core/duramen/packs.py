"""Which packs of a region make up its log (DESIGN 5 and 8).

A region may hold packs that were never decided: they are orphans, not findings. A pack's header is under no
signature, so everything here is a plan and proves nothing: whoever follows it compares every frame with the
log's entries. :func:`plan_packs` walks from the checkpoint's size down to 0: each pack names the one before
by digest; the last is named by ``head``, by a pack that already follows it, or found by its contents. Where
the walk meets a pack that is missing or damaged it goes on below, so that one defect hides nothing else.

Only the 90 header bytes of sound packs are read. The plan takes some 200 bytes of memory a pack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from duramen import canonical
from duramen.errors import FormatError
from duramen.frame import (
    PACK_HEADER_BYTES,
    Frame,
    PackHeader,
    pack_digest,
    pack_key,
    parse_frames,
    parse_pack_header,
)
from duramen.names import ZERO_DIGEST, Digest, parse_digest
from duramen.ports import ObjectReader
from duramen.region import HEAD_KEY, PACKS_PREFIX
from duramen.tiles import TILE_WIDTH, TilePath, parse_entries

CANDIDATES_MAX: Final = 8
"""How many packs that claim the same place are looked into."""
_SUFFIX: Final = ".pack"


class RegionReader(ObjectReader, Protocol):
    """A region as an auditor sees it; keys are those of DESIGN 8 below the region's prefix."""

    def read_start(self, key: str, count: int) -> bytes | None:
        """The first ``count`` bytes of an object (all of a shorter one), or None. Raises StorageError."""
        ...

    def keys(self, prefix: str) -> Iterable[str] | None:
        """All keys that begin with ``prefix``, or None where a store cannot list. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class PackSlot:
    """The place of one pack in the log: the leaves ``first`` .. ``end`` - 1.

    ``digest`` None: what was there is not even known by name.
    """

    first: int
    end: int
    digest: Digest | None
    is_missing: bool = False


@dataclass(frozen=True, slots=True)
class PackPlan:
    """The slots that cover a log, in order.

    ``strays`` are damaged packs without a slot, while some slot is a hole: they may be what is missing there.
    """

    slots: tuple[PackSlot, ...]
    strays: tuple[Digest, ...]


def head_pack(data: bytes | None) -> Digest | None:
    """The pack that a ``head`` names as accepted last, if it can be read: a hint, like everything in it."""
    try:
        value = canonical.read(data or b"", "head")
        accepted = value.get("accepted") if isinstance(value, dict) else None
        name = accepted.get("pack") if isinstance(accepted, dict) else None
        return parse_digest(name) if isinstance(name, str) else None
    except FormatError:
        return None


def plan_packs(reader: RegionReader, prefix: str, size: int) -> PackPlan:
    """The packs of a log of ``size`` leaves below ``prefix``, which ends in a slash. Raises StorageError."""
    listed = reader.keys(prefix + PACKS_PREFIX)
    planner = _Planner(reader, prefix, size, head_pack(reader.read(prefix + HEAD_KEY)))
    if listed is not None:
        for key in listed:
            planner.note(key)
    return planner.walk(can_list=listed is not None)


class _Planner:
    def __init__(self, reader: RegionReader, prefix: str, size: int, head: Digest | None) -> None:
        self._reader = reader
        self._prefix = prefix
        self._size = size
        self._head = head
        self._headers: dict[Digest, PackHeader | None] = {}
        self._by_end: defaultdict[int, list[Digest]] = defaultdict(list)
        self._used: set[Digest] = set()
        self._odd: list[Digest] | None = None
        self._plausible: dict[Digest, bool] = {}
        self._has_hole = False

    def note(self, key: str) -> None:
        """Take a listed key into account, if it is a pack's."""
        name = key.removeprefix(self._prefix + PACKS_PREFIX).removesuffix(_SUFFIX)
        try:
            digest = parse_digest(name)
        except FormatError:
            return
        if key == self._prefix + pack_key(digest):
            self._load(digest)

    def walk(self, *, can_list: bool) -> PackPlan:
        """From the end to the beginning."""
        slots: list[PackSlot] = []
        end, named = self._size, self._tip(can_list=can_list)
        while end:
            slot = self._slot(end, named)
            slots.append(slot)
            named = None if slot.digest is None or slot.is_missing else self._before(slot, slot.digest)
            end = slot.first
        strays = tuple(self._left_odd()) if self._has_hole else ()
        return PackPlan(tuple(slots[::-1]), strays)

    def _before(self, slot: PackSlot, digest: Digest) -> Digest | None:
        """The name of the pack before a slot, as the pack in it tells."""
        self._used.add(digest)
        header = self._headers.get(digest)
        if header is None or _end(header) != slot.end:
            return None
        if not self._continues(header.previous, slot.first) and not self._is_whole(digest):
            return None  # the damage may be in the very field that names the pack before
        return header.previous

    def _load(self, digest: Digest) -> PackHeader | None:
        """The header of a pack; None when it is missing or not a header."""
        if digest not in self._headers:
            data = self._reader.read_start(self._prefix + pack_key(digest), PACK_HEADER_BYTES)
            if data is None:
                return None
            try:
                self._headers[digest] = parse_pack_header(data)
            except FormatError:
                self._headers[digest] = None
            header = self._headers[digest]
            if header is not None:
                self._by_end[_end(header)].append(digest)
        return self._headers[digest]

    def _tip(self, *, can_list: bool) -> Digest | None:
        """The name of the last pack, as far as something tells it."""
        if not can_list and self._head is not None:
            digest: Digest | None = self._head
            while digest is not None and (header := self._load(digest)) is not None:
                if _end(header) <= self._size:
                    break
                digest = header.previous  # decided after the checkpoint was read
        if self._head is not None:
            header = self._load(self._head)
            if header is None or _end(header) == self._size:
                return self._head
        followers = [
            header.previous
            for header in self._headers.values()
            if header is not None and header.first_leaf == self._size and header.previous != ZERO_DIGEST
        ]
        return next((name for name in followers if self._continues(name, self._size)), None)

    def _continues(self, name: Digest, end: int) -> bool:
        if end == 0:
            return name == ZERO_DIGEST
        header = self._load(name)
        return header is not None and _end(header) == end

    def _slot(self, end: int, named: Digest | None) -> PackSlot:
        if named is not None and self._continues(named, end):
            header = self._headers[named]
            assert header is not None
            return PackSlot(header.first_leaf, end, named)
        if named is None:
            candidates = self._by_end[end][:CANDIDATES_MAX]
            found = next((digest for digest in candidates if self._is_plausible(digest)), None)
            if found is not None:
                header = self._headers[found]
                assert header is not None
                return PackSlot(header.first_leaf, end, found)
            damaged = self._find_odd(end)
            return PackSlot(self._below(end), end, damaged, is_missing=damaged is None)
        is_missing = self._reader.read_start(self._prefix + pack_key(named), 1) is None
        return PackSlot(self._below(end), end, named, is_missing)

    def _below(self, end: int) -> int:
        """The highest leaf below ``end`` at which a sound pack ends: a hole reaches down to there."""
        self._has_hole = True
        for lower in sorted((item for item in self._by_end if item < end), reverse=True):
            if any(self._is_plausible(digest) for digest in self._by_end[lower][:CANDIDATES_MAX]):
                return lower
        return 0

    def _is_plausible(self, digest: Digest) -> bool:
        """Whether a pack is what its name says and begins and ends with the log's entries at its place."""
        if digest not in self._plausible:
            self._plausible[digest] = self._fits(digest)
        return self._plausible[digest] and digest not in self._used

    def _fits(self, digest: Digest) -> bool:
        header = self._headers[digest]
        data = self._reader.read(self._prefix + pack_key(digest))
        if header is None or data is None or pack_digest(data) != digest:
            return False
        try:
            frames = list(parse_frames(data[PACK_HEADER_BYTES:], "a pack"))
        except FormatError:
            return False
        return len(frames) == header.count and all(
            self._is_entry(header.first_leaf + at, frames[at]) for at in (0, header.count - 1)
        )

    def _is_entry(self, leaf: int, frame: Frame) -> bool:
        """Whether the region's entry bundles have this statement at ``leaf``; yes where they cannot tell."""
        index, offset = divmod(leaf, TILE_WIDTH)
        for width in (TILE_WIDTH, min(TILE_WIDTH, self._size - index * TILE_WIDTH)):
            data = self._reader.read(self._prefix + TilePath(None, index, width).path())
            if data is not None:
                try:
                    return parse_entries(data, width)[offset] == frame.statement.entry
                except FormatError:
                    return True
        return True

    def _is_whole(self, digest: Digest) -> bool:
        data = self._reader.read(self._prefix + pack_key(digest))
        return data is not None and pack_digest(data) == digest

    def _left_odd(self) -> list[Digest]:
        """The packs off the chain that are not what their names say."""
        if self._odd is None:
            self._odd = []
            for digest in self._headers:
                data = self._reader.read(self._prefix + pack_key(digest))
                if data is not None and pack_digest(data) != digest:
                    self._odd.append(digest)
        return [digest for digest in self._odd if digest not in self._used]

    def _find_odd(self, end: int) -> Digest | None:
        """A pack off the chain that is not what its name says, to stand where nothing else does."""
        left = self._left_odd()
        near = [digest for digest in left if (header := self._headers[digest]) and _end(header) == end]
        return next(iter(near or left), None)


def _end(header: PackHeader) -> int:
    return header.first_leaf + header.count
