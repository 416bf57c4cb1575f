"""One simulated world from one seed: hosts, collectors, regions, faults, and an observer of it all.

For ten minutes applications write and rotate while things go wrong; then everything is mended, time passes,
and the observer demands that nothing was lost. Randomness that decides anything comes from the seed. What
is not deterministic (ML-DSA signatures and the authority's certificates, whose libraries draw their own)
decides nothing but bytes.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duramen.api import EnrollRequest
from duramen.checkpoint import LogSigner
from duramen.envelope import ReaderKey
from duramen_agent.effects import HttpFailure, HttpRequest
from duramen_collector.authority import AgentIdentity, Authority, create_authority
from duramen_collector.database import open_database, writing
from duramen_collector.heads import initialise_regions
from duramen_collector.logkeys import NoticeSigner, TenantKeys
from duramen_collector.register import Configuration
from duramen_collector.schema import metadata
from duramen_collector.sequencer import LogSettings, Retention
from duramen_collector.tenancy import create_tenant
from duramen_collector.tokens import Pepper, create_enrolment
from tests.sim.clock import SECOND, START_NS, SimClock, SimRandom, Timeline, chance
from tests.sim.collector import SimCollector
from tests.sim.host import SimHost
from tests.sim.observer import Observer
from tests.sim.region import SimStore

TENANT = "acme"
NAME = "logs.example.com"
MINUTE = 60 * SECOND
SETTLE_NS = 8 * MINUTE
SHARED_MEMORY = Path("/dev/shm")


class FixedKeys:
    """The tenant's keys, the same in every world."""

    def __init__(self) -> None:
        origin = f"{NAME}/{TENANT}"
        self._keys = TenantKeys(LogSigner(origin, b"1" * 32, b"2" * 32), NoticeSigner(b"3" * 32))

    def load(self, tenant: str, origin: str) -> TenantKeys:
        del tenant, origin
        return self._keys


class World:
    """Everything that happens between one seed and its verdict."""

    def __init__(self, seed: int, *, hosts: int = 2, minutes: float = 10, faults: int = 20) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.timeline = Timeline()
        self.trace: list[str] = []
        self.covered: Counter[str] = Counter()
        self._end_ns = int(minutes * MINUTE)
        self._faults = faults
        self._lossy = 0.0
        self._cut: set[tuple[str, str]] = set()
        self._scratch = tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
        self._keys = FixedKeys()
        tenant_keys = self._keys.load(TENANT, "")
        names = ("eu", "gcp", "us")
        self.stores = {name: SimStore(name) for name in names}
        self.observer = Observer(TENANT, tenant_keys.log.keys(), self.stores, copies=2)
        self._engine = open_database(Path(self._scratch.name) / "collector.db")
        metadata.create_all(self._engine)
        self._regions = Configuration(1, names, 2)
        settings = LogSettings(TENANT, self._regions, Retention(7 * 365 * 86_400), 1 << 20)
        authority = shared_authority()
        self.collectors = [
            SimCollector(
                name, self.timeline, self.rng, engine=self._engine, authority=authority, keys=self._keys,
                settings=settings, stores=self.stores, interval_ns=5 * SECOND,
                observe_signature=self.observer.signature,
            )
            for name in ("c1", "c2")
        ]  # fmt: skip
        self.hosts = [
            SimHost(
                f"host-{number}", self.timeline, self.rng, tenant=TENANT, keys=tenant_keys.log.keys(),
                collectors=["c1", "c2"], recipient=ReaderKey(b"r" * 32).recipient, wrap=self.observer.wrap,
                send=self._send, observe_receipt=self.observer.receipt,
            )
            for number in range(1, hosts + 1)
        ]  # fmt: skip

    def close(self) -> None:
        """Leave nothing behind."""
        for host in self.hosts:
            host.kill()
        for collector in self.collectors:
            collector.kill()
        self._engine.dispose()
        self._scratch.cleanup()

    @property
    def vkey(self) -> str:
        """The log's Ed25519 verifier key."""
        return self._keys.load(TENANT, "").verifier_keys[0]

    def run(self) -> None:
        """Live through it; Violation when a promise is broken."""
        self._set_up()
        for host in self.hosts:
            self._live(host)
        for _ in range(self._faults):
            self.timeline.after(self.rng.randrange(self._end_ns), self._break_something)
        self.timeline.run_until(self._end_ns)
        self._mend()
        self.timeline.run_until(self._end_ns + SETTLE_NS)
        self.observer.settle(self.hosts)

    def _set_up(self) -> None:
        self._initialise_regions()
        pepper, clock, chance_of = Pepper(b"p" * 32), SimClock(self.timeline), SimRandom("operator")
        first = self.collectors[0]
        first.start()
        with writing(self._engine) as connection:
            create_tenant(
                connection, self._keys.load(TENANT, ""), TENANT, public=False, now_ns=clock.wall_ns()
            )
        for host in self.hosts:
            genesis = host.enrol()
            with writing(self._engine) as connection:
                token = create_enrolment(
                    connection, pepper, chance_of, tenant=TENANT, agent=host.name, expires_ns=START_NS * 2
                )
            request = EnrollRequest(token, signing_request(), genesis.entry)
            with writing(self._engine) as connection:
                first.service.enrol(connection, request)
            host.start()

    def _initialise_regions(self) -> None:
        """The operator's init, with nothing going wrong."""
        steps = initialise_regions(TENANT, f"{NAME}/{TENANT}", self._regions, SimRandom("init"))
        try:
            calls = next(steps)
            while True:
                calls = steps.send([self.stores[call.region].perform(call.call) for call in calls])
        except StopIteration:
            return

    # Life

    def _live(self, host: SimHost) -> None:
        """The application writes: silence, single lines, bursts; now and then it rotates."""
        if self.timeline.now_ns >= self._end_ns:
            return
        kind = self.rng.random()
        if kind < 0.6:
            host.write_lines(1)
        elif kind < 0.85:
            host.write_lines(self.rng.randrange(2, 60))
        elif kind < 0.92:
            host.write_piece()
        else:
            for _ in range(self.rng.randrange(1, 4)):
                host.rotate()
                host.write_lines(self.rng.randrange(0, 3))
        self.timeline.after(int(self.rng.expovariate(1 / 6) * SECOND), lambda: self._live(host))

    # The network

    def _send(self, host: SimHost, request: HttpRequest) -> None:
        rng, process = self.rng, host.disk.process
        self.observer.request(host, self.timeline.now_ns)
        name = request.collector.removeprefix("https://")
        collector = next(item for item in self.collectors if item.name == name)

        def fail(reason: str, delay_ns: int) -> None:
            outcome = HttpFailure(request.request_id, reason)
            self.timeline.after(delay_ns, lambda: host.receive(process, outcome))

        if (host.name, name) in self._cut or not collector.is_running:
            fail("connection refused", rng.randrange(1, SECOND))
            return
        if chance(rng, self._lossy):
            fail("timeout", int(request.timeout_s * SECOND))
            return
        repeats = 2 if chance(rng, self._lossy) else 1

        def arrive() -> None:
            if not collector.is_running:
                return
            response = collector.answer(request, AgentIdentity(TENANT, host.name))
            if not chance(rng, self._lossy):
                self.timeline.after(rng.randrange(1, SECOND // 20), lambda: host.receive(process, response))

        for _ in range(repeats):
            late = rng.randrange(20 * SECOND) if chance(rng, self._lossy) else rng.randrange(1, SECOND // 20)
            self.timeline.after(late, arrive)
        fail("timeout", int(request.timeout_s * SECOND) + SECOND)

    # Faults

    def _break_something(self) -> None:
        host, collector = self.rng.choice(self.hosts), self.rng.choice(self.collectors)
        store = self.stores[self.rng.choice(sorted(self.stores))]
        faults: list[Callable[[SimHost, SimCollector, SimStore], str]] = [
            self._kill_agent, self._kill_agent_at_write, self._cut_power, self._stop_agent, self._fill_disk,
            self._partition, self._lose_messages, self._kill_collector, self._fail_over,
            self._take_region_down, self._cut_region,
            self._make_region_lossy, self._jump_clock, self._slow_region,
        ]  # fmt: skip
        what = self.rng.choice(faults)
        state = "publishing" if collector.is_running and collector.is_busy else "idle"
        self.covered[f"{what.__name__.strip('_')} while {state}"] += 1
        self.trace.append(f"{self.timeline.now_ns / SECOND:9.3f} {what(host, collector, store)}")

    def _for_a_while(self, undo: Callable[[], None], longest_s: int = 90) -> None:
        self.timeline.after(self.rng.randrange(1, longest_s * SECOND), undo)

    def _kill_agent(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        host.kill()
        self._for_a_while(host.start, 20)
        return f"kill -9 of the agent on {host.name}"

    def _kill_agent_at_write(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        number = self.rng.randrange(1, 40)
        host.die_at_write(number)
        return f"the agent on {host.name} dies at its write {number} from now"

    def _cut_power(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        host.cut_power()
        self._for_a_while(host.start, 30)
        return f"power cut of {host.name}"

    def _stop_agent(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        host.stop()
        self._for_a_while(host.start, 30)
        return f"the agent on {host.name} is stopped"

    def _fill_disk(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        host.disk.capacity_bytes = host.disk.used_bytes() + self.rng.randrange(0, 20_000)
        self._for_a_while(lambda: setattr(host.disk, "capacity_bytes", 1 << 40))
        return f"the disk of {host.name} fills up"

    def _partition(self, host: SimHost, collector: SimCollector, _store: SimStore) -> str:
        link = (host.name, collector.name)
        self._cut.add(link)
        self._for_a_while(lambda: self._cut.discard(link))
        return f"{host.name} cannot reach {collector.name}"

    def _lose_messages(self, _host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        self._lossy = self.rng.choice([0.05, 0.3])
        self._for_a_while(lambda: setattr(self, "_lossy", 0.0))
        return f"{self._lossy:.0%} of messages are lost, repeated, or late"

    def _kill_collector(self, _host: SimHost, collector: SimCollector, _store: SimStore) -> str:
        if not collector.is_running:
            return f"{collector.name} is down anyway"
        collector.kill()
        self._for_a_while(lambda: self._start(collector), 30)
        return f"kill -9 of {collector.name}"

    def _fail_over(self, _host: SimHost, collector: SimCollector, _store: SimStore) -> str:
        if collector.is_running:
            collector.publisher.promote()
        else:
            self._start(collector, promote=True)
        return f"{collector.name} is promoted"

    def _take_region_down(self, _host: SimHost, _collector: SimCollector, store: SimStore) -> str:
        store.is_down = True
        self._for_a_while(lambda: setattr(store, "is_down", False), 150)
        return f"the region {store.name} is down"

    def _cut_region(self, _host: SimHost, collector: SimCollector, store: SimStore) -> str:
        collector.link.cut.add(store.name)
        self._for_a_while(lambda: collector.link.cut.discard(store.name))
        return f"{collector.name} cannot reach {store.name}"

    def _make_region_lossy(self, _host: SimHost, _collector: SimCollector, store: SimStore) -> str:
        store.lost_request, store.lost_answer = 0.1, 0.2
        self._for_a_while(lambda: self._heal(store))
        return f"the region {store.name} loses calls and answers"

    def _slow_region(self, _host: SimHost, _collector: SimCollector, store: SimStore) -> str:
        store.slowest_ns = 20 * SECOND
        self._for_a_while(lambda: self._heal(store))
        return f"the region {store.name} is slow"

    def _jump_clock(self, host: SimHost, _collector: SimCollector, _store: SimStore) -> str:
        host.clock.offset_ns += self.rng.randrange(-3600, 3600) * SECOND
        return f"the clock of {host.name} jumps"

    def _heal(self, store: SimStore) -> None:
        store.lost_request = store.lost_answer = 0.0
        store.slowest_ns = SECOND // 20

    def _start(self, collector: SimCollector, *, promote: bool = False) -> None:
        if not collector.is_running:
            collector.start(promote=promote)

    def _mend(self) -> None:
        """All faults end, and one collector is promoted by its operator."""
        self._lossy = 0.0
        self._cut.clear()
        for store in self.stores.values():
            store.is_down = False
            self._heal(store)
        for collector in self.collectors:
            collector.link.cut.clear()
            collector.kill()
        self.collectors[0].start(promote=True)
        for host in self.hosts:
            host.disk.capacity_bytes = 1 << 40
            host.die_at_write(1 << 60)
            host.start()


@functools.cache
def shared_authority() -> Authority:
    """One certificate authority for all worlds: making one takes longer than a simulated minute."""
    return Authority(create_authority(NAME, START_NS, SimRandom("authority")))


@functools.cache
def signing_request() -> str:
    """A certificate signing request of one fixed key."""
    key = ec.derive_private_key(7, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()
