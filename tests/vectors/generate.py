"""Generates Duramen's golden vectors: `python tests/vectors/generate.py` leaves no diff.

Every value comes from fixed seeds. Two things are randomised by their algorithms (an HPKE envelope, an
ML-DSA-44 signature): those files are kept as they are while they still open and verify, and made anew
otherwise. Valid vectors are one JSON file a subject; invalid ones have one defect a file, named for it, with
the parser that must refuse it. docs/DESIGN.md explains the bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from duramen import body, canonical, chain, envelope, frame, ratchet, records, statement
from duramen.checkpoint import Checkpoint, LogSigner, open_checkpoint
from duramen.datakey import DataKeyRatchet
from duramen.errors import DuramenError
from duramen.merkle import EMPTY_ROOT, leaf_hash, root_of
from duramen.names import ZERO_DATA_KEY_ID, ZERO_DIGEST, ChainId, Digest, Seq
from duramen.ratchet import Ratchet
from duramen.statement import Block, BlockHeader, BlockKind, Flags, Genesis

ROOT = Path(__file__).parent / "duramen"
TIME_NS = 1_750_000_000_123_456_789
ORIGIN = "logs.example.com/acme"

PARSERS: dict[str, Callable[[bytes], object]] = {
    "statement": statement.parse_statement,
    "frames": lambda data: list(frame.parse_frames(data)),
    "pack": frame.parse_pack,
    "payload": body.parse_payload,
    "run": body.parse_run,
    "key_list": envelope.parse_key_list,
    "envelope": envelope.check_envelope,
    "seed_file": ratchet.parse_seed_file,
    "canonical": lambda data: canonical.decode(data, "the vector"),
}


def fixed(label: str, size: int = 32) -> bytes:
    """Bytes that look random and follow from ``label``."""
    return hashlib.shake_256(b"duramen test vector " + label.encode()).digest(size)


READER = envelope.ReaderKey(fixed("reader"))
SIGNER = LogSigner(ORIGIN, fixed("log ed25519"), fixed("log ml-dsa-44"))


class Sealer:
    """Seals one small chain: genesis, keys, two blocks of records, one empty block."""

    def __init__(self, envelope_bytes: Callable[[bytes, envelope.EnvelopeContext], bytes]) -> None:
        self.ratchet = Ratchet(Seq(0), fixed("seed"))
        self.frames: list[tuple[Block, bytes]] = []
        self._seal_genesis()
        self.key = DataKeyRatchet.start(fixed("dek"))
        self.context = envelope.EnvelopeContext("acme", self.state.chain, self.key.dek, 1, 2)
        self.envelope = envelope_bytes(fixed("dek"), self.context)
        listed = (READER.recipient.key_hash, Digest(hashlib.sha256(self.envelope).digest()))
        keys_body = envelope.KeyList("customers", 1, 2, self.key.dek, (listed,)).encode()
        self._seal(BlockKind.KEYS, keys_body, dek=self.key.dek, group=1, retention_class=2)
        self.payloads = [
            self._seal_records(
                [(b"/var/log/app.log", b"first line\nsecond line\ntorn"), (b"/srv/\xff", b"x\n")]
            ),
            self._seal_records([(b"/var/log/app.log", b" and ended\n")]),
        ]
        self._seal(BlockKind.RECORDS, b"", flags=Flags.STOP)

    def _seal_genesis(self) -> None:
        first = self.ratchet.next()
        genesis = Genesis(
            public=self.ratchet.public(),
            tenant="acme",
            agent="web-1",
            log=statement.log_digest(
                ORIGIN, (SIGNER.keys().ed25519.encode(), SIGNER.keys().mldsa44.encode())
            ),
            configuration=Digest(fixed("configuration")),
            replaces=ChainId(ZERO_DIGEST),
            replaced_seq=Seq(0),
            replaced_hash=ZERO_DIGEST,
        )
        header = BlockHeader(
            kind=BlockKind.GENESIS,
            flags=Flags.NONE,
            chain=ChainId(ZERO_DIGEST),
            seq=Seq(0),
            prev=ZERO_DIGEST,
            start=0,
            count=0,
            root=Digest(EMPTY_ROOT),
            body=Digest(EMPTY_ROOT),
            size=0,
            group=0,
            retention_class=0,
            dek=ZERO_DATA_KEY_ID,
            step=0,
            sealed_ns=TIME_NS,
            monotonic_ns=1_000,
            boot=fixed("boot", 8),
            seen_size=0,
            seen_root=ZERO_DIGEST,
            next=first.public(),
            genesis=genesis,
        )
        block = self._sign(header)
        self.state = chain.begin(block)
        self.frames.append((block, b""))
        self.ratchet = first

    def _sign(self, header: BlockHeader) -> Block:
        encoded = header.encode()
        return Block(header, encoded, self.ratchet.sign(statement.block_message(encoded)))

    def _seal(self, kind: BlockKind, sealed: bytes, flags: Flags = Flags.NONE, **fields: object) -> None:
        following = self.ratchet.next()
        seq = Seq(self.state.seq + 1)
        header = replace(
            self.frames[-1][0].header,
            kind=kind,
            flags=flags,
            chain=self.state.chain,
            seq=seq,
            prev=self.state.head,
            start=self.state.records,
            **{
                "count": 0,
                "root": Digest(EMPTY_ROOT),
                "group": 0,
                "retention_class": 0,
                "dek": ZERO_DATA_KEY_ID,
                "step": 0,
                **fields,
            },
            body=Digest(hashlib.sha256(sealed).digest()),
            size=len(sealed),
            sealed_ns=TIME_NS + seq * 10**9,
            monotonic_ns=1_000 + seq * 10**9,
            next=following.public(),
            genesis=None,
        )
        block = self._sign(header)
        self.state = chain.advance(self.state, block)
        self.frames.append((block, sealed))
        self.ratchet = following

    def _seal_records(self, files: list[tuple[bytes, bytes]]) -> bytes:
        seq = self.state.seq + 1
        runs = [
            body.Run(
                "app", path, f"1-{number}-0", 0 if seq == 2 else 26, len(raw), records.count(raw), TIME_NS
            )
            for number, (path, raw) in enumerate(files)
        ]
        lines = [run.encode() for run in runs]
        raws = [raw for _, raw in files]
        salt_key = fixed(f"salt {seq}")
        root = records.root(
            salt_key, [(line, records.split(raw)) for line, raw in zip(lines, raws, strict=True)]
        )
        payload = body.encode_payload(salt_key, lines, raws)
        aad = body.additional_data(self.state.chain, seq, 1, 2, self.key.dek, self.key.step)
        block_key = self.key.block_key(self.state.chain, seq, root)
        sealed = body.seal(payload, block_key, fixed(f"nonce {seq}", 12), aad, body.compressor())
        self._seal(
            BlockKind.RECORDS,
            sealed,
            count=sum(run.lines for run in runs),
            root=root,
            group=1,
            retention_class=2,
            dek=self.key.dek,
            step=self.key.step,
        )
        self.key = self.key.next()
        return payload


def kept_envelope(dek: bytes, context: envelope.EnvelopeContext) -> bytes:
    """The envelope on disk while it opens; a new one otherwise."""
    try:
        kept = bytes.fromhex(json.loads((ROOT / "envelope.json").read_text())["envelope"])
        if READER.unwrap(kept, context) == dek:
            return kept
    except (OSError, DuramenError):
        pass
    return envelope.wrap(dek, READER.recipient, context)


def kept_note(checkpoint: Checkpoint) -> str:
    """The signed checkpoint on disk while it verifies; a new one otherwise."""
    try:
        note: str = json.loads((ROOT / "checkpoint.json").read_text())["note"]
        if open_checkpoint(note.encode(), SIGNER.keys()).checkpoint == checkpoint:
            return note
    except (OSError, DuramenError):
        pass
    return SIGNER.sign(checkpoint, TIME_NS // 10**9).decode()


def vectors() -> dict[str, object]:
    """File name below ``duramen/`` to JSON value."""
    sealer = Sealer(kept_envelope)
    notice = statement.encode_notice(
        "enrol", TIME_NS, Ratchet(Seq(0), fixed("notice key")).public(), {"agent": "web-1"}
    )
    notice_signature = Ratchet(Seq(0), fixed("notice key")).sign(statement.notice_message(notice))
    frames = [
        frame.encode_frame(block.header_bytes, block.signature, sealed) for block, sealed in sealer.frames
    ]
    frames.append(frame.encode_frame(notice, notice_signature, b""))
    entries = [block.entry for block, _ in sealer.frames] + [notice + notice_signature]
    pack = frame.encode_pack(frame.PackHeader(2, 0, len(frames), Digest(EMPTY_ROOT), ZERO_DIGEST), frames)
    checkpoint = Checkpoint(ORIGIN, len(entries), root_of([leaf_hash(entry) for entry in entries]))
    first = sealer.frames[2][0]
    run_line = body.parse_payload(sealer.payloads[0]).runs[0][1]
    salt_key = fixed("salt 2")
    key = DataKeyRatchet.start(fixed("dek"))
    values: dict[str, object] = {
        "ratchet.json": {
            "seed": fixed("seed").hex(),
            "next_seed": Ratchet(Seq(0), fixed("seed")).next().seed.hex(),
            "public": [Ratchet(Seq(0), fixed("seed")).forward_to(step).public().hex() for step in range(3)],
            "seed_file": Ratchet(Seq(7), fixed("seed")).encode().hex(),
            "heartbeat": {
                "chain": sealer.state.chain.hex(),
                "next_seq": sealer.ratchet.index,
                "head": sealer.state.head.hex(),
                "nonce": fixed("nonce").hex(),
                "signature": sealer.ratchet.heartbeat(
                    sealer.state.chain, sealer.state.head, fixed("nonce")
                ).hex(),
                "public": sealer.ratchet.public().hex(),
            },
        },
        "datakey.json": {
            "dek": fixed("dek").hex(),
            "id": key.dek.hex(),
            "block_key_0": key.block_key(sealer.state.chain, 2, first.header.root).hex(),
            "chaining_key_1": key.next().chaining_key.hex(),
        },
        "records.json": {
            "salt_key": salt_key.hex(),
            "salts": records.salts(salt_key, 4).hex(),
            "run_line": run_line.decode(),
            "leaf_0": records.leaf(records.salts(salt_key, 1), run_line, b"first line\n").hex(),
            "payload": sealer.payloads[0].hex(),
            "root": first.header.root.hex(),
        },
        "chain.json": {
            "statements": [
                {"hash": block.hash.hex(), "statement": block.entry.hex(), "body": sealed.hex()}
                for block, sealed in sealer.frames
            ],
            "notice": (notice + notice_signature).hex(),
            "notice_public": Ratchet(Seq(0), fixed("notice key")).public().hex(),
            "frames": b"".join(frames).hex(),
            "pack": pack.hex(),
            "pack_sha256": frame.pack_digest(pack).hex(),
        },
        "envelope.json": {
            "seed": fixed("reader").hex(),
            "public": READER.recipient.public.hex(),
            "info": sealer.context.info(READER.recipient.key_hash).hex(),
            "envelope": sealer.envelope.hex(),
            "dek": fixed("dek").hex(),
        },
        "checkpoint.json": {
            "origin": ORIGIN,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "vkeys": [SIGNER.keys().ed25519.encode(), SIGNER.keys().mldsa44.encode()],
            "note": kept_note(checkpoint),
        },
        "padding.json": {
            str(size): body.padded_size(size) for size in (0, 1, 2, 9, 100, 1000, 65_537, 1_000_000)
        },
    }
    for name, (parser, data) in _invalid(sealer, entries, frames, pack).items():
        values[f"invalid/{name}.json"] = {"parser": parser, "data": data.hex()}
    return values


def _patch(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset] + piece + data[offset + len(piece) :]


def _manifest(manifest: bytes) -> bytes:
    return len(manifest).to_bytes(4, "big") + manifest


def _checksummed(seed_file: bytes) -> bytes:
    return _patch(seed_file, 45, hashlib.sha256(seed_file[:45]).digest())


def _invalid(
    sealer: Sealer, entries: list[bytes], frames: list[bytes], pack: bytes
) -> dict[str, tuple[str, bytes]]:
    genesis, keys, block, empty = entries[0], entries[1], entries[2], entries[4]
    notice = entries[5]
    payload = sealer.payloads[0]
    run = body.parse_payload(payload).runs[0][1]
    listed = sealer.frames[1][1]
    seed_file = Ratchet(Seq(7), fixed("seed")).encode()
    names = genesis.index(b"\x04acme\x05web-1")
    later = b"\0" * 7 + b"\1"
    empty_run = body.Run("s", b"/p", "f", 0, 0, 0, 0).encode() + b"\n"
    return {
        "statement-empty": ("statement", b""),
        "statement-signature-only": ("statement", bytes(64)),
        "statement-unknown-first-byte": ("statement", b"\x02" + block[1:]),
        "statement-too-long": ("statement", block[:-64] + bytes(65_536 - len(block)) + block[-64:]),
        "block-unknown-kind": ("statement", _patch(block, 1, b"\x09")),
        "block-unknown-flag": ("statement", _patch(block, 2, b"\x00\x10")),
        "block-cut": ("statement", block[:200]),
        "block-trailing-byte": ("statement", block[:-64] + b"\0" + block[-64:]),
        "block-zero-chain": ("statement", _patch(block, 4, bytes(32))),
        "block-zero-prev": ("statement", _patch(block, 44, bytes(32))),
        "block-seq-past-limit": ("statement", _patch(block, 36, b"\x80")),
        "block-seq-zero": ("statement", _patch(block, 36, bytes(8))),
        "block-records-past-limit": ("statement", _patch(block, 76, b"\x7f" + b"\xff" * 7)),
        "block-body-too-large": ("statement", _patch(block, 152, b"\xff" * 4)),
        "block-next-small-order": ("statement", _patch(block, 243, b"\x01" + bytes(31))),
        "block-next-not-canonical": ("statement", _patch(block, 243, b"\xff" * 32)),
        "block-seen-without-root": ("statement", _patch(block, 203, b"\0" * 7 + b"\1")),
        "block-records-without-body": ("statement", _patch(block, 152, bytes(4))),
        "block-records-without-data-key": ("statement", _patch(block, 159, bytes(16))),
        "block-records-with-empty-root": ("statement", _patch(block, 88, EMPTY_ROOT)),
        "block-empty-with-step": ("statement", _patch(empty, 175, b"\0\0\0\1")),
        "block-step-past-limit": ("statement", _patch(block, 175, b"\0\1\0\0")),
        "block-empty-with-body-hash": ("statement", _patch(empty, 120, bytes(32))),
        "keys-with-records": ("statement", _patch(_patch(keys, 84, b"\0\0\0\1"), 88, b"r" * 32)),
        "keys-without-data-key": ("statement", _patch(keys, 159, bytes(16))),
        "genesis-with-seq": ("statement", _patch(genesis, 36, b"\0" * 7 + b"\1")),
        "genesis-with-class": ("statement", _patch(genesis, 158, b"\1")),
        "genesis-tenant-upper-case": ("statement", _patch(genesis, names + 1, b"A")),
        "genesis-agent-not-ascii": ("statement", _patch(genesis, names + 6, b"\xff")),
        "genesis-tenant-length-past-limit": ("statement", _patch(genesis, names, b"\xff")),
        "genesis-replaces-without-hash": ("statement", _patch(genesis, len(genesis) - 64 - 72, b"\1")),
        "genesis-replaced-seq-past-limit": (
            "statement",
            _patch(genesis, len(genesis) - 64 - 72, b"c" * 32 + b"\x80" + bytes(7) + b"h" * 32),
        ),
        "genesis-own-key-small-order": ("statement", _patch(genesis, 275, bytes(32))),
        "notice-white-space": ("statement", notice.replace(b",", b", ", 1)),
        "notice-line-break": ("statement", notice.replace(b",", b",\n", 1)),
        "notice-unsorted": ("statement", b'{"type":"x","time":1,"key":"0000000000000000"}' + bytes(64)),
        "notice-without-key": ("statement", b'{"time":1,"type":"x"}' + bytes(64)),
        "notice-duplicate-key": ("statement", notice.replace(b'{"agent"', b'{"agent":"web-1","agent"', 1)),
        "notice-float": ("statement", b'{"key":"0000000000000000","time":1.0,"type":"x"}' + bytes(64)),
        "notice-too-long": ("statement", notice.replace(b"web-1", b"w" * 16_384)),
        "frame-magic": ("frames", b"DRMM" + frames[0][4:]),
        "frame-version": ("frames", _patch(frames[0], 4, b"\x02")),
        "frame-cut": ("frames", frames[2][:-1]),
        "frame-trailing-byte": ("frames", frames[2] + b"D"),
        "frame-body-past-limit": (
            "frames",
            frames[4][:-4] + b"\x00\x80\x00\x01",
        ),  # checked before it is read
        "frame-header-past-limit": ("frames", _patch(frames[0], 5, b"\x7f")),  # checked before it is read
        "frame-notice-with-body": ("frames", frames[5][:-4] + b"\0\0\0\1x"),
        "pack-magic": ("pack", b"DRMN" + pack[4:]),
        "pack-count": ("pack", _patch(pack, 14, b"\0\0\0\x05")),
        "pack-empty": ("pack", _patch(pack[: frame.PACK_HEADER_BYTES], 14, bytes(4))),
        "pack-sizes-differ": ("pack", _patch(pack, 18, b"\0" * 7 + b"\1")),
        "pack-first-with-pack-before": ("pack", _patch(pack, 58, b"\1")),
        "pack-first-with-root-before": ("pack", _patch(pack, 26, b"\1")),
        "pack-later-without-pack-before": (
            "pack",
            _patch(_patch(_patch(pack, 6, later), 18, later), 26, b"r" * 32),
        ),
        "pack-other-class": ("pack", _patch(pack, 5, b"\x01")),
        "payload-trailing-byte": ("payload", payload + b"x"),
        "payload-cut": ("payload", payload[:-1]),
        "payload-manifest-past-end": ("payload", _patch(payload, 0, b"\0\0\xff\xff")),
        "payload-manifest-without-line-feed": ("payload", _manifest(b'{"salt":"%s"}' % (b"00" * 32))),
        "payload-without-salt": ("payload", _manifest(b"{}\n")),
        "payload-run-without-records": ("payload", _manifest(b'{"salt":"%s"}\n' % (b"00" * 32) + empty_run)),
        "payload-line-count": ("payload", payload.replace(b'"lines":3', b'"lines":2')),
        "run-unknown-field": ("run", run.replace(b'"stream"', b'"stranger":1,"stream"')),
        "run-path64-not-ascii": ("run", run.replace(b'"path":"/var/log/app.log"', '"path64":"é"'.encode())),
        "run-more-false": ("run", run.replace(b',"offset"', b',"more":false,"offset"')),
        "run-path-needlessly-base64": (
            "run",
            run.replace(b'"path":"/var/log/app.log"', b'"path64":"L3Zhci9sb2cvYXBwLmxvZw=="'),
        ),
        "key-list-nobody": ("key_list", listed[: listed.index(b"[")] + b"[]}"),
        "key-list-unsorted-recipients": (
            "key_list",
            listed[:-2]
            + b","
            + listed[listed.index(b"[") + 1 : -2].replace(b'"key":"', b'"key":"0', 1)[:-3]
            + b'"}]}',
        ),
        "envelope-kem": ("envelope", b"\x00\x20" + sealer.envelope[2:]),
        "envelope-cut": ("envelope", sealer.envelope[:-1]),
        "seed-file-torn": ("seed_file", seed_file[:40] + bytes(472)),
        "seed-file-short": ("seed_file", seed_file[:511]),
        "seed-file-trailing-byte": ("seed_file", seed_file[:511] + b"\1"),
        "seed-file-version": ("seed_file", _checksummed(_patch(seed_file, 4, b"\x02"))),
        "canonical-wide-integer": ("canonical", b"9007199254740993"),
        "canonical-escape": ("canonical", b'"\\u0061"'),
        "canonical-lone-surrogate": ("canonical", b'"\\ud800"'),
        "canonical-minus-zero": ("canonical", b"-0"),
        "canonical-nan": ("canonical", b"NaN"),
        "canonical-deep": ("canonical", b"[" * 40 + b"]" * 40),
        "canonical-byte-order-mark": ("canonical", b"\xef\xbb\xbf1"),
        "canonical-not-utf-8": ("canonical", b'"\xff"'),
    }


def render(value: object) -> str:
    """The text of a vector file."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write every vector, and remove files that no vector makes."""
    made = vectors()
    for name, value in made.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(value))
    for path in ROOT.rglob("*.json"):
        if str(path.relative_to(ROOT)) not in made:
            path.unlink()
    print(f"{len(made)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
