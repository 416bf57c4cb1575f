"""Sealing: batches of chunks become blocks, and blocks become durable.

The order of writes, which everything else rests on::

    1  spool.append      block, body, chain state, positions, envelopes: one transaction, synced
    2  seed file         overwritten in place with the seed of the next block, synced

A crash before 1 is complete: nothing happened; the bytes are read and sealed again, under a new data key. A
crash between 1 and 2: the seed lags, start-up derives forward. A failure of 2 while running (a full
copy-on-write disk) leaves the seed pending, and no block is sealed before it is written. The seed is never
ahead of the spool unless the spool was rolled back, which start-up refuses (IntegrityError ``rollback``).

Data keys live in memory only, and their chaining keys are replaced at every block: the host keeps nothing
that opens what it sealed. Python cannot wipe memory: an old key may lie in freed memory until that is
reused. Every start, every 24 hours, every 65,535 blocks and every change of recipients begins a new data
key, with a keys block and its envelopes.

A batch is at most about 1.5 MiB of raw bytes, so a block is far below the limits of the format.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from duramen import body, chain, records
from duramen.api import EnvelopeUpload
from duramen.body import EVENT_STREAM, Run
from duramen.chain import ChainState
from duramen.datakey import DATA_KEY_BYTES, DataKeyRatchet
from duramen.envelope import EnvelopeContext, KeyList, Recipient, Wrap
from duramen.errors import ConfigurationError, FormatError, IntegrityError, StorageError, UsageError
from duramen.limits import RATCHET_MAX_STEPS
from duramen.merkle import EMPTY_ROOT
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq
from duramen.ports import Disk, Random
from duramen.ratchet import SEED_BYTES, SEED_FILE_BYTES, Ratchet, parse_seed_file
from duramen.statement import Block, BlockHeader, BlockKind, Flags, Genesis, block_message
from duramen_agent.event import AgentEvent
from duramen_agent.generation import Chunk
from duramen_agent.position import FINGERPRINT_KEY_BYTES, Position
from duramen_agent.source import DEFAULT_GROUP, DEFAULT_SLOT, Slot
from duramen_agent.spool import ShredGroup, Spool, SpoolFull, SpoolState
from duramen_agent.step import Moment

SEED_FILE: Final = "seed"
"""Name of the ratchet's seed file in the state directory."""
SPOOL_FILE: Final = "spool.db"


@dataclass(frozen=True, slots=True)
class Contents:
    """What one block is to hold, and what becomes durable with it."""

    slot: Slot
    chunks: Sequence[Chunk] = ()
    events: Sequence[AgentEvent] = ()
    positions: Sequence[Position] = ()
    flags: Flags = Flags.NONE
    configuration: Digest | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """The fields of a header in which kinds of blocks differ."""

    kind: BlockKind
    slot: Slot = DEFAULT_SLOT
    count: int = 0
    root: Digest = Digest(EMPTY_ROOT)  # noqa: RUF009  # a NewType costs and shares nothing
    body: bytes = b""
    dek: DataKeyId = ZERO_DATA_KEY_ID
    step: int = 0
    flags: Flags = Flags.NONE


def enrol_state(
    spool: Spool,
    disk: Disk,
    random: Random,
    state_dir: str,
    now: Moment,
    boot_id: bytes,
    genesis: Genesis,
    configuration: Digest,
) -> Block:
    """Begin a chain in an empty spool, with a new seed; return its genesis block.

    ``genesis`` says everything but its public key, which is set here. The seed file is written first, so
    that the spool is never without one; calling again after a crash between the two begins again.
    UsageError when there is a chain already.
    """
    if spool.load() is not None:
        raise UsageError("this host is enrolled already; move its state directory aside to enrol anew")
    seed_path = os.path.join(state_dir, SEED_FILE)  # noqa: PTH118  # pathlib is for adapters
    ratchet = Ratchet(Seq(0), random.draw(SEED_BYTES))
    block = genesis_block(ratchet, genesis, now, boot_id)
    _write_new_seed(disk, seed_path, ratchet)
    spool.initialise(block, chain.begin(block), configuration, random.draw(FINGERPRINT_KEY_BYTES))
    disk.overwrite(os.fsencode(seed_path), ratchet.next().encode())
    return block


def _write_new_seed(disk: Disk, path: str, ratchet: Ratchet) -> None:
    try:
        disk.write_atomic(os.fsencode(path), ratchet.encode())
    except OSError as error:
        raise StorageError(f"the seed file {path} cannot be written: {error.strerror}") from error


def genesis_block(ratchet: Ratchet, genesis: Genesis, now: Moment, boot_id: bytes) -> Block:
    """The signed genesis of a chain whose seed is ``ratchet`` (at index 0); its public key is filled in."""
    header = BlockHeader(
        kind=BlockKind.GENESIS,
        flags=Flags.NONE,
        chain=ChainId(ZERO_DIGEST),
        seq=Seq(0),
        prev=ZERO_DIGEST,
        start=0,
        count=0,
        root=Digest(EMPTY_ROOT),
        body=Digest(EMPTY_ROOT),
        size=0,
        group=0,
        retention_class=0,
        dek=ZERO_DATA_KEY_ID,
        step=0,
        sealed_ns=now.wall_ns,
        monotonic_ns=now.monotonic_ns,
        boot=boot_id,
        seen_size=0,
        seen_root=ZERO_DIGEST,
        next=ratchet.next().public(),
        genesis=Genesis(
            public=ratchet.public(),
            tenant=genesis.tenant,
            agent=genesis.agent,
            log=genesis.log,
            configuration=genesis.configuration,
            replaces=genesis.replaces,
            replaced_seq=genesis.replaced_seq,
            replaced_hash=genesis.replaced_hash,
        ),
    )
    encoded = header.encode()
    return Block(header, encoded, ratchet.sign(block_message(encoded)))


class Sealer:
    """Owns the end of the chain: ratchet, data keys, and the spool's writes about blocks."""

    def __init__(
        self,
        spool: Spool,
        state: SpoolState,
        disk: Disk,
        random: Random,
        wrap: Wrap,
        boot_id: bytes,
        state_dir: str,
        recipients: Iterable[Recipient],
    ) -> None:
        self._spool = spool
        self._disk = disk
        self._random = random
        self._wrap = wrap
        self._boot_id = boot_id
        self._seed_path = os.path.join(state_dir, SEED_FILE)  # noqa: PTH118  # pathlib is for adapters
        self._compressor = body.compressor()
        self._state = state.chain
        crashed = state.chain.seq > 0 and not state.chain.stopped
        self._first_flags = Flags.CRASH if crashed else Flags.NONE
        self._seen = (state.seen_size, state.seen_root)
        self._groups = {group.name: group.number for group in state.groups} | {DEFAULT_GROUP: 0}
        self._group_names = {number: name for name, number in self._groups.items()}
        self._recipients: tuple[Recipient, ...] = ()
        self._data_keys: dict[Slot, DataKeyRatchet] = {}
        self.set_recipients(recipients)
        stored = self._read_seed()
        self._ratchet = stored.forward_to(state.chain.seq + 1)
        if self._ratchet.public() != state.chain.next_public:
            raise IntegrityError(
                "the seed file is not the one of this chain: the state directory was mixed from two hosts or "
                "copies; enrol this host again as a replacement",
                code="rollback",
            )
        self._seed_pending = stored.index != self._ratchet.index
        with contextlib.suppress(StorageError):  # as after a failed write: tried again before the next block
            self._flush_seed()

    @property
    def state(self) -> ChainState:
        """The chain as it stands, durable."""
        return self._state

    def set_recipients(self, recipients: Iterable[Recipient]) -> None:
        """Who can read from now on: the next block of every slot begins a new data key."""
        chosen = tuple(sorted(recipients, key=lambda item: item.key_hash))
        if not chosen:
            raise ConfigurationError("there is no recipient: nobody could read what is sealed")
        self._recipients = chosen
        self._data_keys.clear()

    def group_number(self, name: str) -> int:
        """The number of a shred group in this chain; a new name gets the next one, kept at its first use."""
        number = self._groups.setdefault(name, max(self._groups.values()) + 1)
        self._group_names[number] = name
        return number

    def saw_checkpoint(self, size: int, root: Digest) -> None:
        """The last checkpoint that was verified: the next block testifies about it."""
        self._seen = (size, root)

    def heartbeat(self, nonce: bytes) -> tuple[Seq, Digest, bytes]:
        """Sign ``nonce`` (32 bytes, the collector's) with the key of the block that comes next.

        (seq of that block, hash of the head, signature)
        """
        signature = self._ratchet.heartbeat(self._state.chain, self._state.head, nonce)
        return self._ratchet.index, self._state.head, signature

    @property
    def seed_pending(self) -> bool:
        """Whether the seed file lags because it could not be written."""
        return self._seed_pending

    def seal(self, contents: Contents, now: Moment) -> None:
        """Make one block of ``contents`` (with a keys block before it, if one is due) durable.

        SpoolFull and StorageError leave the chain as it was, except that the keys block may be there
        already: sealing the same contents again continues.

        """
        if self._key_due(contents.slot, now):
            self._introduce_key(contents.slot, now)
        flags = contents.flags
        if any(event.is_loss for event in contents.events):
            flags |= Flags.LOSS
        part = self._seal_body(contents, flags)
        self._write(part, now, contents)
        self._data_keys[contents.slot] = self._data_keys[contents.slot].next()

    def seal_nothing(self, now: Moment) -> None:
        """An empty block: it says that there was nothing."""
        self._write(_Part(BlockKind.RECORDS), now, Contents(DEFAULT_SLOT))

    def _key_due(self, slot: Slot, now: Moment) -> bool:
        ratchet = self._data_keys.get(slot)
        use = self._state.keys.get((slot.group, slot.retention_class))
        if ratchet is None or use is None:
            return True
        return ratchet.step >= RATCHET_MAX_STEPS or chain.key_expired(use, now.wall_ns)

    def _introduce_key(self, slot: Slot, now: Moment) -> None:
        ratchet = DataKeyRatchet.start(self._random.draw(DATA_KEY_BYTES))
        context = EnvelopeContext(
            self._state.tenant, self._state.chain, ratchet.dek, slot.group, slot.retention_class
        )
        upload = EnvelopeUpload(
            tuple((to.key_hash, self._wrap(ratchet.chaining_key, to, context)) for to in self._recipients)
        )
        group = ShredGroup(slot.group, self._group_names[slot.group])
        listing = KeyList(
            group_name=group.name,
            group=slot.group,
            retention_class=slot.retention_class,
            dek=ratchet.dek,
            envelopes=tuple(
                (to, Digest(hashlib.sha256(envelope).digest())) for to, envelope in upload.envelopes
            ),
        )
        part = _Part(BlockKind.KEYS, slot, body=listing.encode(), dek=ratchet.dek)
        self._write(part, now, Contents(slot), upload, group)
        self._data_keys[slot] = ratchet

    def _seal_body(self, contents: Contents, flags: Flags) -> _Part:
        salt_key = self._random.draw(records.SALT_KEY_BYTES)
        lines, raws, parts = [], [], []
        for chunk in contents.chunks:
            line = _run(chunk).encode()
            lines.append(line)
            raws.append(chunk.raw)
            parts.append((line, [chunk.raw] if chunk.more else records.split(chunk.raw)))
        if contents.events:
            events = [event.encode() for event in contents.events]
            line = _event_run(contents.events, events).encode()
            lines.append(line)
            raws.append(b"".join(events))
            parts.append((line, events))
        root = records.root(salt_key, parts)
        ratchet, slot = self._data_keys[contents.slot], contents.slot
        seq = self._state.seq + 1
        sealed = body.seal(
            body.encode_payload(salt_key, lines, raws),
            ratchet.block_key(self._state.chain, seq, root),
            self._random.draw(body.NONCE_BYTES),
            body.additional_data(
                self._state.chain, seq, slot.group, slot.retention_class, ratchet.dek, ratchet.step
            ),
            self._compressor,
        )
        count = sum(len(items) for _, items in parts)
        return _Part(BlockKind.RECORDS, slot, count, root, sealed, ratchet.dek, ratchet.step, flags)

    def _write(
        self,
        part: _Part,
        now: Moment,
        contents: Contents,
        envelopes: EnvelopeUpload | None = None,
        group: ShredGroup | None = None,
    ) -> None:
        self._flush_seed()
        following = self._ratchet.next()
        header = BlockHeader(
            kind=part.kind,
            flags=part.flags | self._first_flags,
            chain=self._state.chain,
            seq=self._ratchet.index,
            prev=self._state.head,
            start=self._state.records,
            count=part.count,
            root=part.root,
            body=Digest(hashlib.sha256(part.body).digest()),
            size=len(part.body),
            group=part.slot.group,
            retention_class=part.slot.retention_class,
            dek=part.dek,
            step=part.step,
            sealed_ns=now.wall_ns,
            monotonic_ns=now.monotonic_ns,
            boot=self._boot_id,
            seen_size=self._seen[0],
            seen_root=self._seen[1],
            next=following.public(),
        )
        encoded = header.encode()
        block = Block(header, encoded, self._ratchet.sign(block_message(encoded)))
        state = chain.advance(self._state, block)
        self._spool.append(
            block,
            part.body,
            state,
            contents.positions,
            envelopes,
            events=contents.events,
            group=group,
            configuration=contents.configuration,
        )
        self._state, self._ratchet, self._seed_pending = state, following, True
        self._first_flags = Flags.NONE
        with contextlib.suppress(StorageError):
            self._flush_seed()  # the block is durable and must not be repeated: the next waits for the seed

    def _flush_seed(self) -> None:
        """Write the seed if it lags; SpoolFull when the disk has no room even for that."""
        if not self._seed_pending:
            return
        try:
            self._disk.overwrite(os.fsencode(self._seed_path), self._ratchet.encode())
        except OSError as error:
            raise SpoolFull(
                f"the seed file {self._seed_path} cannot be written ({error.strerror}); "
                "nothing is sealed until it can be"
            ) from error
        self._seed_pending = False

    def _read_seed(self) -> Ratchet:
        try:
            data = self._disk.read_file(os.fsencode(self._seed_path), SEED_FILE_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"the seed file {self._seed_path} cannot be read ({error.strerror}): without it this chain "
                "cannot go on; enrol this host again as a replacement"
            ) from error
        try:
            return parse_seed_file(data)
        except FormatError as error:
            raise StorageError(
                f"{self._seed_path}: {error}; enrol this host again as a replacement"
            ) from error


def _run(chunk: Chunk) -> Run:
    return Run(
        stream=chunk.source.stream,
        path=chunk.path,
        file=chunk.file,
        offset=chunk.offset,
        size=len(chunk.raw),
        lines=chunk.lines,
        read_ns=chunk.read_ns,
        more=chunk.more,
        labels=chunk.source.labels,
    )


def _event_run(events: Sequence[AgentEvent], encoded: Sequence[bytes]) -> Run:
    return Run(
        stream=EVENT_STREAM,
        path=b"",
        file="",
        offset=0,
        size=sum(map(len, encoded)),
        lines=len(encoded),
        read_ns=events[-1].time_ns,
    )
