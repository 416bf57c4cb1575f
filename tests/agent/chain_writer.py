"""Seals blocks into a spool the shortest way: real headers, signatures and links; bodies of random bytes."""

from __future__ import annotations

import hashlib

from duramen.api import EnvelopeUpload
from duramen.chain import advance, begin
from duramen.datakey import data_key_id
from duramen.envelope import ENVELOPE_BYTES
from duramen.merkle import EMPTY_ROOT
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq
from duramen.ratchet import Ratchet
from duramen.statement import Block, BlockHeader, BlockKind, Flags, Genesis, block_message
from duramen_agent.spool import ShredGroup, Spool

SEED = b"s" * 32
NS = 10**9


class ChainWriter:
    """One agent's chain; everything it knows is in the spool and the ratchet."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.ratchet = Ratchet(Seq(0), SEED)
        self.written = 0
        genesis = Genesis(
            public=self.ratchet.public(),
            tenant="acme",
            agent="web-1",
            log=Digest(b"l" * 32),
            configuration=Digest(b"c" * 32),
            replaces=ChainId(ZERO_DIGEST),
            replaced_seq=Seq(0),
            replaced_hash=ZERO_DIGEST,
        )
        block = self._sign(self._header(BlockKind.GENESIS, b"", genesis=genesis, seq=0))
        self.genesis = block
        self.state = begin(block)
        self.chain = self.state.chain
        spool.initialise(block, self.state, Digest(b"c" * 32), b"f" * 32)

    def _header(
        self, kind: BlockKind, body: bytes, *, genesis=None, seq=None, dek=None, step=0
    ) -> BlockHeader:
        state = None if genesis is not None else self.state
        records = kind is BlockKind.RECORDS and body != b""
        return BlockHeader(
            kind=kind,
            flags=Flags.NONE,
            chain=ChainId(ZERO_DIGEST) if state is None else state.chain,
            seq=Seq(0 if state is None else state.seq + 1),
            prev=ZERO_DIGEST if state is None else state.head,
            start=0 if state is None else state.records,
            count=int(records),
            root=Digest(hashlib.sha256(b"root" + body).digest()) if records else Digest(EMPTY_ROOT),
            body=Digest(hashlib.sha256(body).digest()),
            size=len(body),
            group=0,
            retention_class=0,
            dek=dek or ZERO_DATA_KEY_ID,
            step=step,
            sealed_ns=1_700_000_000 * NS + (0 if state is None else state.seq + 1),
            monotonic_ns=5,
            boot=b"bootboot",
            seen_size=0,
            seen_root=ZERO_DIGEST,
            next=self.ratchet.next().public(),
            genesis=genesis,
        )

    def _sign(self, header: BlockHeader) -> Block:
        data = header.encode()
        block = Block(header, data, self.ratchet.sign(block_message(data)))
        self.ratchet = self.ratchet.next()
        return block

    def _append(self, header: BlockHeader, body: bytes, envelopes: EnvelopeUpload | None = None) -> None:
        block = self._sign(header)
        self.state = advance(self.state, block)
        group = None if envelopes is None else ShredGroup(0, "default")
        self.spool.append(block, body, self.state, envelopes=envelopes, group=group)

    def keys(self) -> DataKeyId:
        """A keys block with its envelopes."""
        self.written += 1
        dek = data_key_id(self.written.to_bytes(32, "big"))
        upload = EnvelopeUpload(((Digest(b"r" * 32), b"\x64\x7a" + bytes(ENVELOPE_BYTES - 2)),))
        self._append(self._header(BlockKind.KEYS, b"keys" + dek, dek=dek), b"keys" + dek, upload)
        return dek

    def records(self, body: bytes = b"body") -> None:
        """A records block under the data key in force."""
        use = self.state.keys[0, 0]
        self._append(self._header(BlockKind.RECORDS, body, dek=use.dek, step=use.next_step), body)

    def empty(self) -> None:
        self._append(self._header(BlockKind.RECORDS, b""), b"")

    def sign_heartbeat(self, nonce: bytes) -> tuple[Seq, Digest, bytes]:
        signature = self.ratchet.heartbeat(self.chain, self.state.head, nonce)
        return Seq(self.state.seq + 1), self.state.head, signature
