"""Verdicts and findings: how every verification in Duramen says what it found (docs/CONTRACT.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from duramen.canonical import Json


class Code(StrEnum):
    """What a finding is about; the contract's words."""

    BODY_CORRUPT = "body_corrupt"
    HEADER_CORRUPT = "header_corrupt"
    SIGNATURE_INVALID = "signature_invalid"
    LINK_BROKEN = "link_broken"
    GAP = "gap"
    FORK = "fork"
    ROLLBACK = "rollback"
    DISCONTINUITY = "discontinuity"
    REPLAY = "replay"
    ORDER = "order"
    TRUNCATED = "truncated"
    SILENT = "silent"
    UNPROTECTED = "unprotected"
    TREE_MISMATCH = "tree_mismatch"
    CHECKPOINT_INVALID = "checkpoint_invalid"
    CHECKPOINT_ROLLBACK = "checkpoint_rollback"
    CHECKPOINT_STALE = "checkpoint_stale"
    EQUIVOCATION = "equivocation"
    REPLICA_MISSING = "replica_missing"
    REPLICA_CORRUPT = "replica_corrupt"
    REPLICA_SHADOWED = "replica_shadowed"
    RETENTION_DRIFT = "retention_drift"
    RECEIPT_UNFULFILLED = "receipt_unfulfilled"
    ERASED_BY_POLICY = "erased_by_policy"
    UNEXPLAINED_LOSS = "unexplained_loss"
    KEY_REVOKED = "key_revoked"
    DOWNGRADE = "downgrade"
    CLOCK_JUMP = "clock_jump"
    SEQUENCER_CHANGE = "sequencer_change"
    BELOW_POLICY = "below_policy"


class Severity(StrEnum):
    """How much a finding weighs."""

    NOTE = "note"
    """Worth knowing; not a failure."""
    WARNING = "warning"
    """Something could not be checked or is late: the verdict is incomplete."""
    FAILURE = "failure"
    """Something is wrong: the verdict is failed."""


class Verdict(StrEnum):
    """The answer in one word."""

    VERIFIED = "verified"
    FAILED = "failed"
    INCOMPLETE = "incomplete"


NOTES: Final = frozenset({Code.ERASED_BY_POLICY, Code.CLOCK_JUMP, Code.SEQUENCER_CHANGE})
EXIT_CODES: Final = {Verdict.VERIFIED: 0, Verdict.INCOMPLETE: 1, Verdict.FAILED: 2}
"""The monitoring convention: 0 ok, 1 warning, 2 critical."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that verification found; fields that do not apply are empty or None."""

    code: Code
    severity: Severity
    detail: str
    """One sentence for a person."""
    tenant: str = ""
    chain: str = ""
    """Hex."""
    seq: int | None = None
    leaf: int | None = None
    region: str = ""
    key: str = ""
    """Object key in the region."""

    def to_json(self) -> dict[str, Json]:
        """The finding as the API shows it, empty fields left out."""
        value: dict[str, Json] = {
            "code": str(self.code),
            "severity": str(self.severity),
            "detail": self.detail,
        }
        for name in ("tenant", "chain", "region", "key"):
            text = getattr(self, name)
            if text:
                value[name] = text
        for name in ("seq", "leaf"):
            number = getattr(self, name)
            if number is not None:
                value[name] = number
        return value


def judge(findings: list[Finding]) -> Verdict:
    """The verdict that ``findings`` make: any failure fails, any warning leaves it incomplete."""
    severities = {finding.severity for finding in findings}
    if Severity.FAILURE in severities:
        return Verdict.FAILED
    return Verdict.INCOMPLETE if Severity.WARNING in severities else Verdict.VERIFIED
