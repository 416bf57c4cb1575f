"""Packs, envelopes, tiles and checkpoints of one log in its regions: writing them, and reading them back.

Every method takes the regions to work on and returns those where all of it is durable; a region that fails
has a sentence in ``Region.error``. What is written once is created, never replaced: other bytes under its
name are a finding, and that region does not count. Sources are tried one after the other, and what they
give is believed only by its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from duramen.checkpoint import Checkpoint, LogSigner, open_checkpoint
from duramen.envelope import ENVELOPE_BYTES
from duramen.errors import FormatError, IntegrityError
from duramen.frame import PACK_HEADER_BYTES, PackHeader, pack_key, parse_pack_header
from duramen.limits import NOTE_MAX_BYTES, PACK_MAX_BYTES, STATEMENT_MAX_BYTES
from duramen.merkle import leaf_hash
from duramen.names import DIGEST_BYTES, DataKeyId, Digest
from duramen.region import CHECKPOINT_KEY, ENVELOPES_PREFIX, envelope_key, kept_checkpoint_key
from duramen.tiles import TILE_WIDTH, TilePath, parse_entries
from duramen_collector.heads import SWAP_ROUNDS, Region, RegionCall, Steps, object_key
from duramen_collector.ledger import PendingPack, WrappedKey, open_pack
from duramen_collector.outcome import StoppedError, UnavailableError
from duramen_collector.store.port import (
    Answer,
    Call,
    Conflict,
    Create,
    Delete,
    Failed,
    Found,
    Get,
    List,
    Listed,
    Stored,
    Swap,
)

BUNDLE_MAX_BYTES: Final = TILE_WIDTH * (2 + STATEMENT_MAX_BYTES)
BATCH_CALLS: Final = 256
"""Calls of one region that are under way together at most."""


class CheckpointSigner(Protocol):
    """Signs and reads checkpoints of one log; what may be signed is for the caller's guard to say."""

    @property
    def origin(self) -> str:
        """The log's origin."""
        ...

    def sign(self, checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
        """A note with all signatures of the log."""
        ...

    def open(self, data: bytes) -> Checkpoint:
        """The checkpoint in a note of this log; FormatError or IntegrityError unless all signatures hold."""
        ...


class TwoKeySigner:
    """The log's Ed25519 and ML-DSA-44 keys, in memory."""

    def __init__(self, signer: LogSigner) -> None:
        self._signer = signer
        self._keys = signer.keys()

    @property
    def origin(self) -> str:
        """The log's origin."""
        return self._signer.origin

    def sign(self, checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
        """A note with both signatures."""
        return self._signer.sign(checkpoint, timestamp_seconds)

    def open(self, data: bytes) -> Checkpoint:
        """The checkpoint, once both signatures hold."""
        return open_checkpoint(data, self._keys).checkpoint


@dataclass(frozen=True, slots=True)
class Item:
    """An object to create: its key below the region's root, its bytes, its retention in Unix seconds."""

    key: str
    data: bytes
    retain_until_s: int | None = None


class Replicas:
    """The objects of ``tenant`` in ``regions``."""

    def __init__(self, tenant: str, signer: CheckpointSigner, regions: Mapping[str, Region]) -> None:
        self._tenant = tenant
        self._signer = signer
        self._regions = regions
        self._enveloped: set[tuple[str, DataKeyId]] = set()

    # Packs

    def place_pack(self, pending: PendingPack, names: Iterable[str], retain_until_s: int) -> Steps[list[str]]:
        """Put a pack into regions and read it back from each."""
        item = Item(self._pack_key(pending.digest), pending.data, retain_until_s)
        stored = yield from self._create([item], names)
        return (yield from self._read_back([item], stored))

    def fetch_pack(self, digest: Digest, names: Iterable[str]) -> Steps[PendingPack]:
        """A pack from the first region that has it unharmed; raises UnavailableError when none does."""
        for name in names:
            (answer,) = yield [RegionCall(name, Get(self._pack_key(digest), 0, PACK_MAX_BYTES + 1))]
            if isinstance(answer, Found):
                try:
                    pending = open_pack(answer.data)
                except FormatError:
                    continue
                if pending.digest == digest:
                    return pending
        raise UnavailableError(f"no region that answers has the pack {digest.hex()} unharmed")

    def fetch_header(self, digest: Digest, names: Iterable[str]) -> Steps[PackHeader]:
        """A pack's header, not yet proven by the pack's hash.

        Raises UnavailableError when no region has it.
        """
        for name in names:
            (answer,) = yield [RegionCall(name, Get(self._pack_key(digest), 0, PACK_HEADER_BYTES))]
            if isinstance(answer, Found):
                try:
                    return parse_pack_header(answer.data)
                except FormatError:
                    continue
        raise UnavailableError(f"no region that answers has the pack {digest.hex()}")

    # Envelopes

    def place_envelopes(
        self, wrapped: Sequence[WrappedKey], deks: Sequence[DataKeyId], names: Iterable[str]
    ) -> Steps[list[str]]:
        """Put the envelopes of ``deks`` into regions and read them back.

        What was read back once is not asked for again.
        """
        wanted = list(names)
        todo = [dek for dek in deks if any((name, dek) not in self._enveloped for name in wanted)]
        if not todo:
            return wanted
        chosen = set(todo)
        items = [
            Item(envelope_key(self._tenant, key.dek, key.key_hash), key.envelope)
            for key in wrapped
            if key.dek in chosen
        ]
        stored = yield from self._create(items, wanted)
        stored = yield from self._read_back(items, stored)
        with_envelopes = {key.dek for key in wrapped}
        self._enveloped.update((name, dek) for name in stored for dek in todo if dek in with_envelopes)
        return stored

    def find_envelopes(self, deks: Sequence[DataKeyId], names: Iterable[str]) -> Steps[list[WrappedKey]]:
        """The envelopes of data keys that regions hold, for a database that lost them."""
        found: dict[tuple[DataKeyId, Digest], WrappedKey] = {}
        for name in names:
            for dek in deks:
                prefix = f"{ENVELOPES_PREFIX}{self._tenant}/{dek.hex()}/"
                (listed,) = yield [RegionCall(name, List(prefix))]
                keys = listed.keys if isinstance(listed, Listed) else ()
                answers = (
                    (yield [RegionCall(name, Get(key, 0, ENVELOPE_BYTES + 1)) for key in keys])
                    if keys
                    else ()
                )
                for key, answer in zip(keys, answers, strict=True):
                    key_hash = _digest_or_none(key.removeprefix(prefix))
                    if (
                        key_hash is not None
                        and isinstance(answer, Found)
                        and len(answer.data) <= ENVELOPE_BYTES
                    ):
                        found.setdefault((dek, key_hash), WrappedKey(dek, key_hash, answer.data))
        return list(found.values())

    # Tiles

    def place_tiles(
        self, objects: Mapping[TilePath, bytes], names: Iterable[str], retain_until_s: int
    ) -> Steps[list[str]]:
        """Create tiles and entry bundles; full ones are retained."""
        items = [
            Item(self._key(path.path()), data, None if path.is_partial else retain_until_s)
            for path, data in objects.items()
        ]
        return (yield from self._create(items, names))

    def fetch_tail(self, size: int, leaf_hashes: bytes, names: Iterable[str]) -> Steps[list[bytes] | None]:
        """The entries of the partial bundle of a log of ``size``, proven by its concatenated leaf hashes."""
        path = TilePath(None, size // TILE_WIDTH, size % TILE_WIDTH)
        for name in names:
            for candidate in (path, path.full()):
                (answer,) = yield [RegionCall(name, Get(self._key(candidate.path()), 0, BUNDLE_MAX_BYTES))]
                entries = _entries_or_none(answer, candidate.width)
                if entries is not None and _hashes(entries[: path.width]) == leaf_hashes:
                    return entries[: path.width]
        return None

    def drop_partials(self, full: Iterable[TilePath], names: Sequence[str]) -> Steps[None]:
        """Delete the partial tiles that ``full`` ones have superseded, as far as regions answer.

        What is left does no harm.
        """
        for path in full:
            prefix = self._key(f"{path.path()}.p/")
            answers = yield [RegionCall(name, List(prefix)) for name in names]
            calls = [
                RegionCall(name, Delete(key))
                for name, answer in zip(names, answers, strict=True)
                if isinstance(answer, Listed)
                for key in answer.keys
            ]
            if calls:
                yield calls

    # Checkpoints

    def read_checkpoints(self, names: Iterable[str]) -> Steps[dict[str, Checkpoint]]:
        """The validly signed checkpoints of regions, by name.

        Raises ``complete`` of a region to the size that its own vouches for. One that is not valid is a
        region's error and counts as none: it is replaced by the next publication.
        """
        wanted = list(names)
        answers = yield [
            RegionCall(name, Get(self._key(CHECKPOINT_KEY), 0, NOTE_MAX_BYTES + 1)) for name in wanted
        ]
        found = {}
        for name, answer in zip(wanted, answers, strict=True):
            region = self._regions[name]
            if isinstance(answer, Failed):
                region.error = answer.reason
                continue
            checkpoint = self._open(region, answer)
            region.complete = max(region.complete, 0 if checkpoint is None else checkpoint.size)
            if checkpoint is not None:
                found[name] = checkpoint
        return found

    def place_checkpoint(self, note: bytes, checkpoint: Checkpoint, names: Iterable[str]) -> Steps[list[str]]:
        """Show ``note`` in regions that do not show as much already; those that do in the end.

        Raises StoppedError when a region shows another root for the same size.
        """
        key = self._key(CHECKPOINT_KEY)
        left, shown = list(names), []
        for _ in range(SWAP_ROUNDS):
            answers = yield [RegionCall(name, Get(key, 0, NOTE_MAX_BYTES + 1)) for name in left]
            swaps = []
            for name, answer in zip(left, answers, strict=True):
                region = self._regions[name]
                if isinstance(answer, Failed):
                    region.error = answer.reason
                elif self._shows(region, answer, checkpoint):
                    shown.append(name)
                else:
                    version = answer.version if isinstance(answer, Found) else None
                    swaps.append(RegionCall(name, Swap(key, note, version)))
            if not swaps:
                break
            answers = yield swaps
            shown += [
                swap.region for swap, answer in zip(swaps, answers, strict=True) if isinstance(answer, Stored)
            ]
            left = [swap.region for swap in swaps if swap.region not in shown]
            if not left:
                break
        for name in left:
            if name not in shown and self._regions[name].error is None:
                self._regions[name].error = "its checkpoint could not be replaced"
        return shown

    def keep_checkpoint(
        self, note: bytes, size: int, names: Sequence[str], retain_until_s: int
    ) -> Steps[list[str]]:
        """Keep a checkpoint under retention.

        One that is kept already may differ, as signatures are randomised.
        """
        key = self._key(kept_checkpoint_key(size))
        answers = yield [RegionCall(name, Create(key, note, retain_until_s)) for name in names]
        return [
            name for name, answer in zip(names, answers, strict=True) if isinstance(answer, Stored | Conflict)
        ]

    # Within

    def _key(self, name: str) -> str:
        return object_key(self._tenant, name)

    def _pack_key(self, digest: Digest) -> str:
        return self._key(pack_key(digest))

    def _open(self, region: Region, answer: Answer) -> Checkpoint | None:
        if not isinstance(answer, Found):
            return None
        try:
            return self._signer.open(answer.data)
        except (FormatError, IntegrityError) as error:
            region.error = f"its checkpoint is not valid: {error}"
            return None

    def _shows(self, region: Region, answer: Answer, checkpoint: Checkpoint) -> bool:
        shown = self._open(region, answer)
        if shown is None or shown.size < checkpoint.size:
            return False
        if shown.size == checkpoint.size and shown.root != checkpoint.root:
            raise StoppedError(
                f"the region {region.name} shows a validly signed checkpoint of {shown.size} entries with "
                "another root: two histories were signed with these keys",
                "equivocation",
            )
        return True

    def _create(self, items: Sequence[Item], names: Iterable[str]) -> Steps[list[str]]:
        """Create all items in each region; a region drops out at its first failure."""
        good = list(names)
        for start in range(0, len(items), BATCH_CALLS):
            batch = items[start : start + BATCH_CALLS]
            calls: list[tuple[str, Item, Call]] = [
                (name, item, Create(item.key, item.data, item.retain_until_s))
                for item in batch
                for name in good
            ]
            if not calls:
                break
            answers = yield [RegionCall(name, call) for name, _, call in calls]
            for (name, item, _), answer in zip(calls, answers, strict=True):
                if not isinstance(answer, Stored):
                    self._regions[name].error = (
                        answer.reason
                        if isinstance(answer, Failed)
                        else f"it holds other bytes under {item.key} than belong there"
                    )
                    good = [other for other in good if other != name]
        return good

    def _read_back(self, items: Sequence[Item], names: Iterable[str]) -> Steps[list[str]]:
        """The regions that give back every item as it was written."""
        good = list(names)
        for start in range(0, len(items), BATCH_CALLS):
            pairs = [(name, item) for item in items[start : start + BATCH_CALLS] for name in good]
            if not pairs:
                break
            answers = yield [RegionCall(name, Get(item.key, 0, len(item.data) + 1)) for name, item in pairs]
            for (name, item), answer in zip(pairs, answers, strict=True):
                if not isinstance(answer, Found) or answer.data != item.data:
                    self._regions[name].error = (
                        answer.reason
                        if isinstance(answer, Failed)
                        else f"{item.key} does not read back as written"
                    )
                    good = [other for other in good if other != name]
        return good


def _entries_or_none(answer: Answer, width: int) -> list[bytes] | None:
    if not isinstance(answer, Found):
        return None
    try:
        return parse_entries(answer.data, width)
    except FormatError:
        return None


def _hashes(entries: Iterable[bytes]) -> bytes:
    return b"".join(map(leaf_hash, entries))


def _digest_or_none(text: str) -> Digest | None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return Digest(data) if len(data) == DIGEST_BYTES and data.hex() == text else None
