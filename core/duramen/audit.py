"""The audit of one region: every byte of a tenant log's copy held against the log's signatures.

:func:`audit_region` reads the checkpoint, demands both signatures of pinned keys and audits the log up to
that size, whatever is published meanwhile. In one pass from the first leaf to the last it checks

- the tree: all tiles and entry bundles (:mod:`duramen.logreader`); - every statement: its encoding; notices
under the log's notice key, forks that they report; blocks by :mod:`duramen.lineage`; - the packs: every
frame against the log's entry, every body against its header (:mod:`duramen.packaudit`); - the envelopes
that keys blocks commit to (:mod:`duramen.envelopeaudit`); - the kept checkpoints: each one signed, and of
this history; - with a reader's key, the records: every body opened, every record root computed again.

What cannot be read is a finding, never a pass. The report lists all findings; memory grows with chains,
packs (some 200 bytes each) and gaps, not with entries or bodies.

Where the key of the notices comes from: :mod:`duramen.noticekeys`.

Not protected, hence not checked: ``head`` beyond its use as a hint, packs that were never decided, partial
tiles that larger ones replaced, and whether kept checkpoints were removed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from duramen.auditreport import AuditCounts, AuditOptions, AuditReport, BlockVisit, Depth, Reporter
from duramen.canonical import Fields
from duramen.checkpoint import Checkpoint, LogKeys, SignedCheckpoint, open_checkpoint
from duramen.envelopeaudit import Envelopes
from duramen.errors import FormatError, IntegrityError, StorageError
from duramen.frame import pack_key
from duramen.lineage import Lineages, Report
from duramen.logreader import LogDefect, LogReport, ObjectTileReader, check_log
from duramen.merkle import CompactRange, consistency_proof_from, leaf_hash, root_from, verify_consistency
from duramen.names import ChainId, Digest
from duramen.noticekeys import NoticeKeys
from duramen.packaudit import PackContents
from duramen.packs import RegionReader, plan_packs
from duramen.pinnedregion import PinnedRegion, pin_region, stated_size
from duramen.policy import Policy
from duramen.region import CHECKPOINT_KEY, KEPT_CHECKPOINTS_PREFIX
from duramen.statement import Block, BlockKind, Notice, Statement, log_digest, parse_statement
from duramen.tiles import TileHashReader
from duramen.verdict import Code

__all__ = ["AuditOptions", "AuditReport", "BlockVisit", "Depth", "audit_region"]

ROOTS_KEPT: Final = 65_536
"""Past roots that are remembered, to judge which checkpoints were seen."""


def audit_region(
    reader: RegionReader, tenant: str, keys: LogKeys, options: AuditOptions | None = None
) -> AuditReport:
    """Audit the copy of the log of ``tenant`` that ``reader`` gives.

    Raises StorageError when the region fails.
    """
    asked = options or AuditOptions()
    report = Reporter(asked.region, tenant)
    pinned = pin_region(reader, tenant)
    signed = _open(pinned, keys, asked.policy, report, f"{tenant}/")
    if signed is None:
        return AuditReport(
            asked.region, tenant, asked.depth, None, False, (), tuple(report.findings), AuditCounts()
        )
    return _Audit(pinned, tenant, keys, asked, signed, report).run()


def _open(
    reader: PinnedRegion, keys: LogKeys, policy: Policy | None, report: Report, prefix: str
) -> SignedCheckpoint | None:
    """The verified checkpoint.

    A policy that is not reached is reported and the checkpoint used all the same.
    """
    key = prefix + CHECKPOINT_KEY
    data = reader.read(key)
    if data is None:
        report(Code.REPLICA_MISSING, "the region has no checkpoint", key=key)
        return None
    try:
        return open_checkpoint(data, keys, policy)
    except FormatError as error:
        report(Code.CHECKPOINT_INVALID, str(error), key=key)
        return None
    except IntegrityError as error:
        report(Code(error.code), str(error), key=key)
        if error.code != Code.BELOW_POLICY:
            return None
    return open_checkpoint(data, keys)


class _Audit:
    """One pass over one region."""

    def __init__(
        self,
        reader: PinnedRegion,
        tenant: str,
        keys: LogKeys,
        options: AuditOptions,
        signed: SignedCheckpoint,
        report: Reporter,
    ) -> None:
        self._reader = reader
        self._prefix = f"{tenant}/"
        self._tenant = tenant
        self._keys = keys
        self._options = options
        self._signed = signed
        self._report = report
        self._reads_bodies = options.depth is not Depth.HEADERS
        plan = plan_packs(reader, self._prefix, signed.checkpoint.size)
        slots = plan.slots
        for digest in plan.strays:
            key = self._prefix + pack_key(digest)
            detail = "the pack's bytes are not what its name says; it may be one that the log lacks here"
            report(Code.REPLICA_CORRUPT, detail, key=key)
        self._boundaries = {slot.end for slot in slots}
        self._packs = PackContents(reader, self._prefix, slots, report, reads_bodies=self._reads_bodies)
        reader_key = options.reader_key if options.depth is Depth.RECORDS else None
        self._envelopes = Envelopes(reader, tenant, report, reader_key)
        log = log_digest(keys.origin, (keys.ed25519.encode(), keys.mldsa44.encode()))
        self._lineages = Lineages(tenant, log, report, self._known_root)
        self._notices = NoticeKeys(report, options.notice_public)
        self._tree = CompactRange()
        self._next = 0
        self._roots: OrderedDict[int, bytes] = OrderedDict()
        self._counts = AuditCounts(packs=sum(not slot.is_missing for slot in slots))

    def run(self) -> AuditReport:
        """Read everything and say what was found."""
        size = self._signed.checkpoint.size
        log = check_log(self._reader, lambda _: self._signed, self._prefix, on_entry=self._entry)
        self._fill(size)
        self._packs.finish()
        self._envelopes.finish(self._options.exists_elsewhere)
        chains = self._lineages.finish()
        is_proven = self._judge_tree(log)
        self._check_remembered()
        self._check_kept()
        counts = replace(
            self._counts, entries=log.entries, pack_bytes=self._packs.bytes, envelopes=self._envelopes.count
        )
        return AuditReport(
            self._options.region,
            self._tenant,
            self._options.depth,
            self._signed,
            is_proven,
            chains,
            tuple(self._report.findings),
            counts,
        )

    def _entry(self, index: int, entry: bytes) -> None:
        """The visitor of the tree's walk."""
        self._fill(index)
        self._take(index, entry)

    def _fill(self, end: int) -> None:
        """Take from the packs the entries up to ``end`` that the walk could not read."""
        while self._next < end:
            entry = self._packs.entry_at(self._next)
            if entry is None:
                self._packs.lose(self._next)
                self._next += 1
            else:
                self._take(self._next, entry)

    def _take(self, leaf: int, entry: bytes) -> None:
        statement: Statement | None = None
        try:
            statement = parse_statement(entry)
        except FormatError as error:
            self._report(Code.HEADER_CORRUPT, f"entry {leaf} of the log is no statement: {error}", leaf=leaf)
        is_whole = self._tree.size == leaf
        root = Digest(self._tree.root()) if is_whole and self._packs.begins(leaf) else None
        body = self._packs.take(leaf, entry, statement, root)
        self._next = leaf + 1
        if is_whole:
            self._tree.append(leaf_hash(entry))
            if leaf + 1 in self._boundaries:
                self._roots[leaf + 1] = self._tree.root()
                if len(self._roots) > ROOTS_KEPT:
                    self._roots.popitem(last=False)
        if isinstance(statement, Notice):
            self._counts = replace(self._counts, notices=self._counts.notices + 1)
            if self._notices.take(leaf, statement):
                self._envelopes.take_notice(leaf, statement)
                self._fork(leaf, statement)
        elif statement is not None:
            self._block(leaf, statement, body)

    def _fork(self, leaf: int, notice: Notice) -> None:
        """Report a fork that the collector was shown and has put on record."""
        if notice.type != "fork":
            return
        fields = Fields(notice.fields, "a fork notice")
        try:
            chain, seq = ChainId(fields.hexed("chain", 32)), fields.uint("seq", 2**63 - 1)
        except FormatError as error:
            self._report(Code.HEADER_CORRUPT, str(error), leaf=leaf)
            return
        detail = f"the collector was shown another block {seq} of this chain than the one in the log"
        self._report(Code.FORK, detail, chain=chain, seq=seq, leaf=leaf)

    def _block(self, leaf: int, block: Block, body: bytes | None) -> None:
        counts = self._counts
        self._counts = replace(
            counts, blocks=counts.blocks + 1, bodies=counts.bodies + bool(body and block.header.size)
        )
        is_good = self._lineages.take(leaf, block)
        if body is not None and block.header.kind is BlockKind.KEYS:
            self._envelopes.take_keys(leaf, block, body)
        agent = self._lineages.agent(block)
        visit = BlockVisit(leaf, agent, block, body)
        if self._options.depth is Depth.RECORDS and block.header.kind is BlockKind.RECORDS and body:
            visit = self._opened(visit, body)
        if not is_good:
            self._counts = replace(self._counts, unlinked=self._counts.unlinked + 1)
        elif self._options.on_block is not None:
            self._options.on_block(visit)

    def _opened(self, visit: BlockVisit, body: bytes) -> BlockVisit:
        if self._options.opens is not None and not self._options.opens(visit.agent, visit.block):
            return visit
        block_key = self._envelopes.block_key(visit.block)
        if block_key is None:
            self._counts = replace(self._counts, unopened=self._counts.unopened + 1)
            return visit
        payload = self._envelopes.open(visit.leaf, visit.block, body, block_key)
        if payload is not None:
            self._counts = replace(self._counts, opened=self._counts.opened + 1)
        return replace(visit, block_key=block_key, payload=payload)

    def _judge_tree(self, log: LogReport) -> bool:
        """Report the tree's defects; whether all statements that were taken are proven to be the log's."""
        for defect in log.defects:
            self._defect(defect)
        checkpoint = self._signed.checkpoint
        is_proven = (self._tree.size, self._tree.root()) == (checkpoint.size, checkpoint.root)
        if not is_proven and not log.defects:
            self._report(
                Code.TREE_MISMATCH,
                "the entries do not give the checkpoint's root",
                key=self._prefix + CHECKPOINT_KEY,
            )
        if not log.is_complete:
            self._report(
                Code.TREE_MISMATCH,
                f"the tree has more than {len(log.defects)} defects; the rest was not read",
            )
        return is_proven

    def _defect(self, defect: LogDefect) -> None:
        first, end = defect.index_range
        self._report(
            Code(defect.code),
            f"leaves {first} to {end - 1}: {defect.detail}",
            leaf=first,
            key=self._prefix + defect.path,
        )

    def _known_root(self, size: int) -> bytes | None:
        """The log's root at a past size.

        From the entries themselves, or from tiles, proven by the checkpoint.
        """
        if size == self._tree.size:
            return self._tree.root()
        if size in self._roots:
            return self._roots[size]
        checkpoint = self._signed.checkpoint
        if not 0 < size <= checkpoint.size:
            return None
        hashes = TileHashReader(ObjectTileReader(self._reader, self._prefix), checkpoint.size)
        try:
            root = root_from(hashes, size)
            proof = consistency_proof_from(hashes, size, checkpoint.size)
            verify_consistency(size, root, checkpoint.size, checkpoint.root, proof)
        except (StorageError, FormatError, IntegrityError):
            return None
        return root

    def _check_remembered(self) -> None:
        known, checkpoint = self._options.remembered, self._signed.checkpoint
        if known is None or known.size == 0:
            return
        key = self._prefix + CHECKPOINT_KEY
        if checkpoint.size < known.size:
            self._report(
                Code.CHECKPOINT_ROLLBACK,
                f"the region shows a log of {checkpoint.size} statements, after one of {known.size}",
                key=key,
            )
            return
        root = self._known_root(known.size)
        if root is not None and root != known.root:
            self._report(
                Code.EQUIVOCATION,
                f"the log does not continue the checkpoint of {known.size} statements verified before",
                key=key,
            )

    def _check_kept(self) -> None:
        """Every kept checkpoint is signed, and is of this history."""
        for key in self._reader.keys(self._prefix + KEPT_CHECKPOINTS_PREFIX) or ():
            data = self._reader.read(key)
            if data is None:
                continue  # deleted since it was listed, by whoever may
            try:
                kept = open_checkpoint(data, self._keys).checkpoint
            except (FormatError, IntegrityError) as error:
                self._report(Code.CHECKPOINT_INVALID, str(error), key=key)
                continue
            if key == f"{self._prefix}{KEPT_CHECKPOINTS_PREFIX}{kept.size}":
                self._check_kept_root(key, kept)
            else:
                detail = f"the kept checkpoint is of {kept.size} statements, not what its name says"
                self._report(Code.CHECKPOINT_INVALID, detail, key=key)

    def _check_kept_root(self, key: str, kept: Checkpoint) -> None:
        size = self._signed.checkpoint.size
        if kept.size > size:
            now = stated_size(self._reader.read_now(self._prefix + CHECKPOINT_KEY))
            if kept.size > now:
                self._report(
                    Code.CHECKPOINT_ROLLBACK,
                    f"the region's checkpoint is of {size} statements, and it keeps one of {kept.size}",
                    key=self._prefix + CHECKPOINT_KEY,
                )
            return
        root = self._known_root(kept.size)
        if root is not None and root != kept.root:
            self._report(
                Code.EQUIVOCATION, f"the kept checkpoint of {kept.size} is of another history", key=key
            )
