"""A scheduler that interleaves single store calls of several sequencers, and an observer who sees everything.

The observer checks PROTOCOL.md's invariants after every call that changed a region, and every signature as
it is made. Nothing here knows how the sequencer works: it sees stores, packs and signatures only.
"""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import func, select

from duramen.checkpoint import parse_checkpoint_text
from duramen.frame import parse_pack
from duramen.merkle import leaf_hash, root_of
from duramen.region import envelope_key
from duramen.statement import Block
from duramen.tiles import parse_entries, parse_tile_path, tile_paths_for
from duramen_collector.heads import initialise_regions
from duramen_collector.ledger import Ledger
from duramen_collector.outcome import (
    Stopped,
    Unavailable,
)
from duramen_collector.register import Accepted, Ballot, Value, parse_head
from duramen_collector.schema import entries, landing
from duramen_collector.sequencer import Sequencer
from duramen_collector.store.port import Create, Delete, Failed, Swap
from tests.collector.region_lab import (
    ORIGIN,
    CountedRandom,
    MemoryStore,
    PlainSigner,
    TurnedClock,
    block,
    dek_of,
    land,
    run,
    settings,
)


class Violation(AssertionError):
    """An invariant does not hold."""


def demand(condition: object, invariant: str) -> None:
    if not condition:
        raise Violation(invariant)


class Observer:
    """Everything that ever happened in the stores of one log."""

    def __init__(self, stores: dict[str, MemoryStore], tenant: str, copies: int) -> None:
        self.stores = stores
        self.tenant = tenant
        self.copies = copies
        self.promised: dict[str, Ballot] = {}
        self.accepts: dict[tuple[Ballot, Value], set[str]] = defaultdict(set)
        self.proposed: dict[tuple[Ballot, int], Value] = {}
        self.contents: dict[bytes, tuple[bytes, ...]] = {bytes(32): ()}
        self.longest: tuple[bytes, ...] = ()
        self.decided: dict[int, bytes] = {}
        self.shown: dict[str, int] = {}
        self.dropped_partials: set[str] = set()

    def content(self, pack: bytes) -> tuple[bytes, ...]:
        """The leaf entries of the log that ends with ``pack``."""
        if pack not in self.contents:
            data = next(
                (
                    store.objects[key][0]
                    for store in self.stores.values()
                    if (key := f"{self.tenant}/packs/{pack.hex()}.pack") in store.objects
                ),
                None,
            )
            demand(data is not None, "I2: a value was accepted whose pack is nowhere")
            parsed = parse_pack(data)
            before = self.content(parsed.header.previous)
            demand(len(before) == parsed.header.first_leaf, "a pack does not follow on the one before")
            self.contents[pack] = before + tuple(frame.statement.entry for frame in parsed.frames)
        return self.contents[pack]

    def changed(self, name: str, key: str) -> None:
        """Something was written in a region."""
        found = self.stores[name].objects.get(key)
        kind = key.removeprefix(f"{self.tenant}/")
        if found is None:
            return
        if kind == "head":
            self._head(name, found[0])
        elif kind == "checkpoint":
            self._checkpoint(name, found[0])
        elif kind.startswith("tile/entries/"):
            path = parse_tile_path(kind)
            self._prefix(
                path.index * 256,
                parse_entries(found[0], path.width),
                "I4: an entry bundle of what is not decided",
            )

    def signing(self, size: int, root: bytes) -> None:
        demand(self.decided.get(size) == root, "I4: what is not decided was signed")

    def _prefix(self, first: int, found: list[bytes], invariant: str) -> None:
        demand(self.longest[first : first + len(found)] == tuple(found), invariant)

    def _head(self, name: str, data: bytes) -> None:
        head = parse_head(data)
        demand(head.promised >= self.promised.get(name, head.promised), "I1: a promise fell")
        self.promised[name] = head.promised
        if head.accepted is None:
            return
        value = head.accepted.value
        key = (head.accepted.ballot, value)
        if key not in self.accepts:
            self._first_accept(head.accepted)
        self.accepts[key].add(name)
        if len(self.accepts[key]) >= self.copies and self.decided.get(value.size) != value.root:
            self._decide(value)

    def _first_accept(self, accepted: Accepted) -> None:
        value = accepted.value
        held = [
            store
            for store in self.stores.values()
            if f"{self.tenant}/packs/{value.pack.hex()}.pack" in store.objects
        ]
        demand(len(held) >= self.copies, "I2: accepted before the packs were there")
        content = self.content(value.pack)
        demand(
            root_of([leaf_hash(entry) for entry in content]) == value.root, "a value's root is not its log's"
        )
        other = self.proposed.setdefault((accepted.ballot, value.size_before), value)
        demand(other == value, "I6: a ballot proposed two values for one leaf")
        pack = parse_pack(held[0].objects[f"{self.tenant}/packs/{value.pack.hex()}.pack"][0])
        for frame in pack.frames:
            if isinstance(frame.statement, Block) and frame.statement.header.size:
                prefix = envelope_key(self.tenant, frame.statement.header.dek, bytes(32))[:-64]
                holders = [
                    s for s in self.stores.values() if any(key.startswith(prefix) for key in s.objects)
                ]
                demand(len(holders) >= self.copies, "I2: accepted before the envelopes were there")

    def _decide(self, value: Value) -> None:
        content = self.content(value.pack)
        shorter, longer = sorted((content, self.longest), key=len)
        demand(
            longer[: len(shorter)] == shorter, "I3: two decided logs, neither of them a prefix of the other"
        )
        self.longest = longer
        demand(self.decided.setdefault(value.size, value.root) == value.root, "I3: two roots for one size")

    def _checkpoint(self, name: str, data: bytes) -> None:
        shown = parse_checkpoint_text(data.decode().rpartition("\n")[0] + "\n")
        demand(self.decided.get(shown.size) == shown.root, "I4: a checkpoint of what is not decided")
        demand(shown.size >= self.shown.get(name, 0), "I5: a checkpoint fell")
        self.shown[name] = shown.size
        objects = self.stores[name].objects
        pack = next(pack for pack, content in self.contents.items() if content == self.longest[: shown.size])
        while any(pack):
            key = f"{self.tenant}/packs/{pack.hex()}.pack"
            demand(key in objects, "I5: a checkpoint above a pack that is not in its region")
            pack = parse_pack(objects[key][0]).header.previous
        for path in tile_paths_for(0, shown.size):
            there = any(f"{self.tenant}/{item.path()}" in objects for item in (path, path.full()))
            demand(there, "I5: a checkpoint above a tile that is not in its region")


class WatchedSigner(PlainSigner):
    """Tells the observer before it signs."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def sign(self, checkpoint, timestamp_seconds):
        self._observer.signing(checkpoint.size, checkpoint.root)
        return super().sign(checkpoint, timestamp_seconds)


@dataclass
class Actor:
    """One collector: its sequencer may crash and start again, its database stays."""

    name: str
    ledger: Ledger
    sequencer: Sequencer | None = None
    steps: object = None
    calls: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    starts: int = 0


@dataclass(frozen=True)
class Rates:
    """How often what happens, per store call."""

    crash: float = 0.004
    lost: float = 0.01
    persisted: float = 0.015
    late: float = 0.01
    cut: float = 0.015
    """Per step: a way between a collector and a region breaks, or heals."""
    rivalry: float = 0.02
    """Per idle step: a sequencer that does not hold the log tries to take it."""


class World:
    """Some sequencers of ``kind`` over three regions, driven by one seed."""

    def __init__(
        self, seed, connections, *, kind=Sequencer, names="abc", copies=2, rates=None, may_stop=False
    ) -> None:
        self.random = random.Random(repr(seed))
        self.tenant = "t" + "".join(self.random.choices("abcdefghijklmnop", k=20))
        self.clock = TurnedClock()
        self.stores = {name: MemoryStore(self.clock) for name in names}
        self.settings = settings(self.tenant, tuple(names), copies, max_bytes=1200)
        run(
            self.stores,
            initialise_regions(self.tenant, ORIGIN, self.settings.configuration, CountedRandom(repr(seed))),
        )
        self.observer = Observer(self.stores, self.tenant, copies)
        self.rates = rates or Rates()
        self.kind = kind
        self.may_stop = may_stop
        self.connections = connections
        self.cuts: set[tuple[str, str]] = set()
        self.late: list[tuple[str, object]] = []
        self.landed: list[bytes] = []
        self.actors = [
            Actor(f"{number}", Ledger(connection, self.tenant))
            for number, connection in enumerate(connections)
        ]
        self.next_seq = 1
        self.chain = hashlib.sha256(self.tenant.encode()).digest()
        self.outcomes = defaultdict(int)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        if self.late and self.random.random() < 0.05:
            name, call = self.late.pop(self.random.randrange(len(self.late)))
            self.perform(name, call)
            return
        if self.random.random() < self.rates.cut:
            self.cuts ^= {(self.random.choice(self.actors).name, self.random.choice(list(self.stores)))}
        actor = self.random.choice(self.actors)
        if actor.steps is None:
            holds = actor.sequencer is not None and actor.sequencer.ballot is not None
            if holds or self.random.random() < self.rates.rivalry:
                self.begin(actor)
        elif self.random.random() < self.rates.crash:
            self.crash(actor)
        else:
            self.call(actor)

    def begin(self, actor: Actor) -> None:
        if actor.sequencer is None:
            actor.starts += 1
            draws = CountedRandom(f"{self.tenant}{actor.name}.{actor.starts}")
            signer = WatchedSigner(self.observer)
            actor.sequencer = self.kind(self.settings, actor.ledger, signer, self.clock, draws)
        if actor.sequencer.ballot is None:
            steps = actor.sequencer.acquire(promote=True)
        else:
            if self.random.random() < 0.7:
                self.land()
            lagging = actor.sequencer.lagging()
            if lagging and self.random.random() < 0.5:
                steps = actor.sequencer.repair(self.random.choice(lagging))
            else:
                steps = actor.sequencer.publish()
        actor.steps = steps
        self.resume(actor, None)

    def land(self) -> None:
        """Accept some blocks, at one collector or, as when an agent fails over, at two."""
        batch = []
        for _ in range(self.random.randint(1, 3)):
            body = self.next_seq.to_bytes(8, "big") * 20
            dek = dek_of(self.next_seq % 3)
            batch.append((block(self.chain, self.next_seq, body=body, dek=dek), body))
            self.next_seq += 1
        self.landed += [statement.entry for statement, _ in batch]
        chosen = self.random.sample(self.connections, min(len(self.connections), self.random.randint(1, 2)))
        for connection in {id(item): item for item in chosen}.values():
            land(connection, self.tenant, batch)

    def resume(self, actor: Actor, answers) -> None:
        try:
            actor.calls = next(actor.steps) if answers is None else actor.steps.send(answers)
            actor.answers = [None] * len(actor.calls)
        except StopIteration as stop:
            actor.steps = None
            outcome = stop.value
            self.outcomes[type(outcome).__name__] += 1
            demand(self.may_stop or not isinstance(outcome, Stopped), f"a false alarm: {outcome}")
            if isinstance(outcome, Unavailable) and self.random.random() < 0.3:
                actor.sequencer = None

    def crash(self, actor: Actor) -> None:
        for call, answer in zip(actor.calls, actor.answers, strict=True):
            if answer is None and self.random.random() < 0.3:
                self.late.append((call.region, call.call))
        actor.steps.close()
        actor.steps = actor.sequencer = None

    def call(self, actor: Actor) -> None:
        open_calls = [number for number, answer in enumerate(actor.answers) if answer is None]
        if open_calls:
            number = self.random.choice(open_calls)
            region_call = actor.calls[number]
            actor.answers[number] = self.perform_somehow(actor, region_call.region, region_call.call)
        if all(answer is not None for answer in actor.answers):
            self.resume(actor, actor.answers)

    def perform_somehow(self, actor: Actor, name: str, call):
        draw = self.random.random()
        if (actor.name, name) in self.cuts:
            return Failed("cut off")
        if draw < self.rates.lost:
            return Failed("lost")
        draw -= self.rates.lost
        if draw < self.rates.persisted:
            self.perform(name, call)
            return Failed("no answer")
        draw -= self.rates.persisted
        if draw < self.rates.late:
            self.late.append((name, call))
            return Failed("no answer yet")
        return self.perform(name, call)

    def perform(self, name: str, call):
        answer = self.stores[name].perform(call)
        if isinstance(call, Create | Swap | Delete):
            self.observer.changed(name, call.key)
        return answer

    def settle(self) -> None:
        """Let everything land, then have one sequencer after the other publish what its database holds."""
        while self.late:
            self.perform(*self.late.pop())
        self.cuts.clear()
        for actor in self.actors:
            if actor.steps is not None:
                actor.steps.close()
            actor.steps = actor.sequencer = None
        for actor in self.actors:
            self.finish(actor)
        self.check_end()

    def finish(self, actor: Actor) -> None:
        self.rates = Rates(0, 0, 0, 0, 0, 1)
        actor.steps = None
        for _ in range(60):
            self.begin_quietly(actor)
            while actor.steps is not None:
                self.call(actor)
            if actor.sequencer is not None and self.is_done(actor):
                return
        raise Violation("does not come to an end")

    def begin_quietly(self, actor: Actor) -> None:
        if actor.sequencer is None or actor.sequencer.ballot is None:
            self.begin(actor)
            return
        lagging = actor.sequencer.lagging()
        actor.steps = actor.sequencer.repair(lagging[0]) if lagging else actor.sequencer.publish()
        self.resume(actor, None)

    def is_done(self, actor: Actor) -> bool:
        return (
            actor.sequencer.ballot is not None
            and not actor.sequencer.lagging()
            and actor.ledger.backlog().count == 0
        )

    def check_end(self) -> None:
        """Everything that was accepted is in the log, once.

        The last database and every region hold all of it.
        """
        log = self.observer.longest
        demand(sorted(set(self.landed)) == sorted(log), "a statement was lost, or published twice")
        last = self.actors[-1]
        demand(last.ledger.position().size == len(log), "the database is behind")
        with last.ledger._connection.begin():
            count = last.ledger._connection.execute(
                select(func.count()).select_from(entries).where(entries.c.tenant == self.tenant)
            ).scalar()
            left = last.ledger._connection.execute(
                select(func.count()).select_from(landing).where(landing.c.tenant == self.tenant)
            ).scalar()
        demand((count, left) == (len(log), 0), "the database is not the log")
        demand(
            all(self.observer.shown.get(name, 0) == len(log) for name in self.stores),
            "a region lags at the end",
        )
