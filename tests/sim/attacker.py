"""Somebody who can write to one region, or to one host's disk, after a life without tampering.

What a region's attacker may do to any *protected* object (:func:`protected`): change one byte, cut it short,
lengthen it, delete it, put another object of its kind or an older one in its place. Not protected, as
:mod:`duramen.audit` says: ``head``, packs off the chain, superseded partial tiles.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

from duramen.frame import PACK_HEADER_BYTES, pack_key, parse_pack, parse_pack_header
from duramen.names import ZERO_DIGEST
from duramen.region import CHECKPOINT_KEY, ENVELOPES_PREFIX, HEAD_KEY, KEPT_CHECKPOINTS_PREFIX
from duramen.tiles import tile_paths_for
from duramen.verdict import Code
from duramen_collector.register import parse_head
from tests.sim.disk import SimDisk
from tests.sim.region import SimStore

FRAME_PREFIX_BYTES = 9
"""Magic, version, length of the header."""
CODES: dict[str, dict[str, frozenset[Code]]] = {
    "pack": {
        "damaged": frozenset({Code.REPLICA_CORRUPT, Code.BODY_CORRUPT, Code.HEADER_CORRUPT}),
        "deleted": frozenset({Code.REPLICA_MISSING}),
    },
    "tile": {
        "damaged": frozenset({Code.TREE_MISMATCH, Code.REPLICA_CORRUPT}),
        "deleted": frozenset({Code.REPLICA_MISSING}),
    },
    "checkpoint": {
        "damaged": frozenset({Code.CHECKPOINT_INVALID}),
        "deleted": frozenset({Code.REPLICA_MISSING}),
    },
    "kept": {"damaged": frozenset({Code.CHECKPOINT_INVALID})},
    "envelope": {
        "damaged": frozenset({Code.REPLICA_CORRUPT}),
        "deleted": frozenset({Code.REPLICA_MISSING}),
    },
}
"""What must be said of an object, by its kind and by what was done to it."""


@dataclass(frozen=True, slots=True)
class Tampering:
    """One object, as the attacker leaves it; None: deleted."""

    key: str
    kind: str
    how: str
    data: bytes | None
    exact: Code | None = None
    """Where a place within the object says which code it must be."""

    @property
    def codes(self) -> frozenset[Code]:
        """Those of which one has to be found, for this object."""
        if self.exact is not None:
            return frozenset({self.exact})
        return CODES[self.kind]["deleted" if self.data is None else "damaged"]

    def apply(self, store: SimStore) -> None:
        """Do it, past every rule of the store."""
        if self.data is None:
            del store.objects[self.key]
        else:
            store.objects[self.key] = (self.data, "tampered")


def protected(store: SimStore, tenant: str, size: int) -> dict[str, str]:
    """The kind of every object of a region that must not change, by key."""
    kinds = {f"{tenant}/{path.path()}": "tile" for path in tile_paths_for(0, size)}
    kinds[f"{tenant}/{CHECKPOINT_KEY}"] = "checkpoint"
    accepted = parse_head(store.objects[f"{tenant}/{HEAD_KEY}"][0]).accepted
    assert accepted is not None
    digest = accepted.value.pack
    while digest != ZERO_DIGEST:
        key = f"{tenant}/{pack_key(digest)}"
        kinds[key] = "pack"
        digest = parse_pack_header(store.objects[key][0][:PACK_HEADER_BYTES]).previous
    for key in store.objects:
        if key.startswith(ENVELOPES_PREFIX):
            kinds[key] = "envelope"
        elif key.startswith(f"{tenant}/{KEPT_CHECKPOINTS_PREFIX}"):
            kinds[key] = "kept"
    return kinds


def tamperings(store: SimStore, kinds: dict[str, str], rng: random.Random) -> Iterator[Tampering]:
    """Everything that can be done to each object, once."""
    for key, kind in sorted(kinds.items()):
        data = store.objects[key][0]
        for at, exact in _places(kind, data, rng):
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            yield Tampering(key, kind, f"bit of byte {at} flipped", flipped, exact)
        cut = rng.randrange(len(data))
        yield Tampering(key, kind, f"cut to {cut} bytes", data[:cut])
        yield Tampering(key, kind, "lengthened", data + b"\0")
        if kind != "kept":  # whether kept checkpoints were removed is not checked
            yield Tampering(key, kind, "deleted", None)
        others = [other for other in kinds if kinds[other] == kind and store.objects[other][0] != data]
        if others:
            other = rng.choice(sorted(others))
            yield Tampering(key, kind, f"replaced by {other}", store.objects[other][0])


def _places(kind: str, data: bytes, rng: random.Random) -> Iterator[tuple[int, Code | None]]:
    """Where to flip a bit, and what must be said of it: of a pack, in a statement and in a body."""
    yield rng.randrange(len(data)), None
    if kind != "pack":
        return
    at, places = PACK_HEADER_BYTES, []
    for frame in parse_pack(data).frames:
        entry = at + FRAME_PREFIX_BYTES
        body = entry + len(frame.statement.entry) + 4
        at = body + len(frame.body)
        if frame.body:
            places.append((entry, body, at))
    if places:
        entry, body, end = rng.choice(places)
        yield rng.randrange(entry, body - 4), Code.HEADER_CORRUPT
        yield rng.randrange(body, end), Code.BODY_CORRUPT


def snapshot(disk: SimDisk) -> dict[bytes, bytes]:
    """The agent's state directory, as a backup or a clone of the machine takes it."""
    return {path: bytes(inode.data) for path, inode in disk.files.items() if path.startswith(b"/state/")}


def restore(disk: SimDisk, state: dict[bytes, bytes]) -> None:
    """Put a state directory in place of the one that is there."""
    for path in [path for path in disk.files if path.startswith(b"/state/")]:
        del disk.files[path]
    for path, data in state.items():
        inode = disk.create(path, volatile=True)
        inode.write(0, copy.copy(data))
        inode.sync()
