"""What an agent sealed, held against what its applications wrote: every byte once, every loss noticed.

The ledger has the *lives* of files, by inode; the chain has *generations* of them, and events about their
ends. What must hold of one host:

- the bytes of a generation begin at 0, without a hole or a repetition, and are the beginning of one life;
generations of an inode are of lives in their order; - a life that nobody truncated is sealed to its last
line feed, or to its end; - a loss is said only where bytes are missing, and never more of them than are; -
bytes that a process was shown, that are gone, and after whose going the process sealed blocks, are said to
be lost, and at least as many as it had been shown, unless nothing had been read and no look showed less than
the one before; so is, with or without a number, whatever else is missing of a life of which something was
sealed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from duramen import canonical
from tests.sim.clock import SECOND
from tests.sim.disk import Life

NOTICED_WITHIN_NS = 90 * SECOND
"""A discovery, what was due before it, and an allowance."""


class Violation(AssertionError):
    """Something that Duramen promises did not hold."""


def hold(condition: object, what: str) -> None:
    """Violation unless ``condition``."""
    if not condition:
        raise Violation(what)


@dataclass(frozen=True, slots=True)
class Told:
    """An event about the end of a generation."""

    kind: str
    lost_bytes: int
    size_after: int | None
    process: int | None
    """Which process of the agent noticed."""


@dataclass(slots=True)
class Sealed:
    """One generation as the chain has it."""

    name: str
    raw: bytearray = field(default_factory=bytearray)
    told: list[Told] = field(default_factory=list)

    @property
    def inode(self) -> int:
        """Which file."""
        return int(self.name.split("-")[1], 16)

    @property
    def number(self) -> int:
        """Which generation."""
        return int(self.name.split("-")[2])


class Chain:
    """What one chain says, block by block."""

    def __init__(self, host: str, tellers: Mapping[bytes, int]) -> None:
        self._host = host
        self._tellers = tellers
        self.generations: dict[str, Sealed] = {}
        self.lost_bytes = 0

    def run(self, file: str, offset: int, raw: bytes) -> None:
        """Bytes of a file."""
        sealed = self.generations.setdefault(file, Sealed(file))
        hold(not sealed.told, f"{self._host}: more is sealed of {file} after its end")
        hold(offset == len(sealed.raw), f"{self._host}: a hole or a repetition at {offset} of {file}")
        sealed.raw += raw

    def events(self, raw: bytes) -> None:
        """The agent's own words."""
        for line in raw.splitlines():
            event = canonical.decode(line, "an event")
            assert isinstance(event, dict)
            if event["event"] not in ("truncated", "vanished", "dropped"):
                hold("lost_bytes" not in event, f"{self._host} reports a loss: {event}")
                continue
            file, after = str(event["file"]), event.get("size_after")
            told = Told(
                str(event["event"]), int(str(event.get("lost_bytes", 0))),
                None if after is None else int(str(after)), self._tellers.get(line),
            )  # fmt: skip
            self.lost_bytes += told.lost_bytes
            self.generations.setdefault(file, Sealed(file)).told.append(told)


def demand(host: str, chain: Chain, lives: dict[int, list[Life]], last_blocks_ns: dict[int, int]) -> None:
    """Everything that the module says of one host."""
    by_inode: dict[int, list[Sealed]] = defaultdict(list)
    for sealed in sorted(chain.generations.values(), key=lambda item: item.number):
        by_inode[sealed.inode].append(sealed)
    hold(set(by_inode) <= set(lives), f"{host}: something is sealed of a file that nobody wrote")
    for inode, written in lives.items():
        _demand_file(f"{host}, file {inode}", by_inode.get(inode, []), written, last_blocks_ns)


def _demand_file(
    where: str, generations: list[Sealed], lives: list[Life], last_blocks_ns: dict[int, int]
) -> None:
    places = _places(where, generations, lives)
    for number, life in enumerate(lives):
        mine = [item for item, place in zip(generations, places, strict=True) if place == number]
        hold(len(mine) <= 1, f"{where}: sealed twice, as {[item.name for item in mine]}")
        missing = bytes(life.data[len(mine[0].raw) if mine else 0 :])
        if life.ended_ns is None:
            hold(b"\n" not in missing, f"{where}: {len(missing)} bytes are not sealed of {len(life.data)}")
        elif missing and mine:
            # An unlinked file's last, unfinished line is never finished; a truncated one's is torn.
            hold(mine[0].told, f"{where}: {len(missing)} bytes of {mine[0].name} went and nobody says so")
        if life.ended_ns is not None and missing:
            after = lives[number + 1] if number + 1 < len(lives) else None
            _demand_noticed(where, life, after, generations, last_blocks_ns, is_read=bool(mine))
    _demand_numbers(where, generations, places, lives)


def _places(where: str, generations: list[Sealed], lives: list[Life]) -> list[int | None]:
    """Of which life each generation is; None where nothing of it was sealed."""
    places: list[int | None] = []
    first = 0
    for item in generations:
        if not item.raw:
            places.append(None)
            continue
        found = [n for n in range(first, len(lives)) if lives[n].data.startswith(item.raw)]
        hold(found, f"{where}: what is sealed as {item.name} was never in it in this order")
        places.append(found[0])
        first = found[0]
    return places


def _demand_noticed(
    where: str,
    life: Life,
    after: Life | None,
    generations: list[Sealed],
    last_blocks_ns: dict[int, int],
    *,
    is_read: bool,
) -> None:
    assert life.ended_ns is not None
    known = max(
        (
            shown
            for process, shown in life.shown.items()
            if last_blocks_ns.get(process, 0) > life.ended_ns + NOTICED_WITHIN_NS
            and (is_read or after is None or after.first.get(process, 0) < shown)
        ),
        default=0,
    )
    if known:
        told = any(item.told for item in generations)
        hold(told, f"{where}: {known} bytes were seen before they went, and nobody says so")


def _demand_numbers(
    where: str, generations: list[Sealed], places: list[int | None], lives: list[Life]
) -> None:
    """No event says more than is missing between its generation's life and the next one's."""
    total = sum(len(life.data) for life in lives if life.ended_ns is not None)
    for index, item in enumerate(generations):
        hold(len(item.told) <= 1, f"{where}: {item.name} ended more than once")
        if not item.told:
            continue
        first = next((place for place in reversed(places[: index + 1]) if place is not None), 0)
        last = next((place for place in places[index + 1 :] if place is not None), len(lives))
        gone = sum(
            len(life.data) for life in lives[first : max(last, first + 1)] if life.ended_ns is not None
        )
        lost = item.told[0].lost_bytes
        hold(
            lost <= gone - len(item.raw),
            f"{where}: {item.name} says {lost} bytes lost, of {gone - len(item.raw)}",
        )
        hold(any(life.ended_ns is not None for life in lives), f"{where}: a loss of a file that was let be")
        life = lives[first]
        before = item.told[0]
        shown = life.shown.get(before.process or 0, 0)
        if before.size_after is not None and places[index] is not None:
            after = before.size_after
            exact = shown - len(item.raw)
            hold(after >= shown or lost >= exact, f"{where}: {item.name} says {lost} bytes lost, not {exact}")
    hold(
        sum(told.lost_bytes for item in generations for told in item.told) <= total,
        f"{where}: more lost than was",
    )
