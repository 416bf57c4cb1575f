"""Making evidence bundles (:mod:`duramen.evidence`) from a region and a reader's key.

Making one audits the whole copy of the log that it is made from (:mod:`duramen.audit`): a chain's blocks
have no index but the log. What was made is verified before it is given out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from duramen import wire
from duramen.archive import encode_archive
from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, BlockVisit, Depth
from duramen.checkpoint import LogKeys
from duramen.envelope import ReaderKey
from duramen.errors import IntegrityError, UsageError
from duramen.evidence import BLOCKS_MAX, Manifest, verify_evidence
from duramen.logreader import ObjectTileReader
from duramen.merkle import inclusion_proof_from
from duramen.names import ChainId, Seq
from duramen.packs import RegionReader
from duramen.pinnedregion import pin_region
from duramen.policy import parse_policy
from duramen.statement import Block
from duramen.tiles import TileHashReader
from duramen.tlogproof import TlogProof


@dataclass(frozen=True, slots=True)
class EvidenceRequest:
    """Which blocks to disclose.

    ``whole_lineage`` adds every statement from genesis on (some 340 bytes each).
    """

    chain: ChainId
    first: Seq
    last: Seq
    whole_lineage: bool = False
    policy: bytes | None = None


def build_evidence(
    reader: RegionReader, tenant: str, keys: LogKeys, request: EvidenceRequest, reader_key: ReaderKey
) -> bytes:
    """The bundle for ``request``, from a region and a reader's key.

    UsageError when the log does not hold these blocks or the key does not open them; IntegrityError when
    the region's copy of them is damaged; StorageError when the region fails.
    """
    if not 0 <= request.first <= request.last or request.last - request.first >= BLOCKS_MAX:
        raise UsageError(f"a bundle holds 1 to {BLOCKS_MAX} consecutive blocks of one chain")
    pinned = pin_region(reader, tenant)
    collector = _Collector(request)
    policy = None if request.policy is None else parse_policy(request.policy)
    report = audit_region(
        pinned,
        tenant,
        keys,
        AuditOptions(
            depth=Depth.RECORDS,
            policy=policy,
            reader_key=reader_key,
            opens=lambda _, block: collector.wants(block),
            on_block=collector.take,
        ),
    )
    if report.signed is None:
        raise IntegrityError(report.findings[0].detail, code=str(report.findings[0].code))
    collector.check(reader_key)
    size = report.signed.checkpoint.size
    hashes = TileHashReader(ObjectTileReader(pinned, f"{tenant}/"), size)

    def prove(leaf: int) -> bytes:
        path = tuple(inclusion_proof_from(hashes, leaf, size))
        return TlogProof(leaf, path, report.signed.raw if report.signed else b"").encode()

    data = encode_archive(collector.files(keys.origin, report.signed.raw, prove))
    verify_evidence(data, keys, policy, request.chain)
    return data


class _Collector:
    """Takes what a bundle needs while the log is audited."""

    def __init__(self, request: EvidenceRequest) -> None:
        self._request = request
        self._start = 0 if request.whole_lineage else max(request.first - 1, 0)
        self._genesis: BlockVisit | None = None
        self._lineage: dict[int, Block] = {}
        self._visits: dict[int, BlockVisit] = {}

    def wants(self, block: Block) -> bool:
        request = self._request
        return block.chain == request.chain and request.first <= block.header.seq <= request.last

    def take(self, visit: BlockVisit) -> None:
        block = visit.block
        if block.chain != self._request.chain or block.header.seq > self._request.last:
            return
        if block.header.seq == 0:
            self._genesis = visit
        if block.header.seq >= self._start:
            self._lineage[block.header.seq] = block
        if self.wants(block):
            self._visits[block.header.seq] = replace(visit, payload=None)

    def check(self, reader_key: ReaderKey) -> None:
        request = self._request
        missing = [seq for seq in range(self._start, request.last + 1) if seq not in self._lineage]
        if self._genesis is None or missing:
            raise UsageError(
                f"this copy of the log has no sound block {missing[0] if missing else 0} of the chain "
                f"{request.chain.hex()[:16]}; ask another region"
            )
        for seq, visit in self._visits.items():
            if visit.body is None:
                raise IntegrityError(
                    f"the body of block {seq} is damaged or missing here; ask another region",
                    code="body_corrupt",
                )
            if visit.block.header.count and visit.block_key is None:
                raise UsageError(
                    f"block {seq} is not sealed to the reader key {reader_key.recipient.key_hash.hex()[:16]}"
                )

    def files(self, origin: str, checkpoint: bytes, prove: Callable[[int], bytes]) -> dict[str, bytes]:
        request = self._request
        assert self._genesis is not None
        manifest = Manifest(
            origin, request.chain, request.first, request.last, self._start, request.policy is not None
        )
        lineage = [self._lineage[seq].entry for seq in range(self._start, request.last + 1)]
        files = {
            "manifest.json": manifest.encode(),
            "checkpoint": checkpoint,
            "genesis": self._genesis.block.entry,
            "genesis.proof": prove(self._genesis.leaf),
            "lineage": b"".join(wire.prefixed(entry, 2) for entry in lineage),
        }
        if request.policy is not None:
            files["policy"] = request.policy
        for seq, visit in self._visits.items():
            files[f"proofs/{seq}"] = prove(visit.leaf)
            if visit.body:
                files[f"bodies/{seq}"] = visit.body
            if visit.block_key is not None:
                files[f"keys/{seq}"] = visit.block_key
        return files
