"""What tests of publication share: stores in memory, a clock and randomness to turn, ledgers, statements."""

import hashlib
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, create_engine, insert
from sqlalchemy.pool import StaticPool

from duramen import ed25519
from duramen.checkpoint import Checkpoint, parse_checkpoint_text
from duramen.errors import FormatError
from duramen.merkle import EMPTY_ROOT
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq
from duramen.statement import Block, BlockHeader, BlockKind, Flags, Genesis, parse_statement
from duramen_collector.heads import RegionCall, Steps, T
from duramen_collector.ledger import Ledger
from duramen_collector.register import Configuration
from duramen_collector.schema import chains, envelopes, landing, metadata, tenants
from duramen_collector.sequencer import LogSettings, Retention, Sequencer
from duramen_collector.store.port import (
    Absent,
    Answer,
    Call,
    Conflict,
    Create,
    Delete,
    Failed,
    Found,
    Get,
    List,
    Listed,
    ObjectStore,
    Stat,
    Stored,
    Swap,
)

ORIGIN = "logs.example.com/acme"
START_NS = 1_800_000_000 * 10**9
NEXT = ed25519.public_from_seed(bytes(range(32)))


@dataclass
class TurnedClock:
    now_ns: int = START_NS

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boot_id(self) -> bytes:
        return bytes(8)


class CountedRandom:
    """Bytes that repeat from run to run, and never within one."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._numbers = itertools.count()

    def draw(self, count: int) -> bytes:
        return hashlib.shake_256(self._seed + str(next(self._numbers)).encode()).digest(count)


class MemoryStore:
    """A region in memory, held to the same conformance suite as the real ones."""

    def __init__(self, clock: TurnedClock | None = None) -> None:
        self.objects: dict[str, tuple[bytes, str, int]] = {}
        self.clock = clock or TurnedClock()
        self.is_down = False
        self._versions = itertools.count()
        self._lock = threading.Lock()

    def perform(self, call: Call) -> Answer:
        with self._lock:
            return Failed("down") if self.is_down else self._perform(call)

    def _perform(self, call: Call) -> Answer:
        if isinstance(call, List):
            keys = sorted(key for key in self.objects if key.startswith(call.prefix) and key > call.after)
            return Listed(tuple(keys[: call.limit]), more=len(keys) > call.limit)
        data, version, retained_s = self.objects.get(call.key, (None, None, 0))
        is_retained = retained_s * 10**9 > self.clock.now_ns
        match call:
            case Get():
                if data is None:
                    return Absent()
                end = len(data) if call.length is None else call.offset + call.length
                return Found(data[call.offset : end], version, len(data))
            case Stat():
                return Absent() if data is None else Found(b"", version, len(data))
            case Create():
                if data is None:
                    return self._put(call.key, call.data, call.retain_until_s or 0)
                if data != call.data:
                    return Conflict()
                self.objects[call.key] = (data, version, max(retained_s, call.retain_until_s or 0))
                return Stored(version)
            case Swap():
                if version != call.expected:
                    return Conflict()
                return Failed("retained") if is_retained else self._put(call.key, call.data, 0)
            case Delete():
                if is_retained:
                    return Failed("retained")
                self.objects.pop(call.key, None)
                return Stored("")

    def _put(self, key: str, data: bytes, retained_s: int) -> Answer:
        version = f"v{next(self._versions)}"
        self.objects[key] = (data, version, retained_s)
        return Stored(version)

    def keys(self) -> set[str]:
        return set(self.objects)


class PlainSigner:
    """Signs with nothing: for tests of order, where real signatures would only take time."""

    origin = ORIGIN

    def __init__(self) -> None:
        self.signed: list[tuple[int, bytes]] = []

    def sign(self, checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
        self.signed.append((checkpoint.size, checkpoint.root))
        return checkpoint.text().encode() + str(timestamp_seconds).encode()

    def open(self, data: bytes) -> Checkpoint:
        text, line, _ = data.decode().rpartition("\n")
        if not line:
            raise FormatError("no checkpoint")
        return parse_checkpoint_text(text + line)


def connect() -> Connection:
    """A database in memory, with every table."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    metadata.create_all(engine)
    return engine.connect()


def clear(connections: Iterable[Connection]) -> None:
    """Empty every table."""
    for connection in connections:
        with connection.begin():
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())


def dek_of(number: int) -> DataKeyId:
    return DataKeyId(hashlib.sha256(b"dek%d" % number).digest()[:16])


def block(
    chain: bytes, seq: int, *, body: bytes = b"", retention_class: int = 0, dek: DataKeyId | None = None
) -> Block:
    """A block that parses; nobody signed it, which no part of publication looks at."""
    has_body = bool(body)
    header = BlockHeader(
        kind=BlockKind.RECORDS,
        flags=Flags.NONE,
        chain=ChainId(chain),
        seq=Seq(seq),
        prev=Digest(hashlib.sha256(b"%d" % seq).digest()),
        start=seq,
        count=int(has_body),
        root=Digest(hashlib.sha256(body).digest()) if has_body else Digest(EMPTY_ROOT),
        body=Digest(hashlib.sha256(body).digest()),
        size=len(body),
        group=0,
        retention_class=retention_class,
        dek=(dek or dek_of(0)) if has_body else ZERO_DATA_KEY_ID,
        step=0,
        sealed_ns=START_NS,
        monotonic_ns=0,
        boot=bytes(8),
        seen_size=0,
        seen_root=ZERO_DIGEST,
        next=NEXT,
    )
    statement = parse_statement(header.encode() + bytes(64))
    assert isinstance(statement, Block)
    return statement


def genesis(agent: str) -> Block:
    data = BlockHeader(
        BlockKind.GENESIS,
        Flags.NONE,
        ChainId(ZERO_DIGEST),
        Seq(0),
        ZERO_DIGEST,
        0,
        0,
        Digest(EMPTY_ROOT),
        Digest(EMPTY_ROOT),
        0,
        0,
        0,
        ZERO_DATA_KEY_ID,
        0,
        START_NS,
        0,
        bytes(8),
        0,
        ZERO_DIGEST,
        NEXT,
        Genesis(NEXT, "acme", agent, ZERO_DIGEST, ZERO_DIGEST, ChainId(ZERO_DIGEST), Seq(0), ZERO_DIGEST),
    ).encode()
    statement = parse_statement(data + bytes(64))
    assert isinstance(statement, Block)
    return statement


def land(
    connection: Connection,
    tenant: str,
    blocks: Iterable[tuple[Block, bytes]],
    accepted_ns: int = START_NS,
) -> None:
    """Accept blocks with their bodies, as ingest does, with an envelope for every data key."""
    rows, wrapped = [], {}
    for statement, body in blocks:
        header = statement.header
        rows.append(
            {
                "tenant": tenant,
                "chain": statement.chain,
                "seq": header.seq,
                "hash": statement.hash,
                "header_size": len(statement.header_bytes),
                "statement": statement.entry,
                "body": body,
                "retention_class": header.retention_class if header.size else None,
                "dek": header.dek if header.size else None,
                "accepted_ns": accepted_ns,
            }
        )
        if header.size:
            wrapped[header.dek] = statement.chain
    with connection.begin():
        connection.execute(insert(landing), rows)
        for dek, chain in wrapped.items():
            connection.execute(
                insert(envelopes).prefix_with("OR IGNORE"),
                {
                    "tenant": tenant,
                    "dek": dek,
                    "key_hash": hashlib.sha256(b"reader").digest(),
                    "chain": chain,
                    "envelope": b"envelope of " + dek,
                },
            )


def know_chain(connection: Connection, tenant: str, chain: bytes) -> None:
    """The rows that enrolment and ingest would have made."""
    with connection.begin():
        connection.execute(
            insert(tenants).prefix_with("OR IGNORE"),
            {"tenant": tenant, "origin": ORIGIN, "public": False, "created_ns": 0},
        )
        connection.execute(
            insert(chains),
            {
                "chain": chain,
                "tenant": tenant,
                "agent": chain.hex(),
                "seq": 0,
                "head": bytes(32),
                "records": 0,
                "next_public": NEXT,
                "sealed_ns": 0,
                "stopped": False,
                "keys": [],
                "published_seq": -1,
                "seen_size": 0,
                "heard_ns": 0,
                "announced_seq": 0,
            },
        )


def settings(
    tenant: str = "acme", names: Sequence[str] = ("a", "b", "c"), copies: int = 2, **changes: int
) -> LogSettings:
    configuration = Configuration(1, tuple(names), copies)
    return LogSettings(
        tenant, configuration, Retention(1000, {1: 10, 2: 5000}), **({"max_bytes": 1 << 20} | changes)
    )


def run(stores: dict[str, ObjectStore], steps: Steps[T], calls: list[RegionCall] | None = None) -> T:
    """Perform an operation call by call."""
    try:
        batch = next(steps)
        while True:
            if calls is not None:
                calls += batch
            batch = steps.send([stores[call.region].perform(call.call) for call in batch])
    except StopIteration as stop:
        return stop.value


@dataclass
class Site:
    """One collector: a database and a sequencer over shared stores."""

    stores: dict[str, ObjectStore]
    connection: Connection = field(default_factory=connect)
    name: str = "one"
    settings: LogSettings = field(default_factory=settings)
    signer: object = field(default_factory=PlainSigner)
    clock: TurnedClock = field(default_factory=TurnedClock)
    kind: type[Sequencer] = Sequencer

    def __post_init__(self) -> None:
        self.random = CountedRandom(self.name)
        self.ledger = Ledger(self.connection, self.settings.tenant)
        self.restart()

    def restart(self) -> None:
        self.sequencer = self.kind(self.settings, self.ledger, self.signer, self.clock, self.random)

    def run(self, steps: Steps[T]) -> T:
        return run(self.stores, steps)

    def acquire(self, *, promote: bool = False):
        return self.run(self.sequencer.acquire(promote=promote))

    def publish(self):
        return self.run(self.sequencer.publish())

    def repair(self, name: str):
        return self.run(self.sequencer.repair(name))

    def land(self, blocks) -> None:
        land(self.connection, self.settings.tenant, blocks)


def blocks(count: int, *, chain: bytes = b"c" * 32, first: int = 1, dek: int = 0, size: int = 40):
    """Consecutive blocks of one chain with bodies."""
    for seq in range(first, first + count):
        body = hashlib.shake_256(chain + seq.to_bytes(8, "big")).digest(size)
        yield block(chain, seq, body=body, dek=dek_of(dek)), body
