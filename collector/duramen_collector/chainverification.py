"""What the database says of a tenant's chains, held against the regions' logs and against time.

:func:`read_known` is called before the regions are read, so that what is published meanwhile is never a
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from duramen.auditreport import AuditReport
from duramen.checkpoint import Checkpoint, LogKeys, open_checkpoint
from duramen.verdict import Code, Finding, Severity
from duramen_collector.database import reading
from duramen_collector.schema import announcements, chains, checkpoints, landing


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait before something is a finding, ns."""

    silent_ns: int = 60 * 10**9
    """Since an agent was last heard of; agents send a heartbeat every 10 s unless told otherwise."""
    truncated_ns: int = 600 * 10**9
    """Since an agent announced blocks that have not come."""
    landing_ns: int = 300 * 10**9
    """Since a block was accepted that is not published."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knew before the regions were read."""

    newest: Checkpoint | None
    """The largest signed checkpoint that every region has had time to get."""
    size: int
    """Of the largest checkpoint there is: what the published marks of the chains go by."""
    chains: tuple[sa.Row[Any], ...]
    announced: Mapping[bytes, sa.Row[Any]]
    waiting: tuple[sa.Row[Any], ...]


def read_known(engine: sa.Engine, tenant: str, keys: LogKeys, before_ns: int) -> Known:
    """What the database knows of ``tenant``; its newest checkpoint as of ``before_ns``."""
    with reading(engine) as connection:
        row = connection.execute(
            sa.select(checkpoints.c.note)
            .where(checkpoints.c.tenant == tenant, checkpoints.c.signed_ns <= before_ns)
            .order_by(checkpoints.c.size.desc())
            .limit(1)
        ).first()
        size = connection.execute(
            sa.select(sa.func.max(checkpoints.c.size)).where(checkpoints.c.tenant == tenant)
        ).scalar()
        known_chains = tuple(connection.execute(sa.select(chains).where(chains.c.tenant == tenant)))
        waiting = (
            sa.select(
                landing.c.chain,
                sa.func.count().label("blocks"),
                sa.func.min(landing.c.accepted_ns).label("since"),
            )
            .where(landing.c.tenant == tenant)
            .group_by(landing.c.chain)
        )
        return Known(
            newest=None if row is None else open_checkpoint(row.note.encode(), keys).checkpoint,
            size=size or 0,
            chains=known_chains,
            announced={
                item.chain: item
                for item in connection.execute(
                    sa.select(announcements)
                    .join(chains, chains.c.chain == announcements.c.chain)
                    .where(chains.c.tenant == tenant)
                )
            },
            waiting=tuple(connection.execute(waiting)),
        )


def judge_chains(
    known: Known, audits: Mapping[str, AuditReport], patience: Patience, now_ns: int, tenant: str
) -> list[Finding]:
    """What the database and the regions say of the chains, against each other and against time."""
    found: list[Finding] = []

    def add(
        code: Code, severity: Severity, detail: str, row: sa.Row[Any], seq: int, region: str = ""
    ) -> None:
        found.append(
            Finding(code, severity, detail, tenant=tenant, chain=row.chain.hex(), seq=seq, region=region)
        )

    for row in known.chains:
        for name, audit in audits.items():
            if audit.signed is not None:
                _judge_published(add, row, name, audit, known.size)
        announced = known.announced.get(row.chain)
        if announced is not None and announced.next_seq > row.seq + 1:
            age = now_ns - announced.heard_ns
            if age > patience.truncated_ns:
                add(
                    Code.TRUNCATED,
                    Severity.FAILURE,
                    f"agent {row.agent!r} announced blocks up to {announced.next_seq - 1}, "
                    f"{age // 10**9} s ago, and they came up to {row.seq} only",
                    row,
                    row.seq + 1,
                )
        age = now_ns - row.heard_ns
        if not row.stopped and age > patience.silent_ns:
            add(
                Code.SILENT,
                Severity.WARNING,
                f"agent {row.agent!r} was heard of {age // 10**9} s ago and had not stopped in good order",
                row,
                row.seq,
            )
    for row in known.waiting:
        age = now_ns - row.since
        if age > patience.landing_ns:
            found.append(
                Finding(
                    Code.RECEIPT_UNFULFILLED,
                    Severity.WARNING,
                    f"{row.blocks} statements wait for publication, the first for {age // 10**9} s",
                    tenant=tenant,
                    chain="" if row.chain is None else row.chain.hex(),
                )
            )
    return found


def _judge_published(
    add: Callable[..., None], row: sa.Row[Any], region: str, audit: AuditReport, size: int
) -> None:
    """Whether a region's log holds what the database says is published of a chain."""
    assert audit.signed is not None
    if audit.signed.checkpoint.size < size or row.published_seq < 0:
        return  # a region that is behind is reported as that
    chain = next((item for item in audit.chains if item.chain == row.chain), None)
    if chain is None or chain.seq < row.published_seq:
        there = "nothing" if chain is None else f"blocks up to {chain.seq}"
        add(
            Code.UNEXPLAINED_LOSS,
            Severity.FAILURE,
            f"block {row.published_seq} of agent {row.agent!r} is published, and the log has {there} of it",
            row,
            row.published_seq,
            region,
        )
    elif chain.seq == row.seq and chain.head != row.head:
        add(
            Code.FORK,
            Severity.FAILURE,
            f"the log and the database have different blocks {row.seq} of agent {row.agent!r}",
            row,
            row.seq,
            region,
        )
