"""What makes blocks a chain: the state after each block, and the rules for the next.

One function serves the agent that seals, the collector that ingests and the auditor who verifies:
:func:`advance` takes the state after block i and block i+1, and returns the state after it or raises
IntegrityError with the code of what is wrong. It needs no plaintext. Times are not judged here (clock jumps
are notes, not failures), nor are bodies (:func:`check_body`), nor what lies in the tenant log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from duramen.errors import IntegrityError
from duramen.limits import DATA_KEY_MAX_AGE_NS
from duramen.names import ZERO_DATA_KEY_ID, ChainId, DataKeyId, Digest, Seq
from duramen.statement import Block, BlockHeader, BlockKind, Flags, verify_block


@dataclass(frozen=True, slots=True)
class DataKeyUse:
    """The data key in force for one shred group and retention class."""

    dek: DataKeyId
    next_step: int
    since_ns: int
    """When its keys block was sealed, Unix ns."""


@dataclass(frozen=True, slots=True)
class ChainState:
    """Everything that judging the next block needs."""

    chain: ChainId
    tenant: str
    agent: str
    seq: Seq
    """Of the last block."""
    head: Digest
    """Hash of the last statement."""
    records: int
    """How many records the chain holds: the number of the next one."""
    next_public: bytes
    """Who signs the next block."""
    sealed_ns: int
    stopped: bool
    """Whether the last block said stop."""
    keys: Mapping[tuple[int, int], DataKeyUse]
    """Data key in force by (shred group, retention class)."""


def begin(block: Block) -> ChainState:
    """The state after a genesis; IntegrityError when its signature does not verify under the key it names."""
    genesis = block.header.genesis
    if genesis is None:
        raise IntegrityError("a chain begins with a genesis block", code="gap")
    verify_block(block, genesis.public)
    return ChainState(
        chain=ChainId(block.hash),
        tenant=genesis.tenant,
        agent=genesis.agent,
        seq=Seq(0),
        head=block.hash,
        records=0,
        next_public=block.header.next,
        sealed_ns=block.header.sealed_ns,
        stopped=Flags.STOP in block.header.flags,
        keys=MappingProxyType({}),
    )


def advance(state: ChainState, block: Block) -> ChainState:
    """The state after ``block``; IntegrityError with its code when it does not continue ``state``.

    Codes: ``link_broken`` (another chain or previous hash), ``replay`` (a number that has passed), ``gap``
    (a number too far ahead), ``signature_invalid``, ``header_corrupt`` (record numbers or data keys that do
    not follow).
    """
    header = block.header
    if header.kind is BlockKind.GENESIS or header.chain != state.chain:
        raise IntegrityError(
            f"the block belongs to another chain than {state.chain.hex()[:16]}", code="link_broken"
        )
    if header.seq != state.seq + 1:
        raise IntegrityError(
            f"block {header.seq} does not follow block {state.seq}",
            code="gap" if header.seq > state.seq else "replay",
        )
    if header.prev != state.head:
        raise IntegrityError(
            f"block {header.seq} names another block {state.seq} than the one that is there",
            code="link_broken",
        )
    verify_block(block, state.next_public)
    if header.start != state.records:
        raise IntegrityError(
            f"block {header.seq} begins at record {header.start} where {state.records} is next",
            code="header_corrupt",
        )
    return replace(
        state,
        seq=header.seq,
        head=block.hash,
        records=header.start + header.count,
        next_public=header.next,
        sealed_ns=header.sealed_ns,
        stopped=Flags.STOP in header.flags,
        keys=_advance_keys(state.keys, header),
    )


def check_body(block: Block, body: bytes) -> None:
    """Whether ``body`` is the one that ``block`` commits to; IntegrityError ``body_corrupt`` otherwise."""
    header = block.header
    if len(body) != header.size or hashlib.sha256(body).digest() != header.body:
        raise IntegrityError(
            f"the body of block {header.seq} is not the one its header names", code="body_corrupt"
        )


def _advance_keys(
    keys: Mapping[tuple[int, int], DataKeyUse], header: BlockHeader
) -> Mapping[tuple[int, int], DataKeyUse]:
    slot = (header.group, header.retention_class)
    if header.kind is BlockKind.KEYS:
        if any(use.dek == header.dek for use in keys.values()):
            raise IntegrityError(
                f"block {header.seq} introduces a data key for the second time", code="header_corrupt"
            )
        return MappingProxyType({**keys, slot: DataKeyUse(header.dek, 0, header.sealed_ns)})
    if header.dek == ZERO_DATA_KEY_ID:
        return keys
    use = keys.get(slot)
    if use is None or use.dek != header.dek:
        raise IntegrityError(
            f"block {header.seq} is sealed under a data key that no keys block introduced for its group",
            code="header_corrupt",
        )
    if header.step != use.next_step:
        raise IntegrityError(
            f"block {header.seq} is at step {header.step} of its data key where {use.next_step} is next",
            code="header_corrupt",
        )
    return MappingProxyType({**keys, slot: replace(use, next_step=use.next_step + 1)})


def key_expired(use: DataKeyUse, now_ns: int) -> bool:
    """Whether a data key has reached the age at which it is replaced (so has one from the future)."""
    return not 0 <= now_ns - use.since_ns < DATA_KEY_MAX_AGE_NS
