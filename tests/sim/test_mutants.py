"""Every mutant is caught by a trial that the product itself passes."""

import functools

import pytest

from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.trials import TRIALS

SEEDS = range(12)


@functools.cache
def passes(trial: str, seed: int) -> bool:
    """The product, unbroken, gets through this; anything else is no catch."""
    TRIALS[trial](seed)
    return True


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    for seed in (*mutant.seeds, *(seed for seed in SEEDS if seed not in mutant.seeds)):
        assert passes(mutant.trial, seed)
        try:
            with mutant.applied():
                TRIALS[mutant.trial](seed)
        except (NameError, SyntaxError, TypeError, LookupError) as error:
            raise AssertionError(f"{mutant.name} does not even run") from error
        except Exception:
            return
    pytest.fail(f"{mutant.name} survived {mutant.trial} with the seeds {mutant.seeds} and {SEEDS}")


def test_there_are_many_and_their_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
