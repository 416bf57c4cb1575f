"""The configurations that are searched, with how many states each has, and the broken ones.

A count that changes says that the model or its bounds did: it is to be understood, and written down anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.sim.protocol.model import BOTH, NEW, OLD, Breakage, Rules

TWO: Final = (BOTH, BOTH)
THREE: Final = (BOTH, BOTH, BOTH)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Rules, a name, and what comes of searching them."""

    name: str
    rules: Rules
    states: int = 0
    """As counted; 0 for a broken one, whose search ends at the violation."""
    violation: str = ""
    """The invariant that breaks."""


def _plain(states: dict[tuple[int, int], int], ballots: int, depth: int) -> list[Scenario]:
    return [
        Scenario(
            f"n={n} k={k}, {ballots} acquisitions, {depth} packs",
            Rules(members=(BOTH,) * n, copies=k, ballots=tuple(range(1, ballots + 1)), depth=depth),
            count,
        )
        for (n, k), count in states.items()
    ]


def _restored(
    members: tuple[int, ...], copies: int, states: int, *, ballots: int = 2, restores: int = 1
) -> Scenario:
    return Scenario(
        f"n={len(members)} k={copies}, fence n-k+2, a region set back {restores}x, {ballots} acquisitions",
        Rules(
            members=members,
            copies=copies,
            ballots=tuple(range(1, ballots + 1)),
            fence_extra=2,
            restores=restores,
        ),
        states,
    )


def _change(
    name: str,
    members: tuple[int, ...],
    copies: tuple[int, int],
    states: int = 0,
    *,
    ballots: int = 2,
    broken: Breakage | None = None,
    violation: str = "",
) -> Scenario:
    return Scenario(
        f"members: {name}, k={copies[0]} to {copies[1]}, {ballots} acquisitions",
        Rules(
            members=members,
            copies=copies[0],
            copies_new=copies[1],
            ballots=tuple(range(1, ballots + 1)),
            depth=2,
            packs=2 if broken else 1,
            broken=broken,
            unchecked=frozenset("A") if broken else frozenset(),
        ),
        states,
        violation,
    )


SOUND: Final = (
    *_plain({(2, 1): 3273, (2, 2): 947, (3, 1): 33815, (3, 2): 23081, (3, 3): 3173}, 2, 2),
    *_plain({(2, 1): 5517, (2, 2): 8233, (3, 1): 43169, (3, 2): 95659, (3, 3): 85156}, 3, 1),
    Scenario("n=2 k=1, step by step", Rules(members=TWO, copies=1, ballots=(1, 2), stepwise=True), 1483),
    Scenario(
        "n=2 k=2, step by step", Rules(members=TWO, copies=2, ballots=(1, 2), depth=2, stepwise=True), 2168
    ),
    Scenario("n=3 k=2, step by step", Rules(ballots=(1, 2), stepwise=True), 7904),
    _restored(TWO, 2, 2766),
    _restored(THREE, 2, 15945),
    _restored(THREE, 3, 18657),
    _restored(TWO, 2, 78604, ballots=3),
    _change("ab to bc", (OLD, BOTH, NEW), (1, 1), 53282),
    _change("ab to bc", (OLD, BOTH, NEW), (2, 2), 11343),
    _change("ab to abc", (BOTH, BOTH, NEW), (2, 2), 14570),
    _change("abc to ab", (BOTH, BOTH, OLD), (2, 2), 53109),
)
"""Nothing breaks in these."""

LARGER: Final = (
    *_plain({(2, 1): 176135, (2, 2): 28885}, 3, 2),
    *_plain({(2, 1): 111935, (2, 2): 163913}, 4, 1),
    Scenario("n=3 k=1, step by step", Rules(copies=1, ballots=(1, 2), stepwise=True), 11511),
    Scenario("n=3 k=3, step by step", Rules(copies=3, ballots=(1, 2), stepwise=True), 2380),
    Scenario("n=2 k=2, step by step, 3 acquisitions", Rules(members=TWO, copies=2, stepwise=True), 16903),
    _restored(THREE, 2, 27137, restores=2),
    _restored(THREE, 3, 30249, restores=2),
    _change("abc to abd", (OLD, BOTH, BOTH, NEW), (2, 2), 536647),
    _change("ab to bc", (OLD, BOTH, NEW), (2, 2), 578974, ballots=3),
    _change("ab to abc", (BOTH, BOTH, NEW), (2, 2), 1007460, ballots=3),
    Scenario("n=3 k=2, 3 packs in the log", Rules(ballots=(1, 2), depth=3), 143505),
)
"""For a longer look: by hand."""

_SPLIT: Final = frozenset({"A", "I1", "I2", "I3", "I4", "I5", "I6"})
"""With these unchecked, only two signed histories are a violation."""


def _broken(name: str, violation: str, rules: Rules) -> list[Scenario]:
    """A broken variant: the first invariant to break, and that it ends in two signed histories."""
    split = Rules(
        **{field: getattr(rules, field) for field in Rules.__slots__ if field != "unchecked"},
        unchecked=_SPLIT,
    )
    return [
        Scenario(f"{name}: {violation}", rules, violation=violation),
        Scenario(f"{name}: two histories signed", split, violation="S"),
    ]


_QUIET: Final = frozenset({"A"})

BROKEN: Final = (
    *_broken("fence too small", "I3", Rules(ballots=(1, 2), broken=Breakage.SMALL_FENCE, unchecked=_QUIET)),
    *_broken("signing before deciding", "I4", Rules(ballots=(1, 2), broken=Breakage.SIGN_FIRST)),
    *_broken("a ballot used twice", "I6", Rules(ballots=(1, 1))),
    *_broken("no adoption", "I3", Rules(ballots=(1, 2), broken=Breakage.NO_ADOPTION, unchecked=_QUIET)),
    Scenario(
        "accepting before the packs are there: I2",
        Rules(ballots=(1, 2), broken=Breakage.ACCEPT_FIRST),
        violation="I2",
    ),
    *_broken(
        "fence n-k+1, n=2 k=2, a region set back",
        "I3",
        Rules(members=TWO, ballots=(1, 2), restores=1, unchecked=_QUIET),
    ),
    Scenario(
        "fence n-k+1, n=3 k=2, a region set back: I3",
        Rules(ballots=(1, 2), restores=1, unchecked=_QUIET),
        violation="I3",
    ),
    Scenario(
        "fence n-k+1, n=3 k=3, a region set back: I3",
        Rules(copies=3, ballots=(1, 2), restores=1, unchecked=_QUIET),
        violation="I3",
    ),
    Scenario(
        "fence too small: stopped by step 4",
        Rules(ballots=(1, 2), broken=Breakage.SMALL_FENCE),
        violation="A",
    ),
    Scenario(
        "a region set back while its checkpoint is written: I5",
        Rules(
            members=TWO,
            ballots=(1,),
            fence_extra=2,
            restores=1,
            stepwise=True,
            demands_restored=True,
        ),
        violation="I5",
    ),
    _change(
        "ab to bc by the old alone",
        (OLD, BOTH, NEW),
        (2, 2),
        broken=Breakage.OLD_QUORUM_ALONE,
        violation="I3",
    ),
    _change(
        "ab to bc by the new alone",
        (OLD, BOTH, NEW),
        (2, 2),
        broken=Breakage.NEW_QUORUM_ALONE,
        violation="I3",
    ),
)
"""In each of these something breaks."""
