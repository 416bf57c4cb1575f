"""What the agent says of itself.

The contract's status, but for what only the process knows (memory, CPU, uptime).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForwardStatus:
    """How forwarding is going."""

    collector: str | None
    accepted_seq: int
    published_seq: int
    lag_seconds: float
    """Age of the oldest sealed block that is not accepted."""
    last_error: str | None
    failovers: int
    degraded: str | None = None
    """Why forwarding makes the agent degraded, in one sentence."""
    critical: str | None = None
    """A finding about the collector or its log, in one sentence."""


@dataclass(frozen=True, slots=True)
class HeadStatus:
    """The end of the chain."""

    seq: int
    hash: str
    records: int
    sealed: int
    """Unix ns."""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The spool and its disk."""

    blocks: int
    bytes: int
    max_bytes: int
    oldest_seconds: float | None
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One file of a source; or the source itself while it has none."""

    stream: str
    path: str
    """The pattern."""
    file: str | None
    """The file found by it."""
    offset: int
    size: int
    behind_bytes: int
    state: str
    """``reading``, ``rotated``, ``unlinked``, or what keeps it from being read, in a few words."""
    is_problem: bool
    """Whether the state asks for a person."""


@dataclass(frozen=True, slots=True)
class LossStatus:
    """What was lost, over the life of the chain."""

    bytes: int
    lines: int | None
    """None: lines that were not read could not be counted."""
    events: int


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The contract's status, without what only the process knows (version, rss, cpu, open files)."""

    state: str
    """ok, degraded or critical"""
    reasons: Sequence[str]
    tenant: str
    agent: str
    chain: str
    head: HeadStatus
    spool: SpoolStatus
    forward: ForwardStatus
    sources: Sequence[SourceStatus]
    losses: LossStatus
    config_sha256: str
