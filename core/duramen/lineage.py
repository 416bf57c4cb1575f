"""Every chain of a tenant log, judged block by block as the log is read from its first leaf (DESIGN 2.2).

:func:`duramen.chain.advance` says whether a block continues its chain. A verifier must not stop at the
first break, so :class:`Lineages` reports it, takes the block's own word for the state after it, and goes
on: later blocks are still held to links, signatures and record numbers, and every gap is listed. A block
that comes after a later one is ``order`` if it is the very block that was missing, ``fork`` if it is
another, ``replay`` if it is one that was there before.

Also judged: whether the checkpoints that blocks testify to have seen are this log's (``equivocation``),
whether an agent has a second chain (``rollback``, ``discontinuity``), and, as notes, clocks that jumped.
Not judged: whether an agent is silent now, or has blocks it has not forwarded; a log cannot tell that.
Memory: some kilobytes a chain, and a line a gap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from duramen.chain import ChainState, DataKeyUse, advance, begin
from duramen.errors import IntegrityError
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, Digest, Seq
from duramen.statement import Block, BlockHeader, BlockKind, Flags, verify_block
from duramen.verdict import Code, Severity

RECENT_BLOCKS: Final = 256
"""Blocks of a chain whose hashes are kept, to tell a replay from a fork."""
CLOCK_TOLERANCE_NS: Final = 10 * 10**9
"""How far wall clock and monotonic clock may drift apart between two blocks of one boot."""


class Report:
    """Receives what is found about a block. Bound to a region and tenant by the audit."""

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
        """Record one finding; without ``severity`` it is a failure, or a note where the code is one."""


@dataclass(frozen=True, slots=True)
class ChainSummary:
    """A chain as the log has it."""

    chain: ChainId
    agent: str
    first_leaf: int
    last_leaf: int
    seq: Seq
    """Of its last block."""
    head: Digest
    blocks: int
    """How many blocks of it the log holds."""
    records: int
    sealed_ns: int
    stopped: bool
    losses: int
    """Blocks that say they hold an event about lost bytes."""
    crashes: int
    """Blocks that say they are the first after a start that no stop preceded."""


@dataclass(slots=True)
class _Gap:
    """Missing blocks ``first`` .. ``last``, with what their neighbours say about them."""

    first: int
    last: int
    public: bytes | None
    """Who signs ``first``, as the block before it says."""
    prev: Digest
    """Hash of the block before ``first``."""
    last_hash: Digest
    """Hash of ``last``, as the block after it says."""
    leaf: int


@dataclass(slots=True)
class _Chain:
    state: ChainState
    first_leaf: int
    last_leaf: int
    last: BlockHeader
    blocks: int = 0
    losses: int = 0
    crashes: int = 0
    gaps: list[_Gap] = field(default_factory=list)
    recent: OrderedDict[int, Digest] = field(default_factory=OrderedDict)
    branch: set[Digest] = field(default_factory=set)
    """Blocks that are off this line: a fork's."""
    has_guesses: bool = False
    """Whether a data key may have been introduced in a block that is missing."""
    is_broken: bool = False
    """Whether signatures no longer lead back to a genesis of this log."""


class Lineages:
    """The chains of one tenant log.

    ``log`` is the digest of the log that every genesis must name; ``known_root(size)`` gives the log's root
    at a past size, or None when that cannot be told.
    """

    def __init__(
        self, tenant: str, log: Digest, report: Report, known_root: Callable[[int], bytes | None]
    ) -> None:
        self._tenant = tenant
        self._log = log
        self._report = report
        self._known_root = known_root
        self._chains: dict[ChainId, _Chain] = {}
        self._agents: dict[str, ChainId] = {}

    def take(self, leaf: int, block: Block) -> bool:
        """Judge the block at ``leaf``. True when it may be relied on as its agent's.

        That is when signatures and links lead back from it to a genesis of this log: after a gap or a break
        they do not, whatever the later blocks say of one another.
        """
        self._check_seen(leaf, block)
        if block.header.genesis is not None:
            return self._take_genesis(leaf, block)
        chain = self._chains.get(block.header.chain)
        if chain is None:
            self._take_orphan(leaf, block)
            return False
        if block.header.seq <= chain.state.seq:
            return self._take_late(chain, leaf, block)
        return self._take_next(chain, leaf, block)

    def agent(self, block: Block) -> str:
        """The agent of a block that was taken; empty when its genesis is not in the log."""
        chain = self._chains.get(block.chain)
        return "" if chain is None else chain.state.agent

    def finish(self) -> tuple[ChainSummary, ...]:
        """Report the gaps that stayed open, all of them.

        Return the chains in the order of their first leaf.
        """
        for identity, chain in self._chains.items():
            for gap in chain.gaps:
                missing = (
                    f"block {gap.first} is"
                    if gap.first == gap.last
                    else f"blocks {gap.first} to {gap.last} are"
                )
                self._report(
                    Code.GAP,
                    f"{missing} not in the log, which goes on with block {gap.last + 1}",
                    chain=identity,
                    seq=gap.first,
                    leaf=gap.leaf,
                )
        return tuple(
            ChainSummary(
                chain=identity,
                agent=chain.state.agent,
                first_leaf=chain.first_leaf,
                last_leaf=chain.last_leaf,
                seq=chain.state.seq,
                head=chain.state.head,
                blocks=chain.blocks,
                records=chain.state.records,
                sealed_ns=chain.state.sealed_ns,
                stopped=chain.state.stopped,
                losses=chain.losses,
                crashes=chain.crashes,
            )
            for identity, chain in self._chains.items()
        )

    def _take_genesis(self, leaf: int, block: Block) -> bool:
        genesis, identity = block.header.genesis, ChainId(block.hash)
        assert genesis is not None
        if identity in self._chains:
            self._report(
                Code.REPLAY,
                "the log holds this genesis for the second time",
                chain=identity,
                seq=0,
                leaf=leaf,
            )
            return False
        try:
            state = begin(block)
        except IntegrityError as error:
            self._report(Code(error.code), str(error), chain=identity, seq=0, leaf=leaf)
            return False
        is_good = True
        if (genesis.tenant, genesis.log) != (self._tenant, self._log):
            self._report(
                Code.HEADER_CORRUPT,
                f"the genesis of agent {genesis.agent!r} was sealed for another tenant log than this one",
                chain=identity,
                seq=0,
                leaf=leaf,
            )
            is_good = False
        self._check_succession(leaf, identity, block)
        self._chains[identity] = _Chain(state, leaf, leaf, block.header, is_broken=not is_good)
        self._agents[genesis.agent] = identity
        self._count(self._chains[identity], leaf, block)
        return is_good

    def _check_succession(self, leaf: int, identity: ChainId, block: Block) -> None:
        genesis = block.header.genesis
        assert genesis is not None
        before = self._agents.get(genesis.agent)
        replaces = any(genesis.replaces)
        code, severity = Code.DISCONTINUITY, Severity.FAILURE
        if before is None:
            if not replaces:
                return
            detail = f"the chain of {genesis.agent!r} replaces one that the log does not hold"
        elif not replaces:
            detail = f"a second chain of {genesis.agent!r} begins without naming the first"
        else:
            old = self._chains[before].state
            if (genesis.replaces, genesis.replaced_seq, genesis.replaced_hash) == (before, old.seq, old.head):
                severity = Severity.WARNING
                detail = (
                    f"the chain of {genesis.agent!r} replaces the one before, which ended at block {old.seq}"
                )
            elif genesis.replaces == before and genesis.replaced_seq < old.seq:
                code = Code.ROLLBACK
                detail = (
                    f"the chain of {genesis.agent!r} replaces the one before from block "
                    f"{genesis.replaced_seq} on, but the log has that one up to block {old.seq}"
                )
            else:
                detail = (
                    f"the chain of {genesis.agent!r} replaces another block than the last of the one before"
                )
        self._report(code, detail, severity=severity, chain=identity, seq=0, leaf=leaf)

    def _take_orphan(self, leaf: int, block: Block) -> None:
        """A block whose chain has no genesis so far: follow it from here on."""
        header = block.header
        state = ChainState(
            chain=header.chain,
            tenant=self._tenant,
            agent="",
            seq=Seq(-1),
            head=Digest(header.chain),
            records=0,
            next_public=b"",
            sealed_ns=0,
            stopped=False,
            keys=MappingProxyType({}),
        )
        chain = _Chain(
            _resumed(state, block, keeps_keys=False), leaf, leaf, header, has_guesses=True, is_broken=True
        )
        chain.gaps.append(_Gap(0, header.seq - 1, None, ZERO_DIGEST, header.prev, leaf))
        self._chains[header.chain] = chain
        self._count(chain, leaf, block)

    def _take_next(self, chain: _Chain, leaf: int, block: Block) -> bool:
        header, before = block.header, chain.state
        if header.prev in chain.branch:
            self._take_branch(chain, leaf, block)
            return False
        try:
            chain.state = advance(_guessed(before, header) if chain.has_guesses else before, block)
            is_good = True
        except IntegrityError as error:
            is_good = False
            chain.state = _resumed(before, block, keeps_keys=error.code != Code.GAP)
            if error.code == Code.GAP:
                chain.has_guesses = True
                chain.gaps.append(
                    _Gap(before.seq + 1, header.seq - 1, before.next_public, before.head, header.prev, leaf)
                )
            else:
                self._report(Code(error.code), str(error), chain=before.chain, seq=header.seq, leaf=leaf)
        if is_good:
            self._check_clock(chain, leaf, header)
        chain.is_broken |= not is_good
        self._count(chain, leaf, block)
        chain.last = header
        return not chain.is_broken

    def _take_late(self, chain: _Chain, leaf: int, block: Block) -> bool:
        """A block whose number has passed."""
        seq, digest = block.header.seq, block.hash
        for gap in chain.gaps:
            if seq == gap.last and digest == gap.last_hash:
                gap.last, gap.last_hash = seq - 1, block.header.prev
            elif seq == gap.first and block.header.prev == gap.prev and _is_signed(block, gap.public):
                gap.first, gap.prev, gap.public = seq + 1, digest, block.header.next
            else:
                continue
            if gap.first > gap.last:
                chain.gaps.remove(gap)
            self._report(
                Code.ORDER,
                f"block {seq} comes after block {chain.state.seq} of its chain",
                chain=chain.state.chain,
                seq=seq,
                leaf=leaf,
            )
            self._count(chain, leaf, block)
            return False
        if chain.recent.get(seq, digest) != digest:
            self._take_branch(chain, leaf, block)
            return False
        self._report(
            Code.REPLAY,
            f"the log already has block {seq} of this chain",
            chain=chain.state.chain,
            seq=seq,
            leaf=leaf,
        )
        return False

    def _take_branch(self, chain: _Chain, leaf: int, block: Block) -> None:
        """A block of another branch; the chain's own state stays where it is."""
        if len(chain.branch) < RECENT_BLOCKS:
            chain.branch.add(block.hash)
        self._report(
            Code.FORK,
            f"block {block.header.seq} is on another branch of this chain than the blocks before it",
            chain=chain.state.chain,
            seq=block.header.seq,
            leaf=leaf,
        )

    def _check_seen(self, leaf: int, block: Block) -> None:
        header = block.header
        if header.seen_size == 0:
            return
        if header.seen_size > leaf:
            detail = (
                f"the agent verified a checkpoint of {header.seen_size} statements before this one was logged"
            )
        else:
            root = self._known_root(header.seen_size)
            if root is None or root == header.seen_root:
                return
            detail = (
                f"the agent verified a checkpoint of {header.seen_size} statements that is not of this log"
            )
        self._report(Code.EQUIVOCATION, detail, chain=block.chain, seq=header.seq, leaf=leaf)

    def _check_clock(self, chain: _Chain, leaf: int, header: BlockHeader) -> None:
        before = chain.last
        wall = header.sealed_ns - before.sealed_ns
        if header.boot == before.boot:
            drift = wall - (header.monotonic_ns - before.monotonic_ns)
        else:
            drift = min(wall, 0)
        if abs(drift) > CLOCK_TOLERANCE_NS:
            self._report(
                Code.CLOCK_JUMP,
                f"the host's clock jumped by {drift / 1e9:+.1f} s before block {header.seq}",
                chain=header.chain,
                seq=header.seq,
                leaf=leaf,
            )

    def _count(self, chain: _Chain, leaf: int, block: Block) -> None:
        chain.last_leaf = leaf
        chain.blocks += 1
        chain.losses += Flags.LOSS in block.header.flags
        chain.crashes += Flags.CRASH in block.header.flags
        chain.recent[block.header.seq] = block.hash
        if len(chain.recent) > RECENT_BLOCKS:
            chain.recent.popitem(last=False)


def _guessed(state: ChainState, header: BlockHeader) -> ChainState:
    """``state`` with the data key of a block whose keys block may be missing, by that block's own word."""
    slot = (header.group, header.retention_class)
    if header.kind is BlockKind.KEYS or header.dek == ZERO_DATA_KEY_ID or slot in state.keys:
        return state
    use = DataKeyUse(header.dek, header.step, header.sealed_ns)
    return replace(state, keys=MappingProxyType({**state.keys, slot: use}))


def _resumed(state: ChainState, block: Block, *, keeps_keys: bool) -> ChainState:
    """The state after ``block`` by its own word, where it does not continue ``state``."""
    header = block.header
    keys = dict(state.keys) if keeps_keys else {}
    slot = (header.group, header.retention_class)
    if header.kind is BlockKind.KEYS:
        keys[slot] = DataKeyUse(header.dek, 0, header.sealed_ns)
    elif header.dek != ZERO_DATA_KEY_ID:
        keys[slot] = DataKeyUse(header.dek, header.step + 1, header.sealed_ns)
    return replace(
        state,
        seq=header.seq,
        head=block.hash,
        records=header.start + header.count,
        next_public=header.next,
        sealed_ns=header.sealed_ns,
        stopped=Flags.STOP in header.flags,
        keys=MappingProxyType(keys),
    )


def _is_signed(block: Block, public: bytes | None) -> bool:
    if public is None:
        return False
    try:
        verify_block(block, public)
    except IntegrityError:
        return False
    return True
