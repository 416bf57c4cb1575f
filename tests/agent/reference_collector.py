"""A small collector that implements the agents' HTTP contract in memory: real chain checks, real receipts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from duramen import api
from duramen.chain import ChainState, advance, begin, check_body
from duramen.checkpoint import Checkpoint, LogSigner
from duramen.errors import FormatError, IntegrityError
from duramen.frame import FRAMES_MEDIA_TYPE, parse_frames
from duramen.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from duramen.names import ChainId, DataKeyId, Digest, Seq
from duramen.ratchet import verify_heartbeat
from duramen.receipt import InclusionProof, Receipt
from duramen.statement import Block, BlockKind, parse_statement

SIGNER = LogSigner("logs.example.com/acme", b"e" * 32, b"m" * 32)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def json_answer(body: bytes) -> Answer:
    return Answer(200, {"content-type": api.JSON_MEDIA_TYPE}, body)


def problem(
    status: int, code: str, detail: str = "no", headers: dict[str, str] | None = None, **more
) -> Answer:
    body = api.Problem(status, code, detail, **more).encode()
    return Answer(status, {"content-type": api.PROBLEM_MEDIA_TYPE, **(headers or {})}, body)


@dataclass
class Chain:
    state: ChainState
    blocks: list[Block]
    bodies: list[bytes]
    leaves: list[int] = field(default_factory=list)
    """Index in the log of each published block."""
    envelopes: dict[DataKeyId, api.EnvelopeUpload] = field(default_factory=dict)
    heartbeats: list[int] = field(default_factory=list)


class ReferenceCollector:
    """``handle`` answers one request; ``publish`` puts everything accepted under a new checkpoint."""

    def __init__(self, signer: LogSigner = SIGNER, page: int = 1024) -> None:
        self.signer = signer
        self.page = page
        self.chains: dict[bytes, Chain] = {}
        self.hashes: list[bytes] = [leaf_hash(b"a notice")]
        self.size = 0
        self.nonce = 0
        self.max_bytes = 1 << 30
        self.tokens: dict[str, api.EnrollRequest] = {}
        self.certificate = "certificate"
        self.requests: list[tuple[str, str]] = []

    def enroll(self, genesis: bytes) -> ChainId:
        block = parse_statement(genesis)
        assert isinstance(block, Block)
        self.chains.setdefault(block.hash, Chain(begin(block), [block], [b""]))
        return ChainId(block.hash)

    def publish(self) -> None:
        for chain in self.chains.values():
            for block in chain.blocks[len(chain.leaves) :]:
                self.hashes.append(leaf_hash(b"somebody else's"))
                chain.leaves.append(len(self.hashes))
                self.hashes.append(leaf_hash(block.entry))
        self.size = len(self.hashes)

    def handle(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        url = urlsplit(target)
        self.requests.append((method, url.path))
        if (method, url.path) == ("POST", "/v1/enroll"):
            return self._enroll(body)
        _, _, chains, name, what = url.path.split("/", 4)
        assert chains == "chains"
        chain = self.chains.get(bytes.fromhex(name))
        if chain is None:
            return problem(404, "not_enrolled", "this chain is not known here")
        query = {key: int(values[0]) for key, values in parse_qs(url.query).items()}
        if (method, what) == ("GET", "head"):
            return json_answer(
                api.HeadAnswer(
                    chain.state.seq, chain.state.head, len(chain.leaves) - 1, self._nonce()
                ).encode()
            )
        if (method, what) == ("POST", "blocks"):
            assert headers["content-type"] == FRAMES_MEDIA_TYPE
            return self._blocks(chain, body, query["from"], query["seen"])
        if (method, what) == ("POST", "heartbeat"):
            return self._heartbeat(chain, api.parse_heartbeat(body))
        if (method, what) == ("GET", "receipt"):
            return json_answer(self.progress(chain, query["from"], query["seen"]).encode())
        assert method == "PUT"
        assert what.startswith("envelopes/")
        chain.envelopes[DataKeyId(bytes.fromhex(what[10:]))] = api.parse_envelope_upload(body)
        return Answer(204, {}, b"")

    def _enroll(self, body: bytes) -> Answer:
        request = api.parse_enroll_request(body)
        before = self.tokens.setdefault(request.token, request)
        if before.genesis != request.genesis:
            return problem(403, "not_enrolled", "the token has been used")
        return json_answer(api.EnrollAnswer(self.certificate, self.enroll(request.genesis)).encode())

    def _nonce(self) -> bytes:
        self.nonce += 1
        return self.nonce.to_bytes(32, "big")

    def _blocks(self, chain: Chain, body: bytes, first: int, seen: int) -> Answer:
        if len(body) > self.max_bytes:
            return problem(413, "too_large", f"at most {self.max_bytes} bytes")
        try:
            frames = list(parse_frames(body))
        except FormatError as error:
            return problem(422, "header_corrupt", str(error))
        want: set[DataKeyId] = set()
        for frame in frames:
            block = frame.statement
            assert isinstance(block, Block)
            header = block.header
            if header.seq <= chain.state.seq and chain.blocks[header.seq].entry == block.entry:
                continue
            if header.dek != bytes(16) and header.dek not in chain.envelopes:
                want.add(header.dek)
                break
            try:
                after = advance(chain.state, block)
                check_body(block, frame.body)
            except IntegrityError as error:
                if error.code == "gap" or (
                    error.code in ("replay", "link_broken") and header.seq <= chain.state.seq + 1
                ):
                    code = "gap" if error.code == "gap" else "fork"
                    return problem(409, code, str(error), accepted_seq=chain.state.seq, head=chain.state.head)
                return problem(422, error.code, str(error))
            chain.state = after
            chain.blocks.append(block)
            chain.bodies.append(frame.body)
        return json_answer(self.progress(chain, first, seen, tuple(want)).encode())

    def _heartbeat(self, chain: Chain, beat: api.Heartbeat) -> Answer:
        if beat.nonce != self.nonce.to_bytes(32, "big"):
            return problem(409, "stale_nonce", nonce=self._nonce())
        if beat.next_seq == chain.state.seq + 1:
            public = chain.state.next_public
            verify_heartbeat(public, chain.state.chain, beat.next_seq, beat.head, beat.nonce, beat.signature)
            assert beat.head == chain.state.head
        chain.heartbeats.append(beat.next_seq)
        answer = self.progress(chain, beat.receipt_from, beat.seen_size, nonce=self._nonce())
        return json_answer(answer.encode())

    def progress(
        self,
        chain: Chain,
        first: int,
        seen: int,
        want: tuple[DataKeyId, ...] = (),
        nonce: bytes | None = None,
    ) -> api.ProgressAnswer:
        published = len(chain.leaves) - 1
        receipt = self.receipt(chain, first, seen) if first <= published and seen <= self.size else None
        return api.ProgressAnswer(chain.state.seq, published, receipt, want, nonce)

    def receipt(self, chain: Chain, first: int, seen: int) -> Receipt:
        tree = self.hashes[: self.size]
        leaves = chain.leaves[first : first + self.page]
        checkpoint = Checkpoint(self.signer.origin, self.size, root_of(tree))
        return Receipt(
            checkpoint=self.signer.sign(checkpoint, 1),
            old_size=seen,
            consistency=tuple(consistency_proof(seen, tree)) if seen else (),
            first=Seq(first),
            proofs=tuple(InclusionProof(index, tuple(inclusion_proof(index, tree))) for index in leaves),
        )

    def kinds(self, chain: ChainId) -> list[BlockKind]:
        return [block.header.kind for block in self.chains[chain].blocks]

    def digest(self, chain: ChainId) -> Digest:
        return Digest(hashlib.sha256(b"".join(self.chains[chain].bodies)).digest())
