"""What the simulation is put through: lives with faults, and attacks on a life without any.

Each trial raises Violation, or whatever else broke, when Duramen does not keep a promise. Tests run them;
mutants must fail one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from duramen.audit import AuditOptions, Depth, audit_region
from duramen.checkpoint import open_checkpoint
from duramen.region import CHECKPOINT_KEY
from duramen.verdict import Code, Finding, Severity, Verdict
from duramen_agent.effects import HttpRequest, HttpResponse
from duramen_collector.regionreader import StoreReader
from duramen_collector.verification import VerificationReport, run_verification
from tests.sim.attacker import protected, restore, snapshot, tamperings
from tests.sim.losses import hold
from tests.sim.region import SimStore
from tests.sim.world import TENANT, World

CLEAN_SEED = 11


@contextmanager
def lived(seed: int = CLEAN_SEED, *, minutes: float = 2, faults: int = 0, hosts: int = 2) -> Iterator[World]:
    """A world after its life."""
    world = World(seed, minutes=minutes, faults=faults, hosts=hosts)
    try:
        world.run()
        yield world
    finally:
        world.close()


def life(seed: int) -> None:
    """A small one with faults."""
    with lived(seed, minutes=4, faults=16):
        pass


def size_of(world: World, store: SimStore) -> int:
    """What a region shows."""
    data = store.objects[f"{TENANT}/{CHECKPOINT_KEY}"][0]
    return open_checkpoint(data, world.keys).checkpoint.size


def verify(world: World) -> VerificationReport:
    """The collector's own verification of everything."""
    return run_verification(
        world.engine, world.stores, TENANT, world.keys, depth=Depth.BODIES,
        clock=world.collectors[0].clock, random=world.collectors[0].random,
    )  # fmt: skip


def failures(findings: tuple[Finding, ...]) -> list[Finding]:
    """Findings that fail a verdict."""
    return [finding for finding in findings if finding.severity is Severity.FAILURE]


def tampering(seed: int) -> None:
    """Every tampering of a region's objects is found by an audit of it, with its code, at its place."""
    with lived() as world:
        store = world.stores["eu"]
        kinds = protected(store, TENANT, size_of(world, store))
        done: Counter[str] = Counter()
        options = AuditOptions(
            depth=Depth.BODIES, region="eu", exists_elsewhere=lambda key: key in world.stores["us"].objects
        )
        for item in list(tamperings(store, kinds, random.Random(seed))):
            before = store.objects[item.key]
            item.apply(store)
            report = audit_region(StoreReader("eu", store), TENANT, world.keys, options)
            store.objects[item.key] = before
            mine = {found.code for found in failures(report.findings) if found.key == item.key}
            hold(mine & item.codes, f"{item.key} {item.how}: {report.findings}")
            done[item.kind] += 1
        hold(set(done) == {"pack", "tile", "checkpoint", "kept", "envelope"}, f"tampered with {done}")
        hold(done.total() >= 3 * len(kinds), "each object is tampered with in several ways")
        clean = audit_region(StoreReader("eu", store), TENANT, world.keys, options)
        hold(not failures(clean.findings), f"a false alarm: {clean.findings}")


def set_back(seed: int) -> None:
    """A region, or only its checkpoint, set back to what it was is found: there, and nowhere else."""
    key = f"{TENANT}/{CHECKPOINT_KEY}"
    with lived(seed) as world:
        before = dict(world.stores["us"].objects)
        for host in world.hosts:
            host.application.write_lines(20)
        world.live_on(120)
        hold(verify(world).verdict is Verdict.VERIFIED, "an untampered log is verified")
        now = dict(world.stores["us"].objects)
        for objects in (before, now | {key: before[key]}):
            world.stores["us"].objects = dict(objects)
            found = {(item.code, item.region) for item in failures(verify(world).findings)}
            hold(found == {(Code.CHECKPOINT_ROLLBACK, "us")}, f"a region was set back: {found}")
            world.stores["us"].objects = dict(now)
            # The next verification remembers what this one saw, which was less.
        hold(verify(world).verdict is Verdict.VERIFIED, "what was put back is verified")


def clone(seed: int) -> None:
    """Two machines with one state directory: one of them finds out and goes no further.

    If it had sent a block before, the log says so, too; where it learned of the fork from the collector's
    head, the collector has nothing to show.
    """
    with lived(seed, hosts=1) as world:
        original = world.hosts[0]
        other = world.make_host(original.name, "clone")
        restore(other.disk, snapshot(original.disk))
        other.start()
        for _ in range(6):
            original.application.write_lines(3)
            other.application.write_lines(3)
            world.live_on(20)
        world.live_on(120)
        reasons = [reason for host in (original, other) for reason in host.status_now().reasons]
        other.kill()
        codes = {item.code for item in failures(verify(world).findings)}
        hold(codes <= {Code.FORK}, f"what was not: {codes}")
        hold(codes or seed != CLEAN_SEED, "a block of the clone reached the collector, and the log is silent")
        hold(any("fork" in reason for reason in reasons), f"neither of them says so: {reasons}")


def restored_host(seed: int) -> None:
    """A host set back to a snapshot cannot go on unnoticed: it is a fork, or refused."""
    with lived(seed) as world:
        host, other = world.hosts
        host.kill()
        old = snapshot(host.disk)
        foreign = {path: data for path, data in snapshot(other.disk).items() if b"seed" in path}
        restore(host.disk, old | foreign)
        host.start()
        hold(not host.is_running and "seed" in host.failures[-1], "another host's seed is used")
        host.kill()
        restore(host.disk, old)
        host.start()
        host.application.write_lines(30)
        world.live_on(120)
        host.kill()
        new = snapshot(host.disk)
        restore(host.disk, old | {path: data for path, data in new.items() if b"seed" in path})
        host.start()
        hold(not host.is_running and "seed" in host.failures[-1], "a spool behind its seed is used")
        host.kill()
        restore(host.disk, old)
        host.start()
        host.application.write_lines(5)
        world.live_on(200)
        reasons = host.status_now().reasons if host.is_running else host.failures
        hold(any("rollback" in it or "fork" in it for it in reasons), f"set back unnoticed: {reasons}")
        codes = {item.code for item in failures(verify(world).findings)}
        hold(codes <= {Code.FORK, Code.TRUNCATED, Code.ROLLBACK}, f"what was not: {codes}")


def liar(seed: int) -> None:
    """Somebody between agent and collector changes one character of each receipt: none is believed."""
    rng = random.Random(seed)
    world = World(seed, minutes=1, faults=0, hosts=1)

    def lie(response: HttpResponse) -> HttpResponse:
        at = response.body.find(b'"receipt":{')
        if at < 0:
            return response
        places = [n for n in range(at + 11, len(response.body)) if response.body[n : n + 1].isalnum()]
        place = rng.choice(places)
        other = b"A" if response.body[place : place + 1] != b"A" else b"B"
        body = response.body[:place] + other + response.body[place + 1 :]
        return HttpResponse(response.request_id, response.status, response.headers, body)

    try:
        world.set_up()
        world.network.on_response = lie
        host = world.hosts[0]
        for _ in range(4):
            host.application.write_lines(5)
            world.live_on(30)
        hold(host.status_now().forward.published_seq < 0, "an altered receipt is believed")
        world.network.on_response = lambda response: response
        host.kill()
        host.start()
        world.live_on(120)
        hold(host.status_now().forward.published_seq > 0, "a receipt is believed when it is right")
    finally:
        world.close()


def forger(seed: int) -> None:
    """Somebody between agent and collector changes one byte of each block: none is accepted."""
    rng = random.Random(seed)
    world = World(seed, minutes=1, faults=0, hosts=1)

    def forge(request: HttpRequest) -> HttpRequest | None:
        if not request.path.split("?")[0].endswith("/blocks"):
            return request
        at = rng.randrange(len(request.body))
        body = request.body[:at] + bytes([request.body[at] ^ 1 << rng.randrange(8)]) + request.body[at + 1 :]
        return HttpRequest(
            request.request_id, request.collector, request.method, request.path, request.headers, body,
            request.timeout_s,
        )  # fmt: skip

    try:
        world.set_up()
        world.network.on_request = forge
        host = world.hosts[0]
        for _ in range(3):
            host.application.write_lines(3)
            world.live_on(60)
        world.network.on_request = lambda request: request
        world.live_on(400)
        world.observer.settle(world.hosts)
    finally:
        world.close()


def eater(seed: int) -> None:
    """Somebody says that envelopes arrived which did not: nothing is accepted that nobody could read."""
    world = World(seed, minutes=1, faults=0, hosts=1)

    def eat(request: HttpRequest) -> HttpRequest | None:
        return None if "/envelopes/" in request.path else request

    try:
        world.set_up()
        world.network.on_request = eat
        host = world.hosts[0]
        host.application.write_lines(3)
        world.live_on(30)
        hold(host.status_now().forward.accepted_seq < 1, "blocks are accepted without envelopes")
        world.network.on_request = lambda request: request
        world.live_on(300)
        world.observer.settle(world.hosts)
    finally:
        world.close()


TRIALS: dict[str, Callable[[int], None]] = {
    trial.__name__: trial for trial in (life, tampering, set_back, clone, restored_host, liar, forger, eater)
}
