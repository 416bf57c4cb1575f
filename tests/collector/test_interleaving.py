"""Any order of store calls, crashes, lost answers and late writes: the invariants hold; without a rule, they do not.

Every run is one seed, named in the failure; ``World(seed, ...)`` replays it.
"""

import pytest

from duramen_collector.register import Ballot
from duramen_collector.sequencer import Sequencer
from tests.collector.interleaving import Violation, World
from tests.collector.region_lab import connect

STEPS = 250


@pytest.fixture(scope="module")
def databases():
    return [connect() for _ in range(3)]


def play(seed, connections, **options) -> World:
    world = World(seed, connections, **options)
    try:
        world.run(STEPS)
        world.settle()
    except Violation as violation:
        raise Violation(f"{violation} (seed {seed!r})") from violation
    return world


@pytest.mark.parametrize("part", range(4))
def test_databases_of_their_own(databases, part):
    for seed in range(part * 100, part * 100 + 100):
        play(("own", seed), databases[: 2 + seed % 2])
