"""What an audit is asked for, what it shows while it runs, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from duramen.body import Payload
from duramen.canonical import Json
from duramen.checkpoint import Checkpoint, SignedCheckpoint
from duramen.envelope import ReaderKey
from duramen.lineage import ChainSummary, Report
from duramen.names import ChainId
from duramen.policy import Policy
from duramen.statement import Block
from duramen.verdict import NOTES, Code, Finding, Severity, Verdict, judge


class Depth(StrEnum):
    """How much is read."""

    HEADERS = "headers"
    """Tree, statements, chains, and that the packs are there."""
    BODIES = "bodies"
    """And every byte of the packs and envelopes."""
    RECORDS = "records"
    """And the contents, with a reader's key."""


@dataclass(frozen=True, slots=True)
class BlockVisit:
    """A block that its agent signed, that continues its chain and lies in the log at ``leaf``."""

    leaf: int
    agent: str
    block: Block
    body: bytes | None
    """As it travels, right by its hash; None when it was not read or is damaged."""
    block_key: bytes | None = None
    payload: Payload | None = None
    """Its contents, right by its record root; None when they were not opened."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What an audit is asked for."""

    depth: Depth = Depth.BODIES
    region: str = ""
    """The name that findings give the region."""
    policy: Policy | None = None
    reader_key: ReaderKey | None = None
    notice_public: bytes | None = None
    """The notice key, 32 bytes, where it is known from elsewhere."""
    remembered: Checkpoint | None = None
    """The last checkpoint that the caller verified: the log must continue it."""
    opens: Callable[[str, Block], bool] | None = None
    """Which blocks (agent, block) to open at depth RECORDS; all of them if None."""
    on_block: Callable[[BlockVisit], None] | None = None
    exists_elsewhere: Callable[[str], bool] | None = None
    """Whether another region has the object of a key: then a loss here is a replica's, not history's."""


@dataclass(frozen=True, slots=True)
class AuditCounts:
    """What was read."""

    entries: int = 0
    blocks: int = 0
    notices: int = 0
    packs: int = 0
    pack_bytes: int = 0
    bodies: int = 0
    """Bodies that are what their headers name, empty ones not counted."""
    envelopes: int = 0
    opened: int = 0
    unopened: int = 0
    """Bodies that were to be opened and that this reader has no key for."""
    unlinked: int = 0
    """Blocks from which signatures do not lead back to their genesis: not given to ``on_block``."""

    def to_json(self) -> dict[str, Json]:
        """The counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit of one region found.

    ``signed`` is None, and nothing was read, without a valid checkpoint.
    """

    region: str
    tenant: str
    depth: Depth
    signed: SignedCheckpoint | None
    is_proven: bool
    """Whether the statements that were read give the checkpoint's root: every one of them is in the log."""
    chains: tuple[ChainSummary, ...]
    findings: tuple[Finding, ...]
    counts: AuditCounts

    @property
    def verdict(self) -> Verdict:
        """The answer in one word."""
        return judge(list(self.findings))

    def to_json(self) -> dict[str, Json]:
        """The report as JSON values."""
        checkpoint: dict[str, Json] | None = None
        if self.signed is not None:
            checkpoint = {
                "origin": self.signed.checkpoint.origin,
                "size": self.signed.checkpoint.size,
                "root": self.signed.checkpoint.root.hex(),
                "time": self.signed.timestamp_seconds,
            }
        return {
            "region": self.region,
            "tenant": self.tenant,
            "depth": str(self.depth),
            "verdict": str(self.verdict),
            "checkpoint": checkpoint,
            "chains": [_chain_json(chain) for chain in self.chains],
            "findings": [finding.to_json() for finding in self.findings],
            "counts": self.counts.to_json(),
        }


class Reporter(Report):
    """Collects findings."""

    def __init__(self, region: str, tenant: str) -> None:
        self._region = region
        self._tenant = tenant
        self.findings: list[Finding] = []

    def __call__(
        self,
        code: Code,
        detail: str,
        *,
        severity: Severity | None = None,
        chain: ChainId | None = None,
        seq: int | None = None,
        leaf: int | None = None,
        key: str = "",
    ) -> None:
        """Add a finding about this region and tenant."""
        self.findings.append(
            Finding(
                code=code,
                severity=severity or (Severity.NOTE if code in NOTES else Severity.FAILURE),
                detail=detail,
                tenant=self._tenant,
                chain=chain.hex() if chain is not None else "",
                seq=seq,
                leaf=leaf,
                region=self._region,
                key=key,
            )
        )


def _chain_json(chain: ChainSummary) -> dict[str, Json]:
    return {
        "chain": chain.chain.hex(),
        "agent": chain.agent,
        "seq": chain.seq,
        "head": chain.head.hex(),
        "blocks": chain.blocks,
        "records": chain.records,
        "sealed_ns": str(chain.sealed_ns),
        "stopped": chain.stopped,
        "losses": chain.losses,
        "crashes": chain.crashes,
        "first_leaf": chain.first_leaf,
        "last_leaf": chain.last_leaf,
    }
