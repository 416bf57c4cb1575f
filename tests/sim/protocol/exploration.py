"""Breadth-first search through every state of a model, until none is left or one breaks an invariant.

A state stands for all that differ in the names of regions only. The search either ends because nothing new
can be reached, and then what it says holds for every state, or because it found a shortest way to a
violation, or because there are more states than it was told to look at, which is an error: a search that
stopped early proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.protocol.model import Model, State, Step, canonical


class TooManyStatesError(Exception):
    """The search was stopped before it was through."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a search came to: all states and the steps between them, or the way to a violation."""

    states: int
    transitions: int
    depth: int
    """Steps from the initial state to the farthest one."""
    violation: str | None
    trace: tuple[str, ...]
    """A shortest way to the violation, a line a step."""


def explore(model: Model, limit: int = 10_000_000) -> Exploration:
    """Look at every state; raises TooManyStatesError when there are more than ``limit``."""
    start = canonical(model.initial())
    before: dict[State, State | None] = {start: None}
    frontier, depth, transitions = [start], 0, 0
    while frontier:
        reached: list[State] = []
        for state in frontier:
            for _, after in model.steps(state):
                if after == state:
                    continue
                transitions += 1
                fault = model.step_violation(state, after)
                found = canonical(after)
                if found in before:
                    if fault is None:
                        continue
                else:
                    before[found] = state
                    fault = fault or model.violation(found)
                if fault is not None:
                    way = [found, *_way(before, state)][::-1]
                    return Exploration(len(before), transitions, depth + 1, fault, _told(model, way))
                reached.append(found)
        if len(before) > limit:
            raise TooManyStatesError(f"more than {limit} states: the bounds are too wide")
        frontier, depth = reached, depth + bool(reached)
    return Exploration(len(before), transitions, depth, None, ())


def _way(before: dict[State, State | None], state: State) -> list[State]:
    way, current = [], before[state]
    way.append(state)
    while current is not None:
        way.append(current)
        current = before[current]
    return way


def _told(model: Model, way: list[State]) -> tuple[str, ...]:
    """The steps of a way, with regions that keep their names."""
    state, lines = model.initial(), []
    for following in way[1:]:
        step, state = next(
            (step, after) for step, after in model.steps(state) if canonical(after) == following
        )
        lines.append(describe(model, step))
    return tuple(lines)


def describe(model: Model, step: Step) -> str:
    """One step in words."""
    region = "" if step.column < 0 else f"region {'abcdefgh'[step.column]}: "
    row = step.row
    ballots = model.rules.ballots
    who = "" if row < 0 else f"ballot {ballots[row]}"
    if row >= 0 and ballots.count(ballots[row]) > 1:
        who += f" (acquisition {row + 1})"
    return " ".join(f"{region}{who} {step.name} {step.detail}".split())
