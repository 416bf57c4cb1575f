"""Repair of a region from the others: what is damaged there is put back, once it is known to be right.

:func:`repair_region` audits the region, fetches from other regions what its findings name, and audits the
region *as it would be* with these objects in their places. Only objects with no finding left are then
written; the damaged ones are kept aside. Rounds are repeated while they find something: what is behind a
missing pack comes to light when that is back.

Packs, tiles, envelopes and kept checkpoints are superseded whatever their retention: the bytes that are
kept are the right ones. A checkpoint that is missing, invalid or set back is replaced last, when everything
below its size is there, and by a swap, so that a sequencer at work is never set back. Not repaired:
``head``, which is the sequencer's; what no other region has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, AuditReport, Depth
from duramen.canonical import Json
from duramen.checkpoint import LogKeys, open_checkpoint
from duramen.errors import FormatError, IntegrityError, StorageError, UsageError
from duramen.frame import PACK_HEADER_BYTES, pack_digest, pack_key, parse_pack_header
from duramen.packs import RegionReader, plan_packs
from duramen.pinnedregion import pin_region
from duramen.region import CHECKPOINT_KEY, PACKS_PREFIX
from duramen.verdict import Code, Finding, Severity
from duramen_collector.regionreader import OverlayReader, StoreReader
from duramen_collector.sequencer import Retention
from duramen_collector.store.port import Found, Get, ObjectStore, Stored, Swap

ROUNDS_MAX: Final = 64
"""Each round puts at least one object back; a store that loses them again ends it."""
_CHECKPOINT_CODES: Final = (Code.REPLICA_MISSING, Code.CHECKPOINT_INVALID, Code.CHECKPOINT_ROLLBACK)
BATCH_MAX_BYTES: Final = 256 * 1024 * 1024
"""Objects that one round holds in memory; what is left over comes in the next round."""


@runtime_checkable
class RepairableStore(Protocol):
    """A store that can put a right object over a damaged one and keep that aside."""

    def supersede(self, key: str, data: bytes, retain_until_s: int | None) -> None:
        """Put ``data`` under ``key``; durable before it returns. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was put back (key, from which region), and how the region is afterwards."""

    region: str
    repaired: tuple[tuple[str, str], ...]
    audit: AuditReport

    def to_json(self) -> dict[str, Json]:
        """As the command shows it."""
        repaired: list[Json] = [{"key": key, "from": source} for key, source in self.repaired]
        return {"region": self.region, "repaired": repaired, "after": self.audit.to_json()}


def repair_region(
    stores: Mapping[str, ObjectStore],
    region: str,
    tenant: str,
    keys: LogKeys,
    retention: Retention,
    now_s: int,
) -> RepairReport:
    """Repair ``region``'s copy of the log of ``tenant``; StorageError when it cannot be read or written."""
    store = stores.get(region)
    if store is None:
        raise UsageError(f"there is no region {region!r}; the configuration has {', '.join(sorted(stores))}")
    if not isinstance(store, RepairableStore):
        raise UsageError(f"objects of the region {region!r} cannot be superseded by this release")
    sources = {name: StoreReader(name, other) for name, other in stores.items() if name != region}
    own = StoreReader(region, store)
    checkpoint = _better_checkpoint(own, sources, region, tenant, keys)
    reader: RegionReader = own
    if checkpoint is not None:
        reader = OverlayReader(own, {f"{tenant}/{CHECKPOINT_KEY}": checkpoint[0]})
    repaired: list[tuple[str, str]] = []
    for _ in range(ROUNDS_MAX):
        report = _audit(reader, region, tenant, keys, sources)
        found = _Candidates(own, sources, tenant).collect(report)
        overlaid = OverlayReader(reader, {key: data for key, (data, _) in found.items()})
        after = _audit(overlaid, region, tenant, keys, sources) if found else report
        wrong = {finding.key for finding in after.findings if _is_failure(finding)}
        good = [key for key in found if key not in wrong and after.signed is not None]
        if not good:
            break
        for key in good:
            data, source = found[key]
            _supersede(store, region, key, data, now_s + _retention_s(key, data, tenant, retention))
            repaired.append((key, source))
    if checkpoint is not None and not any(map(_is_failure, report.findings)):
        key = f"{tenant}/{CHECKPOINT_KEY}"
        _swap_checkpoint(store, region, key, checkpoint[0], keys)
        repaired.append((key, checkpoint[1]))
    return RepairReport(region, tuple(repaired), _audit(own, region, tenant, keys, sources))


def _better_checkpoint(
    own: StoreReader, sources: Mapping[str, StoreReader], region: str, tenant: str, keys: LogKeys
) -> tuple[bytes, str] | None:
    """The largest checkpoint of the other regions, and whose, if something is wrong with the one here."""
    key = f"{tenant}/{CHECKPOINT_KEY}"
    headers = AuditOptions(depth=Depth.HEADERS, region=region)
    report = audit_region(own, tenant, keys, headers)
    if not any(finding.key == key and finding.code in _CHECKPOINT_CODES for finding in report.findings):
        return None
    best: tuple[bytes, str] | None = None
    size = _size(own.read(key), keys)
    for name, source in sources.items():
        try:
            data = source.read(key)
        except StorageError:
            continue
        if data is not None and _size(data, keys) > size:
            best, size = (data, name), _size(data, keys)
    return best


def _is_failure(finding: Finding) -> bool:
    return finding.severity is Severity.FAILURE


def _audit(
    reader: RegionReader, region: str, tenant: str, keys: LogKeys, sources: Mapping[str, StoreReader]
) -> AuditReport:
    options = AuditOptions(
        depth=Depth.BODIES,
        region=region,
        exists_elsewhere=lambda key: any(_exists(source, key) for source in sources.values()),
    )
    return audit_region(reader, tenant, keys, options)


def _exists(source: StoreReader, key: str) -> bool:
    try:
        return source.exists(key)
    except StorageError:
        return False


class _Candidates:
    """What other regions have of the objects that are damaged here."""

    def __init__(self, reader: StoreReader, sources: Mapping[str, StoreReader], tenant: str) -> None:
        self._reader = reader
        self._sources = sources
        self._tenant = tenant
        self._found: dict[str, tuple[bytes, str]] = {}
        self._bytes = 0

    def collect(self, report: AuditReport) -> dict[str, tuple[bytes, str]]:
        """(bytes, region) by key for everything that the findings name."""
        for finding in report.findings:
            if not _is_failure(finding) or finding.key == f"{self._tenant}/{CHECKPOINT_KEY}":
                continue
            if finding.key == f"{self._tenant}/{PACKS_PREFIX}":
                self._fetch_unnamed(report)
            elif finding.key:
                self._fetch(finding.key)
        return self._found

    def _fetch(self, key: str) -> None:
        if key in self._found or self._bytes > BATCH_MAX_BYTES:
            return
        own = self._reader.read(key)
        for name, source in self._sources.items():
            try:
                data = source.read(key)
            except StorageError:
                continue
            if data is not None and data != own and self._may_be(key, data):
                self._found[key] = (data, name)
                self._bytes += len(data)
                return

    def _may_be(self, key: str, data: bytes) -> bool:
        """What can be told of an object by itself: a pack has its hash for a name."""
        name = key.removeprefix(f"{self._tenant}/")
        return not name.startswith(PACKS_PREFIX) or name == pack_key(pack_digest(data))

    def _fetch_unnamed(self, report: AuditReport) -> None:
        """Packs whose names this region no longer tells.

        All that another region's log has and this one lacks.
        """
        size = 0 if report.signed is None else report.signed.checkpoint.size
        for source in self._sources.values():
            try:
                plan = plan_packs(pin_region(source, self._tenant), f"{self._tenant}/", size)
                for slot in plan.slots:
                    if slot.digest is not None and not slot.is_missing:
                        key = f"{self._tenant}/{pack_key(slot.digest)}"
                        if not self._reader.exists(key):
                            self._fetch(key)
            except StorageError:
                continue


def _size(data: bytes | None, keys: LogKeys) -> int:
    """The size of a valid checkpoint; -1 for any other bytes."""
    try:
        return -1 if data is None else open_checkpoint(data, keys).checkpoint.size
    except (FormatError, IntegrityError):
        return -1


def _swap_checkpoint(store: ObjectStore, region: str, key: str, data: bytes, keys: LogKeys) -> None:
    """Put a checkpoint in place of what is there, unless that has become a valid one at least as large."""
    answer = store.perform(Get(key))
    if isinstance(answer, Found) and _size(answer.data, keys) >= _size(data, keys):
        return
    expected = answer.version if isinstance(answer, Found) else None
    if not isinstance(store.perform(Swap(key, data, expected)), Stored):
        raise StorageError(f"region {region}: the checkpoint was changed by somebody else; repair again")


def _supersede(store: RepairableStore, region: str, key: str, data: bytes, retain_until_s: int) -> None:
    try:
        store.supersede(key, data, None if key.startswith("envelopes/") else retain_until_s)
    except OSError as error:
        raise StorageError(f"region {region}: {key} cannot be written: {error.strerror}") from error


def _retention_s(key: str, data: bytes, tenant: str, retention: Retention) -> int:
    """How long an object is retained, in seconds from now: at least as long as the one it replaces."""
    if key.startswith(f"{tenant}/{PACKS_PREFIX}"):
        return retention.seconds(parse_pack_header(data[:PACK_HEADER_BYTES]).retention_class)
    return retention.longest_s
