"""The landing table: statements that are accepted and wait for publication."""

from __future__ import annotations

import sqlalchemy as sa

from duramen.names import ZERO_DATA_KEY_ID
from duramen.statement import Block, Notice
from duramen_collector.schema import landing


def land_block(connection: sa.Connection, tenant: str, block: Block, body: bytes, now_ns: int) -> None:
    """Put an accepted block with its body into landing."""
    header = block.header
    keyed = header.dek != ZERO_DATA_KEY_ID
    connection.execute(
        landing.insert().values(
            tenant=tenant,
            chain=block.chain,
            seq=header.seq,
            hash=block.hash,
            header_size=len(block.header_bytes),
            statement=block.entry,
            body=body,
            retention_class=header.retention_class if keyed else None,
            dek=header.dek if keyed else None,
            accepted_ns=now_ns,
        )
    )


def land_notice(connection: sa.Connection, tenant: str, notice: Notice, now_ns: int) -> None:
    """Put a notice into landing."""
    connection.execute(
        landing.insert().values(
            tenant=tenant,
            chain=None,
            seq=None,
            hash=notice.hash,
            header_size=len(notice.header_bytes),
            statement=notice.entry,
            body=b"",
            retention_class=None,
            dek=None,
            accepted_ns=now_ns,
        )
    )
