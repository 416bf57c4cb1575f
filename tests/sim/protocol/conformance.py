"""What the real sequencers do in their regions, step by step, held against the model's steps.

:class:`Recording` listens to a world of interleaved sequencers (tests/collector/interleaving.py) and notes
every head that changed, every pack read back, tile, signature and checkpoint, and who did it: by its ballot.
:func:`replay` walks the model along: ballots become ranks, packs their digests, each acquisition a row. What
a store cannot show (knowing that something is decided, beginning the next pack) the model may do whenever it
can; everything that was seen has to be a step that the model allows, and heads must come out equal.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from duramen.frame import pack_digest, parse_pack
from duramen.tiles import TILE_WIDTH, parse_tile_path
from duramen_collector.register import NO_BALLOT, Accepted, Ballot, parse_head
from duramen_collector.store.port import Call, Create, Found, Get, Swap
from tests.sim.protocol import model
from tests.sim.protocol.model import BOTH, FENCING, NOTHING, Column, Model, Rules, State, Value, begins

# Loaded by name: the collector's tests have no types of their own, and mypy would follow an import.
interleaving: Final[Any] = importlib.import_module("tests.collector.interleaving")


class NotInModelError(Exception):
    """The code did what the model does not allow."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that happened: what, under whose ballot, in which region ("" for none)."""

    kind: str
    ballot: Ballot
    region: str = ""
    pack: bytes = b""
    """Of what was accepted or read back."""
    size: int = 0
    """Leaves that are covered, of tiles, signature, checkpoint."""
    promised: Ballot = NO_BALLOT
    accepted: Accepted | None = None
    """The head after it, for a change of head."""

    def __str__(self) -> str:
        what = self.pack.hex()[:8] or str(self.size or "")
        return f"{self.kind} {what} by {self.ballot} in {self.region or 'no region'}"


class Recording:
    """Everything seen of ``world``, from before its first step."""

    def __init__(self, world: Any) -> None:
        self.seen: list[Seen] = []
        self.values: dict[bytes, Value] = {bytes(32): ()}
        """The log that ends with each pack."""
        self.sizes: dict[Value, int] = {(): 0}
        self._tenant = world.tenant
        self._stores = world.stores
        self._ballots: dict[str, Ballot] = {}
        self._senders: dict[int, tuple[Call, Ballot]] = {}
        self._chosen: set[Ballot] = set()
        self._active = ""
        self._perform = world.perform
        self._perform_somehow = world.perform_somehow
        self._resume = world.resume
        self._signing = world.observer.signing
        world.perform = self.perform
        world.perform_somehow = self.perform_somehow
        world.resume = self.resume
        world.observer.signing = self.signing

    def resume(self, actor: Any, answers: Sequence[object] | None) -> None:
        """A sequencer goes on; its new calls are noted as its own, as they may land when it is gone."""
        self._active = actor.name
        self._resume(actor, answers)
        if actor.steps is None:
            return
        calls = [item.call for item in actor.calls]
        for call in calls:
            if isinstance(call, Swap) and self._name(call) == "head":
                self._ballots[actor.name] = parse_head(call.data).promised
        ballot = self._ballots.get(actor.name)
        if ballot is None:
            return
        self._senders.update((id(call), (call, ballot)) for call in calls)
        asks = any(isinstance(call, Get) and self._name(call) == "checkpoint" for call in calls)
        if asks and ballot not in self._chosen and actor.sequencer.ballot is None:
            self._chosen.add(ballot)
            self.seen.append(Seen("fenced", ballot))

    def perform_somehow(self, actor: Any, name: str, call: Call) -> object:
        """A call, and what its sender hears of it: that is where a pack is read back."""
        answer = self._perform_somehow(actor, name, call)
        if isinstance(call, Get) and isinstance(answer, Found) and self._name(call).startswith("packs/"):
            digest = pack_digest(answer.data)
            if self._name(call) == f"packs/{digest.hex()}.pack":
                self.seen.append(Seen("read back", self._sender(call), name, digest))
        return answer

    def perform(self, name: str, call: Call) -> object:
        """A call takes effect, now or late."""
        kind, key = self._name(call), getattr(call, "key", "")
        objects = self._stores[name].objects
        before = objects.get(key)
        if isinstance(call, Create) and kind.startswith("packs/"):
            self._learn(call.data)
        place = len(self.seen)
        try:
            return self._perform(name, call)
        finally:  # the world's observer may object, and then it has happened all the same
            if (
                isinstance(call, Create | Swap)
                and objects.get(key, (b"",))[0] == call.data
                and (isinstance(call, Create) or objects[key] != before)
            ):
                self._note(place, name, kind, call, before)

    def _note(
        self, place: int, name: str, kind: str, call: Create | Swap, before: tuple[bytes, str, int] | None
    ) -> None:
        """Something lies in a region as a call wanted it."""
        if kind == "head" and before is not None:
            self.seen.insert(place, _head_change(name, before[0], call.data))
        elif kind == "checkpoint":
            size = int(call.data.split(b"\n")[1])
            self.seen.insert(place, Seen("shown", self._sender(call), name, size=size))
        elif kind.startswith("tile/"):
            path = parse_tile_path(kind)
            size = (path.index * TILE_WIDTH + path.width) * TILE_WIDTH ** (path.level or 0)
            self.seen.insert(place, Seen("tiled", self._sender(call), name, size=size))

    def signing(self, size: int, root: bytes) -> None:
        """The sequencer that is at work signs."""
        self.seen.append(Seen("signed", self._ballots[self._active], size=size))
        self._signing(size, root)

    def _sender(self, call: Call) -> Ballot:
        return self._senders[id(call)][1]

    def _name(self, call: Any) -> str:
        return str(getattr(call, "key", "")).removeprefix(f"{self._tenant}/")

    def _learn(self, data: bytes) -> None:
        header = parse_pack(data).header
        digest = pack_digest(data)
        value = (*self.values[header.previous], digest.hex())
        self.values[digest] = value
        self.sizes[value] = header.first_leaf + header.count


def _head_change(region: str, before: bytes, after: bytes) -> Seen:
    old, new = parse_head(before), parse_head(after)
    kind = "promised" if old.accepted == new.accepted else "accepted"
    pack = b"" if kind == "promised" or new.accepted is None else new.accepted.value.pack
    return Seen(kind, new.promised, region, pack, promised=new.promised, accepted=new.accepted)


class Replay:
    """The states that the model may be in after what was seen so far."""

    def __init__(self, recording: Recording, regions: Sequence[str], copies: int) -> None:
        ballots = sorted({seen.ballot for seen in recording.seen})
        self._ranks = {ballot: rank for rank, ballot in enumerate(ballots)}
        self._regions = list(regions)
        self._recording = recording
        self._signed: set[Value] = set()
        self.model = Model(
            Rules(
                members=(BOTH,) * len(regions),
                copies=copies,
                ballots=tuple(range(1, len(ballots) + 1)),
                stepwise=True,
                unchecked=frozenset({"A"}),
            )
        )
        self.states = {self.model.initial()}

    def follow(self, number: int, seen: Seen) -> None:
        """One thing more was seen; raises NotInModelError when no state of the model allows it."""
        row = self._ranks[seen.ballot]
        self.states = {
            after
            for state in self.states
            for ready in self._silent(state, row, seen)
            for after in self._taken(ready, row, seen)
        }
        if not self.states:
            raise NotInModelError(f"step {number}: {seen}")
        if seen.kind == "signed":
            self._signed |= {state.rows[row].value for state in self.states}

    def _silent(self, state: State, row: int, seen: Seen) -> Iterator[State]:
        """A state, and those that its row can reach by what no store shows."""
        found, left = {state}, [state]
        while left:
            current = left.pop()
            acting = current.rows[row]
            following = [self.model.decide(current, row), self.model.end(current, row)]
            if acting.value in self._signed:  # the note is taken from the database
                following.append(self.model.sign(current, row))
            value = self._recording.values.get(seen.pack, ())
            if seen.kind == "read back" and value and value[:-1] == acting.value:
                following.append(self.model.propose(current, row, value[-1]))
            new = {after for after in following if after is not None} - found
            found |= new
            left += new
        yield from found

    def _taken(self, state: State, row: int, seen: Seen) -> Iterator[State]:
        acting = state.rows[row]
        number = self._regions.index(seen.region) if seen.region else -1
        value = self._recording.values.get(seen.pack, ())
        after: State | None = None
        if seen.kind == "fenced":
            for choice in self.model.choices(state, row):
                chosen = self.model.choose(state, row, choice)
                assert chosen is not None
                yield chosen
        elif seen.kind == "promised":
            after = self.model.promise(state, row, number)
        elif seen.kind == "accepted" and begins(acting.value, value):
            after = self.model.accept(state, row, number, len(value))
        elif seen.kind == "read back" and begins(acting.value, value):
            if _holds(state, state.columns[number], value[:-1]):
                after = self.model.read_back(state, row, number, len(value))
        elif seen.kind == "signed" and self._recording.sizes[acting.value] == seen.size:
            after = self.model.sign(state, row)
        elif seen.kind in ("tiled", "shown"):
            make: Callable[[State, int, int, int], State | None]
            make = self.model.tile if seen.kind == "tiled" else self.model.show
            length = self._length(acting.value, seen.size)
            after = None if length is None else make(state, row, number, length)
        if after is not None and (
            seen.kind not in ("promised", "accepted") or self._is_head(after, number, seen)
        ):
            yield after

    def _length(self, value: Value, size: int) -> int | None:
        """How many packs of ``value`` it takes to cover ``size`` leaves."""
        lengths = (n for n in range(len(value) + 1) if self._recording.sizes[value[:n]] >= size)
        return next(lengths, None)

    def _is_head(self, state: State, number: int, seen: Seen) -> bool:
        """Whether the model's head is the real one."""
        column = state.columns[number]
        if seen.accepted is None:
            accepted = NOTHING
        else:
            accepted = model.Accepted(
                self._ranks[seen.accepted.ballot] + 1,
                self._recording.values[seen.accepted.value.pack],
            )
        return (column.promised, column.accepted) == (self._ranks[seen.promised] + 1, accepted)


def _holds(state: State, column: Column, value: Value) -> bool:
    """Whether a region was seen to hold the packs of ``value``."""
    return begins(column.shown, value) or any(
        row.phase != FENCING and begins(row.value, value) and known.read_back >= len(value)
        for row, known in zip(state.rows, column.known, strict=True)
    )


def replay(recording: Recording, regions: Sequence[str], copies: int) -> Replay:
    """Follow all that was seen; raises NotInModelError at the first step that the model does not allow."""
    following = Replay(recording, regions, copies)
    for number, seen in enumerate(recording.seen):
        following.follow(number, seen)
    return following


def recorded(world: Any, steps: int) -> Recording:
    """Let a world run for ``steps``, or until its own observer finds a violation."""
    recording = Recording(world)
    with contextlib.suppress(interleaving.Violation):
        world.run(steps)
    return recording
