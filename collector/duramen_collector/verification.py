"""Verification of a tenant's log: regions against its signatures, and the database against the regions.

:func:`run_verification` reads the database first and the regions after it, so that what is published
meanwhile is never a finding. Each region is audited by itself (:mod:`duramen.audit`), up to the checkpoint
that it had at that moment; then:

- a region whose checkpoint is behind one that was signed :data:`STALE_AFTER_NS` ago is
``checkpoint_stale``, behind the one it showed at the last verification ``checkpoint_rollback``; one whose
root differs from what was signed for its size is ``equivocation``; - a published chain that a region's log
does not hold as far as the database says is ``unexplained_loss``; two heads are a ``fork``; - a head that
an agent announced and whose blocks have not come is ``truncated``; an agent that has not been heard of is
``silent``; - a block that waits for publication for too long is ``receipt_unfulfilled``.

Findings of one region's object say which region has a good copy. The report is stored in the table
``verifications``. The collector is no witness against itself: an auditor runs ``duramen`` with pinned keys
against the regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, AuditReport, Depth
from duramen.canonical import Json
from duramen.checkpoint import Checkpoint, LogKeys, open_checkpoint
from duramen.errors import FormatError, IntegrityError, StorageError
from duramen.pinnedregion import PinnedRegion, pin_region
from duramen.policy import Policy
from duramen.ports import Clock, Random
from duramen.region import CHECKPOINT_KEY
from duramen.verdict import Code, Finding, Severity, Verdict, judge
from duramen_collector.chainverification import Known, Patience, judge_chains, read_known
from duramen_collector.database import reading, writing
from duramen_collector.regionreader import StoreReader
from duramen_collector.schema import signed, verifications
from duramen_collector.store.port import ObjectStore

STALE_AFTER_NS: Final = 60 * 10**9

Progress = Callable[[str, str], None]
"""Called with a region's name and what is being done there."""


@dataclass(frozen=True, slots=True)
class RegionResult:
    """One region's audit; ``audit`` is None, and ``error`` says why, where the region could not be read."""

    name: str
    audit: AuditReport | None
    error: str = ""

    def to_json(self) -> dict[str, Json]:
        """As the API shows it."""
        if self.audit is None:
            return {"verdict": str(Verdict.INCOMPLETE), "error": self.error}
        value = self.audit.to_json()
        return {key: value[key] for key in ("verdict", "checkpoint", "counts")}


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a verification found."""

    verification_id: str
    tenant: str
    depth: Depth
    started_ns: int
    finished_ns: int
    regions: tuple[RegionResult, ...]
    findings: tuple[Finding, ...]
    first_seen_ns: Mapping[str, int]
    """When each finding was first seen, by :func:`finding_identity`."""

    @property
    def verdict(self) -> Verdict:
        """The answer in one word."""
        return judge(list(self.findings))

    def to_json(self) -> dict[str, Json]:
        """As it is stored and as the API shows it."""
        return {
            "id": self.verification_id,
            "tenant": self.tenant,
            "verdict": str(self.verdict),
            "depth": str(self.depth),
            "started_ns": str(self.started_ns),
            "finished_ns": str(self.finished_ns),
            "regions": {result.name: result.to_json() for result in self.regions},
            "chains": self._chains(),
            "findings": [
                {**item.to_json(), "first_seen_ns": str(self.first_seen_ns[finding_identity(item)])}
                for item in self.findings
            ],
        }

    def _chains(self) -> list[Json]:
        """The chains as the region with the longest log has them."""
        audits = [result.audit for result in self.regions if result.audit is not None]
        if not audits:
            return []
        longest = max(audits, key=lambda audit: audit.signed.checkpoint.size if audit.signed else -1)
        found = longest.to_json()["chains"]
        return found if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class StoredVerification:
    """A verification as the table has it."""

    verification_id: str
    tenant: str
    depth: str
    started_ns: int
    finished_ns: int | None
    verdict: str | None
    report: dict[str, Any]


def finding_identity(finding: Finding) -> str:
    """What makes two findings of different verifications the same."""
    parts = (finding.code, finding.region, finding.key, finding.chain, finding.seq, finding.leaf)
    return "|".join(str(part) for part in parts)


def run_verification(
    engine: sa.Engine,
    stores: Mapping[str, ObjectStore],
    tenant: str,
    keys: LogKeys,
    *,
    depth: Depth,
    clock: Clock,
    random: Random,
    policy: Policy | None = None,
    patience: Patience | None = None,
    verification_id: str | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Verify everything of ``tenant`` and store the report; StorageError when the database fails.

    ``verification_id`` (32 hex digits) is for a caller who has told it to somebody before; its row is made
    here.
    """
    started = clock.wall_ns()
    identity = verification_id or random.draw(16).hex()
    with reading(engine) as connection:
        before = latest(connection, tenant)
    known = read_known(engine, tenant, keys, started - STALE_AFTER_NS)
    _begin(engine, identity, tenant, depth, started)
    verifier = _Verifier(engine, stores, tenant, keys, depth, policy, known, before, progress or _say_nothing)
    results = tuple(verifier.audit(name) for name in stores)
    findings = [finding for result in results if result.audit for finding in result.audit.findings]
    audits = {result.name: result.audit for result in results if result.audit is not None}
    findings = _name_good_copies(findings, results, stores)
    findings += verifier.findings
    findings += judge_chains(known, audits, patience or Patience(), started, tenant)
    finished = clock.wall_ns()
    report = VerificationReport(
        identity,
        tenant,
        depth,
        started,
        finished,
        results,
        tuple(findings),
        _first_seen(findings, before, started),
    )
    with writing(engine) as connection:
        connection.execute(
            verifications.update()
            .where(verifications.c.verification_id == identity)
            .values(finished_ns=finished, verdict=str(report.verdict), report=report.to_json())
        )
    return report


def latest(connection: sa.Connection, tenant: str) -> StoredVerification | None:
    """The last verification of ``tenant`` that was finished."""
    query = (
        sa.select(verifications)
        .where(verifications.c.tenant == tenant, verifications.c.finished_ns.is_not(None))
        .order_by(verifications.c.finished_ns.desc())
        .limit(1)
    )
    return _stored(connection.execute(query).first())


def find_verification(
    connection: sa.Connection, tenant: str, verification_id: str
) -> StoredVerification | None:
    """One verification of ``tenant``; ``verdict`` is None while it runs, or if it was broken off."""
    query = sa.select(verifications).where(
        verifications.c.tenant == tenant, verifications.c.verification_id == verification_id
    )
    return _stored(connection.execute(query).first())


def _stored(row: sa.Row[Any] | None) -> StoredVerification | None:
    if row is None:
        return None
    return StoredVerification(
        row.verification_id, row.tenant, row.depth, row.started_ns, row.finished_ns, row.verdict, row.report
    )


def _begin(engine: sa.Engine, identity: str, tenant: str, depth: Depth, started: int) -> None:
    with writing(engine) as connection:
        connection.execute(
            verifications.insert().values(
                verification_id=identity,
                tenant=tenant,
                depth=str(depth),
                started_ns=started,
                finished_ns=None,
                verdict=None,
                report={},
            )
        )


class _Verifier:
    """Audits the regions of one tenant."""

    def __init__(
        self,
        engine: sa.Engine,
        stores: Mapping[str, ObjectStore],
        tenant: str,
        keys: LogKeys,
        depth: Depth,
        policy: Policy | None,
        known: Known,
        before: StoredVerification | None,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._readers = {name: StoreReader(name, store) for name, store in stores.items()}
        self._tenant = tenant
        self._keys = keys
        self._depth = depth
        self._policy = policy
        self._known = known
        self._before = before
        self._progress = progress
        self.findings: list[Finding] = []

    def audit(self, name: str) -> RegionResult:
        """Audit one region; a region that cannot be read leaves the verification incomplete."""
        self._progress(name, "audit")
        try:
            pinned = pin_region(self._readers[name], self._tenant)
            shown = self._shown(pinned)
            newest = self._known.newest
            is_continued = newest is not None and shown is not None and shown.size >= newest.size
            options = AuditOptions(
                depth=self._depth,
                region=name,
                policy=self._policy,
                remembered=newest if is_continued else None,
                exists_elsewhere=lambda key: self._exists_elsewhere(name, key),
            )
            report = audit_region(pinned, self._tenant, self._keys, options)
        except StorageError as error:
            self._add(Code.REPLICA_MISSING, Severity.WARNING, f"the region cannot be read: {error}", name)
            return RegionResult(name, None, str(error))
        if shown is not None:
            self._check_progress(name, shown)
        self._progress(name, str(report.verdict))
        return RegionResult(name, report)

    def _shown(self, pinned: PinnedRegion) -> Checkpoint | None:
        data = pinned.read(f"{self._tenant}/{CHECKPOINT_KEY}")
        try:
            return None if data is None else open_checkpoint(data, self._keys).checkpoint
        except (FormatError, IntegrityError):
            return None  # the audit says so

    def _check_progress(self, name: str, shown: Checkpoint) -> None:
        """Whether a region's valid checkpoint is the one that it should have by now."""
        key = f"{self._tenant}/{CHECKPOINT_KEY}"
        with reading(self._engine) as connection:
            root = connection.execute(
                sa.select(signed.c.root).where(signed.c.tenant == self._tenant, signed.c.size == shown.size)
            ).scalar()
        if root is not None and root != shown.root:
            self._add(
                Code.EQUIVOCATION,
                Severity.FAILURE,
                f"the region's checkpoint of {shown.size} statements has another root than was signed",
                name,
                key,
            )
        before = _shown_before(self._before, name)
        newest = self._known.newest
        if shown.size < before:
            self._add(
                Code.CHECKPOINT_ROLLBACK,
                Severity.FAILURE,
                f"the region's checkpoint is of {shown.size} statements, and was of {before} before",
                name,
                key,
            )
        elif newest is not None and shown.size < newest.size:
            self._add(
                Code.CHECKPOINT_STALE,
                Severity.WARNING,
                f"the region's checkpoint is of {shown.size} statements, where {newest.size} are published",
                name,
                key,
            )

    def _exists_elsewhere(self, name: str, key: str) -> bool:
        for other, reader in self._readers.items():
            try:
                if other != name and reader.exists(key):
                    return True
            except StorageError:
                continue
        return False

    def _add(self, code: Code, severity: Severity, detail: str, region: str, key: str = "") -> None:
        self.findings.append(Finding(code, severity, detail, tenant=self._tenant, region=region, key=key))


def _shown_before(before: StoredVerification | None, name: str) -> int:
    """The size of the checkpoint that a region showed at the last verification."""
    region = {} if before is None else before.report.get("regions", {}).get(name, {})
    checkpoint = region.get("checkpoint") or {}
    return int(checkpoint.get("size", 0))


def _name_good_copies(
    findings: list[Finding], results: tuple[RegionResult, ...], stores: Mapping[str, ObjectStore]
) -> list[Finding]:
    """Say of every damaged object which other regions have it unharmed."""
    damaged = {(finding.region, finding.key) for finding in findings}
    named = []
    for finding in findings:
        good = [
            result.name
            for result in results
            if finding.key
            and not finding.key.endswith("/")
            and result.name != finding.region
            and result.audit is not None
            and result.audit.signed is not None
            and (result.name, finding.key) not in damaged
            and _exists(result.name, stores[result.name], finding.key)
        ]
        where = f"; a good copy is in {', '.join(good)}" if good else ""
        named.append(replace(finding, detail=finding.detail + where))
    return named


def _exists(name: str, store: ObjectStore, key: str) -> bool:
    try:
        return StoreReader(name, store).exists(key)
    except StorageError:
        return False


def _first_seen(findings: list[Finding], before: StoredVerification | None, now_ns: int) -> dict[str, int]:
    """When each finding was first seen: now, or when a verification before this one says."""
    known: dict[str, int] = {}
    for item in [] if before is None else before.report.get("findings", []):
        parts = [str(item.get("code", "")), *(item.get(name, "") for name in ("region", "key", "chain"))]
        parts += [str(item.get("seq")), str(item.get("leaf"))]
        known["|".join(parts)] = int(item["first_seen_ns"])
    return {identity: known.get(identity, now_ns) for identity in map(finding_identity, findings)}


def _say_nothing(_region: str, _what: str) -> None:
    """No progress is shown."""
