"""What goes wrong: a list drawn from the seed before anything happens, so that a part can be lived again.

Each fault has randomness of its own. Leaving one out changes nothing about the others: that is what shrinks
a trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.clock import SECOND
from tests.sim.collector import SimCollector
from tests.sim.host import SimHost
from tests.sim.region import SimStore

if TYPE_CHECKING:
    from tests.sim.world import World


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: when, which, and to whom."""

    index: int
    at_ns: int
    kind: str
    host: int
    collector: int
    region: str


@dataclass(slots=True)
class Hit:
    """A fault as it strikes."""

    world: World
    host: SimHost
    collector: SimCollector
    store: SimStore
    rng: random.Random

    def later(self, undo: Callable[[], None], longest_s: int = 90) -> None:
        """Mend it after a while."""
        self.world.timeline.after(self.rng.randrange(1, longest_s * SECOND), undo)


def draw(
    seed: int, count: int, end_ns: int, hosts: int, collectors: int, regions: list[str]
) -> list[Planned]:
    """The faults of ``seed``, in the order in which they strike."""
    rng = random.Random(f"{seed}/faults")
    kinds = sorted(FAULTS)
    drawn = [
        (
            rng.randrange(end_ns),
            rng.choice(kinds),
            rng.randrange(hosts),
            rng.randrange(collectors),
            rng.choice(regions),
        )
        for _ in range(count)
    ]
    return [Planned(index, *item) for index, item in enumerate(sorted(drawn))]


def strike(world: World, planned: Planned) -> str:
    """Let it happen; what it was, in a few words."""
    hit = Hit(
        world, world.hosts[planned.host], world.collectors[planned.collector], world.stores[planned.region],
        random.Random(f"{world.seed}/fault/{planned.index}"),
    )  # fmt: skip
    return FAULTS[planned.kind](hit)


# The agent and its host


def kill_agent(hit: Hit) -> str:
    hit.host.kill()
    hit.later(hit.host.start, 20)
    return f"kill -9 of the agent on {hit.host.name}"


def kill_agent_at_write(hit: Hit) -> str:
    number = hit.rng.randrange(1, 40)
    hit.host.die_at_write(number)
    return f"the agent on {hit.host.name} dies at its write {number} from now"


def cut_power(hit: Hit) -> str:
    hit.host.cut_power(hit.rng)
    hit.later(hit.host.start, 30)
    return f"power cut of {hit.host.name}"


def stop_agent(hit: Hit) -> str:
    hit.host.stop()
    hit.later(hit.host.start, 30)
    return f"the agent on {hit.host.name} is stopped"


def fill_disk(hit: Hit) -> str:
    disk = hit.host.disk
    disk.capacity_bytes = disk.used_bytes() + hit.rng.randrange(0, 20_000)
    hit.later(lambda: setattr(disk, "capacity_bytes", 1 << 40))
    return f"the disk of {hit.host.name} fills up"


def exhaust_quota(hit: Hit) -> str:
    hit.host.disk.is_quota_exhausted = True
    hit.later(lambda: setattr(hit.host.disk, "is_quota_exhausted", False), 30)
    return f"{hit.host.name} has free space, and a quota that forbids to use it"


def fail_reads(hit: Hit) -> str:
    hit.host.disk.failing_reads = True
    hit.later(lambda: setattr(hit.host.disk, "failing_reads", False), 20)
    return f"{hit.host.name} cannot read its disk"


def fail_writes(hit: Hit) -> str:
    hit.host.disk.failing_writes = True
    hit.later(lambda: setattr(hit.host.disk, "failing_writes", False), 20)
    return f"{hit.host.name} cannot write its disk"


def jump_clock(hit: Hit) -> str:
    hit.host.clock.offset_ns += hit.rng.randrange(-3600, 3600) * SECOND
    return f"the clock of {hit.host.name} jumps"


def drift(hit: Hit) -> str:
    clock = hit.rng.choice([hit.host.clock, hit.collector.clock])
    clock.drift(hit.rng.randrange(-50_000, 50_000))
    return f"a clock drifts by {clock.drift_ppm} ppm"


# Rotations


def copy_and_truncate(hit: Hit) -> str:
    within = hit.rng.random() < 0.3
    hit.host.application.copy_and_truncate(within_pattern=within)
    hit.host.application.write_lines(hit.rng.choice([0, 1, 200]))
    return f"{hit.host.name} rotates with copytruncate"


def recreate(hit: Hit) -> str:
    hit.host.application.recreate(same_inode=True)
    return f"{hit.host.name} deletes its log and begins anew"


def replace_while_down(hit: Hit) -> str:
    """With no agent to see it, under the old inode."""
    hit.host.kill()
    for _ in range(hit.rng.randrange(1, 3)):
        hit.host.application.write_lines(hit.rng.randrange(0, 4))
        hit.host.application.recreate(same_inode=hit.rng.random() < 0.5)
        hit.host.application.write_lines(hit.rng.choice([0, 2, 200]))
    hit.later(hit.host.start, 20)
    return f"{hit.host.name} replaces its log while the agent is down"


def truncate_while_down(hit: Hit) -> str:
    hit.host.kill()
    hit.host.application.write_lines(hit.rng.randrange(0, 3))
    hit.host.application.copy_and_truncate(within_pattern=False)
    hit.host.application.write_lines(hit.rng.choice([0, 3, 200]))
    hit.later(hit.host.start, 20)
    return f"{hit.host.name} truncates its log while the agent is down"


def truncate_unread(hit: Hit) -> str:
    """With a full disk, what is written is seen and not read: the loss can be counted."""
    disk, application = hit.host.disk, hit.host.application
    disk.capacity_bytes = 0
    if hit.rng.random() < 0.5:
        application.rotate()
    application.write_lines(hit.rng.randrange(1, 9))

    def truncate() -> None:
        application.copy_and_truncate(within_pattern=False)
        application.write_lines(hit.rng.randrange(0, 3))

    hit.world.timeline.after(hit.rng.randrange(1, 15) * SECOND, truncate)
    hit.world.timeline.after(40 * SECOND, lambda: setattr(disk, "capacity_bytes", 1 << 40))
    return f"{hit.host.name} truncates a log that a full disk kept from being read"


def rotate_in_burst(hit: Hit) -> str:
    for _ in range(hit.rng.randrange(2, 6)):
        hit.host.application.write_lines(hit.rng.randrange(0, 5))
        hit.host.application.rotate()
    return f"{hit.host.name} rotates several times at once"


# The network


def partition(hit: Hit) -> str:
    link = (hit.host.name, hit.collector.name)
    hit.world.network.cut.add(link)
    hit.later(lambda: hit.world.network.cut.discard(link))
    return f"{hit.host.name} cannot reach {hit.collector.name}"


def one_way(hit: Hit) -> str:
    link = (hit.host.name, hit.collector.name)
    hit.world.network.deaf.add(link)
    hit.later(lambda: hit.world.network.deaf.discard(link))
    return f"{hit.host.name} hears nothing from {hit.collector.name}, which hears it"


def lose_messages(hit: Hit) -> str:
    network = hit.world.network
    network.lossy = hit.rng.choice([0.05, 0.3])
    hit.later(lambda: setattr(network, "lossy", 0.0))
    return f"{network.lossy:.0%} of messages are lost, repeated, or late"


# Collectors and regions


def kill_collector(hit: Hit) -> str:
    if not hit.collector.is_running:
        return f"{hit.collector.name} is down anyway"
    hit.collector.kill()
    hit.later(hit.collector.start_again, 30)
    return f"kill -9 of {hit.collector.name}"


def fail_over(hit: Hit) -> str:
    if hit.collector.is_running:
        hit.collector.publisher.promote()
    else:
        hit.collector.start(promote=True)
    return f"{hit.collector.name} is promoted"


def replace_primary(hit: Hit) -> str:
    """The primary dies, another is promoted, and the old one comes back as if nothing had happened."""
    other = next(item for item in hit.world.collectors if item is not hit.collector)
    hit.collector.kill()
    if other.is_running:
        other.publisher.promote()
    else:
        other.start(promote=True)
    hit.later(hit.collector.start_again, 60)
    return f"{other.name} replaces {hit.collector.name}, which comes back"


def take_region_down(hit: Hit) -> str:
    hit.store.is_down = True
    hit.later(lambda: setattr(hit.store, "is_down", False), 150)
    return f"the region {hit.store.name} is down"


def cut_region(hit: Hit) -> str:
    hit.collector.link.cut.add(hit.store.name)
    hit.later(lambda: hit.collector.link.cut.discard(hit.store.name))
    return f"{hit.collector.name} cannot reach {hit.store.name}"


def make_region_lossy(hit: Hit) -> str:
    hit.store.lost_request, hit.store.lost_answer = 0.1, 0.2
    hit.later(hit.store.heal)
    return f"the region {hit.store.name} loses calls and answers"


def slow_region(hit: Hit) -> str:
    hit.store.slowest_ns = 20 * SECOND
    hit.later(hit.store.heal)
    return f"the region {hit.store.name} is slow"


def stale_listings(hit: Hit) -> str:
    hit.store.freeze_listings()
    hit.later(hit.store.heal)
    return f"listings of the region {hit.store.name} are those of now for a while"


def forget_writes(hit: Hit) -> str:
    hit.store.forgets = hit.rng.randrange(1, 5)
    hit.later(hit.store.heal)
    return f"the region {hit.store.name} says that it stored {hit.store.forgets} objects, and did not"


FAULTS: dict[str, Callable[[Hit], str]] = {
    fault.__name__: fault
    for fault in (
        kill_agent, kill_agent_at_write, cut_power, stop_agent, fill_disk, exhaust_quota, fail_reads,
        fail_writes, jump_clock, drift, copy_and_truncate, recreate, replace_while_down,
        truncate_while_down, truncate_unread, rotate_in_burst, partition, one_way, lose_messages,
        kill_collector, fail_over, replace_primary, take_region_down, cut_region, make_region_lossy,
        slow_region, stale_listings, forget_writes,
    )
}  # fmt: skip
