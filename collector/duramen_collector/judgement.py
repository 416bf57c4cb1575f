"""What ingest answers with: how far a chain is, and the problem that stopped it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from duramen.api import Problem
from duramen.chain import ChainState
from duramen.names import DataKeyId
from duramen_collector.chainstate import StoredChain


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a request's blocks: the chain after them, and what stopped them, if anything did."""

    stored: StoredChain
    want: tuple[DataKeyId, ...] = ()
    problem: Problem | None = None


def forked(state: ChainState, seq: int) -> Problem:
    """The refusal of a second block ``seq``."""
    detail = (
        f"the collector holds another block {seq} of this chain; stop this agent and find out which of its "
        "two histories is the real one"
    )
    return with_head(Problem(409, "fork", detail), state)


def with_head(problem: Problem, state: ChainState) -> Problem:
    """``problem`` with the head that the collector holds."""
    return replace(problem, accepted_seq=state.seq, head=state.head)
