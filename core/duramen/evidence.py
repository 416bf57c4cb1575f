"""Evidence bundles: whole blocks disclosed to a third party, with everything that proves them (DESIGN 9).

A bundle is an archive (:mod:`duramen.archive`) of one chain's consecutive blocks ``first`` .. ``last``::

    manifest.json       type, origin, chain, first, last, lineage (first seq in it), policy (is there one)
    checkpoint          the signed note under which everything is proven
    policy              the tlog-policy it was made under, if any: a verifier uses its own
    genesis             the chain's first statement, and genesis.proof, its tlog-proof
    lineage             statements, each behind its length in two bytes: from genesis, or from the one
                        before ``first``, to ``last``
    proofs/<seq>        tlog-proof of each disclosed block
    bodies/<seq>        its body as it travelled, unless it is empty
    keys/<seq>          its block key, 32 bytes, if it holds records

What is disclosed are block keys: they open these blocks and no others. :func:`verify_evidence` needs the
bundle and pinned keys, no network, and says what is proven and what is not; anything amiss is an error,
there are no half-valid bundles. The same request against the same checkpoint gives the same bytes.

Bundles are made by :mod:`duramen.disclosure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from duramen import canonical, wire
from duramen.archive import parse_archive
from duramen.body import Payload, open_body
from duramen.canonical import Json
from duramen.chain import ChainState, advance, begin, check_body
from duramen.checkpoint import LogKeys, SignedCheckpoint, open_checkpoint
from duramen.envelope import KeyList, open_key_list
from duramen.errors import FormatError, IntegrityError
from duramen.limits import STATEMENT_MAX_BYTES
from duramen.names import ChainId, Digest
from duramen.policy import Policy, parse_policy
from duramen.statement import Block, BlockKind, log_digest, parse_statement, verify_block
from duramen.statementjson import statement_json
from duramen.tlogproof import parse_tlog_proof, verify_tlog_proof

BLOCKS_MAX: Final = 20_000
"""Blocks that one bundle may disclose."""
_TYPE: Final = "duramen-evidence/v1"


@dataclass(frozen=True, slots=True)
class ProvenBlock:
    """One disclosed block: everything in it has been verified."""

    leaf: int
    block: Block
    payload: Payload | None
    """The records, with their runs; None for a block without."""
    key_list: KeyList | None = None
    """Who can read; of a keys block."""


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """What a bundle proves."""

    signed: SignedCheckpoint
    tenant: str
    agent: str
    chain: ChainId
    blocks: tuple[ProvenBlock, ...]
    is_whole_lineage: bool
    is_genesis_pinned: bool
    proven: tuple[str, ...]
    not_proven: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself."""

    origin: str
    chain: ChainId
    first: int
    last: int
    lineage: int
    has_policy: bool

    def encode(self) -> bytes:
        """The file's bytes."""
        return canonical.encode(
            {
                "type": _TYPE,
                "origin": self.origin,
                "chain": self.chain.hex(),
                "first": canonical.wide(self.first),
                "last": canonical.wide(self.last),
                "lineage": canonical.wide(self.lineage),
                "policy": self.has_policy,
            }
        )


def verify_evidence(
    data: bytes, keys: LogKeys, policy: Policy | None = None, genesis: Digest | ChainId | None = None
) -> EvidenceReport:
    """Verify a bundle against pinned log keys, one's own policy, and the genesis if that is known.

    FormatError for bytes that are no bundle; IntegrityError with its code for anything that does not hold.
    """
    files = parse_archive(data)
    manifest = _parse_manifest(_pop(files, "manifest.json"))
    if manifest.has_policy:
        parse_policy(_pop(files, "policy"))
    checkpoint = _pop(files, "checkpoint")
    signed = open_checkpoint(checkpoint, keys, policy)
    proofs = _Proofs(files, checkpoint, keys)
    first_block = _block(_pop(files, "genesis"))
    begun = begin(first_block)
    if begun.chain != manifest.chain or manifest.origin != keys.origin:
        raise FormatError("the bundle's manifest is of another chain or log than its statements")
    if genesis is not None and begun.chain != genesis:
        raise IntegrityError(
            f"the chain begins with the genesis {begun.chain.hex()}, not with the pinned one",
            code="link_broken",
        )
    if _genesis_log(first_block) != log_digest(keys.origin, (keys.ed25519.encode(), keys.mldsa44.encode())):
        raise IntegrityError("the genesis was sealed for another tenant log", code="header_corrupt")
    proofs.check("genesis.proof", first_block)
    blocks = _follow(_parse_lineage(_pop(files, "lineage"), manifest), first_block, begun)
    disclosed = []
    last_leaf = -1
    for block in blocks[manifest.first - manifest.lineage :]:
        leaf = proofs.check(f"proofs/{block.header.seq}", block)
        if leaf <= last_leaf:
            raise IntegrityError("the log holds this chain's blocks out of order", code="order")
        last_leaf = leaf
        disclosed.append(_disclose(files, leaf, block))
    if files:
        raise FormatError(f"the bundle holds {min(files)!r}, which does not belong there")
    report = EvidenceReport(
        signed=signed,
        tenant=begun.tenant,
        agent=begun.agent,
        chain=begun.chain,
        blocks=tuple(disclosed),
        is_whole_lineage=manifest.lineage == 0,
        is_genesis_pinned=genesis is not None,
        proven=(),
        not_proven=(),
    )
    return replace(report, proven=_proven(report, keys), not_proven=_not_proven(report, policy))


class _Proofs:
    """The proofs in a bundle, all of them under its one checkpoint."""

    def __init__(self, files: dict[str, bytes], checkpoint: bytes, keys: LogKeys) -> None:
        self._files = files
        self._checkpoint = checkpoint
        self._keys = keys

    def check(self, name: str, block: Block) -> int:
        """The leaf at which the log holds ``block``."""
        proof = parse_tlog_proof(_pop(self._files, name))
        if proof.checkpoint_note != self._checkpoint or proof.extra is not None:
            raise FormatError(f"{name} is under another checkpoint than the bundle's, or has extra data")
        verify_tlog_proof(proof, block.entry, self._keys)
        return proof.index


def _pop(files: dict[str, bytes], name: str) -> bytes:
    try:
        return files.pop(name)
    except KeyError:
        raise FormatError(f"the bundle lacks {name!r}") from None


def _parse_manifest(data: bytes) -> Manifest:
    fields = canonical.Fields(canonical.decode(data, "the manifest"), "the manifest")
    if fields.text("type") != _TYPE:
        raise FormatError("the bundle is of a type that is not known here; use a newer release")
    limit = 2**63 - 1
    manifest = Manifest(
        origin=fields.text("origin"),
        chain=ChainId(fields.hexed("chain", 32)),
        first=fields.uint("first", limit),
        last=fields.uint("last", limit),
        lineage=fields.uint("lineage", limit),
        has_policy=fields.flag("policy"),
    )
    fields.finish()
    if not manifest.first <= manifest.last < manifest.first + BLOCKS_MAX:
        raise FormatError(f"a bundle holds 1 to {BLOCKS_MAX} consecutive blocks of one chain")
    if manifest.lineage not in (0, manifest.first - 1):
        raise FormatError(
            "a bundle's lineage begins at genesis or at the block before the first disclosed one"
        )
    return manifest


def _parse_lineage(data: bytes, manifest: Manifest) -> list[Block]:
    reader = wire.Reader(data, "the lineage")
    blocks = []
    while reader.offset < len(data):
        blocks.append(_block(reader.prefixed(2, STATEMENT_MAX_BYTES)))
    if [block.header.seq for block in blocks] != list(
        range(manifest.lineage, manifest.lineage + len(blocks))
    ):
        raise FormatError("the lineage is not of consecutive blocks")
    if not blocks or blocks[-1].header.seq != manifest.last:
        raise FormatError("the lineage does not end with the last disclosed block")
    return blocks


def _block(data: bytes) -> Block:
    statement = parse_statement(data)
    if not isinstance(statement, Block):
        raise FormatError("the bundle holds a notice where a block belongs")
    return statement


def _genesis_log(block: Block) -> Digest:
    assert block.header.genesis is not None  # begin() has seen to it
    return block.header.genesis.log


def _follow(blocks: Sequence[Block], genesis: Block, begun: ChainState) -> Sequence[Block]:
    """Demand that ``blocks`` continue one another, and the genesis if they begin there."""
    if blocks[0].header.seq == 0:
        if blocks[0].entry != genesis.entry:
            raise IntegrityError("the lineage begins with another genesis", code="link_broken")
        state = begun
        for block in blocks[1:]:
            state = advance(state, block)
        return blocks
    if blocks[0].chain != begun.chain:
        raise IntegrityError("the lineage is of another chain than the genesis", code="link_broken")
    before = blocks[0]
    for block in blocks[1:]:
        if block.chain != begun.chain or block.header.prev != before.hash:
            raise IntegrityError(
                f"block {block.header.seq} does not continue the block before it", code="link_broken"
            )
        verify_block(block, before.header.next)
        if block.header.start != before.header.start + before.header.count:
            raise IntegrityError(
                f"block {block.header.seq} does not continue the record numbers", code="header_corrupt"
            )
        before = block
    return blocks


def _disclose(files: dict[str, bytes], leaf: int, block: Block) -> ProvenBlock:
    """Check a disclosed block's contents."""
    header = block.header
    body = _pop(files, f"bodies/{header.seq}") if header.size else b""
    check_body(block, body)
    if header.kind is BlockKind.KEYS:
        return ProvenBlock(leaf, block, None, open_key_list(header, body))
    if not header.count:
        return ProvenBlock(leaf, block, None)
    block_key = _pop(files, f"keys/{header.seq}")
    if len(block_key) != 32:
        raise FormatError("a block key has 32 bytes")
    return ProvenBlock(leaf, block, open_body(header, body, block_key))


def _proven(report: EvidenceReport, keys: LogKeys) -> tuple[str, ...]:
    checkpoint, blocks = report.signed.checkpoint, report.blocks
    records = sum(item.block.header.count for item in blocks)
    first, last = blocks[0].block.header, blocks[-1].block.header
    span = f"blocks {first.seq} to {last.seq}"
    lines = [
        (
            f"the checkpoint of {checkpoint.size} statements of the log {checkpoint.origin!r} is signed by "
            f"both pinned keys, Ed25519 {keys.ed25519.key_id.hex()} and ML-DSA-44 {keys.mldsa44.key_id.hex()}"
        ),
        (
            f"{span} of the chain {report.chain.hex()} are in that log, as leaves {blocks[0].leaf} to "
            f"{blocks[-1].leaf}"
        ),
    ]
    if records:
        lines.append(f"the contents of {span}, {records} records, are byte for byte what was sealed in them")
        end = first.start + records - 1
        lines.append(f"records {first.start} to {end} of the chain follow one another without a gap")
    else:
        lines.append(f"{span} hold no records")
    if report.is_whole_lineage:
        lines.append(
            "every block from the genesis on is signed by the key that the block before it names; the "
            f"genesis names agent {report.agent!r} of tenant {report.tenant!r}"
        )
    else:
        lines.append(f"{span} are each signed by the key that the block before it names")
    if report.is_genesis_pinned:
        lines.append("the chain's genesis is the pinned one")
    if report.signed.witnesses:
        lines.append(f"the checkpoint is cosigned by {', '.join(sorted(report.signed.witnesses))}")
    return tuple(lines)


def _not_proven(report: EvidenceReport, policy: Policy | None) -> tuple[str, ...]:
    lines = []
    if not report.is_genesis_pinned:
        lines.append(
            f"that the chain is the host's that calls itself {report.agent!r}: that rests on the collector "
            f"that enrolled it; pin it with --genesis {report.chain.hex()}"
        )
    if not report.is_whole_lineage:
        lines.append(
            "that these blocks descend from the genesis by signatures: the bundle lacks what is between"
        )
    if policy is None or not report.signed.witnesses:
        lines.append("that the log shows everybody the same history: no witness of a policy has cosigned")
    lines.append("when exactly the records were written: sealing times are the host's own clock's")
    if report.signed.timestamp_seconds:
        lines.append(
            "that the blocks existed before the checkpoint's time "
            f"({report.signed.timestamp_seconds} s since 1970): that is the log's own clock's"
        )
    lines.append(
        "that what the application wrote is true, or that a host compromised before sealing added nothing"
    )
    return tuple(lines)


def report_json(report: EvidenceReport) -> dict[str, Json]:
    """The report as JSON values, without the records' bytes."""
    checkpoint = report.signed.checkpoint
    return {
        "verdict": "verified",
        "origin": checkpoint.origin,
        "checkpoint": {
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "time": report.signed.timestamp_seconds,
            "witnesses": [*sorted(report.signed.witnesses)],
        },
        "tenant": report.tenant,
        "agent": report.agent,
        "chain": report.chain.hex(),
        "genesis_pinned": report.is_genesis_pinned,
        "lineage": "whole" if report.is_whole_lineage else "previous",
        "proven": list(report.proven),
        "not_proven": list(report.not_proven),
        "blocks": [
            {
                "leaf": item.leaf,
                "statement": statement_json(item.block),
                "runs": []
                if item.payload is None
                else [
                    {
                        "stream": run.stream,
                        "path": run.path.decode(errors="backslashreplace"),
                        "file": run.file,
                        "offset": canonical.wide(run.offset),
                        "bytes": run.size,
                        "lines": run.lines,
                        "read": canonical.wide(run.read_ns),
                    }
                    for run, _, _ in item.payload.runs
                ],
            }
            for item in report.blocks
        ],
    }
