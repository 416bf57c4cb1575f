"""The token bucket of sealing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duramen_agent.allowance import Allowance


def sealed_times(arrivals: list[int], burst: int, refill: int) -> list[tuple[int, int]]:
    """(arrival, sealed) of lines that are sealed as soon as the allowance permits, together."""
    allowance, result, waiting = Allowance(burst, refill, 0), [], []
    for at in [*sorted(arrivals), None]:
        while waiting:
            due = allowance.available_at_ns(waiting[-1])
            if at is not None and due > at:
                break
            allowance.available_at_ns(due)
            allowance.take()
            result += [(line, due) for line in waiting]
            waiting = []
        if at is not None:
            waiting.append(at)
    return result


@given(st.lists(st.integers(0, 10_000), max_size=80), st.integers(1, 5), st.integers(0, 500))
def test_no_line_waits_longer_than_the_delay_and_the_rate_is_bounded(
    arrivals: list[int], burst: int, refill: int
) -> None:
    times = sealed_times(arrivals, burst, refill)
    assert len(times) == len(arrivals)
    assert all(0 <= sealed - arrived <= refill for arrived, sealed in times)
    blocks = sorted({sealed for _, sealed in times})
    if refill:
        for index, start in enumerate(blocks):
            within = [at for at in blocks[index:] if at - start < 1000]
            assert len(within) <= burst + 1000 // refill + 1


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    allowance = Allowance(1, 10, 100)
    assert allowance.available_at_ns(100) == 100
    allowance.take()
    assert allowance.available_at_ns(50) == 60
    assert allowance.available_at_ns(55) == 60
