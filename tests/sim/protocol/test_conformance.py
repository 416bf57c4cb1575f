"""The real sequencers take no step that the model does not allow; ones without a rule do, and are found."""

import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sim.protocol.conformance import NotInModelError, Recording, interleaving, recorded, replay

lab: Any = importlib.import_module("tests.collector.region_lab")  # as in conformance
breakages: Any = importlib.import_module("tests.collector.test_interleaving")

STEPS = 500
SEEDS = 48
CALM = interleaving.Rates(crash=0.001, lost=0.004, persisted=0.01, late=0.004, cut=0.002, rivalry=0.02)
BROKEN_SEEDS = 60
"""How many it may take to see a broken sequencer; far fewer are needed."""


@pytest.fixture(scope="module")
def databases() -> Iterator[list[Any]]:
    connections = [lab.connect() for _ in range(3)]
    yield connections
    for connection in connections:
        connection.close()


def lived(seed: object, connections: list[Any], regions: str, copies: int, **options: object) -> Recording:
    world = interleaving.World(seed, connections, names=regions, copies=copies, **options)
    try:
        return recorded(world, STEPS)
    finally:
        lab.clear(connections)


@pytest.mark.parametrize(("regions", "copies"), [("abc", 1), ("abc", 2), ("abc", 3), ("ab", 1), ("ab", 2)])
def test_every_real_step_is_one_of_the_model(databases: list[Any], regions: str, copies: int) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(SEEDS):
        rates = (CALM, breakages.PARTED, breakages.STORMY)[seed % 3]
        recording = lived(("conform", seed), databases[: 2 + seed % 2], regions, copies, rates=rates)
        try:
            following = replay(recording, regions, copies)
        except NotInModelError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        assert not any(following.model.violation(state) for state in following.states)
        kinds.update(seen.kind for seen in recording.seen)
    print(dict(kinds))
    assert min(kinds[kind] for kind in KINDS) >= SEEDS // 2, kinds


def test_sequencers_of_one_database(databases: list[Any]) -> None:
    for seed in range(SEEDS // 2):
        recording = lived(("share", seed), [databases[0]] * (2 + seed % 2), "abc", 2)
        assert replay(recording, "abc", 2).states


KINDS = ("promised", "fenced", "read back", "accepted", "tiled", "signed", "shown")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("SmallFence", {"fenced"}),
        ("HastySigner", {"tiled", "read back"}),
        ("Egoist", {"read back", "accepted"}),
        ("LowestChooser", {"read back", "tiled", "signed", "accepted"}),
        ("Forerunner", {"accepted"}),
        ("Amnesiac", {"read back"}),
        ("EarlyCheckpoint", {"signed"}),
        ("Incomplete", {"read back", "accepted", "tiled", "signed"}),
    ],
)
def test_a_sequencer_without_a_rule_leaves_the_model(
    databases: list[Any], name: str, kinds: set[str]
) -> None:
    for seed in range(BROKEN_SEEDS):
        recording = lived(
            (name, seed),
            databases[:2],
            "abc",
            2,
            kind=getattr(breakages, name),
            rates=breakages.PARTED,
            may_stop=True,
        )
        try:
            replay(recording, "abc", 2)
        except NotInModelError as error:
            found = str(error)
            break
    else:
        found = "the model allows everything it did"
    print(found)
    assert any(f": {kind} " in found for kind in kinds)
