"""The forwarder against a collector that keeps the contract, and a world that does not."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duramen import api
from duramen.chain import advance, begin
from duramen.checkpoint import LogSigner
from duramen.datakey import data_key_id
from duramen.ed25519 import public_from_seed
from duramen.errors import StorageError
from duramen.names import Digest
from duramen.note import KeyKind, VerifierKey
from duramen.policy import Policy, PolicyWitness
from duramen.receipt import InclusionProof, Receipt
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.forwarder import REFUSED_RETRY_NS, Forwarder, ForwarderSettings
from duramen_agent.spool import Spool
from tests.agent.chain_writer import ChainWriter
from tests.agent.reference_collector import SIGNER, Answer, ReferenceCollector, json_answer, problem

NS = 10**9
A, B = "https://a:8443", "https://b:8443"
HTML = Answer(200, {"content-type": "text/html; charset=utf-8"}, b"<html>Please log in</html>")

Fault = Callable[[HttpRequest, Answer], list[tuple[int, Answer | str]]]


class FixedRandom:
    """Jitter at its ceiling, so that times can be told; never used for keys."""

    def draw(self, count: int) -> bytes:
        return b"\xff" * count


class World:
    """One agent, its collectors, a simulated clock; ``fault`` replaces, delays, loses or repeats answers."""

    def __init__(self, *, collectors: tuple[str, ...] = (A,), page: int = 1024, **settings) -> None:
        self.now = 1000 * NS
        self.spool = Spool(":memory:")
        self.writer = ChainWriter(self.spool)
        self.servers = {url: ReferenceCollector(page=page) for url in collectors[:1]}
        for url in collectors[1:]:
            self.servers[url] = self.servers[collectors[0]]  # two doors to one database
        self.server = self.servers[collectors[0]]
        self.server.enroll(self.writer.genesis.entry)
        self.settings = ForwarderSettings(
            collectors, 10 * NS, 0, settings.pop("keys", SIGNER.keys()), settings.pop("policy", None)
        )
        self.queue: list[tuple[int, int, HttpResponse | HttpFailure]] = []
        self.serial = 0
        self.log: list[tuple[int, HttpRequest]] = []
        self.fault: Fault = lambda _, answer: [(1, answer)]
        self.instead: Callable[[HttpRequest], Answer | str | None] = lambda _: None
        """An answer that comes from somebody before the collector sees the request."""
        self.down: set[str] = set()
        self.start()

    def start(self) -> None:
        """Start the agent, or start it again after a kill."""
        self.queue.clear()
        self.forwarder = Forwarder(self.spool, self.settings, FixedRandom(), self.writer.sign_heartbeat)

    def step(self) -> bool:
        """Do what is due, else go to the next instant at which something is; False when nothing ever is."""
        for request in self.forwarder.poll(self.now):
            self._carry_out(request)
        deadline = self.forwarder.deadline_ns()
        times = [self.queue[0][0]] if self.queue else []
        times += [deadline] if deadline is not None else []
        if not times:
            return False
        assert deadline is None or deadline > self.now or self.queue, "it asks to be called again at once"
        self.now = max(self.now, min(times))
        while self.queue and self.queue[0][0] <= self.now:
            event = heapq.heappop(self.queue)[2]
            if isinstance(event, HttpResponse):
                self.forwarder.on_response(event, self.now + NS, self.now)
            else:
                self.forwarder.on_failure(event, self.now)
        return True

    def _carry_out(self, request: HttpRequest) -> None:
        self.log.append((self.now, request))
        if request.collector in self.down:
            self._arrive(request, 1, f"{request.collector} refuses connections")
            return
        foreign = self.instead(request)
        if foreign is not None:
            self._arrive(request, 1, foreign)
            return
        answer = self.servers[request.collector].handle(
            request.method, request.path, dict(request.headers), request.body
        )
        for delay_ms, what in self.fault(request, answer):
            self._arrive(request, delay_ms, what)

    def _arrive(self, request: HttpRequest, delay_ms: int, what: Answer | str) -> None:
        event: HttpResponse | HttpFailure
        if isinstance(what, str):
            event = HttpFailure(request.request_id, what)
        else:
            event = HttpResponse(request.request_id, what.status, what.headers, what.body)
        self.serial += 1
        heapq.heappush(self.queue, (self.now + delay_ms * 10**6, self.serial, event))

    def run(self, seconds: float, publish_every: float | None = None) -> None:
        end = self.now + int(seconds * NS)
        publish = self.now
        while self.now < end:
            if publish_every is not None and self.now >= publish:
                self.server.publish()
                publish = self.now + int(publish_every * NS)
            if not self.step():
                break

    def seal(self, *bodies: bytes) -> None:
        for body in bodies:
            self.writer.records(body)
        self.forwarder.on_sealed()

    def paths(self) -> list[str]:
        return [
            request.method + " " + request.path.split("/", 4)[4].split("?")[0].split("/")[0]
            for _, request in self.log
        ]

    @property
    def chain(self):
        return self.server.chains[self.writer.chain]

    @property
    def status(self):
        return self.forwarder.status(self.now)


def test_the_whole_way_of_some_blocks():
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two")
    world.run(0.5)
    assert world.paths() == ["GET head", "PUT envelopes", "POST heartbeat", "POST blocks"]
    assert world.chain.state == world.writer.state
    assert world.status.accepted_seq == 3
    assert world.status.published_seq == -1
    world.run(30, publish_every=5)
    assert world.status.published_seq == 3
    assert world.spool.usage().blocks == 0
    assert world.spool.load().seen_size == world.server.size
    assert (world.status.last_error, world.status.critical, world.status.collector) == (None, None, A)
    assert world.chain.heartbeats[0] == 4
    assert world.paths().count("POST blocks") == 1


def test_heartbeats_come_at_their_interval_when_idle_and_nothing_else_does():
    world = World()
    world.run(5, publish_every=1)
    world.log.clear()
    world.run(100)
    assert 9 <= len(world.log) <= 11
    assert set(world.paths()) == {"POST heartbeat"}


def test_a_stale_nonce_is_answered_with_the_fresh_one():
    world = World()
    world.run(1)
    world.server._nonce()
    before = len(world.chain.heartbeats)
    world.log.clear()
    world.run(11)
    assert world.paths().count("POST heartbeat") == 2
    assert len(world.chain.heartbeats) == before + 1


def test_a_collector_that_finds_every_nonce_stale_is_not_flooded():
    world = World()
    world.fault = lambda request, answer: [
        (1, problem(409, "stale_nonce", nonce=b"n" * 32) if request.path.endswith("heartbeat") else answer)
    ]
    world.run(100)
    assert world.paths().count("POST heartbeat") <= 12


def test_receipts_come_in_pages():
    world = World(page=3)
    world.writer.keys()
    world.seal(*[b"%d" % i for i in range(20)])
    world.run(1)
    world.server.publish()
    world.run(8)
    assert world.status.published_seq == 21
    assert world.paths().count("GET receipt") >= 6


def test_blocks_of_a_big_backlog_go_in_growing_batches():
    world = World()
    world.writer.keys()
    world.seal(*[bytes(100_000)] * 60)
    world.run(3)
    assert world.chain.state == world.writer.state
    sizes = [len(request.body) for _, request in world.log if "blocks" in request.path]
    assert sizes[0] <= 256 * 1024 + 1000
    assert max(sizes) > 1024 * 1024
    assert len(sizes) < 12


def test_a_413_halves_until_it_fits():
    world = World()
    world.server.max_bytes = 50_000
    world.writer.keys()
    world.seal(*[bytes(10_000)] * 30, *[bytes(45_000)] * 3)
    world.run(10)
    assert world.chain.state == world.writer.state
    assert world.status.critical is None


def test_a_block_that_is_too_large_alone_is_named_and_not_spun_on():
    world = World()
    world.server.max_bytes = 50_000
    world.writer.keys()
    world.seal(b"small", bytes(60_000), b"after")
    world.run(600)
    assert world.chain.state.seq == 2
    assert "too_large: block 3 " in world.status.critical
    assert world.paths().count("POST blocks") < 30
    assert world.paths().count("POST heartbeat") > 50  # stuck is not silent
    world.server.max_bytes = 1 << 20
    world.run(120)
    assert world.chain.state == world.writer.state
    assert world.status.critical is None


def test_a_missing_envelope_is_uploaded_again_and_the_blocks_too():
    world = World()
    dek = world.writer.keys()
    world.seal(b"one")
    world.run(2, publish_every=0.5)
    world.run(10)
    del world.chain.envelopes[dek]
    world.seal(b"two")
    world.run(20)
    assert world.paths().count("PUT envelopes") == 2
    assert world.chain.state == world.writer.state
    assert dek in world.chain.envelopes


def test_a_restarted_agent_uploads_wanted_envelopes_at_once():
    world = World()
    dek = world.writer.keys()
    world.seal(b"one")
    world.run(1)
    world.start()
    world.run(1)
    del world.chain.envelopes[dek]
    world.seal(b"two")
    world.run(1)
    assert world.chain.state == world.writer.state
    assert world.status.last_error is None


def test_envelopes_that_nobody_has_are_a_finding():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    world.start()
    world.spool.envelopes = lambda dek: None
    world.chain.envelopes.clear()
    world.seal(b"two")
    world.run(300)
    assert world.status.critical.startswith("envelope_missing: ")
    assert world.paths().count("POST blocks") < 10


def test_envelopes_that_conflict_are_a_finding():
    world = World()
    world.writer.keys()
    world.instead = lambda request: problem(409, "conflict", "others") if request.method == "PUT" else None
    world.forwarder.on_sealed()
    world.run(300)
    assert world.status.critical.startswith("conflict: the envelopes of ")
    assert world.paths().count("PUT envelopes") < 8
    world.instead = lambda _: None
    world.run(120)
    assert world.chain.state == world.writer.state
    assert world.status.critical is None


def test_a_heartbeat_that_was_overtaken_changes_nothing():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    overtaken = problem(409, "replay", "here", accepted_seq=1, head=Digest(bytes(32)))
    world.instead = lambda request: overtaken if "heartbeat" in request.path else None
    world.seal(b"two")
    world.log.clear()
    world.run(30)
    assert "GET head" not in world.paths()
    assert world.status.last_error is None
    assert world.chain.state == world.writer.state


def test_a_heartbeat_that_finds_blocks_nobody_sent_shows_the_rollback():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    ahead = World()
    ahead.servers, ahead.server = world.servers, world.server
    ahead.writer.keys()
    ahead.seal(b"one", b"two")
    ahead.start()
    ahead.run(1)
    beyond = problem(409, "replay", "here", accepted_seq=3, head=Digest(bytes(32)))
    world.instead = lambda request: beyond if "heartbeat" in request.path else None
    world.run(30)
    assert world.status.critical.startswith("rollback: ")


def test_envelope_missing_as_a_conflict_is_retried():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    answers = iter([problem(409, "envelope_missing", "send them")])
    world.instead = lambda request: next(answers, None) if "blocks" in request.path else None
    world.run(5)
    assert world.paths().count("PUT envelopes") == 2  # in a contact of its own
    assert world.status.accepted_seq == 2


# Resuming


def test_a_collector_that_lost_its_unpublished_blocks_gets_them_again():
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two", b"three")
    world.run(1)
    other = ReferenceCollector()
    other.enroll(world.writer.genesis.entry)
    world.server = world.servers[A] = other
    world.run(40)
    assert world.chain.state == world.writer.state


def test_a_collector_that_lost_published_blocks_is_named():
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two")
    world.run(20, publish_every=1)
    assert world.status.published_seq == 3
    other = ReferenceCollector()
    other.enroll(world.writer.genesis.entry)
    world.server = world.servers[A] = other
    world.seal(b"three")
    world.run(200)
    assert world.status.critical.startswith("receipt_unfulfilled: ")
    assert other.chains[world.writer.chain].state.seq == 0
    assert world.paths().count("POST blocks") <= 3


def test_resuming_where_everything_before_was_pruned():
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two")
    world.run(20, publish_every=1)
    world.writer.records(b"three")
    world.start()
    world.run(1)
    assert world.chain.state == world.writer.state
    world.start()
    world.run(1)
    assert world.status.critical is None


def test_a_rolled_back_spool_stops_forwarding_loudly():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    behind = World()
    behind.servers = world.servers
    behind.writer.keys()
    behind.start()
    behind.run(1000)
    assert behind.status.critical.startswith("rollback: ")
    assert behind.paths() == ["GET head"]
    assert behind.forwarder.deadline_ns() is None


@pytest.mark.parametrize("extra", [0, 3])
def test_a_cloned_spool_is_a_fork(extra):
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    clone = World()
    clone.servers = world.servers
    clone.writer.keys()
    clone.seal(b"other", *[b"x"] * extra)
    clone.start()
    clone.run(1000)
    assert clone.status.critical.startswith("fork: ")
    assert clone.paths() == ["GET head"]


def test_a_fork_that_happens_while_running_is_found_by_the_conflict():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    clone = World()
    clone.servers = world.servers
    clone.writer.keys()
    clone.seal(b"one")
    clone.run(1)
    clone.seal(b"two")
    clone.run(1)
    world.seal(b"three")
    world.run(100)
    assert world.status.critical.startswith("fork: ")
    assert not world.forwarder.poll(world.now + 10**12)


def test_a_gap_is_filled_from_where_the_collector_says():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    old, world.servers[A] = world.server, ReferenceCollector()
    world.server = world.servers[A]
    world.server.enroll(world.writer.genesis.entry)
    world.seal(b"two")
    world.run(5)
    assert world.chain.state == world.writer.state
    assert old.chains[world.writer.chain].state.seq == 2


# Refusals


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (HTML, "not a collector's answer"),
        (Answer(401, {"content-type": "text/html"}, b"log in"), "not a collector's answer"),
        (Answer(302, {"location": "http://portal"}, b""), "not a collector's answer"),
        (Answer(200, {}, b"{}"), "not a collector's answer"),
        (Answer(200, {"content-type": "application/json"}, b"{}"), "no collector of this release"),
        (Answer(200, {"content-type": "application/json"}, b"\xff"), "no collector of this release"),
        (Answer(200, {"content-type": "application/json"}, bytes(9 << 20)), "not a collector's answer"),
        (Answer(502, {"content-type": "application/problem+json"}, b"{}"), "not a collector's answer"),
        (problem(503, "busy", "try later"), "refused: try later"),
        (problem(401, "not_enrolled", "unknown"), "refuses this agent's certificate (unknown)"),
        (problem(403, "key_revoked", "revoked"), "refuses this agent's certificate (revoked)"),
        (problem(404, "not_enrolled", "no such chain"), "refused: no such chain"),
        (problem(503, "stepped_down", "ballot 7 rules"), "refused: ballot 7 rules"),
        (problem(409, "replay", "what"), "refused: what"),
        ("https://a:8443: no route", "no route"),
        (json_answer(api.ProgressAnswer(0, 5).encode()), "no collector of this release"),
    ],
)
def test_what_is_not_a_collector_is_backed_off_from_and_said(answer, says):
    world = World()
    world.fault = lambda *_: [(1, answer)]
    world.writer.keys()
    world.seal(b"one")
    world.run(600)
    assert says in world.status.last_error
    assert world.status.degraded
    assert world.status.critical is None
    assert world.status.collector is None
    assert len(world.log) < 25
    world.fault = lambda _, sane: [(1, sane)]
    world.run(100)
    assert world.chain.state == world.writer.state
    assert world.status.last_error is None


def test_a_problem_that_contradicts_its_status_is_foreign():
    world = World()
    world.fault = lambda *_: [(1, replace(problem(409, "fork"), status=200))]
    world.run(5)
    assert world.status.critical is None
    world.fault = lambda *_: [(1, replace(problem(409, "fork"), status=500))]
    world.run(5)
    assert world.status.critical is None
    assert "not a collector's answer" in world.status.last_error


def test_retry_after_is_honoured_and_bounded():
    for header, at_least, at_most in (
        ("120", 120, 121),
        ("999999999", 600, 601),
        ("Tue, 1 Jan", 0, 1),
        ("-5", 0, 1),
    ):
        world = World()
        answer = problem(429, "busy", "slow down", {"retry-after": header})
        world.fault = lambda *_, answer=answer: [(1, answer)]
        world.run(700)
        wait = world.log[1][0] - world.log[0][0]
        assert at_least * NS <= wait <= at_most * NS


@pytest.mark.parametrize("body", [b"", b"no"])
def test_a_204_with_a_body_or_a_200_for_envelopes_is_foreign(body):
    world = World()
    bad = Answer(204, {}, b"x") if body else json_answer(b"{}")
    world.fault = lambda request, answer: [(1, bad if request.method == "PUT" else answer)]
    world.writer.keys()
    world.forwarder.on_sealed()
    world.run(3)
    assert "not a collector's answer" in world.status.last_error
    assert world.chain.state.seq == 0


def test_a_defective_block_is_named_once_a_minute():
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two", b"three")

    def poison(request: HttpRequest, answer: Answer) -> list:
        if "blocks" in request.path and b"two" in request.body:
            world.chain.state, world.chain.blocks[3:], world.chain.bodies[3:] = saved(), [], []
            return [(1, problem(422, "body_corrupt", "the body of block 3 is not the one its header names"))]
        return [(1, answer)]

    def saved():
        state = begin(world.chain.blocks[0])
        for block in world.chain.blocks[1:3]:
            state = advance(state, block)
        return state

    world.fault = poison
    world.run(600)
    assert world.status.critical.startswith("body_corrupt: block 3 ")
    assert world.status.accepted_seq == 2
    assert world.paths().count("POST blocks") < 30
    world.fault = lambda _, answer: [(1, answer)]
    world.run(REFUSED_RETRY_NS / NS + 5)
    assert world.chain.state == world.writer.state
    assert world.status.critical is None


def test_defective_envelopes_and_heartbeats_are_findings_too():
    world = World()
    world.writer.keys()
    world.forwarder.on_sealed()
    world.fault = lambda request, answer: [
        (1, problem(422, "header_corrupt", "bad") if request.method == "PUT" else answer)
    ]
    world.run(300)
    assert world.status.critical.startswith("header_corrupt: an upload ")
    assert world.paths().count("PUT envelopes") < 10
    world = World()
    world.fault = lambda request, answer: [
        (1, problem(422, "signature_invalid", "bad") if "heartbeat" in request.path else answer)
    ]
    world.run(30)
    assert world.status.critical.startswith("signature_invalid: ")
    world = World()
    world.writer.keys()
    world.forwarder.on_sealed()
    world.fault = lambda request, answer: [
        (1, problem(413, "too_large", "bad") if request.method == "PUT" else answer)
    ]
    world.run(30)
    assert world.status.critical.startswith("too_large: an upload ")


def test_a_collector_that_takes_nothing_and_says_nothing_is_not_spun_on():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    nothing = json_answer(api.ProgressAnswer(0, -1).encode())
    world.instead = lambda request: nothing if "blocks" in request.path else None
    world.run(600)
    assert "took none of the blocks" in world.status.last_error
    assert world.paths().count("POST blocks") < 25


@pytest.mark.parametrize("lie", [0, 99])
def test_an_acceptance_of_what_was_not_sent_is_not_believed(lie):
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    false = json_answer(api.ProgressAnswer(lie, -1).encode())
    world.fault = lambda request, answer: [(1, answer if request.path.endswith("head") else false)]
    world.seal(b"two")
    world.run(100)
    assert world.status.accepted_seq <= 3
    assert len(world.log) < 400
    world.fault = lambda _, answer: [(1, answer)]
    world.run(30)
    assert world.chain.state == world.writer.state


def test_more_published_than_accepted_is_not_believed():
    world = World()
    world.fault = lambda request, answer: [
        (1, answer if request.path.endswith("head") else json_answer(api.ProgressAnswer(0, 3).encode()))
    ]
    world.run(10)
    assert "published more than it accepted" in world.status.last_error


# Time


def test_a_lost_answer_delays_and_does_not_stop():
    world = World()
    lose = [True]
    world.fault = lambda request, answer: [] if lose and lose.pop() else [(1, answer)]
    world.writer.keys()
    world.seal(b"one")
    world.run(60)
    assert world.chain.state == world.writer.state


def test_a_heartbeat_that_times_out_beside_an_upload_does_not_end_it():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    slow: dict[str, int] = {"blocks": 20_000}

    def fault(request: HttpRequest, answer: Answer) -> list:
        if "heartbeat" in request.path:
            return [(5_000, "timed out")]
        return [(slow["blocks"] if "blocks" in request.path else 1, answer)]

    world.fault = fault
    world.run(9)
    world.seal(b"two")
    world.run(25)
    assert world.chain.state == world.writer.state
    assert world.status.accepted_seq == 3
    assert world.paths().count("POST blocks") == 2


def test_the_backoff_grows_to_a_minute():
    world = World()
    world.down.add(A)
    world.run(3600)
    times = [time for time, _ in world.log]
    gaps = [(b - a) / NS for a, b in pairwise(times)]
    assert gaps[0] < 0.6
    assert 59 < gaps[-1] < 61
    assert gaps == sorted(gaps)
    assert "refuses connections" in world.status.last_error


def test_failover_and_the_way_back_without_flapping():
    world = World(collectors=(A, B))
    world.writer.keys()
    world.seal(b"one")
    world.run(1)
    world.down.add(A)
    world.seal(b"two")
    world.run(1)
    assert world.chain.state == world.writer.state
    assert world.status.collector == B
    assert world.status.failovers == 1
    world.run(600)
    assert world.status.collector == B
    assert world.status.failovers == 1
    probes = [request for _, request in world.log if request.collector == A and request.method == "GET"]
    assert len(probes) < 15
    world.down.clear()
    world.run(130)
    assert world.status.collector == A
    assert world.status.failovers == 2
    world.log.clear()
    world.run(120)
    assert {request.collector for _, request in world.log} == {A}


def test_a_probe_that_is_answered_by_something_else_changes_nothing():
    world = World(collectors=(A, B))
    world.down.add(A)
    world.run(2)
    world.down.clear()
    world.fault = lambda request, answer: [(1, HTML if request.collector == A else answer)]
    world.run(300)
    assert world.status.collector == B
    assert world.status.last_error is None


# Receipts


def _forge(receipt: Receipt, how: str) -> Receipt:
    proofs = receipt.proofs
    first = proofs[0]
    match how:
        case "checkpoint signature":
            note = bytearray(receipt.checkpoint)
            note[-10] ^= 1
            return replace(receipt, checkpoint=bytes(note))
        case "checkpoint size":
            return replace(receipt, checkpoint=receipt.checkpoint.replace(b"\n", b"\n9", 1))
        case "old size":
            return replace(receipt, old_size=receipt.old_size + 1)
        case "consistency":
            return replace(receipt, consistency=(*receipt.consistency, b"\0" * 32))
        case "first":
            return replace(receipt, first=receipt.first + 1)
        case "index":
            return replace(receipt, proofs=(InclusionProof(first.index + 1, first.hashes), *proofs[1:]))
        case "hash":
            return replace(
                receipt, proofs=(InclusionProof(first.index, (b"\0" * 32, *first.hashes[1:])), *proofs[1:])
            )
        case "fewer hashes":
            return replace(receipt, proofs=(InclusionProof(first.index, first.hashes[1:]), *proofs[1:]))
        case "order":
            return replace(receipt, proofs=(*proofs[1:], first))
        case "nothing":
            return replace(receipt, proofs=())
        case "too many":
            return replace(receipt, proofs=(*proofs, proofs[-1]))
    raise AssertionError(how)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "checkpoint signature", "checkpoint size", "old size", "consistency", "first", "index", "hash",
        "fewer hashes", "order", "nothing", "too many",
    ],
)  # fmt: skip
def test_no_forged_receipt_lets_go_of_a_block(how, second):
    world = World()
    world.writer.keys()
    if second:
        world.seal(b"zero")
        world.run(20, publish_every=1)
        assert world.status.published_seq == 2
    before = world.status.published_seq
    world.seal(b"one", b"two")

    def fault(request: HttpRequest, answer: Answer) -> list:
        if b"receipt" not in answer.body:
            return [(1, answer)]
        progress = api.parse_progress_answer(answer.body)
        return [(1, json_answer(replace(progress, receipt=_forge(progress.receipt, how)).encode()))]

    world.fault = fault
    world.run(1)
    blocks = world.spool.usage().blocks
    world.run(60, publish_every=5)
    assert world.spool.usage().blocks == blocks >= 2
    assert world.status.published_seq == before
    assert "receipt does not hold" in world.status.critical
    assert world.status.last_error == world.status.critical
    world.fault = lambda _, answer: [(1, answer)]
    world.seal(b"three")
    world.run(60, publish_every=5)
    assert world.chain.state == world.writer.state  # forwarding goes on
    assert world.status.published_seq == before  # letting go does not, until somebody has looked
    world.start()
    world.run(60, publish_every=5)
    assert world.status.published_seq == world.writer.state.seq


def test_receipts_by_other_keys_name_the_log_keys():
    world = World(keys=LogSigner(SIGNER.origin, b"x" * 32, b"y" * 32).keys())
    world.writer.keys()
    world.seal(b"one")
    world.run(30, publish_every=5)
    assert world.status.critical.startswith("checkpoint_invalid: ")
    assert "compare log_keys" in world.status.last_error
    assert world.status.accepted_seq == 2
    assert world.spool.usage().blocks == 3


def test_two_histories_are_an_equivocation():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(20, publish_every=1)
    world.server.hashes[0] = b"\1" * 32  # another past
    world.seal(b"two")
    world.run(20, publish_every=1)
    assert world.status.critical.startswith("equivocation: ")
    assert world.status.published_seq == 2


def test_a_shrunken_log_is_a_rollback_of_the_checkpoint():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(20, publish_every=1)
    world.seal(b"two")
    world.server.hashes = world.server.hashes[:2]
    world.chain.leaves.clear()
    old = world.server.progress
    world.server.progress = lambda chain, first, seen, *rest, **more: replace(
        old(chain, first, seen, *rest, **more),
        receipt=replace(world.server.receipt(chain, 0, 0), old_size=seen, first=first)
        if world.server.size
        else None,
    )
    world.server.publish()
    world.run(20)
    assert world.status.critical.startswith(("checkpoint_rollback: ", "checkpoint_invalid: "))
    assert world.status.published_seq == 2


def test_below_the_policy_is_a_state_that_ends():
    witness = VerifierKey("w", KeyKind.COSIGNATURE_ED25519, public_from_seed(b"w" * 32))
    policy = Policy((), (PolicyWitness("w", witness),), (), "w")
    world = World(policy=policy)
    world.writer.keys()
    world.seal(b"one")
    world.run(60, publish_every=5)
    assert world.status.critical.startswith("below_policy: ")
    assert world.status.published_seq == -1
    world.forwarder._receipts._policy = None
    world.run(120, publish_every=5)
    assert world.status.published_seq == 2
    assert world.status.critical is None


def test_a_collector_that_never_publishes_is_asked_ever_more_rarely():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    world.run(600)
    assert 15 < world.paths().count("GET receipt") < 40


def test_a_spool_that_fails_leaves_everything_to_be_done_again():
    world = World()
    world.writer.keys()
    world.seal(b"one")
    real = world.spool.mark_accepted
    failures = iter([True] * 3)

    def mark(seq: int) -> None:
        if next(failures, False):
            raise StorageError("disk")
        real(seq)

    world.spool.mark_accepted = mark
    for _ in range(200):
        try:
            world.step()
        except StorageError:
            continue
    assert world.chain.state == world.writer.state
    assert world.status.accepted_seq == 2


# Any schedule of faults


FAULTS = st.sampled_from(
    ["pass"] * 6 + ["lose", "twice", "late", "503", "429", "html", "junk", "reset", "unseen"]
)


def _apply(kind: str, answer: Answer) -> list[tuple[int, Answer | str]]:
    return {
        "pass": [(3, answer)],
        "lose": [],
        "twice": [(3, answer), (9, answer)],
        "late": [(120_000, answer)],
        "503": [(3, problem(503, "busy", "later"))],
        "429": [(3, problem(429, "busy", "later", {"retry-after": "3"}))],
        "html": [(3, HTML)],
        "junk": [(3, Answer(200, {"content-type": "application/json"}, answer.body[:-1]))],
        "reset": [(3, "connection reset")],
    }[kind]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    faults=st.lists(FAULTS, max_size=40),
    acts=st.lists(st.sampled_from(["seal", "keys", "kill", "publish", "run", "run", "empty"]), max_size=30),
    doors=st.integers(1, 2),
    page=st.sampled_from([2, 1024]),
)
def test_whatever_happens_everything_is_published_once_in_order(faults, acts, doors, page):
    world = World(collectors=(A, B)[:doors], page=page)
    pending = iter(faults)
    next_kind = ["pass"]

    def instead(request: HttpRequest) -> str | None:
        next_kind[0] = next(pending, "pass")
        return "never got there" if next_kind[0] == "unseen" else None

    world.instead = instead
    world.fault = lambda _, answer: _apply(next_kind[0], answer)
    world.writer.keys()
    for number, act in enumerate(acts):
        if act == "seal":
            world.seal(b"record %d" % number)
        elif act == "empty":
            world.writer.empty()
            world.forwarder.on_sealed()
        elif act == "keys":
            world.writer.keys()
            world.forwarder.on_sealed()
        elif act == "kill":
            world.start()
        elif act == "publish":
            world.server.publish()
        else:
            world.run(0.7)
    pending = iter(())
    world.run(900, publish_every=5)
    assert world.chain.state == world.writer.state
    assert world.status.published_seq == world.writer.state.seq
    assert world.spool.usage().blocks == 0
    assert world.status.critical is None
    assert world.status.last_error is None
    assert world.status.lag_seconds == 0
    assert world.spool.load().seen_root == Digest(world.spool.load().seen_root)


def _lies() -> st.SearchStrategy[Answer | str | None]:
    seqs = st.integers(0, 8)
    digests = st.sampled_from([bytes(32), b"x" * 32])
    head = st.builds(api.HeadAnswer, seqs, digests, st.integers(-1, 8), st.just(b"n" * 32))
    progress = st.builds(
        api.ProgressAnswer,
        seqs,
        st.integers(-1, 8),
        st.none(),
        st.sampled_from([(), (b"d" * 16,), (data_key_id((1).to_bytes(32, "big")),)]),
        st.sampled_from([None, b"m" * 32]),
    )
    codes = [
        "gap",
        "replay",
        "stale_nonce",
        "too_large",
        "busy",
        "body_corrupt",
        "malformed",
        "conflict",
        "odd",
    ]
    refusals = st.builds(
        problem,
        st.sampled_from([400, 401, 403, 404, 409, 413, 422, 429, 500, 503]),
        st.sampled_from(codes),
        accepted_seq=st.none() | seqs,
        head=digests,
        nonce=st.none() | st.just(b"p" * 32),
    )
    true = st.none()
    return (
        true
        | refusals
        | st.builds(lambda item: json_answer(item.encode()), head | progress)
        | st.just("reset")
    )


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(lies=st.lists(_lies(), min_size=1, max_size=25), forever=st.booleans())
def test_a_collector_that_lies_is_neither_believed_nor_flooded(lies, forever):
    world = World()
    world.writer.keys()
    world.seal(b"one", b"two")
    told = cycle(lies) if forever else iter(lies)
    world.instead = lambda _: next(told, None)
    world.run(600)
    assert len(world.log) < 400  # of which some hundred and twenty are due when all is well
    assert world.spool.usage().blocks == 4
    assert world.status.published_seq == -1
    world.instead = lambda _: None
    world.run(300, publish_every=5)
    if world.status.critical is None or not world.status.critical.startswith(("rollback", "fork")):
        assert world.chain.state == world.writer.state
        assert world.status.published_seq == 3
