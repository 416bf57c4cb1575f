"""A collector process: the real service and publisher on a database that outlives them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa

from duramen.api import (
    JSON_MEDIA_TYPE,
    PROBLEM_MEDIA_TYPE,
    Problem,
    parse_envelope_upload,
    parse_heartbeat,
)
from duramen.checkpoint import Checkpoint, LogSigner
from duramen.errors import DuramenError
from duramen.names import ChainId, parse_data_key_id, parse_digest
from duramen_agent.effects import HttpRequest, HttpResponse
from duramen_collector.authority import AgentIdentity, Authority
from duramen_collector.database import reading, writing, writing_connection
from duramen_collector.history import pack_index
from duramen_collector.ingest import parse_blocks
from duramen_collector.judgement import Judged
from duramen_collector.ledger import Ledger
from duramen_collector.logkeys import KeyRing
from duramen_collector.publisher import Batch, Effect, Publisher
from duramen_collector.refusal import problem_of
from duramen_collector.replica import TwoKeySigner
from duramen_collector.sequencer import LogSettings, Sequencer
from duramen_collector.service import Service
from duramen_collector.tokens import Pepper
from tests.sim.clock import SECOND, SimClock, SimRandom, Timeline
from tests.sim.region import RegionLink, SimStore

SLOWEST_LOOK_NS = 5 * SECOND


class WatchedSigner(TwoKeySigner):
    """The log's signer; an observer sees what is signed."""

    def __init__(self, signer: LogSigner, observe: Callable[[Checkpoint], None]) -> None:
        super().__init__(signer)
        self._observe = observe

    def sign(self, checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
        self._observe(checkpoint)
        return super().sign(checkpoint, timestamp_seconds)


class SimCollector:
    """One process; :meth:`kill` and :meth:`start` are its crashes and restarts."""

    def __init__(
        self,
        name: str,
        timeline: Timeline,
        rng: random.Random,
        *,
        engine: sa.Engine,
        authority: Authority,
        keys: KeyRing,
        settings: LogSettings,
        stores: dict[str, SimStore],
        interval_ns: int,
        observe_signature: Callable[[Checkpoint], None],
    ) -> None:
        self.name = name
        self.clock = SimClock(timeline)
        self.random = SimRandom(name)
        self.link = RegionLink(timeline, rng, stores)
        self.is_running = False
        self._timeline = timeline
        self._engine = engine
        self._keys = keys
        self._settings = settings
        self._interval_ns = interval_ns
        self._authority = authority
        self._signer = WatchedSigner(keys.load(settings.tenant, "").log, observe_signature)
        self._publisher: Publisher | None = None
        self._connection: sa.Connection | None = None
        self._generation = 0
        self.service: Service

    def start(self, *, promote: bool = False) -> None:
        """The process starts, on whatever the database holds."""
        self.is_running = True
        self._generation += 1
        self.service = Service(
            authority=self._authority,
            log_keys=self._keys,
            pepper=Pepper(b"p" * 32),
            clock=self.clock,
            random=self.random,
        )
        self._connection = writing_connection(self._engine)
        ledger = Ledger(self._connection, self._settings.tenant, pack_index(self._settings.tenant))
        sequencer = Sequencer(self._settings, ledger, self._signer, self.clock, self.random)
        self._publisher = Publisher(
            sequencer, ledger, interval_ns=self._interval_ns, max_bytes=self._settings.max_bytes
        )
        if promote:
            self._publisher.promote()
        self._tick(self._generation)

    def start_again(self) -> None:
        """The service manager starts it, unless somebody did."""
        if not self.is_running:
            self.start()

    def kill(self) -> None:
        """The process dies; calls that are under way may still arrive in the regions."""
        self.is_running = False
        self._generation += 1
        self.link.drop()
        self._publisher = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def publisher(self) -> Publisher:
        """The running publisher."""
        assert self._publisher is not None
        return self._publisher

    @property
    def is_busy(self) -> bool:
        """Whether calls to regions are under way."""
        return self.link.is_busy

    def _tick(self, generation: int) -> None:
        if generation == self._generation:
            effect = self.publisher.tick(self.clock.monotonic_ns(), self.clock.wall_ns())
            self._perform(effect, generation)

    def _perform(self, effect: Effect, generation: int) -> None:
        if isinstance(effect, Batch):
            self.link.perform(
                effect.calls,
                lambda answers: self._perform(
                    self.publisher.answers(answers, self.clock.monotonic_ns()), generation
                ),
            )
            return
        if self.publisher.is_accepting():
            self.service.resume(self._settings.tenant)
        else:
            self.service.step_down(self._settings.tenant, "another sequencer holds the log")
        wait_ns = SLOWEST_LOOK_NS if effect.until_ns is None else effect.until_ns - self.clock.monotonic_ns()
        self._timeline.after(wait_ns, lambda: self._tick(generation))

    # Requests

    def answer(self, request: HttpRequest, peer: AgentIdentity | None) -> HttpResponse:
        """What the web adapter does, without the web."""
        try:
            status, body = self._route(request, peer)
        except DuramenError as error:
            return self._problem(request, problem_of(error))
        if isinstance(body, Problem):
            return self._problem(request, body)
        return HttpResponse(request.request_id, status, {"content-type": JSON_MEDIA_TYPE}, body)

    def _problem(self, request: HttpRequest, problem: Problem) -> HttpResponse:
        headers: Mapping[str, str] = {"content-type": PROBLEM_MEDIA_TYPE}
        return HttpResponse(request.request_id, problem.status, headers, problem.encode())

    def _route(self, request: HttpRequest, peer: AgentIdentity | None) -> tuple[int, bytes | Problem]:
        url = urlsplit(request.path)
        parts = url.path.split("/")[3:]
        chain, what = ChainId(parse_digest(parts[0])), parts[1]
        query = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
        match request.method, what:
            case "GET", "head":
                with reading(self._engine) as connection:
                    return 200, self.service.head(connection, peer, chain).encode()
            case "PUT", "envelopes":
                upload = parse_envelope_upload(request.body)
                with writing(self._engine) as connection:
                    self.service.put_envelopes(connection, peer, chain, parse_data_key_id(parts[2]), upload)
                return 204, b""
            case "POST", "blocks":
                uploads = parse_blocks(request.body)
                with writing(self._engine) as connection:
                    judged = self.service.receive(connection, peer, chain, uploads)
                return self._progress(judged, peer, chain, query["from"], query["seen"], beat=False)
            case "POST", "heartbeat":
                beat = parse_heartbeat(request.body)
                with writing(self._engine) as connection:
                    judged = self.service.heartbeat(connection, peer, chain, beat)
                return self._progress(judged, peer, chain, beat.receipt_from, beat.seen_size, beat=True)
            case "GET", "receipt":
                with reading(self._engine) as connection:
                    answer = self.service.progress(connection, peer, chain, query["from"], query["seen"])
                return 200, answer.encode()
        raise AssertionError(f"an agent asked for {request.method} {request.path}")

    def _progress(
        self,
        judged: Judged,
        peer: AgentIdentity | None,
        chain: ChainId,
        first: int,
        seen: int,
        *,
        beat: bool,
    ) -> tuple[int, bytes | Problem]:
        if judged.problem is not None:
            return 0, judged.problem
        with reading(self._engine) as connection:
            answer = self.service.progress(connection, peer, chain, first, seen, want=judged.want, beat=beat)
        return 200, answer.encode()
