"""A host for the local half of the agent: state directory, log files, a reader's key, a clock.

:meth:`Host.verify` opens everything that was sealed the way an auditor would: chain, signatures, envelopes,
bodies, roots. It returns the bytes sealed for every generation; no test looks at anything but that.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from duramen.body import EVENT_STREAM, Run, open_body
from duramen.canonical import Json, decode
from duramen.chain import ChainState, advance, begin, check_body
from duramen.datakey import DataKeyRatchet
from duramen.envelope import EnvelopeContext, ReaderKey, parse_key_list, wrap
from duramen.names import ZERO_DIGEST, ChainId, Digest, Seq
from duramen.ports import Disk
from duramen.statement import Block, BlockHeader, BlockKind, Genesis, parse_block_header
from duramen.system import SystemDisk
from duramen_agent.agentstatus import ForwardStatus
from duramen_agent.configuration import AgentConfiguration
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.engine import Engine, Ports
from duramen_agent.sealer import enrol_state
from duramen_agent.spool import Spool
from duramen_agent.step import Effects, Event, Moment, PathsChanged, StopRequested

READER = ReaderKey(b"r" * 32)
BOOT_ID = b"bootboot"
SECOND = 10**9


class CountingRandom:
    """Deterministic, and never the same twice."""

    def __init__(self, seed: bytes = b"") -> None:
        self.seed = seed
        self.count = 0

    def draw(self, count: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(self.seed + self.count.to_bytes(8, "big")).digest(count)


class IdleForwarder:
    """Forwards nothing."""

    def __init__(self) -> None:
        self.sealed = 0
        self.responses: list[HttpResponse] = []
        self.critical: str | None = None

    def poll(self, now_monotonic_ns: int) -> list[HttpRequest]:
        return []

    def deadline_ns(self) -> int | None:
        return None

    def on_response(self, response: HttpResponse, now_wall_ns: int, now_monotonic_ns: int) -> None:
        self.responses.append(response)

    def on_failure(self, failure: HttpFailure, now_monotonic_ns: int) -> None:
        pass

    def on_sealed(self) -> None:
        self.sealed += 1

    def status(self, now_wall_ns: int) -> ForwardStatus:
        return ForwardStatus(None, -1, -1, 0.0, None, 0, None, self.critical)


@dataclass
class Sealed:
    """What a reader gets out of a spool."""

    state: ChainState
    headers: list[BlockHeader]
    files: dict[str, bytes]
    """Bytes by generation."""
    paths: dict[str, bytes]
    runs: list[Run]
    events: list[dict[str, Json]]

    def of(self, path: Path) -> list[bytes]:
        """The contents of every generation of ``path``, in order."""
        named = [key for key, value in self.paths.items() if value == os.fsencode(path)]
        return [self.files[key] for key in sorted(named, key=lambda key: int(key.rpartition("-")[2]))]

    def kinds(self) -> list[str]:
        return [str(event["event"]) for event in self.events]


def read_back(spool: Spool) -> Sealed:
    """Verify and open the whole chain."""
    stored = spool.blocks(0, 2**62, 2**31)
    loaded = spool.load()
    assert loaded is not None
    result: Sealed | None = None
    ratchets: dict[bytes, DataKeyRatchet] = {}
    for item in stored:
        header = parse_block_header(item.header_bytes)
        block = Block(header, item.header_bytes, item.signature)
        check_body(block, item.body)
        if result is None:
            result = Sealed(begin(block), [header], {}, {}, [], [])
            continue
        result.state = advance(result.state, block)
        result.headers.append(header)
        if header.kind is BlockKind.KEYS:
            ratchets[header.dek] = _open_key(spool, loaded.identity.tenant, header, item.body)
        elif header.count:
            ratchet = ratchets[header.dek]
            assert ratchet.step == header.step
            payload = open_body(header, item.body, ratchet.block_key(header.chain, header.seq, header.root))
            ratchets[header.dek] = ratchet.next()
            _collect(result, payload.runs)
    assert result is not None
    assert result.state == loaded.chain
    return result


def _open_key(spool: Spool, tenant: str, header: BlockHeader, body: bytes) -> DataKeyRatchet:
    listing = parse_key_list(body)
    upload = spool.envelopes(header.dek)
    assert upload is not None
    assert listing.envelopes == tuple((to, hashlib.sha256(item).digest()) for to, item in upload.envelopes)
    context = EnvelopeContext(tenant, header.chain, header.dek, header.group, header.retention_class)
    envelope = dict(upload.envelopes)[READER.recipient.key_hash]
    return DataKeyRatchet.start(READER.unwrap(envelope, context))


def _collect(result: Sealed, runs: tuple[tuple[Run, bytes, bytes], ...]) -> None:
    for run, _, raw in runs:
        if run.stream == EVENT_STREAM:
            for line in raw.splitlines():
                event = decode(line, "an event")
                assert isinstance(event, dict)
                result.events.append(event)
            continue
        result.runs.append(run)
        before = result.files.setdefault(run.file, b"")
        assert run.offset == len(before), "runs of a generation follow each other without gap or overlap"
        result.files[run.file] = before + raw
        assert result.paths.setdefault(run.file, run.path) == run.path


class Host:
    """One enrolled host with a clock of its own."""

    def __init__(
        self, root: Path, disk: Disk | None = None, vfs: str | None = None, **settings: object
    ) -> None:
        self.root = root
        self.logs = root / "logs"
        self.logs.mkdir(exist_ok=True)
        self.state_dir = root / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.disk: Disk = disk or SystemDisk()
        self.vfs = vfs
        self.now_ns = 1_000 * SECOND
        self.random = CountingRandom()
        self.settings = settings
        self.forwarder = IdleForwarder()
        self.engine: Engine | None = None
        self.spool = self.open_spool()
        self.last: Effects | None = None
        if self.spool.load() is None:
            self.enrol()

    def open_spool(self) -> Spool:
        return Spool(str(self.state_dir / "spool.db"), self.vfs)

    def enrol(self) -> None:
        genesis = Genesis(
            b"", "acme", "web-1", Digest(b"l" * 32), self.configuration().config_sha256,
            ChainId(ZERO_DIGEST), Seq(0), ZERO_DIGEST,
        )  # fmt: skip
        enrol_state(
            self.spool, self.disk, self.random, str(self.state_dir), self.now(), BOOT_ID, genesis,
            self.configuration().config_sha256,
        )  # fmt: skip

    def configuration(self) -> AgentConfiguration:
        value: dict[str, object] = {
            "tenant": "acme",
            "agent": "web-1",
            "collectors": ["https://c1.example.com:8443"],
            "ca": "/etc/duramen/ca.pem",
            "log_keys": ["k1", "k2"],
            "recipients": ["/etc/duramen/readers.pub"],
            "state_dir": str(self.state_dir),
            "sources": [{"stream": "app", "paths": [str(self.logs / "*.log")]}],
            "spool": {"min_free_bytes": 0},
        }
        return AgentConfiguration.model_validate({**value, **self.settings})

    def now(self) -> Moment:
        return Moment(1_700_000_000 * SECOND + self.now_ns, self.now_ns)

    def start(self) -> Effects:
        self.forwarder = IdleForwarder()
        self.engine = Engine(
            self.configuration(),
            self.spool,
            Ports(self.disk, self.random, wrap, BOOT_ID),
            [READER.recipient],
            self.now(),
            lambda _: self.forwarder,
        )
        return self.step()

    def step(self, *events: Event) -> Effects:
        assert self.engine is not None
        self.last = self.engine.step(events, self.now())
        return self.last

    def changed(self, *paths: Path) -> Effects:
        return self.step(PathsChanged(frozenset(map(os.fsencode, paths))))

    def settle(self, limit: int = 10_000) -> None:
        """Step for as long as something is due now."""
        self.step()
        while (
            self.last is not None
            and self.last.deadline_ns is not None
            and self.last.deadline_ns <= self.now_ns
        ):
            limit -= 1
            assert limit, "the engine spins"
            self.step()

    def run(self, seconds: float) -> int:
        """Let time pass from deadline to deadline; return how many steps it took."""
        end = self.now_ns + int(seconds * SECOND)
        steps = 0
        self.settle()
        while self.last is not None and self.last.deadline_ns is not None and self.last.deadline_ns <= end:
            self.now_ns = max(self.now_ns, self.last.deadline_ns)
            self.settle()
            steps += 1
            assert steps < 100_000, "the engine spins"
        self.now_ns = end
        return steps

    def stop(self) -> Effects:
        effects = self.step(StopRequested())
        while not effects.stopped:
            effects = self.step()
        return effects

    def restart(self) -> None:
        """As after a crash: nothing but the disk is kept."""
        self.spool.close()
        self.spool = self.open_spool()
        self.random = CountingRandom(self.now_ns.to_bytes(8, "big"))
        self.now_ns += SECOND
        self.start()

    def verify(self) -> Sealed:
        return read_back(self.spool)


def append(path: Path, data: bytes) -> bytes:
    with path.open("ab") as file:
        file.write(data)
    return data


__all__ = [
    "READER",
    "SECOND",
    "CountingRandom",
    "Host",
    "IdleForwarder",
    "Sealed",
    "append",
    "read_back",
]
