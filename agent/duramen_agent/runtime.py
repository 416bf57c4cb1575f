"""The running agent: real clock, disk, network and signals around the state machine.

One thread, the main one, steps the engine; transport, file events and the status socket have threads of their
own that only put things into the inbox. The main loop sleeps until something is put or the engine's next
instant comes; an idle agent does nothing else than its heartbeats and its looks at the directories. Changed
paths wake it at once when it has been quiet, and at most every :data:`CHANGES_GAP_NS` when it has not.

SIGTERM and SIGINT: what is there is sealed, with a stop event, and forwarded as far as a collector takes it,
for at most :data:`STOP_WITHIN_NS`; what is left waits in the spool for the next start. Errors of the disk end
the process: it starts again the same way as after a crash.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final

from duramen.envelope import wrap
from duramen.ports import Clock
from duramen.system import SystemClock, SystemDisk, SystemRandom
from duramen_agent.configuration import AgentConfiguration
from duramen_agent.effects import HttpFailure, HttpResponse
from duramen_agent.engine import Engine
from duramen_agent.engine import Ports as EnginePorts
from duramen_agent.forwarder import Forwarder, ForwarderSettings, SignHeartbeat
from duramen_agent.inbox import Inbox
from duramen_agent.layout import CERTIFICATE_FILE, KEY_FILE, STATUS_SOCKET
from duramen_agent.release import release
from duramen_agent.sealer import SPOOL_FILE
from duramen_agent.spool import Spool
from duramen_agent.status import Report, encode_report, measure_process
from duramen_agent.status_socket import Query, StatusServer
from duramen_agent.step import Event, Moment, PathsChanged, StopRequested
from duramen_agent.transport import Transport, tls_context
from duramen_agent.trust import pinned_keys, read_policy, read_recipients
from duramen_agent.watcher import Watcher

CHANGES_GAP_NS: Final = 3 * 10**6
"""The shortest time between two steps for changed paths alone."""
STOP_WITHIN_NS: Final = 9 * 10**9
"""How long a stop may take; the service manager is told ten seconds."""

Item = Event | Query


@dataclass(frozen=True, slots=True)
class _Parts:
    inbox: Inbox[object]
    spool: Spool
    engine: Engine
    forwarder: Forwarder
    transport: Transport
    watcher: Watcher


class Runtime:
    """One agent process; everything is opened, and checked, at construction."""

    def __init__(self, configuration: AgentConfiguration) -> None:
        self._configuration = configuration
        self._clock = SystemClock()
        self._started_ns = self._clock.monotonic_ns()
        self._version = release()
        self._stop_by_ns: int | None = None
        self._parts = _open(configuration, self._clock)

    def run(self) -> None:
        """Run until a signal ends it."""
        parts = self._parts
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        server = StatusServer(Path(self._configuration.state_dir) / STATUS_SOCKET, parts.inbox.put)
        try:
            notify("READY=1")
            self._loop()
        finally:
            notify("STOPPING=1")
            server.close()
            parts.watcher.close()
            parts.transport.close()
            parts.spool.close()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._parts.inbox.put(StopRequested())

    def _loop(self) -> None:
        parts = self._parts
        while True:
            now = Moment(self._clock.wall_ns(), self._clock.monotonic_ns())
            deadline_ns, stopped = self._step(now)
            if stopped and (self._stop_by_ns is None or not self._waits_for_collector(now)):
                return
            if self._stop_by_ns is not None:
                deadline_ns = min(deadline_ns or self._stop_by_ns, self._stop_by_ns)
            if deadline_ns is None or deadline_ns > now.monotonic_ns:
                quiet_ns = now.monotonic_ns + CHANGES_GAP_NS - self._clock.monotonic_ns()
                if quiet_ns > 0:
                    time.sleep(quiet_ns / 10**9)
                parts.inbox.wait(None if deadline_ns is None else deadline_ns - self._clock.monotonic_ns())

    def _step(self, now: Moment) -> tuple[int | None, bool]:
        """One round: the engine's next instant, and whether it has stopped."""
        parts = self._parts
        items, paths = parts.inbox.take()
        events: list[Event] = [item for item in items if isinstance(item, Event)]
        if paths is None or paths:
            events.append(PathsChanged(paths))
        if self._stop_by_ns is None and any(isinstance(item, StopRequested) for item in events):
            self._stop_by_ns = now.monotonic_ns + STOP_WITHIN_NS
        effects = parts.engine.step(events, now)
        for request in effects.requests:
            parts.transport.send(request)
        for item in items:
            if isinstance(item, Query):
                item.reply.put(self._answer(item, now))
        parts.watcher.update(parts.engine.watches, now.monotonic_ns)
        return effects.deadline_ns, effects.stopped

    def _waits_for_collector(self, now: Moment) -> bool:
        assert self._stop_by_ns is not None
        return now.monotonic_ns < self._stop_by_ns and not self._parts.forwarder.settled

    def _answer(self, query: Query, now: Moment) -> bytes:
        if query.word == "events":
            return b"".join(self._parts.spool.events())
        status = self._parts.engine.status(now)
        problem = self._parts.watcher.problem
        if problem is not None:
            state = "degraded" if status.state == "ok" else status.state
            status = replace(status, state=state, reasons=[*status.reasons, problem])
        process = measure_process((now.monotonic_ns - self._started_ns) / 10**9)
        return encode_report(Report(status, self._version, process))


def _open(configuration: AgentConfiguration, clock: Clock) -> _Parts:
    """Everything that can be wrong is found here, before anything is read or sent."""
    state_dir = Path(configuration.state_dir)
    keys = pinned_keys(configuration.log_keys)
    policy = read_policy(configuration.receipts.policy)
    recipients = read_recipients(configuration.recipients)
    context = tls_context(Path(configuration.ca), state_dir / CERTIFICATE_FILE, state_dir / KEY_FILE)
    settings = ForwarderSettings(
        configuration.collectors, configuration.heartbeat, configuration.receipts.keep, keys, policy
    )
    random = SystemRandom()
    inbox: Inbox[object] = Inbox()
    spool = Spool(str(state_dir / SPOOL_FILE))
    forwarders: list[Forwarder] = []

    def connect(sign_heartbeat: SignHeartbeat) -> Forwarder:
        forwarders.append(Forwarder(spool, settings, random, sign_heartbeat))
        return forwarders[0]

    engine = Engine(
        configuration,
        spool,
        EnginePorts(SystemDisk(), random, wrap, clock.boot_id()),
        recipients,
        Moment(clock.wall_ns(), clock.monotonic_ns()),
        connect=connect,
    )

    def deliver(outcome: HttpResponse | HttpFailure) -> None:
        inbox.put(outcome)

    transport = Transport(context, clock, deliver)
    return _Parts(inbox, spool, engine, forwarders[0], transport, Watcher(inbox))


def notify(state: str) -> None:
    """Tell the service manager (sd_notify(3)), where there is one that listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection,
    ):
        connection.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
