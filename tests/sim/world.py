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
from pathlib import Path

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duramen.api import EnrollRequest
from duramen.checkpoint import LogKeys, LogSigner
from duramen.envelope import ReaderKey
from duramen_collector.authority import Authority, create_authority
from duramen_collector.database import open_database, writing
from duramen_collector.heads import initialise_regions
from duramen_collector.logkeys import NoticeSigner, TenantKeys
from duramen_collector.register import Configuration
from duramen_collector.schema import metadata
from duramen_collector.sequencer import LogSettings, Retention
from duramen_collector.tenancy import create_tenant
from duramen_collector.tokens import Pepper, create_enrolment
from tests.sim.clock import SECOND, START_NS, SimClock, SimRandom, Timeline
from tests.sim.collector import SimCollector
from tests.sim.faults import Planned, draw, strike
from tests.sim.host import SimHost
from tests.sim.network import Network
from tests.sim.observer import Observer
from tests.sim.region import SimStore

TENANT = "acme"
NAME = "logs.example.com"
MINUTE = 60 * SECOND
SETTLE_NS = 8 * MINUTE
BUSY_EVERY = 4
"""One seed in so many begins with enough blocks to fill a tile."""
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

    def __init__(
        self,
        seed: int,
        *,
        hosts: int = 2,
        minutes: float = 10,
        faults: int = 20,
        only: frozenset[int] | None = None,
    ) -> None:
        self.seed = seed
        self.timeline = Timeline()
        self.trace: list[str] = []
        self.covered: Counter[str] = Counter()
        self._end_ns = int(minutes * MINUTE)
        self._scratch = tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
        self._keys = FixedKeys()
        names = ("eu", "gcp", "us")
        self.stores = {name: SimStore(name) for name in names}
        planned = draw(seed, faults, self._end_ns, hosts, 2, sorted(names))
        self.faults = [item for item in planned if only is None or item.index in only]
        self.observer = Observer(TENANT, self.keys, self.stores, copies=2)
        self._engine = open_database(Path(self._scratch.name) / "collector.db")
        metadata.create_all(self._engine)
        self._regions = Configuration(1, names, 2)
        settings = LogSettings(TENANT, self._regions, Retention(7 * 365 * 86_400), 1 << 20)
        authority = shared_authority()
        self.collectors = [
            SimCollector(
                name, self.timeline, self._random(name), engine=self._engine,
                authority=authority, keys=self._keys,
                settings=settings, stores=self.stores, interval_ns=5 * SECOND,
                observe_signature=self.observer.signature,
            )
            for name in ("c1", "c2")
        ]  # fmt: skip
        self.hosts = [self.make_host(f"host-{number}") for number in range(1, hosts + 1)]
        self.network = Network(
            self.timeline, self._random("network"), TENANT, self.collectors, self.observer.request
        )

    def make_host(self, name: str, label: str | None = None) -> SimHost:
        """A host; another ``label`` gives one of the same name other randomness: a clone."""
        return SimHost(
            name,
            self.timeline,
            self._random(label or name),
            tenant=TENANT,
            keys=self.keys,
            collectors=["c1", "c2"],
            recipient=ReaderKey(b"r" * 32).recipient,
            wrap=self.observer.wrap,
            send=lambda host, request: self.network.send(host, request),  # noqa: PLW0108  # made after the hosts
            observe_receipt=self.observer.receipt,
            label=label,
            burst=170 if self.is_busy else 50,
        )

    @property
    def is_busy(self) -> bool:
        """Whether it begins with enough blocks to fill a tile."""
        return self.seed % BUSY_EVERY == BUSY_EVERY - 1

    @property
    def keys(self) -> LogKeys:
        """The public keys of the log."""
        return self._keys.load(TENANT, "").log.keys()

    @property
    def engine(self) -> sa.Engine:
        """The collectors' database."""
        return self._engine

    def _random(self, label: str) -> random.Random:
        """Randomness of one part: what others draw changes nothing for it."""
        return random.Random(f"{self.seed}/{label}")

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
        self.set_up()
        if self.is_busy:
            for tenths in range(170):
                for host in self.hosts:
                    self.timeline.after(
                        tenths * SECOND // 10, functools.partial(host.application.write_lines, 1)
                    )
        for host in self.hosts:
            self._live(host, self._random(f"life of {host.name}"))
        for planned in self.faults:
            self.timeline.after(planned.at_ns, functools.partial(self._strike, planned))
        self.timeline.run_until(self._end_ns)
        self._mend()
        self.timeline.run_until(self._end_ns + SETTLE_NS)
        self.observer.settle(self.hosts)

    def live_on(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run_until(self.timeline.now_ns + int(seconds * SECOND))

    def set_up(self) -> None:
        """Regions, a tenant, a collector, and every host enrolled and running."""
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

    def _live(self, host: SimHost, rng: random.Random) -> None:
        """The application writes: silence, single lines, bursts; now and then it rotates."""
        if self.timeline.now_ns >= self._end_ns:
            return
        kind, application = rng.random(), host.application
        if kind < 0.6:
            application.write_lines(1)
        elif kind < 0.85:
            application.write_lines(rng.randrange(2, 60))
        elif kind < 0.92:
            application.write_piece()
        else:
            for _ in range(rng.randrange(1, 4)):
                application.rotate()
                application.write_lines(rng.randrange(0, 3))
        self.timeline.after(int(rng.expovariate(1 / 6) * SECOND), lambda: self._live(host, rng))

    def _strike(self, planned: Planned) -> None:
        collector = self.collectors[planned.collector]
        state = "publishing" if collector.is_running and collector.is_busy else "idle"
        self.covered[f"{planned.kind} while {state}"] += 1
        what = strike(self, planned)
        self.trace.append(f"{planned.index:3d} {self.timeline.now_ns / SECOND:9.3f} {what}")

    def _mend(self) -> None:
        """All faults end, and one collector is promoted by its operator."""
        self.network.heal()
        for store in self.stores.values():
            store.is_down = False
            store.heal()
        for collector in self.collectors:
            collector.link.cut.clear()
            collector.kill()
        self.collectors[0].start(promote=True)
        for host in self.hosts:
            host.disk.capacity_bytes = 1 << 40
            host.disk.failing_reads = host.disk.failing_writes = False
            host.disk.is_quota_exhausted = False
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
