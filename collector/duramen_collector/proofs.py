"""Inclusion and consistency proofs of a tenant's log, from the tiles in the database (RFC 6962)."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from duramen.errors import UsageError
from duramen.merkle import consistency_proof_from, inclusion_proof_from
from duramen.names import Digest
from duramen.tiles import TileHashReader
from duramen_collector.ledger import DatabaseTiles
from duramen_collector.refusal import refuse
from duramen_collector.schema import checkpoints, entries


@dataclass(frozen=True, slots=True)
class InclusionAnswer:
    """Where a statement is in the log, and the path to the root of ``checkpoint``, hashes in hex."""

    leaf: int
    size: int
    hashes: tuple[str, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class ConsistencyAnswer:
    """That the log of ``size`` statements continues the one of ``old_size``; hashes in hex."""

    old_size: int
    size: int
    hashes: tuple[str, ...]
    checkpoint: str


def prove_inclusion(connection: sa.Connection, tenant: str, statement: Digest) -> InclusionAnswer:
    """The proof for the statement with this hash under the newest checkpoint.

    404 when that does not hold it.
    """
    size, note = _newest(connection, tenant)
    matches = (entries.c.tenant == tenant, entries.c.hash == statement, entries.c.leaf < size)
    row = connection.execute(sa.select(entries.c.leaf).where(*matches)).first()
    if row is None:
        raise refuse(404, "not_found", "no published statement of this log has this hash")
    reader = TileHashReader(DatabaseTiles(connection, tenant), size)
    return InclusionAnswer(row.leaf, size, _hexed(inclusion_proof_from(reader, row.leaf, size)), note)


def prove_consistency(connection: sa.Connection, tenant: str, old_size: int) -> ConsistencyAnswer:
    """The proof from the log of ``old_size`` statements to the newest checkpoint."""
    size, note = _newest(connection, tenant)
    if not 0 < old_size <= size:
        raise UsageError(f"from is between 1 and the log's size of {size}")
    reader = TileHashReader(DatabaseTiles(connection, tenant), size)
    return ConsistencyAnswer(old_size, size, _hexed(consistency_proof_from(reader, old_size, size)), note)


def _newest(connection: sa.Connection, tenant: str) -> tuple[int, str]:
    query = sa.select(checkpoints.c.size, checkpoints.c.note).where(checkpoints.c.tenant == tenant)
    row = connection.execute(query.order_by(checkpoints.c.size.desc()).limit(1)).first()
    if row is None:
        raise refuse(404, "not_found", "nothing of this tenant's log is published yet")
    return row.size, row.note


def _hexed(hashes: list[bytes]) -> tuple[str, ...]:
    return tuple(item.hex() for item in hashes)
