"""Attacks on a life without faults: every one is found, with its code, at its place, and nothing else is."""

import random

import pytest

from duramen.verdict import Verdict
from tests.sim.attacker import protected, tamperings
from tests.sim.trials import CLEAN_SEED, TRIALS, failures, lived, size_of, verify
from tests.sim.world import TENANT


@pytest.mark.parametrize("seed", [0, 1, CLEAN_SEED])
@pytest.mark.parametrize("trial", sorted(set(TRIALS) - {"life"}))
def test_an_attack_is_found(trial: str, seed: int) -> None:
    TRIALS[trial](seed)


def test_a_verification_names_region_and_object() -> None:
    with lived() as world:
        assert verify(world).verdict is Verdict.VERIFIED
        for region, store in world.stores.items():
            kinds = protected(store, TENANT, size_of(world, store))
            rng = random.Random(region)
            every = list(tamperings(store, kinds, rng))
            for kind in ("pack", "tile", "checkpoint", "envelope"):
                item = rng.choice([each for each in every if each.kind == kind])
                before = store.objects[item.key]
                item.apply(store)
                report = verify(world)
                store.objects[item.key] = before
                wrong = failures(report.findings)
                assert report.verdict is Verdict.FAILED
                assert {each.region for each in wrong} == {region}, wrong
                assert {each.code for each in wrong if each.key == item.key} & item.codes
