"""`make sim`: worlds from new seeds for as long as it is told, in every core, or one seed again.

``python tests/sim/sim.py --seconds 60`` prints how many simulated hours a minute were lived and which
faults were met; a seed that fails is printed with its faults and the command that lives it again. Exit 1
when one failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.sim.world import SETTLE_NS, World

MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class Life:
    """What became of one seed."""

    seed: int
    error: str
    """Empty when every promise held."""
    trace: tuple[str, ...]
    faults: frozenset[int]
    """Indexes of those that struck."""
    covered: Counter[str]
    cpu_seconds: float


def live(seed: int, only: frozenset[int] | None = None) -> Life:
    """Live one world, with all of its faults or some."""
    begun = time.process_time()
    world = World(seed, minutes=MINUTES, only=only)
    error = ""
    try:
        world.run()
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        error = f"{type(problem).__name__}: {problem} ({where.name}, line {where.lineno})"
    finally:
        world.close()
    faults = frozenset(item.index for item in world.faults)
    return Life(seed, error, tuple(world.trace), faults, world.covered, time.process_time() - begun)


def shrunk(life: Life, live_again: Callable[[int, frozenset[int]], Life] = live) -> Life:
    """The same seed with as few faults as still fail: each is left out, one by one, if it can be."""
    for index in sorted(life.faults):
        smaller = live_again(life.seed, life.faults - {index})
        if smaller.error:
            life = smaller
    return life


def seeds_until(end: float, first: int) -> Iterator[int]:
    """Seeds, one after the other, until the time is over."""
    while time.monotonic() < end:
        yield first
        first += 1


def report(life: Life) -> None:
    """Say what is needed to live it again."""
    print(f"\nseed {life.seed}: {life.error}")
    for line in life.trace:
        print(f"  {line}")
    only = ",".join(map(str, sorted(life.faults)))
    print(f"again: PYTHONPATH=. python tests/sim/sim.py --seed {life.seed} --only '{only}'", flush=True)


def main() -> int:
    """Live worlds; 1 when a promise was broken in one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default 60)")
    parser.add_argument("--seed", type=int, help="this seed only")
    parser.add_argument("--first", type=int, help="the first of the seeds (default: drawn from the clock)")
    parser.add_argument("--only", help="of --seed, the faults with these indexes, as in 0,3,4; '' is none")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        only = None
        if arguments.only is not None:
            only = frozenset(int(item) for item in arguments.only.split(",") if item)
        life = live(arguments.seed, only)
        report(life)
        return 1 if life.error else 0
    first = arguments.first if arguments.first is not None else time.time_ns() // 10**6 % 10**9 * 1000
    begun = time.monotonic()
    covered: Counter[str] = Counter()
    lives = failed = 0
    cpu_seconds = 0.0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for life in pool.imap_unordered(live, seeds_until(begun + arguments.seconds, first)):
            lives += 1
            cpu_seconds += life.cpu_seconds
            covered += life.covered
            if life.error:
                failed += 1
                report(shrunk(life))
            if time.monotonic() > begun + arguments.seconds:
                break
    minutes = (time.monotonic() - begun) / 60
    hours = lives * (MINUTES / 60 + SETTLE_NS / 3600e9)
    print(f"{cpu_seconds / max(1, lives):.2f} core-seconds a seed")
    print(f"{lives} seeds from {first} on: {failed} failed")
    print(f"{hours:.1f} simulated hours, {hours / minutes:.0f} a minute")
    for what, count in sorted(covered.items()):
        print(f"  {count:6d}  {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
