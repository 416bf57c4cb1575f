"""Every sound configuration is searched to its end; every broken one is found out, by a shortest trace."""

import sys
from collections.abc import Iterator

import pytest

from tests.sim.protocol.exploration import TooManyStatesError, explore
from tests.sim.protocol.model import NOTHING, Breakage, Model, Rules, State
from tests.sim.protocol.scenarios import BROKEN, LARGER, SOUND, Scenario


@pytest.fixture(autouse=True)
def unmeasured() -> Iterator[None]:
    """Coverage looks away: no product code runs here, and measuring doubles the time of a search."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


def named(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SOUND, ids=named)
def test_nothing_breaks(scenario: Scenario) -> None:
    found = explore(Model(scenario.rules))
    print(f"{found.states} states, {found.transitions} transitions, depth {found.depth}")
    assert found.violation is None, "\n".join(found.trace)
    assert found.states == scenario.states


@pytest.mark.parametrize("scenario", BROKEN, ids=named)
def test_a_rule_left_out_breaks_it(scenario: Scenario) -> None:
    found = explore(Model(scenario.rules))
    print(
        f"{found.violation}, after {len(found.trace)} steps, {found.states} states:", *found.trace, sep="\n  "
    )
    assert found.violation is not None
    assert found.violation.startswith(f"{scenario.violation}: ")
    assert len(found.trace) == found.depth


@pytest.mark.parametrize("breakage", Breakage)
def test_every_breakage_is_searched_for(breakage: Breakage) -> None:
    assert any(scenario.rules.broken is breakage for scenario in BROKEN)
    assert all(scenario.rules.broken is None for scenario in (*SOUND, *LARGER))


def test_a_search_that_stops_early_is_no_proof() -> None:
    with pytest.raises(TooManyStatesError):
        explore(Model(Rules()), limit=1000)


def finished() -> tuple[Model, State]:
    """One acquisition that published a pack, step by step."""
    model = Model(Rules(ballots=(1, 2), stepwise=True))
    state: State | None = model.initial()
    for name, *arguments in (
        ("promise", 0, 0),
        ("promise", 0, 1),
        ("choose", 0, ()),
        ("propose", 0, "p"),
        *((step, 0, number, 1) for step in ("read_back", "accept") for number in (0, 1)),
        ("decide", 0),
        ("tile", 0, 0, 1),
        ("tile", 0, 1, 1),
        ("sign", 0),
        ("show", 0, 0, 1),
        ("show", 0, 1, 1),
        ("end", 0),
    ):
        assert state is not None
        state = getattr(model, str(name))(state, *arguments)
    assert state is not None
    return model, state


@pytest.mark.parametrize(
    ("changes", "invariant"),
    [
        ({"promised": 0}, "I1"),
        ({"tiles": ()}, "I5"),
        ({"shown": ("q",), "tiles": ("q",)}, "I4"),
    ],
)
def test_each_invariant_of_a_region_can_fail(changes: dict[str, object], invariant: str) -> None:
    model, state = finished()
    assert model.violation(state) is None
    column = state.columns[0]._replace(**changes)  # type: ignore[arg-type]  # a few fields, by name
    found = model.violation(State((column, *state.columns[1:]), state.rows))
    assert found is not None
    assert found.startswith(invariant)


def test_steps_back_are_violations() -> None:
    model, state = finished()
    column = state.columns[0]
    for changes, invariant in (({"promised": 0, "accepted": NOTHING}, "I1"), ({"shown": ()}, "I5")):
        after = State((column._replace(**changes), *state.columns[1:]), state.rows)
        found = model.step_violation(state, after)
        assert found is not None
        assert found.startswith(invariant)
