"""Receipts from the database: what is published of a chain, proven under the last checkpoint (DESIGN 7)."""

from __future__ import annotations

from sqlalchemy import Connection, select

from duramen.errors import IntegrityError
from duramen.merkle import consistency_proof_from, inclusion_proof_from
from duramen.names import ChainId, Seq
from duramen.receipt import MAX_STATEMENTS, InclusionProof, Receipt
from duramen.tiles import TileHashReader
from duramen_collector.ledger import DatabaseTiles
from duramen_collector.schema import checkpoints, entries


def build_receipt(connection: Connection, chain: ChainId, first_seq: Seq, seen_size: int) -> Receipt | None:
    """A receipt for the statements of ``chain`` from ``first_seq`` on; None: none is published yet.

    At most MAX_STATEMENTS of them. ``seen_size`` is the size of the checkpoint that the agent verified last;
    one that this collector does not know of is an IntegrityError ``checkpoint_rollback``. Runs within the
    caller's transaction, so that it sees one state.
    """
    found = connection.execute(
        select(entries.c.tenant, entries.c.leaf, entries.c.seq)
        .where(entries.c.chain == chain, entries.c.seq >= first_seq)
        .order_by(entries.c.seq)
        .limit(MAX_STATEMENTS)
    ).all()
    if not found or found[0].seq != first_seq:
        return None
    tenant = found[0].tenant
    shown = connection.execute(
        select(checkpoints.c.size, checkpoints.c.note)
        .where(checkpoints.c.tenant == tenant)
        .order_by(checkpoints.c.size.desc())
        .limit(1)
    ).first()
    size = 0 if shown is None else shown.size
    if seen_size > size:
        raise IntegrityError(
            f"the agent has seen a tenant log of {seen_size} statements, and this collector knows of {size}",
            code="checkpoint_rollback",
        )
    leaves = [
        row.leaf for offset, row in enumerate(found) if row.seq == first_seq + offset and row.leaf < size
    ]
    if shown is None or not leaves:
        return None
    reader = TileHashReader(DatabaseTiles(connection, tenant), size)
    return Receipt(
        checkpoint=shown.note.encode(),
        old_size=seen_size,
        consistency=tuple(consistency_proof_from(reader, seen_size, size)) if seen_size else (),
        first=first_seq,
        proofs=tuple(
            InclusionProof(leaf, tuple(inclusion_proof_from(reader, leaf, size))) for leaf in leaves
        ),
    )
