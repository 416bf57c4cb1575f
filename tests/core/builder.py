"""Complete tenant logs in memory, laid out as a region of DESIGN 8: what audit, evidence and reader tests
read.

``LogBuilder(seed)`` is deterministic but for HPKE envelopes and ML-DSA signatures, which the library
randomises. ``objects`` maps keys (below the region's prefix) to bytes: ``acme/checkpoint``,
``acme/tile/...``, ``acme/packs/...``, ``acme/checkpoints/...`` and ``envelopes/acme/...``. Superseded
partial tiles are deleted, as a collector does.

    log = LogBuilder()
    web = log.agent("web-1")
    web.seal([Source("app", b"/var/log/app.log", b"one\\ntwo\\n")])
    log.publish()
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from duramen import body as bodies
from duramen import datakey, envelope, frame, names, records, region, tiles
from duramen.chain import ChainState, advance, begin
from duramen.checkpoint import Checkpoint, LogKeys, LogSigner
from duramen.ed25519 import public_from_seed, sign
from duramen.merkle import EMPTY_ROOT, CompactRange, leaf_hash
from duramen.ratchet import Ratchet
from duramen.statement import (
    Block,
    BlockHeader,
    BlockKind,
    Flags,
    Genesis,
    Notice,
    block_message,
    encode_notice,
    log_digest,
    notice_message,
    parse_statement,
)

SECOND = 10**9
START_NS = 1_700_000_000 * SECOND


class Stream:
    """Bytes from a seed: SHA-256 in counter mode."""

    def __init__(self, seed: object) -> None:
        self._seed = repr(seed).encode()
        self._count = 0

    def draw(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            out += hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).digest()
            self._count += 1
        return out[:count]


@dataclass(frozen=True)
class Source:
    """Bytes of one file's generation, from ``offset`` on."""

    stream: str
    path: bytes
    data: bytes
    offset: int = 0
    file: str = "1:1:0"
    more: bool = False


@dataclass
class _Sealing:
    ratchet: datakey.DataKeyRatchet
    block: Block


class LogBuilder:
    """A tenant log and the region that holds it."""

    def __init__(
        self,
        seed: object = 0,
        tenant: str = "acme",
        origin: str | None = None,
        readers: int = 1,
        *,
        notice_key: bool = True,
    ) -> None:
        self.random = Stream(seed)
        self.tenant = tenant
        self.signer = LogSigner(
            origin or f"logs.example.com/{tenant}", self.random.draw(32), self.random.draw(32)
        )
        self.keys: LogKeys = self.signer.keys()
        self.vkeys = (self.keys.ed25519.encode(), self.keys.mldsa44.encode())
        self.log = log_digest(self.signer.origin, self.vkeys)
        self.readers = [envelope.ReaderKey(self.random.draw(32)) for _ in range(readers)]
        self.notice_seed = self.random.draw(32)
        self.notice_public = public_from_seed(self.notice_seed)
        self.objects: dict[str, bytes] = {}
        self.entries: list[bytes] = []
        self.pending: list[tuple[Block | Notice, bytes]] = []
        self.range = CompactRange()
        self.previous = names.ZERO_DIGEST
        self.packs: list[str] = []
        self.now_ns = START_NS
        self.agents: dict[str, AgentBuilder] = {}
        self._edge: dict[tiles.TilePath, bytes] = {}
        if notice_key:
            self.notice("key", public=self.notice_public.hex())

    @property
    def prefix(self) -> str:
        return f"{self.tenant}/"

    @property
    def size(self) -> int:
        return len(self.entries)

    def tick(self, seconds: float = 1) -> int:
        self.now_ns += int(seconds * SECOND)
        return self.now_ns

    def agent(self, name: str, **genesis: object) -> AgentBuilder:
        made = AgentBuilder(self, name, **genesis)
        self.agents[name] = made
        return made

    def notice(self, type_: str, seed: bytes | None = None, **fields: object) -> Notice:
        seed = seed or self.notice_seed
        header = encode_notice(type_, self.tick(), public_from_seed(seed), fields)  # type: ignore[arg-type]  # fields of a test are wider than JSON
        statement = parse_statement(header + sign(seed, notice_message(header)))
        assert isinstance(statement, Notice)
        self.add(statement)
        return statement

    def add(self, statement: Block | Notice, body: bytes = b"") -> None:
        self.pending.append((statement, body))

    def publish(self, *, keep: bool = True) -> Checkpoint:
        """Pack what is pending, one class a pack, write tiles and a checkpoint."""
        while self.pending:
            self._publish_pack()
        return self.sign(keep=keep)

    def sign(self, *, keep: bool = True) -> Checkpoint:
        checkpoint = Checkpoint(self.signer.origin, self.size, self.range.root())
        note = self.signer.sign(checkpoint, self.tick() // SECOND)
        self.objects[self.prefix + region.CHECKPOINT_KEY] = note
        if keep:
            self.objects[self.prefix + region.kept_checkpoint_key(self.size)] = note
        return checkpoint

    def _publish_pack(self) -> None:
        taken: list[tuple[Block | Notice, bytes]] = []
        retention: int | None = None
        for statement, body in self.pending:
            if isinstance(statement, Block) and body:
                if retention not in (None, statement.header.retention_class):
                    break
                retention = statement.header.retention_class
            taken.append((statement, body))
        del self.pending[: len(taken)]
        header = frame.PackHeader(
            retention or 0, self.size, len(taken), names.Digest(self.range.root()), self.previous
        )
        data = frame.encode_pack(header, [frame.Frame(*item).encode() for item in taken])
        self.previous = frame.pack_digest(data)
        key = self.prefix + frame.pack_key(self.previous)
        self.objects[key] = data
        self.packs.append(key)
        self._grow([statement.entry for statement, _ in taken])

    def _grow(self, added: list[bytes]) -> None:
        size = self.size
        hashes = [leaf_hash(entry) for entry in added]
        written = {
            **tiles.grow_entries(size, self._edge, added),
            **tiles.grow(size, self._edge, hashes),
        }
        self.entries += added
        self.range.extend(hashes)
        edge = set(tiles.edge_paths(self.size))
        for path in self._edge:
            if path not in edge:
                self.objects.pop(self.prefix + path.path(), None)
        for path, data in written.items():
            if not path.is_partial or path in edge:
                self.objects[self.prefix + path.path()] = data
            if path in edge:
                self._edge[path] = data
        self._edge = {path: data for path, data in self._edge.items() if path in edge}


class AgentBuilder:
    """One agent's chain; every block it seals is added to the log's pending statements."""

    def __init__(
        self,
        log: LogBuilder,
        name: str,
        *,
        replaces: AgentBuilder | None = None,
        tenant: str | None = None,
        log_hash: bytes | None = None,
        chain_log: bool = True,
    ) -> None:
        self.log = log
        self.name = name
        self.boot = log.random.draw(8)
        self.ratchet = Ratchet(names.Seq(0), log.random.draw(32))
        self.sealing: dict[tuple[int, int], _Sealing] = {}
        self.seen = (0, names.ZERO_DIGEST)
        self.blocks: list[Block] = []
        genesis = Genesis(
            public=self.ratchet.public(),
            tenant=tenant or log.tenant,
            agent=name,
            log=names.Digest(log_hash or log.log),
            configuration=names.Digest(hashlib.sha256(b"configuration").digest()),
            replaces=names.ChainId(replaces.state.chain if replaces else names.ZERO_DIGEST),
            replaced_seq=names.Seq(replaces.state.seq if replaces else 0),
            replaced_hash=names.Digest(replaces.state.head if replaces else names.ZERO_DIGEST),
        )
        block = self._sign(self._header(BlockKind.GENESIS, genesis=genesis))
        self.state: ChainState = begin(block)
        self.blocks.append(block)
        if chain_log:
            log.add(block)

    def _header(self, kind: BlockKind, **fields: object) -> BlockHeader:
        now = self.log.tick()
        values: dict[str, object] = {
            "kind": kind,
            "flags": Flags.NONE,
            "chain": names.ZERO_DIGEST,
            "seq": names.Seq(0),
            "prev": names.ZERO_DIGEST,
            "start": 0,
            "count": 0,
            "root": EMPTY_ROOT,
            "body": EMPTY_ROOT,
            "size": 0,
            "group": 0,
            "retention_class": 0,
            "dek": names.ZERO_DATA_KEY_ID,
            "step": 0,
            "sealed_ns": now,
            "monotonic_ns": now - START_NS,
            "boot": self.boot,
            "seen_size": self.seen[0],
            "seen_root": self.seen[1],
            "next": self.ratchet.next().public(),
        }
        if kind is not BlockKind.GENESIS:
            values |= {
                "chain": self.state.chain,
                "seq": names.Seq(self.state.seq + 1),
                "prev": self.state.head,
                "start": self.state.records,
            }
        return BlockHeader(**{**values, **fields})  # type: ignore[arg-type]  # fields by name

    def _sign(self, header: BlockHeader) -> Block:
        data = header.encode()
        block = Block(header, data, self.ratchet.sign(block_message(data)))
        self.ratchet = self.ratchet.next()
        return block

    def append(self, header: BlockHeader, body: bytes = b"", *, publish: bool = True) -> Block:
        """Sign ``header``, move the chain on, and add the block to the log (unless it is to be lost)."""
        block = self._sign(header)
        self.state = advance(self.state, block)
        self.blocks.append(block)
        if publish:
            self.log.add(block, body)
        return block

    def key(self, group: int = 0, retention_class: int = 0, *, publish: bool = True) -> Block:
        """A new data key: envelopes into the region, a keys block into the chain."""
        dek = self.log.random.draw(32)
        context = envelope.EnvelopeContext(
            self.log.tenant, self.state.chain, datakey.data_key_id(dek), group, retention_class
        )
        made = []
        for reader in self.log.readers:
            wrapped = envelope.wrap(dek, reader.recipient, context)
            key_hash = reader.recipient.key_hash
            self.log.objects[region.envelope_key(self.log.tenant, context.dek, key_hash)] = wrapped
            made.append((key_hash, names.Digest(hashlib.sha256(wrapped).digest())))
        body = envelope.KeyList(
            f"group-{group}", group, retention_class, context.dek, tuple(sorted(made))
        ).encode()
        header = self._header(
            BlockKind.KEYS,
            group=group,
            retention_class=retention_class,
            dek=context.dek,
            body=names.Digest(hashlib.sha256(body).digest()),
            size=len(body),
        )
        block = self.append(header, body, publish=publish)
        self.sealing[group, retention_class] = _Sealing(datakey.DataKeyRatchet.start(dek), block)
        return block

    def seal(
        self,
        sources: list[Source],
        group: int = 0,
        retention_class: int = 0,
        flags: Flags = Flags.NONE,
        *,
        publish: bool = True,
    ) -> Block:
        """One records block that holds ``sources``."""
        if (group, retention_class) not in self.sealing:
            self.key(group, retention_class)
        sealing = self.sealing[group, retention_class]
        runs = [
            bodies.Run(
                stream=source.stream,
                path=source.path,
                file=source.file,
                offset=source.offset,
                size=len(source.data),
                lines=1 if source.more else records.count(source.data),
                read_ns=self.log.now_ns,
                more=source.more,
            )
            for source in sources
        ]
        lines = [run.encode() for run in runs]
        salt = self.log.random.draw(32)
        pieces = [[source.data] if source.more else records.split(source.data) for source in sources]
        root = records.root(salt, zip(lines, pieces, strict=True))
        header = self._header(BlockKind.RECORDS)
        block_key = sealing.ratchet.block_key(header.chain, header.seq, root)
        body = bodies.seal(
            bodies.encode_payload(salt, lines, [source.data for source in sources]),
            block_key,
            self.log.random.draw(12),
            bodies.additional_data(
                header.chain, header.seq, group, retention_class, sealing.ratchet.dek, sealing.ratchet.step
            ),
            bodies.compressor(),
        )
        header = self._header(
            BlockKind.RECORDS,
            flags=flags,
            count=sum(run.lines for run in runs),
            root=root,
            body=names.Digest(hashlib.sha256(body).digest()),
            size=len(body),
            group=group,
            retention_class=retention_class,
            dek=sealing.ratchet.dek,
            step=sealing.ratchet.step,
        )
        sealing.ratchet = sealing.ratchet.next()
        return self.append(header, body, publish=publish)

    def idle(self, flags: Flags = Flags.NONE, *, publish: bool = True, **fields: object) -> Block:
        """A records block that says there was nothing."""
        return self.append(self._header(BlockKind.RECORDS, flags=flags, **fields), publish=publish)

    def saw(self, checkpoint: Checkpoint) -> None:
        """The next blocks testify that they saw ``checkpoint``."""
        self.seen = (checkpoint.size, names.Digest(checkpoint.root))


class MemoryRegion:
    """A :class:`duramen.packs.RegionReader` over a dict."""

    def __init__(self, objects: dict[str, bytes], *, lists: bool = True) -> None:
        self.objects = objects
        self.lists = lists

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def read_start(self, key: str, count: int) -> bytes | None:
        data = self.objects.get(key)
        return None if data is None else data[:count]

    def keys(self, prefix: str) -> list[str] | None:
        return sorted(key for key in self.objects if key.startswith(prefix)) if self.lists else None


def sample(seed: object = 0, *, blocks: int = 4, readers: int = 2) -> LogBuilder:
    """Three agents, two classes, several packs, idle blocks, a stop, testimony about earlier checkpoints."""
    log = LogBuilder(seed, readers=readers)
    web, db, cron = log.agent("web-1"), log.agent("db-1"), log.agent("cron-1")
    log.publish()
    for number in range(blocks):
        access = b"".join(b"GET /%d/%d\n" % (number, line) for line in range(3))
        web.seal([Source("nginx/access", b"/var/log/access.log", access, 24 * number if number else 0)])
        db.seal([Source("pg", b"/var/log/pg.log", b"query %d\n" % number, 8 * number)], retention_class=1)
        cron.idle()
        checkpoint = log.publish()
        for agent in (web, db, cron):
            agent.saw(checkpoint)
    cron.idle(Flags.STOP)
    log.publish()
    return log
