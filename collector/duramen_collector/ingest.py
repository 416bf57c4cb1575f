"""Ingest: blocks, envelopes and heartbeats of one agent against the state of its chain.

Everything that needs no plaintext is checked before a block counts as accepted: it continues the chain
(:func:`duramen.chain.advance`: number, link, signature, record numbers, data keys), its body is the one the
header names, and the envelopes of its data key are here and are those that the keys block commits to.

A request is parsed as a whole first (:func:`parse_blocks`): one malformed frame and nothing of it counts.
Then its blocks are judged in order. What was good before the first bad one is kept, because it is true
whatever comes after it; the refusal says how far that is. A block that is there already, byte for byte, is
passed over. Another block in a taken place is a fork, and a block that skips numbers a gap: both are
answered with the head. Under a data key whose envelopes are missing nothing more is accepted and ``want``
names it.

Heartbeats are judged in :mod:`duramen_collector.heartbeats`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from duramen.api import EnvelopeUpload, Problem
from duramen.chain import ChainState, advance, check_body
from duramen.envelope import open_key_list
from duramen.errors import DuramenError, FormatError, IntegrityError, LimitError
from duramen.frame import parse_frames
from duramen.names import ChainId, DataKeyId, Digest
from duramen.statement import Block, BlockKind, verify_block
from duramen_collector.chainstate import StoredChain, accepted_hash, demand_storable, update_chain
from duramen_collector.forks import SIGNATURE_UNCHECKED, SIGNATURE_VALID, record_fork, signing_key
from duramen_collector.heartbeats import Announcement, settle
from duramen_collector.judgement import Judged, forked, with_head
from duramen_collector.landing import land_block
from duramen_collector.logkeys import NoticeSigner
from duramen_collector.refusal import Refused, problem_of, refuse
from duramen_collector.schema import envelopes

MAX_BLOCKS: Final = 4096
"""Blocks in one request."""
MAX_KEYS_IN_FORCE: Final = 1024
"""Pairs of shred group and retention class that one chain may use at a time."""

MAX_KEYS_WAITING: Final = 64
"""Data keys of one chain whose envelopes are here and whose keys blocks are not."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One block of a request with its body, which is the one that its header names."""

    block: Block
    body: bytes


def parse_blocks(data: bytes) -> tuple[Upload, ...]:
    """The blocks of a request, their bodies checked against their headers.

    It needs no state, so it may run in any thread.
    FormatError for malformed frames, a notice or a genesis; IntegrityError ``body_corrupt``; LimitError
    past ``MAX_BLOCKS``.
    """
    found: list[Upload] = []
    for frame in parse_frames(data, "the request"):
        block = frame.statement
        if not isinstance(block, Block):
            raise FormatError("agents send blocks; notices are the collector's own")
        if block.header.kind is BlockKind.GENESIS:
            raise FormatError("a genesis block is sent with the enrolment, not among other blocks")
        if len(found) == MAX_BLOCKS:
            raise LimitError(f"a request holds at most {MAX_BLOCKS} blocks; send fewer")
        check_body(block, frame.body)
        found.append(Upload(block, frame.body))
    if not found:
        raise FormatError("the request holds no block")
    return tuple(found)


def receive_blocks(
    connection: sa.Connection,
    stored: StoredChain,
    uploads: Sequence[Upload],
    signer: NoticeSigner,
    now_ns: int,
) -> Judged:
    """Judge ``uploads`` in order, store what is accepted, and say what became of them."""
    before = stored
    announced = Announcement.find(connection, stored.state.chain)
    judged = Judged(stored)
    for upload in uploads:
        try:
            judged = _receive_block(connection, stored, upload, signer, now_ns)
        except Refused as error:
            judged = Judged(stored, problem=error.problem)
        except DuramenError as error:
            judged = Judged(stored, problem=with_head(problem_of(error), stored.state))
        stored = judged.stored
        if judged.want or judged.problem is not None:
            break
        if announced is not None and announced.next_seq == stored.state.seq + 1:
            stored = settle(connection, stored, announced, signer, now_ns)
            announced, judged = None, Judged(stored)
    if stored is not before:
        update_chain(connection, stored)
    return judged


def receive_envelopes(
    connection: sa.Connection, stored: StoredChain, dek: DataKeyId, upload: EnvelopeUpload
) -> None:
    """Store all envelopes of one data key; a later upload replaces them until a keys block commits to them.

    Refused with 409 ``conflict`` when the data key is another chain's, or when a keys block commits to
    others.
    """
    present = connection.execute(sa.select(envelopes).where(*_of(stored.state, dek))).all()
    if any(row.chain != stored.state.chain for row in present):
        raise refuse(409, "conflict", "another chain uses a data key of this name; make a new data key")
    if {(row.key_hash, row.envelope) for row in present} == set(upload.envelopes):
        return
    if any(row.keys_seq is not None for row in present):
        raise refuse(
            409, "conflict", "a keys block commits to other envelopes than these; make a new data key"
        )
    if not present:
        _demand_room(connection, stored.state.chain)
    connection.execute(envelopes.delete().where(*_of(stored.state, dek)))
    rows = [
        {
            "tenant": stored.state.tenant,
            "dek": dek,
            "key_hash": key_hash,
            "chain": stored.state.chain,
            "envelope": envelope,
        }
        for key_hash, envelope in upload.envelopes
    ]
    connection.execute(envelopes.insert(), rows)


def _receive_block(
    connection: sa.Connection, stored: StoredChain, upload: Upload, signer: NoticeSigner, now_ns: int
) -> Judged:
    block, state = upload.block, stored.state
    header = block.header
    if header.chain == state.chain and header.seq <= state.seq:
        return _judge_taken(connection, stored, block, signer, now_ns)
    if header.chain == state.chain and header.seq == state.seq + 1 and header.prev != state.head:
        verify_block(
            block, state.next_public
        )  # the right key over another past: somebody holds two histories
        problem = _record_block_fork(connection, state, block, state.head, SIGNATURE_VALID, signer, now_ns)
        return Judged(stored, problem=problem)
    after = advance(state, block)
    demand_storable(header)
    if len(after.keys) > MAX_KEYS_IN_FORCE:
        raise LimitError(f"a chain uses at most {MAX_KEYS_IN_FORCE} pairs of shred group and class at a time")
    if header.kind is BlockKind.KEYS and not _commit_envelopes(connection, state, upload):
        return Judged(stored, want=(header.dek,))
    land_block(connection, state.tenant, block, upload.body, now_ns)
    return Judged(
        replace(
            stored,
            state=after,
            seen_size=max(stored.seen_size, header.seen_size),
            heard_ns=max(stored.heard_ns, now_ns),
        )
    )


def _judge_taken(
    connection: sa.Connection, stored: StoredChain, block: Block, signer: NoticeSigner, now_ns: int
) -> Judged:
    """A block in a place that is taken: the same one is passed over, another one is a fork."""
    state, seq = stored.state, block.header.seq
    accepted = accepted_hash(connection, state.chain, seq)
    if accepted == block.hash:
        return Judged(stored)
    if accepted is None:
        raise Refused(
            with_head(Problem(409, "replay", f"block {seq} is here, but not at hand to compare"), state)
        )
    public = signing_key(connection, state.chain, seq)
    if public is not None:
        verify_block(block, public)
    signature = SIGNATURE_UNCHECKED if public is None else SIGNATURE_VALID
    problem = _record_block_fork(connection, state, block, accepted, signature, signer, now_ns)
    return Judged(stored, problem=problem)


def _record_block_fork(
    connection: sa.Connection,
    state: ChainState,
    block: Block,
    accepted: Digest,
    signature: str,
    signer: NoticeSigner,
    now_ns: int,
) -> Problem:
    seq = block.header.seq
    forked_at = seq - 1 if seq > state.seq else seq  # a successor of another head forks where that head is
    record_fork(
        connection,
        signer,
        tenant=state.tenant,
        chain=state.chain,
        seq=forked_at,
        accepted=accepted,
        other=block.header.prev if seq > state.seq else block.hash,
        statement=block.entry,
        signature=signature,
        now_ns=now_ns,
    )
    return forked(state, forked_at)


def _demand_room(connection: sa.Connection, chain: ChainId) -> None:
    waiting = sa.select(sa.func.count(envelopes.c.dek.distinct())).where(
        envelopes.c.chain == chain, envelopes.c.keys_seq.is_(None)
    )
    if connection.execute(waiting).scalar_one() >= MAX_KEYS_WAITING:
        raise LimitError(
            f"envelopes of {MAX_KEYS_WAITING} data keys wait for their keys blocks; send those before more"
        )


def _of(state: ChainState, dek: DataKeyId) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return envelopes.c.tenant == state.tenant, envelopes.c.dek == dek


def _commit_envelopes(connection: sa.Connection, state: ChainState, upload: Upload) -> bool:
    """Hold a keys block against the stored envelopes and bind them to it.

    False when they are not all here.
    """
    header = upload.block.header
    listed = open_key_list(header, upload.body)
    present = connection.execute(sa.select(envelopes).where(*_of(state, header.dek))).all()
    if any(row.chain != state.chain or row.keys_seq is not None for row in present):
        raise IntegrityError(
            f"keys block {header.seq} introduces a data key that has been introduced before",
            code="header_corrupt",
        )
    hashes: Mapping[bytes, bytes] = {row.key_hash: hashlib.sha256(row.envelope).digest() for row in present}
    if hashes != dict(listed.envelopes):
        return False
    connection.execute(envelopes.update().where(*_of(state, header.dek)).values(keys_seq=header.seq))
    return True
