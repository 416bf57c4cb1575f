"""A collector on a temporary directory, and an agent that can be made to lie."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duramen import api
from duramen.datakey import data_key_id
from duramen.envelope import ENVELOPE_BYTES, KEM_ID, KeyList
from duramen.frame import encode_frame
from duramen.merkle import EMPTY_ROOT
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq
from duramen.ratchet import Ratchet
from duramen.statement import (
    Block,
    BlockHeader,
    BlockKind,
    Flags,
    Genesis,
    block_message,
    log_digest,
    parse_statement,
)
from duramen_collector.authority import AgentIdentity, Authority, create_authority
from duramen_collector.chainstate import StoredChain, find_chain
from duramen_collector.database import open_database, reading, upgrade, writing
from duramen_collector.ingest import parse_blocks
from duramen_collector.judgement import Judged
from duramen_collector.keystore import LogKeyStore
from duramen_collector.logkeys import TenantKeys
from duramen_collector.service import Service
from duramen_collector.tenancy import create_tenant
from duramen_collector.tokens import Pepper, create_enrolment, create_token

START_NS = 1_800_000_000 * 10**9
TENANT = "acme"


@dataclass
class FakeClock:
    now_ns: int = START_NS

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boot_id(self) -> bytes:
        return bytes(8)


@dataclass
class FakeRandom:
    """Repeatable bytes that do not repeat."""

    seed: bytes = b"collector"
    count: int = 0

    def draw(self, count: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(self.seed + self.count.to_bytes(8, "big")).digest(count)


def csr_for(key: Any, *, name: str = "whoever") -> str:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    digest = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def envelope_of(tag: bytes) -> bytes:
    """The right length and KEM id; no keyless party can tell more."""
    return KEM_ID.to_bytes(2, "big") + hashlib.shake_256(tag).digest(ENVELOPE_BYTES - 2)


@dataclass(frozen=True)
class Sent:
    """A block with its body."""

    block: Block
    body: bytes

    @property
    def frame(self) -> bytes:
        return encode_frame(self.block.header_bytes, self.block.signature, self.body)


@dataclass
class FakeAgent:
    """Seals real chains: every signature and hash is right unless a test makes it wrong."""

    keys: TenantKeys | JoinedKeys
    tenant: str = TENANT
    agent: str = "web-1"
    ratchet: Ratchet = field(default_factory=lambda: Ratchet(Seq(0), hashlib.sha256(b"agent").digest()))
    blocks: list[Sent] = field(default_factory=list)
    dek: DataKeyId = ZERO_DATA_KEY_ID
    step: int = 0
    records: int = 0

    def __post_init__(self) -> None:
        self.tls_key = ec.generate_private_key(ec.SECP256R1())

    @property
    def chain(self) -> ChainId:
        return ChainId(self.blocks[0].block.hash)

    @property
    def head(self) -> Digest:
        return self.blocks[-1].block.hash

    @property
    def identity(self) -> AgentIdentity:
        return AgentIdentity(self.tenant, self.agent)

    def header(self, kind: BlockKind, **changes: Any) -> BlockHeader:
        genesis = kind is BlockKind.GENESIS
        header = BlockHeader(
            kind=kind,
            flags=Flags.NONE,
            chain=ChainId(ZERO_DIGEST) if genesis else self.chain,
            seq=Seq(len(self.blocks)),
            prev=ZERO_DIGEST if genesis else self.head,
            start=self.records,
            count=0,
            root=Digest(EMPTY_ROOT),
            body=Digest(EMPTY_ROOT),
            size=0,
            group=0,
            retention_class=0,
            dek=ZERO_DATA_KEY_ID,
            step=0,
            sealed_ns=START_NS + len(self.blocks),
            monotonic_ns=0,
            boot=bytes(8),
            seen_size=0,
            seen_root=ZERO_DIGEST,
            next=self.ratchet.next().public(),
        )
        return replace(header, **changes)

    def sign(self, header: BlockHeader, ratchet: Ratchet | None = None) -> Block:
        data = header.encode()
        block = parse_statement(data + (ratchet or self.ratchet).sign(block_message(data)))
        assert isinstance(block, Block)
        return block

    def _add(self, header: BlockHeader, body: bytes) -> Sent:
        sent = Sent(self.sign(header), body)
        self.blocks.append(sent)
        self.ratchet = self.ratchet.next()
        self.records += header.count
        return sent

    def seal_genesis(self, **changes: Any) -> Sent:
        genesis = Genesis(
            public=self.ratchet.public(),
            tenant=self.tenant,
            agent=self.agent,
            log=self.keys.digest(),
            configuration=Digest(bytes(32)),
            replaces=ChainId(ZERO_DIGEST),
            replaced_seq=Seq(0),
            replaced_hash=ZERO_DIGEST,
        )
        return self._add(self.header(BlockKind.GENESIS, genesis=replace(genesis, **changes)), b"")

    def upload(self, tag: bytes = b"") -> tuple[DataKeyId, api.EnvelopeUpload]:
        """A new data key with envelopes for two readers."""
        dek = data_key_id(hashlib.sha256(b"dek" + tag + len(self.blocks).to_bytes(8, "big")).digest())
        readers = sorted(Digest(hashlib.sha256(name).digest()) for name in (b"reader", b"escrow"))
        return dek, api.EnvelopeUpload(tuple((key, envelope_of(dek + key)) for key in readers))

    def seal_keys(self, dek: DataKeyId, upload: api.EnvelopeUpload, **changes: Any) -> Sent:
        listed = tuple((key, Digest(hashlib.sha256(envelope).digest())) for key, envelope in upload.envelopes)
        body = KeyList("default", 0, 0, dek, listed).encode()
        sent = self._add(
            self.header(
                BlockKind.KEYS, dek=dek, body=Digest(hashlib.sha256(body).digest()), size=len(body), **changes
            ),
            body,
        )
        self.dek, self.step = dek, 0
        return sent

    def seal_records(self, count: int = 1, body: bytes = b"sealed", **changes: Any) -> Sent:
        sent = self._add(self.records_header(count, body, **changes), body)
        self.step += 1
        return sent

    def records_header(self, count: int = 1, body: bytes = b"sealed", **changes: Any) -> BlockHeader:
        return self.header(
            BlockKind.RECORDS,
            **{
                "count": count,
                "root": Digest(hashlib.sha256(b"root" + body).digest()),
                "body": Digest(hashlib.sha256(body).digest()),
                "size": len(body),
                "dek": self.dek,
                "step": self.step,
                **changes,
            },
        )

    def seal_empty(self, **changes: Any) -> Sent:
        return self._add(self.header(BlockKind.RECORDS, **changes), b"")

    def beat(self, nonce: bytes, **changes: Any) -> api.Heartbeat:
        beat = api.Heartbeat(
            next_seq=self.ratchet.index,
            head=self.head,
            nonce=nonce,
            signature=bytes(64),
            receipt_from=Seq(0),
            seen_size=0,
        )
        beat = replace(beat, **changes)
        return replace(beat, signature=self.ratchet.heartbeat(self.chain, beat.head, nonce))


@dataclass
class Site:
    """A collector's front without a network: each call is one transaction."""

    engine: sa.Engine
    service: Service
    keys: TenantKeys
    log_keys: LogKeyStore
    pepper: Pepper
    authority: Authority
    clock: FakeClock
    random: FakeRandom
    directory: Path

    def write(self, work: Callable[[sa.Connection], Any]) -> Any:
        with writing(self.engine) as connection:
            return work(connection)

    def read(self, work: Callable[[sa.Connection], Any]) -> Any:
        with reading(self.engine) as connection:
            return work(connection)

    def engine_beside(self, name: str) -> sa.Engine:
        """Another empty database with the same schema."""
        engine = open_database(self.directory / name)
        upgrade(engine)
        return engine

    def rows(self, table: sa.Table) -> list[Any]:
        return list(self.read(lambda connection: connection.execute(sa.select(table)).all()))

    def stored(self, chain: ChainId) -> StoredChain:
        stored = self.read(lambda connection: find_chain(connection, chain))
        assert isinstance(stored, StoredChain)
        return stored

    def token(self, agent: str = "web-1", life_ns: int = 3600 * 10**9) -> str:
        expires_ns = self.clock.now_ns + life_ns
        return str(
            self.write(
                lambda connection: create_enrolment(
                    connection, self.pepper, self.random, tenant=TENANT, agent=agent, expires_ns=expires_ns
                )
            )
        )

    def enrol(self, agent: FakeAgent, token: str | None = None) -> api.EnrollAnswer:
        request = api.EnrollRequest(
            token or self.token(agent.agent), csr_for(agent.tls_key), agent.blocks[0].block.entry
        )
        answer = self.write(lambda connection: self.service.enrol(connection, request))
        assert isinstance(answer, api.EnrollAnswer)
        return answer

    def csr_for(self, key: Any) -> str:
        return csr_for(key)

    def new_agent(self, name: str = "web-1", **changes: Any) -> FakeAgent:
        """An agent with a genesis that it has not shown to anyone."""
        ratchet = Ratchet(Seq(0), hashlib.sha256(name.encode()).digest())
        agent = FakeAgent(self.keys, agent=name, ratchet=ratchet)
        agent.seal_genesis(**changes)
        return agent

    def enrolled(self, name: str = "web-1") -> FakeAgent:
        agent = self.new_agent(name)
        self.enrol(agent)
        return agent

    def ready(self, name: str = "web-1") -> FakeAgent:
        """An agent whose keys block is accepted."""
        agent = self.enrolled(name)
        dek, upload = agent.upload(name.encode())
        self.put(agent, dek, upload)
        judged = self.send(agent, agent.seal_keys(dek, upload))
        assert judged.problem is None
        assert not judged.want
        return agent

    def put(self, agent: FakeAgent, dek: DataKeyId, upload: api.EnvelopeUpload) -> None:
        self.write(
            lambda connection: self.service.put_envelopes(
                connection, agent.identity, agent.chain, dek, upload
            )
        )

    def send(self, agent: FakeAgent, *sent: Sent) -> Judged:
        uploads = parse_blocks(b"".join(item.frame for item in sent))
        judged = self.write(
            lambda connection: self.service.receive(connection, agent.identity, agent.chain, uploads)
        )
        assert isinstance(judged, Judged)
        return judged

    def heartbeat(self, agent: FakeAgent, beat: api.Heartbeat) -> Judged:
        judged = self.write(
            lambda connection: self.service.heartbeat(connection, agent.identity, agent.chain, beat)
        )
        assert isinstance(judged, Judged)
        return judged

    def nonce(self, agent: FakeAgent) -> bytes:
        return self.pepper.nonce(agent.chain, self.clock.now_ns)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A collector with the tenant acme."""
    clock, random = FakeClock(), FakeRandom()
    engine = open_database(tmp_path / "collector.db")
    upgrade(engine)
    log_keys = LogKeyStore(tmp_path / "keys")
    log_keys.create(TENANT, random)
    keys = log_keys.load(TENANT, f"logs.example.com/{TENANT}")
    pepper = Pepper(random.draw(32))
    authority = Authority(create_authority("logs.example.com", clock.now_ns, random))
    service = Service(
        authority=authority,
        log_keys=log_keys,
        pepper=pepper,
        clock=clock,
        random=random,
    )
    with writing(engine) as connection:
        create_tenant(connection, keys, TENANT, public=False, now_ns=clock.now_ns)
    yield Site(engine, service, keys, log_keys, pepper, authority, clock, random, tmp_path)
    engine.dispose()


@dataclass(frozen=True)
class JoinedKeys:
    """What an agent knows of the log's keys."""

    verifier_keys: tuple[str, str]

    def digest(self) -> Digest:
        return log_digest(self.verifier_keys[0].split("+")[0], self.verifier_keys)


@pytest.fixture
def fake_agent() -> Callable[[tuple[str, str]], FakeAgent]:
    """Makes an agent that has pinned these keys."""
    return lambda verifier_keys: FakeAgent(JoinedKeys(verifier_keys))


@pytest.fixture
def csr() -> Callable[[Any], str]:
    """Makes a signing request for a key."""
    return csr_for


class Client:
    """HTTP requests straight into an ASGI application."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="https://collector")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture
def asgi_client() -> Iterator[Callable[[Any], Client]]:
    """Makes clients of ASGI applications."""
    made: list[Client] = []

    def make(app: Any) -> Client:
        made.append(Client(app))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def api_token(site: Site) -> Callable[[str], dict[str, str]]:
    """Makes the header with a new API token of a role for the tenant acme."""

    def make(role: str) -> dict[str, str]:
        token, _ = site.write(
            lambda connection: create_token(
                connection,
                site.pepper,
                site.random,
                tenant=TENANT,
                role=role,
                now_ns=site.clock.now_ns,
                life_ns=10**12,
            )
        )
        return {"authorization": f"Bearer {token}"}

    return make
