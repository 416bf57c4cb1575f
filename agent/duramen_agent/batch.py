"""Batches: what a read round found for one shred group and class, bounded so that one block can hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from duramen_agent.event import AgentEvent
from duramen_agent.generation import Chunk, Generation
from duramen_agent.position import Position
from duramen_agent.source import Slot

_RUN_BYTES: Final = 256
_ESCAPED: Final = 6
"""What JSON makes of one byte of a path, or one character of a label, at most."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A generation that is over: what was saved of it, what is said about it, and its last position.

    The three are sealed in one block, so that a crash leaves all of them done, or all to be done again.
    """

    slot: Slot
    chunks: Sequence[Chunk]
    event: AgentEvent | None
    position: Position


@dataclass(slots=True)
class Batch:
    """What becomes one block; or, without chunks and events, only deletes positions."""

    slot: Slot
    chunks: list[Chunk] = field(default_factory=list)
    events: list[AgentEvent] = field(default_factory=list)
    generations: dict[int, Generation] = field(default_factory=dict)
    """Those whose positions move."""
    gone: list[Position] = field(default_factory=list)
    """Those that ended."""

    @property
    def raw_bytes(self) -> int:
        """How many bytes of files it holds."""
        return sum(len(chunk.raw) for chunk in self.chunks)

    @property
    def positions(self) -> list[Position]:
        """What becomes durable with the block."""
        return [*(item.position() for item in self.generations.values()), *self.gone]

    def add(self, generation: Generation, chunks: Sequence[Chunk]) -> int:
        """Take what was read of a generation; return what it costs of the round's budget."""
        self.chunks.extend(chunks)
        self.generations[generation.number] = generation
        return sum(map(_cost, chunks))

    def end(self, ending: Ending) -> int:
        """Take an ending; return what it costs of the round's budget."""
        self.chunks.extend(ending.chunks)
        self.gone.append(ending.position)
        cost = sum(map(_cost, ending.chunks))
        if ending.event is not None:
            self.events.append(ending.event)
            cost += len(ending.event.encode())
        return cost


def _cost(chunk: Chunk) -> int:
    """The chunk's bytes and those of its manifest line, at most: the latter bound a round of tiny chunks."""
    return len(chunk.raw) + _RUN_BYTES + _ESCAPED * (len(chunk.path) + chunk.source.label_characters)
