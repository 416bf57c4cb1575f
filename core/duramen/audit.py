"""The audit of one region: every byte of a tenant log's copy held against the log's signatures.

:func:`audit_region` reads the checkpoint, demands both signatures of pinned keys and audits the log up to that size,
whatever is published meanwhile. In one pass from the first leaf to the last it checks

- the tree: all tiles and entry bundles (:mod:`duramen.logreader`);
- every statement: its encoding; notices under the log's notice key, forks that they report; blocks by :mod:`duramen.lineage`;
- the packs: every frame against the log's entry, every body against its header (:mod:`duramen.packaudit`);
- the envelopes that keys blocks commit to (:mod:`duramen.envelopeaudit`);
- the kept checkpoints: each one signed, and of this history;
- with a reader's key, the records: every body opened, every record root computed again.

What cannot be read is a finding, never a pass. The report lists all findings; memory grows with chains, packs (some 200 bytes each)
and gaps, not with entries or bodies.

**Notice key.** Notices are signed by a key of their own. The log introduces it: the first notice has the type ``key`` and signs itself; its
field ``public`` (64 hex digits) is the Ed25519 key, and later notices of that type, signed by a known key, add others. The first one is
believed because the signed log begins with it; whoever knows the key from elsewhere passes it in.

Not protected, hence not checked: ``head`` beyond its use as a hint, packs that were never decided, partial tiles that larger ones
replaced, and whether kept checkpoints were removed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from duramen.body import Payload
from duramen.canonical import Fields, Json
from duramen.checkpoint import Checkpoint, LogKeys, SignedCheckpoint, open_checkpoint
from duramen.ed25519 import check_ed25519_public
from duramen.envelope import ReaderKey
from duramen.envelopeaudit import Envelopes
from duramen.errors import FormatError, IntegrityError, StorageError
from duramen.lineage import ChainSummary, Lineages, Report
from duramen.logreader import LogDefect, LogReport, ObjectTileReader, check_log
from duramen.merkle import CompactRange, consistency_proof_from, leaf_hash, root_from, verify_consistency
from duramen.names import ChainId, Digest
from duramen.packaudit import PackContents
from duramen.packs import RegionReader, plan_packs
from duramen.policy import Policy
from duramen.region import CHECKPOINT_KEY, KEPT_CHECKPOINTS_PREFIX
from duramen.statement import (
    Block,
    BlockKind,
    Notice,
    Statement,
    log_digest,
    notice_key_id,
    parse_statement,
    verify_notice,
)
from duramen.tiles import TileHashReader, edge_paths
from duramen.verdict import NOTES, Code, Finding, Severity, Verdict, judge

ROOTS_KEPT: Final = 65_536
"""Past roots that are remembered, to judge which checkpoints were seen."""
_PIN_TRIES: Final = 5


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
    """What the audit of one region found. ``signed`` is None, and nothing was read, without a valid checkpoint."""

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


def audit_region(
    reader: RegionReader, tenant: str, keys: LogKeys, options: AuditOptions | None = None
) -> AuditReport:
    """Audit the copy of the log of ``tenant`` that ``reader`` gives. Raises StorageError when the region fails."""
    asked = options or AuditOptions()
    report = _Reporter(asked.region, tenant)
    pinned = pin_region(reader, tenant)
    signed = _open(pinned, keys, asked.policy, report, f"{tenant}/")
    if signed is None:
        return AuditReport(
            asked.region, tenant, asked.depth, None, False, (), tuple(report.findings), AuditCounts()
        )
    return _Audit(pinned, tenant, keys, asked, signed, report).run()


class _Reporter(Report):
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


class PinnedRegion:
    """A region whose checkpoint and right edge stay as they were at one moment, though the log goes on."""

    def __init__(self, reader: RegionReader, pinned: Mapping[str, bytes | None]) -> None:
        self._reader = reader
        self._pinned = pinned

    def read(self, key: str) -> bytes | None:
        """The object as it was pinned, or as it is."""
        return self._pinned[key] if key in self._pinned else self._reader.read(key)

    def read_start(self, key: str, count: int) -> bytes | None:
        """As the region has it."""
        return self._reader.read_start(key, count)

    def keys(self, prefix: str) -> Iterable[str] | None:
        """As the region has them."""
        return self._reader.keys(prefix)

    def read_now(self, key: str) -> bytes | None:
        """The object as it is now."""
        return self._reader.read(key)


def pin_region(reader: RegionReader, tenant: str) -> PinnedRegion:
    """Read a checkpoint with the partial tiles of its edge, again while a new one takes their place."""
    if isinstance(reader, PinnedRegion):
        return reader
    prefix = f"{tenant}/"
    key = prefix + CHECKPOINT_KEY
    data = reader.read(key)
    for _ in range(_PIN_TRIES):
        pinned = {key: data}
        for path in edge_paths(_stated_size(data)):
            name = prefix + path.path()
            found = reader.read(name)
            if found is not None:
                pinned[name] = found
        now = reader.read(key)
        if now == data:
            break
        data = now
    return PinnedRegion(reader, pinned)


def _stated_size(data: bytes | None) -> int:
    """The size that a checkpoint states, unverified; 0 for anything else."""
    lines = (data or b"").split(b"\n", 2)
    text = lines[1] if len(lines) == 3 else b""
    return int(text) if text.isdigit() and len(text) < 19 else 0


def _open(
    reader: PinnedRegion, keys: LogKeys, policy: Policy | None, report: Report, prefix: str
) -> SignedCheckpoint | None:
    """The verified checkpoint; a policy that is not reached is reported and the checkpoint used all the same."""
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
        report: _Reporter,
    ) -> None:
        self._reader = reader
        self._prefix = f"{tenant}/"
        self._tenant = tenant
        self._keys = keys
        self._options = options
        self._signed = signed
        self._report = report
        self._reads_bodies = options.depth is not Depth.HEADERS
        slots = plan_packs(reader, self._prefix, signed.checkpoint.size)
        self._boundaries = {slot.end for slot in slots}
        self._packs = PackContents(reader, self._prefix, slots, report, reads_bodies=self._reads_bodies)
        reader_key = options.reader_key if options.depth is Depth.RECORDS else None
        self._envelopes = Envelopes(reader, tenant, report, reader_key)
        log = log_digest(keys.origin, (keys.ed25519.encode(), keys.mldsa44.encode()))
        self._lineages = Lineages(tenant, log, report, self._known_root)
        self._notices = _NoticeKeys(report, options.notice_public)
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
        """Take the entries up to ``end`` that the walk could not read from the packs, which hold them, too."""
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
                Code.TREE_MISMATCH, f"the tree has more than {len(log.defects)} defects; the rest was not read"
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
        """The log's root at a past size: from the entries themselves, or from tiles, proven by the checkpoint."""
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
                f"the region shows a log of {checkpoint.size} statements, after one of {known.size} was published",
                key=key,
            )
            return
        root = self._known_root(known.size)
        if root is not None and root != known.root:
            self._report(
                Code.EQUIVOCATION,
                f"the log does not continue the checkpoint of {known.size} statements that was verified before",
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
                if key != f"{self._prefix}{KEPT_CHECKPOINTS_PREFIX}{kept.size}":
                    raise FormatError(f"the checkpoint is of size {kept.size}, not what its name says")
            except (FormatError, IntegrityError) as error:
                self._report(Code.CHECKPOINT_INVALID, str(error), key=key)
                continue
            self._check_kept_root(key, kept)

    def _check_kept_root(self, key: str, kept: Checkpoint) -> None:
        size = self._signed.checkpoint.size
        if kept.size > size:
            now = _stated_size(self._reader.read_now(self._prefix + CHECKPOINT_KEY))
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


class _NoticeKeys:
    """The keys under which notices verify."""

    def __init__(self, report: Report, public: bytes | None) -> None:
        self._report = report
        self._keys = {} if public is None else {notice_key_id(public): public}

    def take(self, leaf: int, notice: Notice) -> bool:
        """Judge a notice; whether it may be relied on."""
        introduced = None
        if notice.type == "key":
            try:
                introduced = Fields(notice.fields, "a key notice").hexed("public", 32)
                check_ed25519_public(introduced)
            except FormatError as error:
                self._report(Code.HEADER_CORRUPT, str(error), leaf=leaf)
                return False
            if not self._keys:
                self._keys[notice_key_id(introduced)] = introduced
        public = self._keys.get(notice.key_id)
        try:
            if public is None:
                raise IntegrityError(
                    f"the notice is signed by the key {notice.key_id.hex()}, which the log has not introduced",
                    code=Code.SIGNATURE_INVALID,
                )
            verify_notice(notice, public)
        except IntegrityError as error:
            self._report(Code(error.code), str(error), leaf=leaf)
            return False
        if introduced is not None:
            self._keys[notice_key_id(introduced)] = introduced
        return True


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
