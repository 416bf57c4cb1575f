"""A host.

Applications that write and rotate logs, and an agent process with the real engine, spool and forwarder.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from duramen.checkpoint import LogKeys
from duramen.envelope import Recipient, Wrap
from duramen.errors import DuramenError
from duramen.names import ZERO_DIGEST, ChainId, Digest, Seq
from duramen.statement import Block, Genesis, log_digest
from duramen_agent.agentstatus import AgentStatus
from duramen_agent.configuration import AgentConfiguration
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.engine import Engine, Ports
from duramen_agent.event import AgentEvent
from duramen_agent.forwarder import Forwarder, ForwarderSettings
from duramen_agent.sealer import enrol_state
from duramen_agent.spool import Spool
from duramen_agent.step import Event, Moment, PathsChanged, StopRequested
from tests.sim.application import Application
from tests.sim.clock import SECOND, SimClock, SimRandom, Timeline
from tests.sim.disk import Fault, SimDisk

RESTART_NS = 2 * SECOND
"""How long the service manager waits before it starts an agent that ended."""


class WatchedSpool(Spool):
    """The spool; an observer sees what is about to be deleted on a receipt's word."""

    def __init__(
        self,
        path: str,
        vfs: str,
        observe: Callable[[list[bytes]], None],
        sealed: Callable[[Sequence[AgentEvent]], None],
    ) -> None:
        super().__init__(path, vfs)
        self._observe = observe
        self._sealed = sealed

    def append(self, *args: Any, **kwargs: Any) -> None:
        """As the spool does; then it is known that this process still sealed."""
        super().append(*args, **kwargs)
        self._sealed(kwargs.get("events", ()))

    def mark_published(
        self, through_seq: int, size: int, root: Digest, note: bytes, keep_ns: int, now_ns: int
    ) -> None:
        """As the spool does, after the observer has looked."""
        state = self.load()
        assert state is not None
        first = state.published_seq + 1
        self._observe(self.entries(first, through_seq - first + 1))
        super().mark_published(through_seq, size, root, note, keep_ns, now_ns)


class SimHost:
    """One host. ``send`` carries a request out; the answer comes to :meth:`receive`."""

    def __init__(
        self,
        name: str,
        timeline: Timeline,
        rng: random.Random,
        *,
        tenant: str,
        keys: LogKeys,
        collectors: list[str],
        recipient: Recipient,
        wrap: Wrap,
        send: Callable[[SimHost, HttpRequest], None],
        observe_receipt: Callable[[SimHost, list[bytes]], None],
        label: str | None = None,
        burst: int = 50,
    ) -> None:
        self.name = name
        self.rng = rng
        self.clock = SimClock(timeline)
        self.disk = SimDisk()
        self.disk.now_ns = self.clock.wall_ns
        self.disk.true_ns = lambda: timeline.now_ns
        self.random = SimRandom(label or name)
        self.application = Application(label or name, self.disk, rng, self._notify)
        self.last_blocks_ns: dict[int, int] = {}
        """When each process of the agent made its last block durable."""
        self.tellers: dict[bytes, int] = {}
        """Which process sealed an event."""
        self.failures: list[str] = []
        self._timeline = timeline
        self._keys = keys
        self._recipient = recipient
        self._wrap = wrap
        self._send = send
        self._observe_receipt = observe_receipt
        self._engine: Engine | None = None
        self._spool: Spool | None = None
        self._alarms = 0
        self._wanted = True
        self._writes_left: int | None = None
        self.disk.on_write = self._on_write
        self.configuration = AgentConfiguration.model_validate(
            {
                "tenant": tenant,
                "agent": name,
                "collectors": [f"https://{collector}" for collector in collectors],
                "ca": "/etc/duramen/ca.pem",
                "log_keys": [keys.ed25519.encode(), keys.mldsa44.encode()],
                "recipients": ["/etc/duramen/readers.pub"],
                "state_dir": "/state",
                "sources": [{"stream": "app", "paths": ["/logs/app.log*"]}],
                "spool": {"min_free_bytes": 0},
                "seal": {"burst": burst},
            }
        )

    def _notify(self, paths: set[bytes]) -> None:
        event = PathsChanged(frozenset(paths))
        self._timeline.after(self.rng.randrange(1, SECOND // 100), lambda: self.step(event))

    # The agent

    @property
    def is_running(self) -> bool:
        """Whether there is an agent process."""
        return self._engine is not None

    def enrol(self) -> Block:
        """Begin the chain; the genesis block."""
        genesis = Genesis(
            public=b"",
            tenant=self.configuration.tenant,
            agent=self.name,
            log=log_digest(self._keys.origin, (self._keys.ed25519.encode(), self._keys.mldsa44.encode())),
            configuration=self.configuration.config_sha256,
            replaces=ChainId(ZERO_DIGEST),
            replaced_seq=Seq(0),
            replaced_hash=ZERO_DIGEST,
        )
        spool = Spool("/state/spool.db", self.disk.vfs.name)
        block = enrol_state(
            spool, self.disk, self.random, "/state", self._now(), self.clock.boot_id(), genesis,
            self.configuration.config_sha256,
        )  # fmt: skip
        spool.close()
        return block

    def start(self) -> None:
        """The agent process starts, as after a crash or a clean stop: it cannot know."""
        if self.is_running:
            return
        self._wanted = True
        try:
            self._spool = WatchedSpool(
                "/state/spool.db",
                self.disk.vfs.name,
                lambda entries: self._observe_receipt(self, entries),
                self._note_block,
            )
            settings = ForwarderSettings(
                tuple(self.configuration.collectors),
                self.configuration.heartbeat,
                self.configuration.receipts.keep,
                self._keys,
            )
            spool = self._spool
            self._engine = Engine(
                self.configuration,
                spool,
                Ports(self.disk, self.random, self._wrap, self.clock.boot_id()),
                [self._recipient],
                self._now(),
                connect=lambda sign: Forwarder(spool, settings, self.random, sign),
            )
        except (DuramenError, Fault, OSError) as error:
            self._died(error)
            return
        self.step()

    def step(self, *events: Event) -> None:
        """One step of the engine, and the next when it is due."""
        if self._engine is None:
            return
        try:
            effects = self._engine.step(events, self._now())
        except (DuramenError, Fault, OSError) as error:
            self._died(error)
            return
        for request in effects.requests:
            self._send(self, request)
        if effects.stopped:
            self.kill()
        elif effects.deadline_ns is not None:
            self._alarms += 1
            alarm = self._alarms
            self._timeline.after(
                effects.deadline_ns - self.clock.monotonic_ns(), lambda: self._step_at(alarm)
            )

    def _step_at(self, alarm: int) -> None:
        """Only the latest deadline counts, and none of a dead process."""
        if alarm == self._alarms:
            self.step()

    def receive(self, process: int, outcome: HttpResponse | HttpFailure) -> None:
        """An answer, if the process that asked still lives."""
        if process == self.disk.process:
            self.step(outcome)

    def _note_block(self, events: Sequence[AgentEvent]) -> None:
        for event in events:
            self.tellers[event.encode()[:-1]] = self.disk.process
        self.last_blocks_ns[self.disk.process] = self._timeline.now_ns

    def stop(self) -> None:
        """SIGTERM; somebody starts it again."""
        self._wanted = False
        self.step(StopRequested())

    def kill(self) -> None:
        """kill -9: what the kernel has stays, the process is gone."""
        self.disk.bury()
        self._alarms += 1
        self._engine = None
        self._writes_left = None
        if self._spool is not None:
            self.disk.is_burying = True
            with contextlib.suppress(DuramenError):
                self._spool.close()
            self.disk.is_burying = False
            self._spool = None

    def cut_power(self, rng: random.Random) -> None:
        """The machine loses power and comes back."""
        self.kill()
        self.disk.cut_power(rng)
        self.clock.reboot()

    def die_at_write(self, number: int) -> None:
        """Die at the n-th write or sync from now."""
        self._writes_left = number

    def _on_write(self) -> None:
        if self._writes_left is None:
            return
        self._writes_left -= 1
        if self._writes_left <= 0:
            self._writes_left = None
            raise Fault("the process died at a system call")

    def _died(self, error: Exception) -> None:
        if not isinstance(error, Fault):
            self.failures.append(str(error))
        self.kill()
        if self._wanted:
            self._timeline.after(RESTART_NS, self.start)

    def _now(self) -> Moment:
        return Moment(self.clock.wall_ns(), self.clock.monotonic_ns())

    @property
    def engine(self) -> Engine:
        """The running engine."""
        assert self._engine is not None
        return self._engine

    def status_now(self) -> AgentStatus:
        """`duramen-agent status`."""
        return self.engine.status(self._now())
