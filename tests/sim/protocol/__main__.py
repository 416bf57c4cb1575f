"""``python -m tests.sim.protocol [--larger]``: every search with its counts.

Exit 1 when one does not come out as expected.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.protocol.exploration import explore
from tests.sim.protocol.model import Model
from tests.sim.protocol.scenarios import BROKEN, LARGER, SOUND, Scenario


def look(scenario: Scenario, limit: int) -> bool:
    """Search one scenario, print what came of it; whether that was expected."""
    begun = time.process_time()
    found = explore(Model(scenario.rules), limit)
    seconds = time.process_time() - begun
    print(
        f"{scenario.name}: {found.states:,} states, {found.transitions:,} transitions, depth {found.depth}, "
        f"{seconds:.1f} s: {found.violation or 'exhausted, no violation'}",
        flush=True,
    )
    for number, line in enumerate(found.trace, 1):
        print(f"  {number:2} {line}")
    violation = (found.violation or "").partition(":")[0]
    return violation == scenario.violation and scenario.states in (0, found.states)


def main() -> int:
    """All scenarios; with ``--larger`` those that take minutes as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--larger", action="store_true", help="also what is too large for every run")
    parser.add_argument("--limit", type=int, default=6_000_000, help="states of one search at most")
    arguments = parser.parse_args()
    scenarios = [*SOUND, *BROKEN, *(LARGER if arguments.larger else ())]
    expected = [look(scenario, arguments.limit) for scenario in scenarios]
    print(f"{sum(expected)} of {len(expected)} searches came out as expected")
    return 0 if all(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
