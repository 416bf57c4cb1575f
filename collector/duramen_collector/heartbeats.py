"""Heartbeats of one agent against the state of its chain.

They are signed with the key of the next block. ``next_seq`` against what is accepted decides:

- Equal to accepted + 1: head and signature are checked here and now. ``heard`` moves to the time of the
  *nonce*, so a replayed heartbeat proves no more than the first one did. A valid signature over another head
  is a fork.
- Past it: the agent has sealed blocks that are not here yet, and the key is unknown. The highest such
  heartbeat is kept as an announcement, counts for nothing, and is checked when the chain reaches its place:
  then it is a verified announcement or, with another head, a fork. Until then the chain lacks blocks that its
  own agent claimed, on the word of the certificate alone.
- Below it: refused as ``replay`` with the head. It may have been overtaken on the way, so it is no finding;
  an agent that really is behind its own chain learns so from the head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from duramen.api import Heartbeat, Problem
from duramen.chain import ChainState
from duramen.errors import IntegrityError
from duramen.names import ChainId, Digest
from duramen.ratchet import verify_heartbeat
from duramen_collector.chainstate import StoredChain, update_chain
from duramen_collector.forks import SIGNATURE_VALID, record_fork
from duramen_collector.judgement import Judged, forked, with_head
from duramen_collector.logkeys import NoticeSigner
from duramen_collector.refusal import Refused
from duramen_collector.schema import announcements
from duramen_collector.tokens import Pepper


def receive_heartbeat(
    connection: sa.Connection,
    stored: StoredChain,
    heartbeat: Heartbeat,
    signer: NoticeSigner,
    pepper: Pepper,
    now_ns: int,
) -> Judged:
    """Judge a heartbeat as the module's text says.

    Refused with ``stale_nonce`` when its nonce is not a live one.
    """
    state = stored.state
    made_ns = pepper.nonce_time(state.chain, heartbeat.nonce, now_ns)
    if made_ns is None:
        problem = Problem(409, "stale_nonce", "beat again with the nonce of this answer")
        raise Refused(replace(problem, nonce=pepper.nonce(state.chain, now_ns)))
    if heartbeat.next_seq <= state.seq:
        raise Refused(
            with_head(
                Problem(409, "replay", f"the heartbeat is for block {heartbeat.next_seq}, which is here"),
                state,
            )
        )
    if heartbeat.next_seq > state.seq + 1:
        _announce(connection, state.chain, heartbeat, now_ns)
        return Judged(stored)
    _verify(heartbeat, state)
    if heartbeat.head != state.head:
        problem = _record_head_fork(connection, state, heartbeat.head, signer, now_ns)
        return Judged(stored, problem=problem)
    heard = replace(
        stored,
        heard_ns=max(stored.heard_ns, made_ns),
        announced_seq=max(stored.announced_seq, heartbeat.next_seq),
    )
    update_chain(connection, heard)
    return Judged(heard)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A heartbeat that was ahead of its chain."""

    next_seq: int
    head: Digest
    nonce: bytes
    signature: bytes

    @classmethod
    def find(cls, connection: sa.Connection, chain: ChainId) -> Announcement | None:
        """The announcement that waits for ``chain``, or None."""
        row = connection.execute(sa.select(announcements).where(announcements.c.chain == chain)).first()
        return None if row is None else cls(row.next_seq, Digest(row.head), row.nonce, row.signature)


def _announce(connection: sa.Connection, chain: ChainId, heartbeat: Heartbeat, now_ns: int) -> None:
    present = Announcement.find(connection, chain)
    if present is not None:
        if present.next_seq >= heartbeat.next_seq:
            return
        connection.execute(announcements.delete().where(announcements.c.chain == chain))
    connection.execute(
        announcements.insert().values(
            chain=chain,
            next_seq=heartbeat.next_seq,
            head=heartbeat.head,
            nonce=heartbeat.nonce,
            signature=heartbeat.signature,
            heard_ns=now_ns,
        )
    )


def settle(
    connection: sa.Connection,
    stored: StoredChain,
    announced: Announcement,
    signer: NoticeSigner,
    now_ns: int,
) -> StoredChain:
    """The chain has reached the place of an announcement: check it, and forget it. It refuses no block."""
    state = stored.state
    connection.execute(announcements.delete().where(announcements.c.chain == state.chain))
    try:
        _verify(announced, state)
    except IntegrityError:
        return stored  # it proved nothing then and proves nothing now
    if announced.head != state.head:
        _record_head_fork(connection, state, announced.head, signer, now_ns)
        return stored
    return replace(stored, announced_seq=max(stored.announced_seq, announced.next_seq))


def _verify(heartbeat: Heartbeat | Announcement, state: ChainState) -> None:
    verify_heartbeat(
        state.next_public,
        state.chain,
        heartbeat.next_seq,
        heartbeat.head,
        heartbeat.nonce,
        heartbeat.signature,
    )


def _record_head_fork(
    connection: sa.Connection, state: ChainState, other: Digest, signer: NoticeSigner, now_ns: int
) -> Problem:
    record_fork(
        connection,
        signer,
        tenant=state.tenant,
        chain=state.chain,
        seq=state.seq,
        accepted=state.head,
        other=other,
        statement=None,
        signature=SIGNATURE_VALID,
        now_ns=now_ns,
    )
    return forked(state, state.seq)
