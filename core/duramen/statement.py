"""Statements: everything that is logged, as exact bytes (DESIGN 2).

A statement is ``header || signature(64)``; its hash is SHA-256 of both; it is one leaf entry of the tenant
log. The first byte tells the kind: 0x01 is a block of an agent's chain, ``{`` a notice of the collector's.
Both are signed with Ed25519 over a domain string and the header.

Parsing checks the encoding and nothing else; who signed is checked by :func:`verify_block` and
:func:`verify_notice`, and whether a block continues its chain by :mod:`duramen.chain`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from duramen import canonical, ed25519, wire
from duramen.errors import FormatError
from duramen.limits import BODY_MAX_BYTES, NOTICE_MAX_BYTES, RATCHET_MAX_STEPS, STATEMENT_MAX_BYTES
from duramen.merkle import EMPTY_ROOT
from duramen.names import (
    ZERO_DATA_KEY_ID,
    ZERO_DIGEST,
    ChainId,
    DataKeyId,
    Digest,
    Seq,
    check_agent,
    check_tenant,
)

BLOCK_VERSION: Final = 1
SIGNATURE_BYTES: Final = 64
HEADER_BYTES: Final = 275
"""A block header without the genesis extension."""
MAX_SEQ: Final = 2**63 - 1

_ALL_FLAGS: Final = 0b1111
_BLOCK_DOMAIN: Final = b"duramen/block/v1\n"
_NOTICE_DOMAIN: Final = b"duramen/notice/v1\n"


class BlockKind(IntEnum):
    """What a block is for."""

    GENESIS = 1
    """Begins a chain and names its owner; no body."""
    KEYS = 2
    """Introduces a data key; its body, in the clear, commits to who can read."""
    RECORDS = 3
    """Holds records, sealed; or none at all, to say that there was nothing."""


class Flags(IntFlag):
    """What a keyless reader is told in the clear."""

    NONE = 0
    STOP = 1
    """The agent stopped in good order after this block."""
    LOSS = 2
    """The block holds an event about bytes that were lost."""
    CONFIGURATION = 4
    """The configuration changed."""
    CRASH = 8
    """The first block after a start that no stop preceded."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a genesis header says beyond the common fields."""

    public: bytes
    """The Ed25519 key that signs the genesis itself, 32 bytes."""
    tenant: str
    agent: str
    log: Digest
    """:func:`log_digest` of the tenant log this chain is written for."""
    configuration: Digest
    """SHA-256 of the configuration."""
    replaces: ChainId
    """The chain that this one replaces; zero if none."""
    replaced_seq: Seq
    replaced_hash: Digest


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The signed header of one block; offsets and sizes are in docs/DESIGN.md."""

    kind: BlockKind
    flags: Flags
    chain: ChainId
    seq: Seq
    prev: Digest
    start: int
    """Number of the first record."""
    count: int
    """How many records."""
    root: Digest
    """Merkle root over the records."""
    body: Digest
    """SHA-256 of the body as it travels."""
    size: int
    """Length of the body in bytes."""
    group: int
    """Shred group, by number."""
    retention_class: int
    dek: DataKeyId
    step: int
    """How often the data key had been ratcheted before this block."""
    sealed_ns: int
    """Wall clock at sealing, Unix ns."""
    monotonic_ns: int
    boot: bytes
    """First 8 bytes of the boot id."""
    seen_size: int
    """Size of the last tenant checkpoint that this agent verified; 0 before the first."""
    seen_root: Digest
    next: bytes
    """Ed25519 public key that will sign the next block, 32 bytes."""
    genesis: Genesis | None = None

    def encode(self) -> bytes:
        """The header's bytes; FormatError for a combination that no block may have."""
        _check_shape(self)
        head = b"".join(
            (
                wire.uint(BLOCK_VERSION, 1),
                wire.uint(self.kind, 1),
                wire.uint(self.flags, 2),
                self.chain,
                wire.uint(self.seq, 8),
                self.prev,
                wire.uint(self.start, 8),
                wire.uint(self.count, 4),
                self.root,
                self.body,
                wire.uint(self.size, 4),
                wire.uint(self.group, 2),
                wire.uint(self.retention_class, 1),
                self.dek,
                wire.uint(self.step, 4),
                wire.uint(self.sealed_ns, 8),
                wire.uint(self.monotonic_ns, 8),
                self.boot,
                wire.uint(self.seen_size, 8),
                self.seen_root,
                self.next,
            )
        )
        if len(head) != HEADER_BYTES:
            raise FormatError("a field of the block header has the wrong length")
        return head if self.genesis is None else head + _encode_genesis(self.genesis)


@dataclass(frozen=True, slots=True)
class Block:
    """A block's statement: its exact bytes with the header they hold."""

    header: BlockHeader
    header_bytes: bytes
    signature: bytes

    @property
    def entry(self) -> bytes:
        """``header || signature``: the leaf entry of the tenant log."""
        return self.header_bytes + self.signature

    @property
    def hash(self) -> Digest:
        """The statement's hash."""
        return Digest(hashlib.sha256(self.header_bytes + self.signature).digest())

    @property
    def chain(self) -> ChainId:
        """The chain that the block belongs to: for a genesis, its own hash."""
        return ChainId(self.hash) if self.header.kind is BlockKind.GENESIS else self.header.chain


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice's statement: its exact bytes with the fields that every notice has."""

    type: str
    key_id: bytes
    """First 8 bytes of SHA-256 of the public key that signed."""
    time_ns: int
    fields: dict[str, canonical.Json]
    """All fields as written, ``type``, ``key`` and ``time`` included."""
    header_bytes: bytes
    signature: bytes

    @property
    def entry(self) -> bytes:
        """``header || signature``: the leaf entry of the tenant log."""
        return self.header_bytes + self.signature

    @property
    def hash(self) -> Digest:
        """The statement's hash."""
        return Digest(hashlib.sha256(self.header_bytes + self.signature).digest())


Statement = Block | Notice


def block_message(header_bytes: bytes) -> bytes:
    """What an agent signs for a block."""
    return _BLOCK_DOMAIN + header_bytes


def notice_message(header_bytes: bytes) -> bytes:
    """What the collector signs for a notice."""
    return _NOTICE_DOMAIN + header_bytes


def notice_key_id(public: bytes) -> bytes:
    """The id, 8 bytes, by which notices name the Ed25519 key ``public``."""
    return hashlib.sha256(public).digest()[:8]


def encode_notice(type_: str, time_ns: int, public: bytes, fields: dict[str, canonical.Json]) -> bytes:
    """The header of a notice of ``type_`` at ``time_ns`` (Unix ns), to be signed by the key ``public``."""
    reserved = {"type", "time", "key"} & fields.keys()
    if reserved:
        raise FormatError(f"the field {min(reserved)!r} of a notice is set by its encoder")
    header = canonical.encode(
        {**fields, "type": type_, "time": canonical.wide(time_ns), "key": notice_key_id(public).hex()}
    )
    if len(header) > NOTICE_MAX_BYTES:
        raise FormatError(f"a notice has at most {NOTICE_MAX_BYTES} bytes, not {len(header)}")
    return header


def log_digest(origin: str, verifier_keys: tuple[str, str]) -> Digest:
    r"""What a genesis commits to.

    SHA-256 of ``"duramen/log/v1\n"``, the origin, and the Ed25519 and ML-DSA-44 vkeys, a line each.
    """
    text = "duramen/log/v1\n" + "".join(f"{line}\n" for line in (origin, *verifier_keys))
    return Digest(hashlib.sha256(text.encode()).digest())


def parse_statement(data: bytes) -> Statement:
    """The statement in ``data``; FormatError for anything but one exact encoding."""
    if len(data) > STATEMENT_MAX_BYTES:
        raise FormatError(f"a statement has at most {STATEMENT_MAX_BYTES} bytes, not {len(data)}")
    if len(data) <= SIGNATURE_BYTES:
        raise FormatError("a statement is longer than its signature of 64 bytes")
    header, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if header[0] == BLOCK_VERSION:
        return Block(parse_block_header(header), header, signature)
    if header[:1] == b"{":
        return _parse_notice(header, signature)
    raise FormatError(f"a statement begins with 0x01 or '{{', not with 0x{header[0]:02x}")


def parse_block_header(data: bytes) -> BlockHeader:
    """The header in ``data``: 275 bytes, more for a genesis. FormatError otherwise."""
    reader = wire.Reader(data, "a block header")
    if reader.uint(1) != BLOCK_VERSION:
        raise FormatError("this block header is of a version that is not known here; use a newer release")
    kind = _kind(reader.uint(1))
    header = BlockHeader(
        kind=kind,
        flags=_flags(reader.uint(2)),
        chain=ChainId(reader.take(32)),
        seq=Seq(reader.uint(8)),
        prev=Digest(reader.take(32)),
        start=reader.uint(8),
        count=reader.uint(4),
        root=Digest(reader.take(32)),
        body=Digest(reader.take(32)),
        size=reader.uint(4),
        group=reader.uint(2),
        retention_class=reader.uint(1),
        dek=DataKeyId(reader.take(16)),
        step=reader.uint(4),
        sealed_ns=reader.uint(8),
        monotonic_ns=reader.uint(8),
        boot=reader.take(8),
        seen_size=reader.uint(8),
        seen_root=Digest(reader.take(32)),
        next=reader.take(32),
        genesis=_parse_genesis(reader) if kind is BlockKind.GENESIS else None,
    )
    reader.finish()
    _check_shape(header)
    return header


def verify_block(block: Block, public: bytes) -> None:
    """Check a block's signature; IntegrityError ``signature_invalid`` when it is not ``public``'s."""
    ed25519.verify(public, block_message(block.header_bytes), block.signature)


def verify_notice(notice: Notice, public: bytes) -> None:
    """Check a notice's signature; IntegrityError ``signature_invalid`` when it is not ``public``'s."""
    ed25519.verify(public, notice_message(notice.header_bytes), notice.signature)


def _kind(value: int) -> BlockKind:
    try:
        return BlockKind(value)
    except ValueError as error:
        raise FormatError(f"there is no block kind {value}") from error


def _flags(value: int) -> Flags:
    if value > _ALL_FLAGS:
        raise FormatError(f"the block flags 0x{value:04x} hold a bit that is not known here")
    return Flags(value)


def _encode_genesis(genesis: Genesis) -> bytes:
    return b"".join(
        (
            genesis.public,
            wire.prefixed(genesis.tenant.encode(), 1),
            wire.prefixed(genesis.agent.encode(), 1),
            genesis.log,
            genesis.configuration,
            genesis.replaces,
            wire.uint(genesis.replaced_seq, 8),
            genesis.replaced_hash,
        )
    )


def _parse_genesis(reader: wire.Reader) -> Genesis:
    public = reader.take(32)
    tenant, agent = (_ascii(reader.prefixed(1, limit)) for limit in (63, 253))
    return Genesis(
        public=public,
        tenant=check_tenant(tenant),
        agent=check_agent(agent),
        log=Digest(reader.take(32)),
        configuration=Digest(reader.take(32)),
        replaces=ChainId(reader.take(32)),
        replaced_seq=Seq(reader.uint(8)),
        replaced_hash=Digest(reader.take(32)),
    )


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("a name in a genesis header is not ASCII") from error


def _check_shape(header: BlockHeader) -> None:
    """Refuse what no block may be, whoever signed it."""
    if header.seq > MAX_SEQ or header.start + header.count >= 2**63:
        raise FormatError("a sequence or record number reaches 2**63")
    if header.size > BODY_MAX_BYTES:
        raise FormatError(f"a body has at most {BODY_MAX_BYTES} bytes, not {header.size}")
    if header.step > RATCHET_MAX_STEPS:
        raise FormatError(f"a data key is ratcheted at most {RATCHET_MAX_STEPS} times, not {header.step}")
    ed25519.check_public(header.next)
    if (header.seen_size == 0) != (header.seen_root == ZERO_DIGEST):
        raise FormatError(
            "the checkpoint a block says it saw has a size without a root or a root without a size"
        )
    if (header.count == 0) != (header.root == EMPTY_ROOT):
        raise FormatError("a block without records has the empty root, and one with records does not")
    _SHAPES[header.kind](header)


def _check_genesis(header: BlockHeader) -> None:
    genesis = header.genesis
    bare: tuple[object, ...] = (
        header.chain,
        header.prev,
        header.dek,
        header.seq,
        header.start,
        header.count,
        header.size,
        header.step,
    )
    if genesis is None or bare != (ZERO_DIGEST, ZERO_DIGEST, ZERO_DATA_KEY_ID, 0, 0, 0, 0, 0):
        raise FormatError("a genesis block is number 0, has no chain before it, no records and no body")
    if header.body != EMPTY_ROOT or header.group or header.retention_class:
        raise FormatError(
            "a genesis block has the hash of an empty body, shred group 0 and retention class 0"
        )
    check_tenant(genesis.tenant)
    check_agent(genesis.agent)
    ed25519.check_public(genesis.public)
    replaces = any(genesis.replaces)
    if replaces != any(genesis.replaced_hash) or (genesis.replaced_seq and not replaces):
        raise FormatError("a genesis names a replaced chain with its last hash, or neither")
    if genesis.replaced_seq > MAX_SEQ:
        raise FormatError("a sequence number reaches 2**63")


def _check_keys(header: BlockHeader) -> None:
    _check_later(header)
    if header.count or header.size == 0 or header.step or header.dek == ZERO_DATA_KEY_ID:
        raise FormatError(
            "a keys block has no records, a body, step 0 and the id of the data key it introduces"
        )


def _check_records(header: BlockHeader) -> None:
    _check_later(header)
    sealed = (header.count > 0, header.size > 0, header.dek != ZERO_DATA_KEY_ID)
    if len(set(sealed)) != 1:
        raise FormatError("a records block has records, a body and a data key, or none of the three")
    if not header.count and (header.body != EMPTY_ROOT or header.step):
        raise FormatError("a records block without records has the hash of an empty body and step 0")


def _check_later(header: BlockHeader) -> None:
    if header.genesis is not None or header.seq == 0 or ZERO_DIGEST in (header.chain, header.prev):
        raise FormatError("only a genesis block is number 0 and has no chain before it")


_SHAPES: Final = {
    BlockKind.GENESIS: _check_genesis,
    BlockKind.KEYS: _check_keys,
    BlockKind.RECORDS: _check_records,
}


def _parse_notice(header: bytes, signature: bytes) -> Notice:
    if len(header) > NOTICE_MAX_BYTES:
        raise FormatError(f"a notice has at most {NOTICE_MAX_BYTES} bytes, not {len(header)}")
    fields = canonical.Fields(canonical.decode(header, "a notice"), "a notice")
    type_, time_ns, key_id = fields.text("type", 64), fields.uint("time"), fields.hexed("key", 8)
    return Notice(type_, key_id, time_ns, fields.value, header, signature)
