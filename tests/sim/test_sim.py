"""Fixed seeds of the simulation, its determinism, and breakages that it has to notice."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from duramen_agent.spool import Spool
from duramen_collector.judgement import Judged
from duramen_collector.sequencer import Sequencer
from duramen_collector.service import Service
from tests.sim.observer import Violation
from tests.sim.world import World

SEEDS = list(range(12))
ONCE_FAILED = [8]
"""8: an agent whose disk was full asked for receipts as fast as the collector answered."""


def live(seed: int, *, minutes: float = 10, faults: int = 20) -> World:
    world = World(seed, minutes=minutes, faults=faults)
    try:
        world.run()
    finally:
        world.close()
    return world


@pytest.mark.parametrize("seed", sorted({*SEEDS, *ONCE_FAILED}))
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    world = live(seed)
    assert world.observer.receipts > 0
    assert world.trace


def test_the_same_seed_is_the_same_life() -> None:
    one, other = live(3, minutes=3, faults=8), live(3, minutes=3, faults=8)
    assert one.trace == other.trace
    assert one.observer.receipts == other.observer.receipts
    assert [host.files for host in one.hosts] == [host.files for host in other.hosts]


# Each of these is a mistake that somebody could make; the worlds have to show it.


def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool's commits are not synced."""
    prepare = Spool._prepare

    def careless(self: Spool) -> None:
        prepare(self)
        self._db.pragma("synchronous", "OFF")

    monkeypatch.setattr(Spool, "_prepare", careless)


def positions_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are stored without the positions of what they hold."""
    append = Spool.append

    def careless(
        self: Spool, block: Any, body: Any, state: Any, _changes: Any, *args: Any, **kwargs: Any
    ) -> None:
        append(self, block, body, state, (), *args, **kwargs)

    monkeypatch.setattr(Spool, "append", careless)


def one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One region is enough."""
    monkeypatch.setattr(Sequencer, "_copies", property(lambda _: 1))


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequencer takes over without fencing the regions."""
    monkeypatch.setattr(Sequencer, "_fence_quorum", lambda _: 0)
    monkeypatch.setattr(Sequencer, "_copies", property(lambda _: 1))


def accepted_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are acknowledged and thrown away."""
    receive = Service.receive

    def careless(self: Service, connection: Any, peer: Any, chain: Any, uploads: Any) -> Judged:
        with connection.begin_nested() as savepoint:
            judged = receive(self, connection, peer, chain, uploads)
            savepoint.rollback()
        return judged

    monkeypatch.setattr(Service, "receive", careless)


@pytest.mark.parametrize(
    "breakage",
    [unsynced, positions_forgotten, one_copy, no_fence, accepted_unwritten],
    ids=lambda it: it.__name__,
)
def test_a_breakage_is_noticed(
    breakage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    for seed in range(25):
        try:
            live(seed, minutes=5, faults=14)
        except (Violation, KeyError, IndexError):
            return
    pytest.fail(f"{breakage.__doc__} Nobody noticed.")


def test_worlds_leave_nothing_behind() -> None:
    world = live(1, minutes=1, faults=2)
    assert not os.path.exists(world._scratch.name)
