"""Forks: a second statement for a place in a chain that is taken, kept as evidence.

Both branches of a fork are stored and logged: the accepted one is in the tenant log anyway, the other goes
into the ``forks`` table and, within a signed ``fork`` notice, into the tenant log. Whether its signature
holds is said: ``valid`` under the key that the accepted branch named for that place, or ``unchecked`` where
the block that named it has been published and only the regions still have it. An invalid one is no fork but
noise, and is not kept.

An agent's certificate holder could make forks without end, so ``MAX_FORKS`` of a chain are kept and the
rest only refused.
"""

from __future__ import annotations

import base64
from typing import Final

import sqlalchemy as sa

from duramen.canonical import Json, wide
from duramen.names import ChainId, Digest
from duramen.statement import Block, parse_statement
from duramen_collector.landing import land_notice
from duramen_collector.logkeys import NoticeSigner
from duramen_collector.schema import forks, landing

MAX_FORKS: Final = 64
SIGNATURE_VALID: Final = "valid"
SIGNATURE_UNCHECKED: Final = "unchecked"


def record_fork(
    connection: sa.Connection,
    signer: NoticeSigner,
    *,
    tenant: str,
    chain: ChainId,
    seq: int,
    accepted: Digest,
    other: Digest,
    statement: bytes | None,
    signature: str,
    now_ns: int,
) -> None:
    """Keep ``other`` as a fork of ``chain`` at ``seq``, once.

    ``statement`` is what told of it: the block itself, a block that names it as its predecessor, or None
    for a heartbeat.
    """
    query = sa.select(forks.c.seq, forks.c.hash).where(forks.c.chain == chain)
    known = {(row.seq, row.hash) for row in connection.execute(query)}
    if (seq, other) in known or len(known) >= MAX_FORKS:
        return
    connection.execute(
        forks.insert().values(
            chain=chain,
            seq=seq,
            hash=other,
            tenant=tenant,
            statement=statement,
            signature=signature,
            seen_ns=now_ns,
        )
    )
    fields: dict[str, Json] = {
        "accepted": accepted.hex(),
        "chain": chain.hex(),
        "other": other.hex(),
        "seq": wide(seq),
        "signature": signature,
    }
    if statement is not None:
        fields["statement"] = base64.b64encode(statement).decode()
    land_notice(connection, tenant, signer.sign("fork", now_ns, fields), now_ns)


def signing_key(connection: sa.Connection, chain: ChainId, seq: int) -> bytes | None:
    """The key that signs block ``seq``, from the block before while that waits for publication.

    None afterwards.
    """
    matches = (landing.c.chain == chain, landing.c.seq == seq - 1)
    row = connection.execute(sa.select(landing.c.statement).where(*matches)).first()
    if row is None:
        return None
    before = parse_statement(row.statement)
    assert isinstance(before, Block)
    return before.header.next
