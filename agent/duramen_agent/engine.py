"""The agent as one state machine: events in, effects out, nothing else (see :mod:`duramen_agent.step`).

It owns tailer, sealer, spool and forwarder, and decides when to read: a shred group's files are read when
its allowance permits a block, when what is known to wait would fill one, or when a file ended. What a round
found is sealed before the next round reads anything. If it cannot be sealed because the spool or its disk
is full, it stays in memory, at most one round of it, and nothing more is read until it could be: no bytes
are lost, and none are read twice.

Each step does a bounded amount of work: one discovery at most, one read round of about :data:`SEAL_BYTES`,
what follows from the events it was given. If more is ready it asks to be called again at once. Otherwise it
names the instant at which something becomes due, so that an idle agent sleeps.

Every other storage error ends the process: it starts again the same way as after a crash.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from duramen.envelope import Recipient, Wrap
from duramen.errors import ConfigurationError
from duramen.names import Digest, Seq
from duramen.ports import Disk, Random
from duramen.statement import Flags
from duramen_agent.agentstatus import AgentStatus, HeadStatus, LossStatus, SpoolStatus
from duramen_agent.allowance import Allowance
from duramen_agent.batch import Batch
from duramen_agent.configuration import AgentConfiguration
from duramen_agent.effects import HttpFailure, HttpResponse
from duramen_agent.event import AgentEvent, EventKind
from duramen_agent.sealer import Contents, Sealer
from duramen_agent.source import DEFAULT_SLOT, Slot, Source, Watch
from duramen_agent.spool import Spool, SpoolFull
from duramen_agent.step import Effects, Event, Forwarder, Moment, PathsChanged, StopRequested
from duramen_agent.tail import Tailer

SEAL_BYTES: Final = 1024 * 1024
"""Raw bytes of one round: a larger block gains no speed, and costs memory and latency."""
IDLE_NS: Final = 15 * 60 * 10**9
"""After so long without a block, an empty one says that there was nothing."""
STOP_NS: Final = 5 * 10**9
"""How long a stop goes on reading what is there."""
PRUNE_NS: Final = 60 * 10**9
"""How often blocks kept back after their receipt are looked at."""
PAUSE_CHECK_NS: Final = 10**9
RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Left below each limit for the largest block, its copy in the WAL and the deletions to come."""

SignHeartbeat = Callable[[bytes], tuple[Seq, Digest, bytes]]
"""From a collector's nonce: the next seq, the head's hash, and the signature by the next block's key."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The engine's doors to the world."""

    disk: Disk
    random: Random
    wrap: Wrap
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing is read, and since when (Unix ns)."""

    reason: str
    since_ns: int


class Engine:
    """One agent. Construction reads the spool and the seed, and raises what is wrong with them.

    ``connect`` makes the forwarder from what signs its heartbeats.
    """

    def __init__(
        self,
        configuration: AgentConfiguration,
        spool: Spool,
        ports: Ports,
        recipients: Iterable[Recipient],
        now: Moment,
        connect: Callable[[SignHeartbeat], Forwarder],
    ) -> None:
        state = spool.load()
        if state is None:
            raise ConfigurationError("this host is not enrolled: run duramen-agent enroll")
        named = (configuration.tenant, configuration.agent)
        if named != (state.identity.tenant, state.identity.agent):
            raise ConfigurationError(
                f"the configuration names the agent {named[0]}/{named[1]}, but this host is enrolled as "
                f"{state.identity.tenant}/{state.identity.agent}; correct the names, or enrol anew"
            )
        self._configuration = configuration
        self._config_sha256 = configuration.config_sha256
        self._spool = spool
        self._disk = ports.disk
        self._sealer = Sealer(
            spool,
            state,
            ports.disk,
            ports.random,
            ports.wrap,
            ports.boot_id,
            configuration.state_dir,
            recipients,
        )
        self._tailer = Tailer(
            ports.disk,
            sources_of(configuration, self._sealer.group_number),
            state.positions,
            state.next_generation,
            state.fingerprint_key,
        )
        self._forwarder = connect(self._sealer.heartbeat)
        self._allowances: dict[Slot, Allowance] = {}
        self._queue: deque[tuple[Contents, Batch | None]] = deque()
        self._pause: Pause | None = None
        self._sealed_ns = now.monotonic_ns
        self._prune_ns = now.monotonic_ns
        self._stop_ns: int | None = None
        self._stopped = False
        crashed = state.chain.seq > 0 and not state.chain.stopped
        self._queue_start(now, crashed=crashed, changed=state.configuration != self._config_sha256)

    def _queue_start(self, now: Moment, *, crashed: bool, changed: bool) -> None:
        flags = Flags.CONFIGURATION if changed else Flags.NONE
        details = {"after": "crash" if crashed else "stop", "configuration": self._config_sha256.hex()}
        start = AgentEvent(EventKind.START, now.wall_ns, details)
        contents = Contents(
            DEFAULT_SLOT, events=(start,), flags=flags, configuration=self._config_sha256 if changed else None
        )
        self._queue.append((contents, None))

    @property
    def watches(self) -> frozenset[Watch]:
        """The directories whose changes an adapter should report."""
        return self._tailer.watches()

    def step(self, events: Sequence[Event], now: Moment) -> Effects:
        """Take what happened, do what is due, and say what is to be done outside and when to come back."""
        self._take(events, now)
        if not self._stopped:
            if now.monotonic_ns >= self._tailer.discovery_deadline_ns():
                self._tailer.discover(now)
            self._work(now)
            self._prune(now)
        requests = self._forwarder.poll(now.monotonic_ns)
        return Effects(tuple(requests), self._deadline_ns(now), stopped=self._stopped)

    def _take(self, events: Sequence[Event], now: Moment) -> None:
        for event in events:
            if isinstance(event, PathsChanged):
                self._tailer.paths_changed(event.paths, now)
            elif isinstance(event, StopRequested):
                self._stop_ns = now.monotonic_ns + STOP_NS if self._stop_ns is None else self._stop_ns
            else:
                self._take_answer(event, now)

    def _take_answer(self, answer: HttpResponse | HttpFailure, now: Moment) -> None:
        try:
            if isinstance(answer, HttpResponse):
                self._forwarder.on_response(answer, now.wall_ns, now.monotonic_ns)
                self._sealer.saw_checkpoint(*self._spool.seen())
            else:
                self._forwarder.on_failure(answer, now.monotonic_ns)
        except SpoolFull as error:  # the answer comes again: what was not marked is asked for again
            self._hold(str(error), now)

    def _prune(self, now: Moment) -> None:
        """Delete what was kept back for ``receipts.keep`` and is due; without it, receipts delete at once."""
        keep_ns = self._configuration.receipts.keep
        if keep_ns == 0 or now.monotonic_ns < self._prune_ns:
            return
        self._prune_ns = now.monotonic_ns + PRUNE_NS
        try:
            self._spool.prune(keep_ns, now.wall_ns)
        except SpoolFull as error:
            self._hold(str(error), now)

    # Reading and sealing

    def _work(self, now: Moment) -> None:
        reason = self._space()
        if reason is not None:
            self._hold(reason, now)
        elif self._drain(now):
            self._resume(now)
            self._read(now)
            if self._drain(now):
                self._seal_idle(now)
                self._seal_stop(now)
        if self._pause is not None:
            self._tailer.drop_held(self._configuration.spool.hold_bytes, now)
            self._stopped = self._stop_ns is not None

    def _space(self) -> str | None:
        """Why there is no room for a block, if there is none."""
        limits = self._configuration.spool
        margin = RESERVE_BYTES if self._pause is None else 2 * RESERVE_BYTES
        if self._spool.usage().bytes + min(margin, limits.max_bytes // 2) > limits.max_bytes:
            return "the spool has reached spool.max_bytes: check forwarding"
        try:
            free = self._disk.free_bytes(os.fsencode(self._configuration.state_dir))
        except OSError as error:
            return f"the free space of {self._configuration.state_dir} cannot be told: {error.strerror}"
        if free - margin < limits.min_free_bytes:
            return f"the disk of {self._configuration.state_dir} is down to spool.min_free_bytes"
        return None

    def _hold(self, reason: str, now: Moment) -> None:
        since_ns = now.wall_ns if self._pause is None else self._pause.since_ns
        self._pause = Pause(reason, since_ns)

    def _resume(self, now: Moment) -> None:
        """There is room again: the episode itself becomes a record."""
        if self._pause is None:
            return
        details: dict[str, str | int] = {"reason": self._pause.reason, "since": self._pause.since_ns}
        episode = AgentEvent(EventKind.PAUSED, now.wall_ns, details)
        self._pause = None
        self._queue.append((Contents(DEFAULT_SLOT, events=(episode,)), None))

    def _read(self, now: Moment) -> None:
        """One round; what it found is queued."""
        free, chosen = set(), set()
        for slot in self._tailer.ready_slots():
            if self._allowance(slot, now).available_at_ns(now.monotonic_ns) <= now.monotonic_ns:
                free.add(slot)
            if slot in free or self._stop_ns is not None or self._tailer.backlog_bytes(slot) >= SEAL_BYTES:
                chosen.add(slot)
        for batch in self._tailer.read_round(SEAL_BYTES, now, chosen | self._tailer.ending_slots()):
            if batch.slot in free and 0 < batch.raw_bytes < SEAL_BYTES:
                self._allowance(batch.slot, now).take()
            contents = Contents(batch.slot, batch.chunks, batch.events, batch.positions)
            self._queue.append((contents, batch))

    def _allowance(self, slot: Slot, now: Moment) -> Allowance:
        if slot not in self._allowances:
            seal = self._configuration.seal
            self._allowances[slot] = Allowance(seal.burst, seal.max_delay, now.monotonic_ns)
        return self._allowances[slot]

    def _drain(self, now: Moment) -> bool:
        """Make everything queued durable; False when the disk is full."""
        while self._queue:
            contents, batch = self._queue[0]
            try:
                if contents.chunks or contents.events:
                    self._sealer.seal(contents, now)
                    self._noted(now)
                elif contents.positions:
                    self._spool.write_positions(contents.positions)
            except SpoolFull as error:
                self._hold(str(error), now)
                return False
            self._queue.popleft()
            if batch is not None:
                self._tailer.commit(batch)
        return True

    def _noted(self, now: Moment) -> None:
        self._sealed_ns = now.monotonic_ns
        self._forwarder.on_sealed()

    def _seal_idle(self, now: Moment) -> None:
        if now.monotonic_ns - self._sealed_ns < IDLE_NS:
            return
        try:
            self._sealer.seal_nothing(now)
        except SpoolFull as error:
            self._hold(str(error), now)
        else:
            self._noted(now)

    def _seal_stop(self, now: Moment) -> None:
        if self._stop_ns is None or (self._tailer.ready_slots() and now.monotonic_ns < self._stop_ns):
            return
        stop = AgentEvent(EventKind.STOP, now.wall_ns)
        self._queue.append((Contents(DEFAULT_SLOT, events=(stop,), flags=Flags.STOP), None))
        self._drain(now)
        self._stopped = True
        self._tailer.close()

    def _deadline_ns(self, now: Moment) -> int | None:
        times = [] if self._stopped else [self._tailer.discovery_deadline_ns(), self._sealed_ns + IDLE_NS]
        forward = self._forwarder.deadline_ns()
        if forward is not None:
            times.append(forward)
        if not self._stopped and self._pause is not None:
            times.append(now.monotonic_ns + PAUSE_CHECK_NS)
        elif not self._stopped:
            for slot in self._tailer.ready_slots():
                urgent = self._stop_ns is not None or self._tailer.backlog_bytes(slot) >= SEAL_BYTES
                available_ns = self._allowance(slot, now).available_at_ns(now.monotonic_ns)
                times.append(now.monotonic_ns if urgent else available_ns)
            if self._stop_ns is not None or self._tailer.ending_slots():
                times.append(now.monotonic_ns)
        return min(times, default=None)

    # Showing

    def status(self, now: Moment) -> AgentStatus:
        """The contract's status."""
        usage = self._spool.usage()
        forward = self._forwarder.status(now.wall_ns)
        sources = self._tailer.statuses()
        chain = self._sealer.state
        lost_bytes, loss_events = self._spool.losses()
        reasons = [] if self._pause is None else [f"reading is stopped: {self._pause.reason}"]
        if self._sealer.seed_pending:
            reasons.append("the seed file could not be written: nothing is sealed until it can be")
        reasons += [item for item in (forward.critical, forward.degraded) if item is not None]
        reasons += [f"{item.file or item.path}: {item.state}" for item in sources if item.is_problem]
        state = "critical" if forward.critical else "degraded" if reasons else "ok"
        oldest = None if usage.oldest_ns is None else max(0, now.wall_ns - usage.oldest_ns) / 10**9
        try:
            free = self._disk.free_bytes(os.fsencode(self._configuration.state_dir))
        except OSError:
            free = 0
        return AgentStatus(
            state=state,
            reasons=reasons,
            tenant=chain.tenant,
            agent=chain.agent,
            chain=chain.chain.hex(),
            head=HeadStatus(chain.seq, chain.head.hex(), chain.records, chain.sealed_ns),
            spool=SpoolStatus(usage.blocks, usage.bytes, self._configuration.spool.max_bytes, oldest, free),
            forward=forward,
            sources=sources,
            losses=LossStatus(lost_bytes, None, loss_events),
            config_sha256=self._config_sha256.hex(),
        )


def sources_of(configuration: AgentConfiguration, number: Callable[[str], int]) -> list[Source]:
    """The configuration's sources, with shred groups by number."""
    return [
        Source(
            stream=item.stream,
            patterns=tuple(map(os.fsencode, item.paths)),
            exclude=tuple(map(os.fsencode, item.exclude)),
            labels=item.labels,
            slot=Slot(number(item.shred_group), item.retention_class),
        )
        for item in configuration.sources
    ]
