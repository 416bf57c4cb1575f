"""PROTOCOL.md as a transition system: small states, every step a guarded method, every invariant a question.

A *row* is one acquisition: a ballot, and what its sequencer has come to. A *column* is one region: its head
(promised, accepted), its tiles and checkpoint, and what each row knows of it. A *value* is a tuple of packs,
oldest first; proposers of one pack name share a database, those of different ones do not.

What stands for the faults:

- **Crash**: a row that takes no further step, which every row may do anywhere; the process that starts again
  is another row. A row forgets nothing before that.
- **Messages**: a swap once sent may land at any later time, again and again, whatever its sender has come to
  since, on every head whose promise is not higher. That is more than the stores' conditional writes let
  happen. Its answer may be lost: a row may go on from any part of what it could know.
- **Ballots** start in any order, higher or lower than what is promised; none is used by two rows, unless
  ``Rules.ballots`` says so.
- **Restore**: one region is copied once, at any time, and set back to that copy, at any time; nobody notices.
- **Members**: the pack ``CHANGE`` carries the new configuration. A value that ends with it needs the accept
  and fence quorums of both, one that goes on from it those of the new one.

Left out: the signer's guard, and stopping at a conflict (step 4 of acquire), as both could only hide what the
rest does wrong; instead, step 4 must never find a conflict unless a higher ballot is at work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import combinations
from typing import Final, NamedTuple, TypeAlias

CHANGE: Final = "M"
"""The pack that carries the new configuration."""
FENCING, WORKING, DECIDED, SIGNED, READY, ALARMED = range(6)
OLD, NEW, BOTH = 1, 2, 3
"""In which configuration a region is."""
PHASES: Final = ("fencing", "working", "decided", "signed", "ready", "alarmed")

Value: TypeAlias = tuple[str, ...]


class Breakage(Enum):
    """A rule that is left out."""

    SMALL_FENCE = "a fence of one region fewer"
    SIGN_FIRST = "signing before k regions accepted"
    NO_ADOPTION = "adopting nothing"
    ACCEPT_FIRST = "accepting before the packs are there"
    OLD_QUORUM_ALONE = "a change of members decided by the old regions alone"
    NEW_QUORUM_ALONE = "a change of members decided by the new regions alone"


@dataclass(frozen=True, slots=True)
class Rules:
    """A configuration, its bounds, and what is broken in it."""

    members: tuple[int, ...] = (BOTH, BOTH, BOTH)
    copies: int = 2
    copies_new: int = 0
    """The new configuration's k; 0: nothing changes."""
    ballots: tuple[int, ...] = (1, 2, 3)
    """Of each acquisition; ascending."""
    depth: int = 1
    """Packs in the log at most."""
    packs: int = 2
    """Different packs at most: proposers with databases of their own."""
    fence_extra: int = 1
    """A fence is n - k + this."""
    restores: int = 0
    """How often the last region is set back to its copy."""
    stepwise: bool = False
    """Tiles and checkpoints by region, instead of finishing in one step."""
    demands_restored: bool = False
    """I5 is demanded of a region that was set back, too: more than the protocol can give."""
    broken: Breakage | None = None
    unchecked: frozenset[str] = frozenset()
    """Invariants that are not demanded, so that what follows from breaking them is seen."""


class Accepted(NamedTuple):
    """What a head has accepted; ballot 0: nothing."""

    ballot: int
    value: Value


class Known(NamedTuple):
    """What one row knows of one region."""

    seen: Accepted | None
    """What it had accepted when it promised; None: not fenced, or no longer of interest."""
    read_back: int
    """Up to which length of the row's value its packs were read back there."""
    accepted: int
    """Up to which length it accepted the row's value under the row's ballot: ever."""


class Column(NamedTuple):
    """One region."""

    member: int
    promised: int
    accepted: Accepted
    tiles: Value
    shown: Value
    known: tuple[Known, ...]
    is_restorable: bool
    saved: tuple[int, Accepted, Value, Value] | None
    restored: int


class Row(NamedTuple):
    """One acquisition."""

    phase: int
    first: int
    """The length of the first value it proposed, adopted or its own."""
    value: Value
    signed: int
    """Up to which length it signed its value."""


class State(NamedTuple):
    """Everything."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


class Step(NamedTuple):
    """A transition: what happened, by which row, in which column."""

    name: str
    row: int = -1
    column: int = -1
    detail: str = ""


NOTHING: Final = Accepted(0, ())
UNKNOWN: Final = Known(None, 0, 0)


def begins(value: Value, prefix: Value) -> bool:
    """Whether ``value`` begins with ``prefix``."""
    return value[: len(prefix)] == prefix


def agree(one: Value, other: Value) -> bool:
    """Whether one is a prefix of the other."""
    return begins(one, other) if len(one) >= len(other) else begins(other, one)


class Model:
    """The steps of ``rules``: each gives the state after it, or None where its guard does not hold."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        members = rules.members
        extra = rules.fence_extra - (rules.broken is Breakage.SMALL_FENCE)
        self._fence_old = sum(1 for member in members if member & OLD) - rules.copies + extra
        self._fence_new = sum(1 for member in members if member & NEW) - rules.copies_new + extra

    def initial(self) -> State:
        """The heads as the operator made them; no row has done anything."""
        known = (UNKNOWN,) * len(self.rules.ballots)
        last = len(self.rules.members) - 1
        columns = tuple(
            Column(member, 0, NOTHING, (), (), known, bool(self.rules.restores) and number == last, None, 0)
            for number, member in enumerate(self.rules.members)
        )
        return State(columns, (Row(FENCING, 0, (), 0),) * len(self.rules.ballots))

    # Quorums

    def _has_accept_quorum(self, value: Value, members: Iterable[int]) -> bool:
        """Whether regions of these memberships can decide ``value``."""
        found = list(members)
        is_old, is_new = CHANGE not in value, CHANGE in value[:-1]
        if not is_old and not is_new:
            is_old = self.rules.broken is Breakage.OLD_QUORUM_ALONE
            is_new = self.rules.broken is Breakage.NEW_QUORUM_ALONE
        old = is_new or sum(1 for member in found if member & OLD) >= self.rules.copies
        new = is_old or sum(1 for member in found if member & NEW) >= self.rules.copies_new
        return old and new

    def _has_fence_quorum(self, value: Value, members: Iterable[int]) -> bool:
        """Whether whoever fenced regions of these memberships may go on from ``value``, found there."""
        found = list(members)
        old = sum(1 for member in found if member & OLD) >= self._fence_old
        if CHANGE not in value:
            return old
        new = sum(1 for member in found if member & NEW) >= self._fence_new
        if CHANGE in value[:-1]:
            return new
        if self.rules.broken is Breakage.OLD_QUORUM_ALONE:
            return old
        if self.rules.broken is Breakage.NEW_QUORUM_ALONE:
            return new
        return old and new

    def _may_hold(self, member: int, value: Value) -> bool:
        """Whether a region is of a configuration that ``value`` is to be accepted in."""
        if CHANGE not in value:
            return bool(member & OLD)
        return bool(member & NEW) or CHANGE not in value[:-1]

    def _is_known_accepted(self, state: State, row: int, value: Value) -> bool:
        return self._has_accept_quorum(
            value, (c.member for c in state.columns if c.known[row].accepted >= len(value))
        )

    @staticmethod
    def _vouched(column: Column, row: int, value: Value) -> bool:
        """Whether the packs of ``value`` were read back from a region, or its checkpoint says so (I5)."""
        return column.known[row].read_back >= len(value) or begins(column.shown, value)

    # Acquire

    def promise(self, state: State, row: int, number: int) -> State | None:
        """A promise lands, and is answered if anybody still waits for it."""
        column, ballot = state.columns[number], self.rules.ballots[row]
        if column.promised > ballot:
            return None
        known = column.known[row]
        if state.rows[row].phase == FENCING and known.seen is None:
            known = known._replace(seen=column.accepted)
        return _put(state, number, _know(column._replace(promised=ballot), row, known))

    def choices(self, state: State, row: int) -> set[Value]:
        """What a row can find to adopt, by which fenced regions it knows of."""
        if state.rows[row].phase != FENCING:
            return set()
        fenced = [
            (column.member, seen) for column in state.columns if (seen := column.known[row].seen) is not None
        ]
        found = set()
        for count in range(len(fenced) + 1):
            for chosen in combinations(fenced, count):
                highest = max(
                    (seen for _, seen in chosen),
                    key=lambda seen: (seen.ballot, len(seen.value)),
                    default=NOTHING,
                )
                if self._has_fence_quorum(highest.value, (member for member, _ in chosen)):
                    found.add(() if self.rules.broken is Breakage.NO_ADOPTION else highest.value)
        return found

    def choose(self, state: State, row: int, value: Value) -> State | None:
        """A row has its fence, and works on what it found there."""
        if value not in self.choices(state, row):
            return None
        columns = tuple(_know(c, row, c.known[row]._replace(seen=None)) for c in state.columns)
        if "A" not in self.rules.unchecked and self._is_false_alarm(state, row, value):
            chosen = Row(ALARMED, 0, value, 0)
        else:
            chosen = Row(WORKING, len(value), value, 0) if value else Row(READY, 1, (), 0)
        return State(columns, _set(state.rows, row, chosen))

    def _is_false_alarm(self, state: State, row: int, value: Value) -> bool:
        """Whether step 4 finds something signed that ``value`` lacks, and no higher ballot to explain it."""
        ballot = self.rules.ballots[row]
        return any(not begins(value, other.value[: other.signed]) for other in state.rows) and not any(
            column.promised > ballot for column in state.columns
        )

    # Publish

    def propose(self, state: State, row: int, pack: str) -> State | None:
        """A row that has finished its value goes on to one with one pack more."""
        acting = state.rows[row]
        if acting.phase != READY:
            return None
        after = acting._replace(phase=WORKING, value=(*acting.value, pack))
        return State(state.columns, _set(state.rows, row, after))

    def read_back(self, state: State, row: int, number: int, length: int) -> State | None:
        """The packs of a row's value were put into a region and read back.

        For a part of its value, that a region has those before it is demanded.
        """
        acting, column = state.rows[row], state.columns[number]
        if acting.phase == FENCING or not self._may_hold(column.member, acting.value[:length]):
            return None
        known = column.known[row]
        return _put(state, number, _know(column, row, known._replace(read_back=max(length, known.read_back))))

    def accept(self, state: State, row: int, number: int, length: int) -> State | None:
        """An accept lands: of what a row proposes now, or did earlier."""
        acting, column, ballot = state.rows[row], state.columns[number], self.rules.ballots[row]
        value = acting.value[:length]
        if (
            acting.phase == FENCING
            or not acting.first <= length <= len(acting.value)
            or column.promised > ballot
            or not self._may_hold(column.member, value)
        ):
            return None
        if self.rules.broken is not Breakage.ACCEPT_FIRST and not (
            self._vouched(column, row, value)
            and self._has_accept_quorum(
                value, (c.member for c in state.columns if self._vouched(c, row, value))
            )
        ):
            return None
        known = column.known[row]
        known = known._replace(accepted=max(length, known.accepted))
        has_more = column.accepted.ballot == ballot and len(column.accepted.value) > length
        if not has_more:
            column = column._replace(promised=ballot, accepted=Accepted(ballot, value))
        return _put(state, number, _know(column, row, known))

    # Finish

    def decide(self, state: State, row: int) -> State | None:
        """A row knows that its value is decided; not ``stepwise``: it is signed and shown as well."""
        acting = state.rows[row]
        is_hasty = self.rules.broken is Breakage.SIGN_FIRST
        if acting.phase != WORKING or not (is_hasty or self._is_known_accepted(state, row, acting.value)):
            return None
        after = (
            acting._replace(phase=DECIDED)
            if self.rules.stepwise
            else acting._replace(phase=READY, signed=len(acting.value))
        )
        return State(state.columns, _set(state.rows, row, after))

    def tile(self, state: State, row: int, number: int, length: int) -> State | None:
        """Tiles of a row's value in a region that accepted it.

        Of what is finished, also in one that holds its packs, before it accepts: that is repair.
        """
        acting, column = state.rows[row], state.columns[number]
        if acting.phase in (FENCING, WORKING) and length == len(acting.value):
            return None
        is_finished = length < len(acting.value) or acting.phase == READY
        if not (
            column.known[row].accepted >= length
            or (is_finished and self._vouched(column, row, acting.value[:length]))
            or self.rules.broken is Breakage.SIGN_FIRST
        ):
            return None
        if len(column.tiles) >= length:
            return state
        return _put(state, number, column._replace(tiles=acting.value[:length]))

    def sign(self, state: State, row: int) -> State | None:
        """A signature, once enough regions have the tiles; the same again while it is not shown yet."""
        acting = state.rows[row]
        if acting.phase == SIGNED:
            return state
        if acting.phase != DECIDED or not self._has_accept_quorum(
            acting.value, (c.member for c in state.columns if begins(c.tiles, acting.value))
        ):
            return None
        after = acting._replace(phase=SIGNED, signed=len(acting.value))
        return State(state.columns, _set(state.rows, row, after))

    def show(self, state: State, row: int, number: int, length: int) -> State | None:
        """A signed checkpoint in a region that has the tiles and accepted; a larger one is left.

        A region that was set back in between gets it nevertheless: its head and tiles are not asked again.
        """
        acting, column = state.rows[row], state.columns[number]
        value = acting.value[:length]
        if length > acting.signed or not (column.restored or begins(column.tiles, value)):
            return None
        if column.known[row].accepted < length and self.rules.broken is not Breakage.SIGN_FIRST:
            return None
        return state if len(column.shown) >= length else _put(state, number, column._replace(shown=value))

    def end(self, state: State, row: int) -> State | None:
        """A row has shown its value in enough regions."""
        acting = state.rows[row]
        if acting.phase != SIGNED or not self._has_accept_quorum(
            acting.value, (c.member for c in state.columns if begins(c.shown, acting.value))
        ):
            return None
        return State(state.columns, _set(state.rows, row, acting._replace(phase=READY)))

    # Restoring

    @staticmethod
    def save(state: State, number: int) -> State | None:
        """A region is copied."""
        column = state.columns[number]
        if not column.is_restorable or column.saved is not None:
            return None
        saved = (column.promised, column.accepted, column.tiles, column.shown)
        return _put(state, number, column._replace(saved=saved))

    def restore(self, state: State, number: int) -> State | None:
        """A region is set back to its copy."""
        column = state.columns[number]
        if column.saved is None or column.restored >= self.rules.restores:
            return None
        promised, accepted, tiles, shown = column.saved
        column = column._replace(
            promised=promised,
            accepted=accepted,
            tiles=tiles,
            shown=shown,
            restored=column.restored + 1,
        )
        return _put(state, number, column)

    # All of it

    def steps(self, state: State) -> Iterator[tuple[Step, State]]:
        """Every step that can be taken; some lead nowhere else."""
        for row in range(len(state.rows)):
            yield from self._steps_of(state, row)
            for number in range(len(state.columns)):
                yield from self._steps_in(state, row, number)
        if self.rules.restores:
            for number in range(len(state.columns)):
                yield from _taken(Step("copied", -1, number), self.save(state, number))
                yield from _taken(Step("restored", -1, number), self.restore(state, number))

    def _steps_of(self, state: State, row: int) -> Iterator[tuple[Step, State]]:
        acting = state.rows[row]
        if acting.phase == FENCING:
            for value in sorted(self.choices(state, row)):
                yield from _taken(Step("adopts", row, -1, _text(value)), self.choose(state, row, value))
        elif acting.phase == READY and len(acting.value) < self.rules.depth:
            for pack in self._packs(state, acting.value):
                yield from _taken(Step("proposes", row, -1, pack), self.propose(state, row, pack))
        if acting.phase == WORKING:
            yield from _taken(Step("knows it decided", row), self.decide(state, row))
        elif acting.phase == DECIDED:
            yield from _taken(Step("signs", row, -1, _text(acting.value)), self.sign(state, row))
        elif acting.phase == SIGNED:
            yield from _taken(Step("ends", row), self.end(state, row))

    def _steps_in(self, state: State, row: int, number: int) -> Iterator[tuple[Step, State]]:
        acting, column = state.rows[row], state.columns[number]
        ballot = self.rules.ballots[row]
        if column.promised < ballot or (column.promised == ballot and acting.phase == FENCING):
            yield from _taken(Step("promised", row, number), self.promise(state, row, number))
        if acting.phase == FENCING:
            return
        length = len(acting.value)
        if column.known[row].read_back < length:
            yield from _taken(
                Step("read back", row, number, _text(acting.value)),
                self.read_back(state, row, number, length),
            )
        parts = range(max(1, acting.first), length + 1) if column.promised <= ballot else ()
        for part in parts:
            yield from _taken(
                Step("accepted", row, number, _text(acting.value[:part])),
                self.accept(state, row, number, part),
            )
        if self.rules.stepwise and acting.phase in (DECIDED, SIGNED, READY):
            yield from _taken(Step("tiled", row, number), self.tile(state, row, number, length))
            yield from _taken(Step("shown", row, number), self.show(state, row, number, length))

    def _packs(self, state: State, value: Value) -> list[str]:
        """Packs to propose: those that were proposed before and one new name, as names mean nothing."""
        used = {pack for row in state.rows for pack in row.value} - {CHANGE}
        fresh = chr(ord("p") + len(used))
        names = sorted(used) + ([fresh] if len(used) < self.rules.packs else [])
        return [*names, CHANGE] if self.rules.copies_new and CHANGE not in value else names

    # What must hold

    def decided(self, state: State) -> list[Value]:
        """The longest value that each row has decided."""
        found = []
        for number, row in enumerate(state.rows):
            for length in range(len(row.value), max(row.first, 1) - 1, -1):
                if self._is_known_accepted(state, number, row.value[:length]):
                    found.append(row.value[:length])
                    break
        return found

    def violation(self, state: State) -> str | None:
        """The invariant that does not hold in a state."""
        unchecked = self.rules.unchecked
        return next(
            (text for text in self._violations(state) if text.partition(":")[0] not in unchecked), None
        )

    def _violations(self, state: State) -> Iterator[str]:
        decided = self.decided(state)
        signed = {row.value[: row.signed] for row in state.rows}
        if any(not agree(one, other) for one, other in combinations(signed, 2)):
            yield "S: two histories are signed"
        if any(row.phase == ALARMED for row in state.rows):
            yield "A: something signed is not in what was adopted, and no higher ballot is at work"
        if any(column.accepted.ballot > column.promised for column in state.columns):
            yield "I1: an accepted ballot above the promised one"
        if any(not self._is_backed(state, column) for column in state.columns):
            yield "I2: accepted before the packs were read back in k regions"
        if any(not agree(one, other) for one, other in combinations(decided, 2)):
            yield "I3: two decided values, neither a prefix of the other"
        public = [*signed, *(c.tiles for c in state.columns), *(c.shown for c in state.columns)]
        if any(value and not any(begins(one, value) for one in decided) for value in public):
            yield "I4: tiles, a signature or a checkpoint of what is not decided"
        if any(not self._is_complete(state, column) for column in state.columns):
            yield "I5: a checkpoint in a region that lacks what lies below it"
        for one, other in combinations(range(len(state.rows)), 2):
            if self.rules.ballots[one] == self.rules.ballots[other] and not agree(
                state.rows[one].value, state.rows[other].value
            ):
                yield "I6: one ballot proposes two values for the same leaf"

    def _is_backed(self, state: State, column: Column) -> bool:
        ballot, value = column.accepted
        return not value or any(
            self.rules.ballots[number] == ballot
            and begins(row.value, value)
            and self._vouched(column, number, value)
            and self._has_accept_quorum(
                value, (c.member for c in state.columns if self._vouched(c, number, value))
            )
            for number, row in enumerate(state.rows)
        )

    def _is_complete(self, state: State, column: Column) -> bool:
        """Whether a region has what its checkpoint promises; one that was set back may not."""
        if not column.shown or (column.restored and not self.rules.demands_restored):
            return True
        return begins(column.tiles, column.shown) and any(
            begins(row.value, column.shown) and known.read_back >= len(column.shown)
            for row, known in zip(state.rows, column.known, strict=True)
        )

    @staticmethod
    def step_violation(before: State, after: State) -> str | None:
        """What a step must not do, between states with the columns in the same order."""
        for old, new in zip(before.columns, after.columns, strict=True):
            if old.restored != new.restored:
                continue
            if new.promised < old.promised:
                return "I1: a promise fell"
            if not begins(new.shown, old.shown):
                return "I5: a checkpoint was undone"
        return None


def canonical(state: State) -> State:
    """Regions of the same part stand in for each other: the state with its columns in order."""
    if len(state.columns) == 1:
        return state
    return State(tuple(sorted(state.columns, key=_order)), state.rows)


@lru_cache(maxsize=1 << 16)
def _order(column: Column) -> tuple[object, ...]:
    known = tuple((k.seen is not None, k.seen or NOTHING, k.read_back, k.accepted) for k in column.known)
    return (
        column.member,
        column.is_restorable,
        column.promised,
        column.accepted,
        column.tiles,
        column.shown,
        known,
        column.restored,
    )


def _set(rows: tuple[Row, ...], number: int, row: Row) -> tuple[Row, ...]:
    return (*rows[:number], row, *rows[number + 1 :])


def _put(state: State, number: int, column: Column) -> State:
    columns = state.columns
    return State((*columns[:number], column, *columns[number + 1 :]), state.rows)


def _know(column: Column, row: int, known: Known) -> Column:
    if column.known[row] == known:
        return column
    return column._replace(known=(*column.known[:row], known, *column.known[row + 1 :]))


def _taken(step: Step, after: State | None) -> Iterator[tuple[Step, State]]:
    if after is not None:
        yield step, after


def _text(value: Value) -> str:
    return "".join(value) or "nothing"
