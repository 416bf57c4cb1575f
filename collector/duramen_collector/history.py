"""Blocks back out of the collector, waiting ones and published ones.

Those that wait come from ``landing``, the others from the packs in the regions. ``packs`` says which pack
holds a leaf; it is written in the transaction that records the pack, so a database that is rebuilt from a
region has it again. A pack from a region is believed by its hash alone; the next region is asked when one
has lost or damaged it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from duramen.errors import StorageError
from duramen.frame import Pack, encode_frame, encode_pack, pack_digest, pack_key, parse_pack
from duramen.names import ChainId, Digest
from duramen_collector.schema import entries, landing, packs

MAX_BLOCKS: Final = 1024
"""Blocks in one answer."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""An answer ends with the block that passes this."""

PackReader = Callable[[str], Iterator[bytes]]
"""What each region that answers has under a key, one after the other."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A block that is not published yet: its frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """A published block: its place in its pack, and the pack."""

    offset: int
    pack: Digest


Place = Waiting | Published


def pack_index(tenant: str) -> Callable[[sa.Connection, Pack], None]:
    """What records each pack of ``tenant`` in ``packs``; a ledger's observer."""

    def observe(connection: sa.Connection, pack: Pack) -> None:
        digest = pack_digest(encode_pack(pack.header, [frame.encode() for frame in pack.frames]))
        connection.execute(
            packs.insert().values(tenant=tenant, first_leaf=pack.header.first_leaf, digest=digest)
        )

    return observe


def find_blocks(
    connection: sa.Connection, tenant: str, chain: ChainId, first_seq: int, count: int
) -> list[Place]:
    """Where the blocks of ``chain`` from ``first_seq`` on are, in order.

    At most ``count`` of them, and none after one that is not known.
    """
    window = (first_seq, first_seq + min(count, MAX_BLOCKS))
    places = _published(connection, tenant, chain, *window) | _waiting(connection, chain, *window)
    found = []
    for seq in range(*window):
        if seq not in places:
            break
        found.append(places[seq])
    return found


def read_frames(places: Sequence[Place], read: PackReader) -> bytes:
    """The frames of ``places``, one after the other, to about ``MAX_BYTES``.

    StorageError when no region has a pack.
    """
    opened: tuple[Digest, Pack] | None = None
    pieces: list[bytes] = []
    size = 0
    for place in places:
        if isinstance(place, Published):
            if opened is None or opened[0] != place.pack:
                opened = (place.pack, _open(place.pack, read))
            frame = opened[1].frames[place.offset].encode()
        else:
            frame = place.frame
        pieces.append(frame)
        size += len(frame)
        if size >= MAX_BYTES:
            break
    return b"".join(pieces)


def _open(digest: Digest, read: PackReader) -> Pack:
    for data in read(pack_key(digest)):
        if pack_digest(data) == digest:
            return parse_pack(data)
    raise StorageError(f"no region that answers has the pack {digest.hex()} as it was published")


def _waiting(connection: sa.Connection, chain: ChainId, first: int, end: int) -> dict[int, Place]:
    query = sa.select(landing.c.seq, landing.c.header_size, landing.c.statement, landing.c.body).where(
        landing.c.chain == chain, landing.c.seq >= first, landing.c.seq < end
    )
    return {
        row.seq: Waiting(
            encode_frame(row.statement[: row.header_size], row.statement[row.header_size :], row.body)
        )
        for row in connection.execute(query.order_by(landing.c.seq))
    }


def _published(
    connection: sa.Connection, tenant: str, chain: ChainId, first: int, end: int
) -> dict[int, Place]:
    query = sa.select(entries.c.seq, entries.c.leaf).where(
        entries.c.tenant == tenant, entries.c.chain == chain, entries.c.seq >= first, entries.c.seq < end
    )
    found: dict[int, Place] = {}
    for row in connection.execute(query.order_by(entries.c.leaf)).all():
        pack = connection.execute(
            sa.select(packs)
            .where(packs.c.tenant == tenant, packs.c.first_leaf <= row.leaf)
            .order_by(packs.c.first_leaf.desc())
            .limit(1)
        ).first()
        if pack is not None:
            found[row.seq] = Published(row.leaf - pack.first_leaf, Digest(pack.digest))
    return found
