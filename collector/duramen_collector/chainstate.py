"""Chains in the database: between the table's row and what :mod:`duramen.chain` judges by."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import sqlalchemy as sa

from duramen.chain import ChainState, DataKeyUse
from duramen.errors import IntegrityError
from duramen.names import ChainId, DataKeyId, Digest, Seq
from duramen.statement import BlockHeader
from duramen_collector.authority import AgentIdentity
from duramen_collector.refusal import refuse
from duramen_collector.schema import chains, entries, landing

_INTEGER_LIMIT: Final = 2**63


@dataclass(frozen=True, slots=True)
class StoredChain:
    """A chain's state, and what else its row says."""

    state: ChainState
    published_seq: int
    """-1: nothing is published yet."""
    seen_size: int
    """Largest tenant checkpoint that the chain's blocks say their agent verified."""
    heard_ns: int
    """When the agent was last known to be there: its last block, or the nonce of a verified heartbeat.

    Unix ns.
    """
    announced_seq: int
    """Highest next sequence number that a verified heartbeat signed."""


def insert_chain(connection: sa.Connection, state: ChainState, now_ns: int) -> None:
    """A new chain whose genesis was just accepted."""
    stored = StoredChain(state, published_seq=-1, seen_size=0, heard_ns=now_ns, announced_seq=0)
    connection.execute(
        chains.insert().values(
            chain=state.chain, tenant=state.tenant, agent=state.agent, published_seq=-1, **_columns(stored)
        )
    )


def update_chain(connection: sa.Connection, stored: StoredChain) -> None:
    """Write a chain's state back; ``published_seq`` is the publisher's to move."""
    connection.execute(chains.update().where(chains.c.chain == stored.state.chain).values(**_columns(stored)))


def find_chain(connection: sa.Connection, chain: ChainId) -> StoredChain | None:
    """The chain with this id, or None."""
    row = connection.execute(sa.select(chains).where(chains.c.chain == chain)).first()
    return None if row is None else _stored(row)


def find_agent(connection: sa.Connection, tenant: str, agent: str) -> StoredChain | None:
    """The chain of an agent, or None."""
    matches = (chains.c.tenant == tenant, chains.c.agent == agent)
    row = connection.execute(sa.select(chains).where(*matches)).first()
    return None if row is None else _stored(row)


def list_chains(connection: sa.Connection, tenant: str) -> list[StoredChain]:
    """A tenant's chains by agent."""
    matches = chains.c.tenant == tenant
    rows = connection.execute(sa.select(chains).where(matches).order_by(chains.c.agent))
    return [_stored(row) for row in rows]


def demand_chain(connection: sa.Connection, peer: AgentIdentity | None, chain: ChainId) -> StoredChain:
    """The chain, if it is the peer's own.

    401 without a certificate, 403 alike for a foreign and an unknown chain.
    """
    if peer is None:
        raise refuse(
            401, "certificate_needed", "present the client certificate that enrolment gave this agent"
        )
    stored = find_chain(connection, chain)
    if stored is None or (stored.state.tenant, stored.state.agent) != (peer.tenant, peer.agent):
        raise refuse(403, "not_enrolled", "the certificate does not speak for this chain; enrol this agent")
    return stored


def accepted_hash(connection: sa.Connection, chain: ChainId, seq: int) -> Digest | None:
    """Hash of the accepted statement ``seq`` of ``chain``, published or not; None when none is known."""
    for table in (landing, entries):
        matches = (table.c.chain == chain, table.c.seq == seq)
        row = connection.execute(sa.select(table.c.hash).where(*matches)).first()
        if row is not None:
            return Digest(row.hash)
    return None


def demand_storable(header: BlockHeader) -> None:
    """Refuse times and sizes that a database's signed 64 bits cannot hold (a clock past the year 2262)."""
    if max(header.sealed_ns, header.seen_size) >= _INTEGER_LIMIT:
        raise IntegrityError(
            f"block {header.seq} names a time or a tree size past 2**63", code="header_corrupt"
        )


def _columns(stored: StoredChain) -> dict[str, object]:
    state = stored.state
    keys = [
        [group, retention_class, use.dek.hex(), use.next_step, use.since_ns]
        for (group, retention_class), use in sorted(state.keys.items())
    ]
    return {
        "seq": state.seq,
        "head": state.head,
        "records": state.records,
        "next_public": state.next_public,
        "sealed_ns": state.sealed_ns,
        "stopped": state.stopped,
        "keys": keys,
        "seen_size": stored.seen_size,
        "heard_ns": stored.heard_ns,
        "announced_seq": stored.announced_seq,
    }


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredChain:
    keys = {
        (group, retention_class): DataKeyUse(DataKeyId(bytes.fromhex(dek)), step, since_ns)
        for group, retention_class, dek, step, since_ns in row._mapping["keys"]  # noqa: SLF001  # Row.keys is a method; _mapping is public API
    }
    state = ChainState(
        chain=ChainId(row.chain),
        tenant=row.tenant,
        agent=row.agent,
        seq=Seq(row.seq),
        head=Digest(row.head),
        records=row.records,
        next_public=row.next_public,
        sealed_ns=row.sealed_ns,
        stopped=row.stopped,
        keys=MappingProxyType(keys),
    )
    return StoredChain(state, row.published_seq, row.seen_size, row.heard_ns, row.announced_seq)
