"""Any order of store calls, crashes, lost answers and late writes: the invariants hold; without a rule,
they do not.

Every run is one seed, named in the failure; ``World(seed, ...)`` replays it.
"""

import pytest

from duramen_collector.register import Ballot
from duramen_collector.sequencer import Sequencer
from tests.collector.interleaving import Rates, Violation, World
from tests.collector.region_lab import clear, connect

STEPS = 500
SEEDS = 300
"""How many a missing rule may take to be found; those below need far fewer."""
STORMY = Rates(crash=0.015, lost=0.03, persisted=0.03, late=0.03, cut=0.03, rivalry=0.1)

PARTED = Rates(crash=0.003, persisted=0.03, cut=0.025, rivalry=0.06)


@pytest.fixture(scope="module")
def databases():
    return [connect() for _ in range(3)]


def play(seed, connections, *, may_stop=False, settles=True, **options) -> World:
    world = World(seed, connections, may_stop=may_stop, **options)
    try:
        world.run(STEPS)
        if settles and not may_stop:
            world.settle()
    except Violation as violation:
        raise Violation(f"{violation} (seed {seed!r})") from violation
    finally:
        clear(connections)
    return world


@pytest.mark.parametrize("part", range(4))
def test_databases_of_their_own(databases, part):
    for seed in range(part * 100, part * 100 + 100):
        rates = STORMY if seed % 3 == 0 else None
        play(("own", seed), databases[: 2 + seed % 2], settles=seed % 4 == 0, rates=rates)


def test_one_database_shared(databases):
    for seed in range(60):
        play(("shared", seed), [databases[0]] * (2 + seed % 2))


@pytest.mark.parametrize(("names", "copies"), [("ab", 1), ("ab", 2), ("abc", 1), ("abc", 3)])
def test_other_quorums(databases, names, copies):
    for seed in range(40):
        play((names, copies, seed), databases[:2], names=names, copies=copies)


class SmallFence(Sequencer):
    """Fences one region too few."""

    def _fence_quorum(self):
        return super()._fence_quorum() - 1


class HastySigner(Sequencer):
    """Finishes, and so signs, what one region accepted."""

    def _demand_decided(self, accepted):
        pass

    def _demand_copies(self, names, what):
        pass


class BallotReuser(Sequencer):
    """Draws what everybody draws, so that two sequencers act under one ballot."""

    def _draw_ballot(self, highest):
        return Ballot(1, b"r" * 16)


class Egoist(Sequencer):
    """Adopts nothing: goes on from what its own database holds."""

    def _choose(self, accepted):
        mine = self._ledger.position().pack
        return next((item for item in accepted if item.value.pack == mine), None)


class LowestChooser(Sequencer):
    """Adopts a value, but not that of the highest ballot."""

    def _choose(self, accepted):
        return min(accepted, key=lambda item: item.rank, default=None)


class Forerunner(Sequencer):
    """Accepts before the packs are there, and writes them after."""

    def _place(self, pending, names, *, is_adopted):
        self._late_pack = (pending, names, is_adopted)
        return names
        yield

    def _finish(self, value, pending, names):
        pending, placed, is_adopted = self._late_pack
        yield from super()._place(pending, placed, is_adopted=is_adopted)
        yield from super()._finish(value, pending, names)


class Amnesiac(Sequencer):
    """Proposes another pack for the same leaf under the same ballot, when the first was not decided."""

    def _publish(self):
        self._forget_pending()
        return (yield from super()._publish())

    def _forget_pending(self):
        with self._ledger._transaction():
            self._ledger._update(self._ledger._row(), pending_pack=None)


class EarlyCheckpoint(Sequencer):
    """Shows a checkpoint before the tiles are there."""

    def _finish(self, value, pending, names):
        place = self._replicas.place_tiles
        self._replicas.place_tiles = lambda objects, names, until_s: _nothing(list(names))
        try:
            yield from super()._finish(value, pending, names)
        finally:
            self._replicas.place_tiles = place


class Incomplete(Sequencer):
    """Lets regions accept that lack what lies below."""

    def _start(self, remembered):
        super()._start(remembered)
        self._holdings.ready = lambda _: list(self._heads.usable())


def _nothing(names):
    return names
    yield


@pytest.mark.parametrize(
    ("kind", "invariants"),
    [
        (SmallFence, ("I3", "I4", "I6")),
        (HastySigner, ("I3", "I4")),
        (BallotReuser, ("I3", "I4", "I6")),
        (Egoist, ("I3",)),
        (LowestChooser, ("I3", "I4")),
        (Forerunner, ("I2",)),
        (Amnesiac, ("I6",)),
        (EarlyCheckpoint, ("I5",)),
        (Incomplete, ("I5",)),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_rule_left_out_is_found(databases, kind, invariants):
    def play_all():
        for seed in range(SEEDS):
            play((kind.__name__, seed), databases[:2], kind=kind, may_stop=True, rates=PARTED)

    with pytest.raises(Violation) as caught:
        play_all()
    assert str(caught.value).startswith(invariants)
