"""A second verifier for Duramen's logs, written from docs/DESIGN.md alone, sharing no code with the product.

It guarantees nothing to users: it is here so that the format is what the page says and not what one program
does. Every refusal is a `Refused`. Where the page leaves room, the choice is marked `choice:`.

It assumes `cryptography` for the primitives, `zstandard` for bodies, and the tlog-tiles client beside it.
"""

import base64
import binascii
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.independent import tiles_client as tlog


class Refused(Exception):
    """What a conforming verifier does not accept."""


def need(fact: object, what: str) -> None:
    if not fact:
        raise Refused(what)


# ---------------------------------------------------------------- 1 conventions

MAX_STATEMENT = 65_535
MAX_NOTICE = 16 << 10
MAX_BODY = 8 << 20
MAX_PAYLOAD = 16 << 20
MAX_MANIFEST = 4 << 20
MAX_RECORD = 1 << 20
MAX_PACK = 64 << 20
MAX_RECIPIENTS = 64
MAX_STEPS = 65_535
MAX_DEPTH = 32  # choice: the page names no depth
WIDE = 1 << 53
LIMIT = 1 << 63

ZERO16, ZERO32 = bytes(16), bytes(32)
EMPTY = hashlib.sha256(b"").digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(key: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, info).derive(key)


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def check_point(key: bytes) -> None:
    """Refuse what is no Ed25519 public key: not canonical, not on the curve, or of small order."""
    need(len(key) == 32, "key: length")
    number = int.from_bytes(key, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    need(y < P, "key: not canonical")
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if x * x % P != xx:
        x = x * pow(2, (P - 1) // 4, P) % P
    need(x * x % P == xx, "key: not on the curve")
    need(x or not sign, "key: not canonical")
    for _ in range(3):  # doubling three times brings a point of small order, and no other, to (0, 1)
        k = D * x * x * y * y % P
        x, y = 2 * x * y * pow(1 + k, -1, P) % P, (y * y + x * x) * pow(1 - k, -1, P) % P
    need((x, y) != (0, 1), "key: small order")


def check_signature(public: bytes, signature: bytes, message: bytes) -> None:
    check_point(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as e:
        raise Refused("signature") from e


SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def encode_string(text: str) -> str:
    return '"' + "".join(SHORT.get(c) or (c if c >= " " else f"\\u{ord(c):04x}") for c in text) + '"'


def encode_json(value: object, depth: int = 0) -> str:
    need(depth <= MAX_DEPTH, "json: too deep")
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case int():
            need(-WIDE <= value <= WIDE, "json: wide integer")
            return str(value)
        case str():
            return encode_string(value)
        case list():
            return "[" + ",".join(encode_json(v, depth + 1) for v in value) + "]"
        case dict():
            members = (encode_string(k) + ":" + encode_json(value[k], depth + 1) for k in sorted(value))
            return "{" + ",".join(members) + "}"
    raise Refused("json: not such a value")


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    need(len(dict(pairs)) == len(pairs), "json: duplicate key")
    return dict(pairs)


def refuse_number(_: str) -> None:
    raise Refused("json: float")


def parse_json(data: bytes) -> object:
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
        encoded = encode_json(value).encode("utf-8")
    except (ValueError, RecursionError) as e:
        raise Refused("json") from e
    need(encoded == data, "json: not canonical")
    return value


def parse_object(data: bytes, keys: Iterable[str] | None = None) -> dict:
    value = parse_json(data)
    need(isinstance(value, dict) and (keys is None or set(value) == set(keys)), "json: not that object")
    return value


def number(value: object, limit: int = 1 << 64) -> int:
    """Read an unsigned integer: a number up to 2^53, a decimal string above."""
    if isinstance(value, str):
        need(re.fullmatch("[1-9][0-9]{15,19}", value), "number")
        value = int(value)
        need(value > WIDE, "number: needlessly a string")
    need(type(value) is int and 0 <= value < limit, "number")
    return value


def hexadecimal(value: object, size: int) -> bytes:
    need(isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value), "hex")
    return bytes.fromhex(value)


# ---------------------------------------------------------------- 2 statements

GENESIS, KEYS, RECORDS = 1, 2, 3
HEADER = struct.Struct(">BBH32sQ32sQI32s32sIHB16sIQQ8sQ32s32s")
TENANT = re.compile(rb"[a-z0-9][a-z0-9-]{0,62}")
AGENT = re.compile(rb"[a-z0-9][a-z0-9._-]{0,252}")


@dataclass(frozen=True)
class Genesis:
    public: bytes
    tenant: str
    agent: str
    log: bytes
    configuration: bytes
    replaces: tuple[bytes, int, bytes] | None


@dataclass(frozen=True)
class Block:
    header: bytes
    signature: bytes
    kind: int
    flags: int
    chain: bytes
    seq: int
    prev: bytes
    start: int
    count: int
    root: bytes
    body: bytes
    size: int
    group: int
    klass: int
    dek: bytes
    step: int
    sealed: int
    mono: int
    boot: bytes
    seen_size: int
    seen_root: bytes
    next: bytes
    genesis: Genesis | None

    @property
    def hash(self) -> bytes:
        return sha256(self.header + self.signature)

    @property
    def chain_id(self) -> bytes:
        return self.chain if self.genesis is None else self.hash

    def verify(self, public: bytes) -> None:
        check_signature(public, self.signature, b"duramen/block/v1\n" + self.header)


@dataclass(frozen=True)
class Notice:
    header: bytes
    signature: bytes
    type: str
    time: int
    key: bytes

    @property
    def hash(self) -> bytes:
        return sha256(self.header + self.signature)

    def verify(self, public: bytes) -> None:
        need(sha256(public)[:8] == self.key, "notice: another key")
        check_signature(public, self.signature, b"duramen/notice/v1\n" + self.header)


class Cursor:
    """Reads a byte string from front to end."""

    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at = data, at

    def take(self, n: int) -> bytes:
        need(n <= len(self.data) - self.at, "cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def done(self) -> bool:
        return self.at == len(self.data)

    def end(self) -> None:
        need(self.done(), "trailing bytes")


def parse_genesis(cursor: Cursor) -> Genesis:
    public = cursor.take(32)
    check_point(public)
    tenant = cursor.take(cursor.integer(1))
    need(TENANT.fullmatch(tenant), "genesis: tenant")
    agent = cursor.take(cursor.integer(1))
    need(AGENT.fullmatch(agent), "genesis: agent")
    log, configuration = cursor.take(32), cursor.take(32)
    chain, seq, head = cursor.take(32), cursor.integer(8), cursor.take(32)
    need((chain == ZERO32) == (head == ZERO32), "genesis: replaces")
    need(seq == 0 if chain == ZERO32 else seq < LIMIT, "genesis: replaces")
    replaces = None if chain == ZERO32 else (chain, seq, head)
    return Genesis(public, tenant.decode(), agent.decode(), log, configuration, replaces)


def parse_block(header: bytes, signature: bytes) -> Block:
    cursor = Cursor(header)
    version, kind, *values = HEADER.unpack(cursor.take(HEADER.size))
    need(version == 1 and kind in (GENESIS, KEYS, RECORDS), "block: version or kind")
    genesis = parse_genesis(cursor) if kind == GENESIS else None
    cursor.end()
    b = Block(header, signature, kind, *values, genesis)
    need(not b.flags & ~0xF, "block: flags")
    need(
        (b.chain == ZERO32) == (b.seq == 0) == (b.prev == ZERO32) == (kind == GENESIS), "block: first or not"
    )
    need(b.seq < LIMIT, "block: seq")
    need(b.start + b.count < LIMIT, "block: start")  # choice: the page bounds seq only
    need((b.root == EMPTY) == (b.count == 0), "block: root")
    need(b.size <= MAX_BODY, "block: size")
    need(b.step <= MAX_STEPS, "block: step")  # choice: whether 65,535 steps end at 65,534 is open
    need((b.seen_root == ZERO32) == (b.seen_size == 0), "block: seen")
    check_point(b.next)
    if kind == GENESIS:
        need(not (b.start or b.count or b.size or b.group or b.klass or b.step), "genesis: shape")
        need(b.dek == ZERO16 and b.body == EMPTY, "genesis: shape")
    elif kind == KEYS:
        need(not b.count and not b.step and b.dek != ZERO16 and b.size, "keys: shape")
    else:
        need(bool(b.count) == bool(b.size) == (b.dek != ZERO16), "records: shape")
        need(b.count or (b.body == EMPTY and not b.step), "records: shape of an empty block")
    return b


def parse_notice(header: bytes, signature: bytes) -> Notice:
    need(len(header) <= MAX_NOTICE, "notice: too long")
    value = parse_object(header)
    need({"type", "time", "key"} <= set(value) and isinstance(value["type"], str), "notice: members")
    return Notice(header, signature, value["type"], number(value["time"]), hexadecimal(value["key"], 8))


def parse_statement(data: bytes) -> Block | Notice:
    need(64 < len(data) <= MAX_STATEMENT, "statement: length")
    header, signature = data[:-64], data[-64:]
    if header[0] == 0x01:
        return parse_block(header, signature)
    need(header[0] == 0x7B, "statement: first byte")
    return parse_notice(header, signature)


def log_id(origin: str, ed25519: str, mldsa: str) -> bytes:
    return sha256(f"duramen/log/v1\n{origin}\n{ed25519}\n{mldsa}\n".encode())


# 2.2


@dataclass(frozen=True)
class Chain:
    """A chain up to a block: all that decides whether another block may follow."""

    chain: bytes
    seq: int
    head: bytes
    next: bytes
    records: int = 0
    keys: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)


def begin(b: Block) -> Chain:
    need(b.genesis is not None, "chain: no genesis")
    b.verify(b.genesis.public)
    return Chain(b.hash, 0, b.hash, b.next)


def advance(c: Chain, b: Block) -> Chain:
    need(b.genesis is None and b.chain == c.chain, "chain: another chain")
    need(b.seq == c.seq + 1, "chain: seq")
    need(b.prev == c.head, "chain: prev")
    need(b.start == c.records, "chain: start")
    b.verify(c.next)
    keys, at = dict(c.keys), (b.group, b.klass)
    if b.kind == KEYS:
        need(all(b.dek != dek for dek, _ in keys.values()), "chain: a data key in force introduced again")
        keys[at] = (b.dek, 0)
    elif b.count:
        need(keys.get(at) == (b.dek, b.step), "chain: data key or step")
        keys[at] = (b.dek, b.step + 1)
    return replace(c, seq=b.seq, head=b.hash, next=b.next, records=c.records + b.count, keys=keys)


# 2.3


def next_seed(seed: bytes) -> bytes:
    return hkdf(seed, b"duramen/ratchet/v1")


def signing_public(seed: bytes) -> bytes:
    private = Ed25519PrivateKey.from_private_bytes(hkdf(seed, b"duramen/sign/v1"))
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def parse_seed_file(data: bytes) -> tuple[int, bytes]:
    need(len(data) == 512 and data[:5] == b"DRMS\x01", "seed file: form")
    need(sha256(data[:45]) == data[45:77] and not any(data[77:]), "seed file: torn")
    index = int.from_bytes(data[5:13], "big")
    need(index < LIMIT, "seed file: index")
    return index, data[13:45]


def check_heartbeat(
    public: bytes, signature: bytes, chain: bytes, seq: int, head: bytes, nonce: bytes
) -> None:
    message = b"duramen/heartbeat/v1\n" + chain + seq.to_bytes(8, "big") + head + nonce
    check_signature(public, signature, message)


# ---------------------------------------------------------------- 3 bodies


def padme(n: int) -> int:
    if n < 2:
        return n
    e = n.bit_length() - 1
    unit = 1 << (e - e.bit_length())
    return -(-n // unit) * unit


def frame_end(padded: bytes) -> int:
    """Return where the zstd frame ends (RFC 8878, 3.1.1), without decompressing it."""
    at, last = zstandard.frame_header_size(padded), False
    while not last:
        need(at + 3 <= len(padded), "body: zstd")
        block = int.from_bytes(padded[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        need(kind != 3, "body: zstd")
        at += 3 + (1 if kind == 1 else size)
    need(at <= len(padded), "body: zstd")
    return at


def decompress(padded: bytes) -> bytes:
    """Return what one zstd frame holds that zeros pad to its Padmé length."""
    need(padded[:4] == b"\x28\xb5\x2f\xfd", "body: no zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(padded)
        unknown = (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
        need(parameters.content_size not in unknown, "body: no size")
        need(parameters.content_size <= MAX_PAYLOAD, "body: payload too large")
        need(not parameters.dict_id and not parameters.has_checksum, "body: dictionary or checksum")
        end = frame_end(padded)
        need(len(padded) == padme(end) and not any(padded[end:]), "body: padding")
        payload = zstandard.ZstdDecompressor().decompress(padded[:end])  # never more than the stated size
    except zstandard.ZstdError as e:
        raise Refused("body: zstd") from e
    need(len(payload) == parameters.content_size, "body: zstd")
    return payload


def additional_data(b: Block) -> bytes:
    return struct.pack(">32sQHB16sI", b.chain, b.seq, b.group, b.klass, b.dek, b.step)


def open_body(b: Block, body: bytes, block_key: bytes) -> "Payload":
    check_body(b, body)
    need(b.kind == RECORDS and b.count and len(body) > 28, "body: none")
    try:
        padded = AESGCM(block_key).decrypt(body[:12], body[12:], additional_data(b))
    except InvalidTag as e:
        raise Refused("body: tag") from e
    payload = parse_payload(decompress(padded))
    leaves = payload.leaves()
    need(len(leaves) == b.count and tlog.tree_root(leaves) == b.root, "body: root")
    return payload


@dataclass(frozen=True)
class Run:
    line: bytes
    stream: str
    path: bytes
    file: str
    offset: int
    size: int
    lines: int
    read: int
    more: bool
    labels: dict[str, str]


@dataclass(frozen=True)
class Payload:
    salt: bytes
    runs: list[Run]
    records: list[list[bytes]]

    def salts(self) -> list[bytes]:
        n = sum(map(len, self.records))
        stream = Cipher(algorithms.AES(self.salt), modes.CTR(ZERO16)).encryptor().update(bytes(16 * n))
        return [stream[i : i + 16] for i in range(0, 16 * n, 16)]

    def leaves(self) -> list[bytes]:
        flat = [
            (sha256(run.line), r)
            for run, records in zip(self.runs, self.records, strict=True)
            for r in records
        ]
        return [tlog.leaf_hash(salt + line + r) for salt, (line, r) in zip(self.salts(), flat, strict=True)]


def parse_run(line: bytes) -> Run:
    value = parse_object(line)
    keys = set(value)
    need({"stream", "file", "offset", "bytes", "lines", "read"} <= keys, "run: members")
    need(
        keys <= {"stream", "path", "path64", "file", "offset", "bytes", "lines", "read", "more", "labels"},
        "run: members",
    )
    need(("path" in keys) != ("path64" in keys), "run: path")
    need(all(isinstance(value[k], str) for k in ("stream", "file")), "run: strings")
    if "path" in keys:
        need(isinstance(value["path"], str), "run: path")
        path = value["path"].encode()
    else:
        need(isinstance(value["path64"], str), "run: path64")
        path = base64_bytes(value["path64"])
        try:
            path.decode()
        except UnicodeDecodeError:
            pass
        else:
            raise Refused("run: path64 of a path that is UTF-8")
    need(value.get("more", True) is True, "run: more")
    labels = value.get("labels", {})
    need(isinstance(labels, dict) and all(isinstance(v, str) for v in labels.values()), "run: labels")
    need(labels or "labels" not in keys, "run: labels that are none")
    numbers = [number(value[k]) for k in ("offset", "bytes", "lines", "read")]
    return Run(line, value["stream"], path, value["file"], *numbers, "more" in keys, labels)


def base64_bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as e:
        raise Refused("base64") from e
    need(base64.b64encode(data).decode() == text, "base64")
    return data


def cut(run: Run, raw: bytes) -> list[bytes]:
    if run.more:
        need(b"\n" not in raw, "run: a line feed in a piece of a line")
        records = [raw]
    else:
        records = re.findall(rb"[^\n]*\n|[^\n]+", raw)
    need(len(records) == run.lines, "run: lines")
    need(all(len(r) <= MAX_RECORD for r in records), "run: a record too long")
    return records


def parse_payload(data: bytes) -> Payload:
    need(len(data) <= MAX_PAYLOAD, "payload: too large")
    cursor = Cursor(data)
    size = cursor.integer(4)
    need(size <= MAX_MANIFEST, "payload: manifest too large")
    manifest = cursor.take(size)
    need(manifest.endswith(b"\n"), "payload: manifest")
    first, *lines = manifest[:-1].split(b"\n")
    salt = hexadecimal(parse_object(first, ["salt"])["salt"], 32)
    runs = [parse_run(line) for line in lines]
    records = [cut(run, cursor.take(run.size)) for run in runs]
    need(all(records), "payload: a run without records")
    cursor.end()
    return Payload(salt, runs, records)


# ---------------------------------------------------------------- 4 data keys and envelopes

KEM_ID = b"\x64\x7a"
ENVELOPE = 1_170
SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def data_key_id(dek: bytes) -> bytes:
    return sha256(b"duramen/dek/v1\n" + dek)[:16]


def next_chaining_key(ck: bytes) -> bytes:
    return hkdf(ck, b"duramen/dek-next/v1")


def block_key(ck: bytes, b: Block) -> bytes:
    return hkdf(ck, b"duramen/body-key/v1\n" + b.chain + b.seq.to_bytes(8, "big") + b.root)


def envelope_info(tenant: str, b: Block, public: bytes) -> bytes:
    name = tenant.encode()
    head = b"duramen/envelope/v1\n" + bytes([len(name)]) + name + b.chain + b.dek
    return head + struct.pack(">HB", b.group, b.klass) + sha256(public)


def parse_envelope(data: bytes) -> tuple[bytes, bytes]:
    need(len(data) == ENVELOPE and data[:2] == KEM_ID, "envelope: form")
    return data[2:1122], data[1122:]


def reader_private(seed: bytes) -> tuple[MLKEM768X25519PrivateKey, bytes]:
    """Return a reader's private key and its public key as bytes."""
    need(len(seed) == 32, "seed: length")
    wide = hashlib.shake_256(seed).digest(96)
    kem, dh = MLKEM768PrivateKey.from_seed_bytes(wide[:64]), X25519PrivateKey.from_private_bytes(wide[64:])
    return MLKEM768X25519PrivateKey(
        kem, dh
    ), kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()


def open_envelope(envelope: bytes, seed: bytes, tenant: str, b: Block) -> bytes:
    """Return the data key that a keys block introduced."""
    enc, ciphertext = parse_envelope(envelope)
    private, public = reader_private(seed)
    try:
        dek = SUITE.decrypt(enc + ciphertext, private, envelope_info(tenant, b, public))
    except (InvalidTag, ValueError) as e:
        raise Refused("envelope: not for this key") from e
    need(data_key_id(dek) == b.dek, "envelope: another data key")
    return dek


@dataclass(frozen=True)
class KeyList:
    klass: int
    dek: bytes
    group: int
    name: str
    recipients: list[tuple[bytes, bytes]]  # public key's hash, envelope's hash


def parse_key_list(data: bytes) -> KeyList:
    value = parse_object(data, ["class", "dek", "group", "name", "recipients"])
    need(isinstance(value["name"], str) and isinstance(value["recipients"], list), "key list: members")
    recipients = []
    for entry in value["recipients"]:
        need(isinstance(entry, dict) and set(entry) == {"envelope", "key"}, "key list: recipient")
        recipients.append((hexadecimal(entry["key"], 32), hexadecimal(entry["envelope"], 32)))
    need(1 <= len(recipients) <= MAX_RECIPIENTS, "key list: how many")
    keys = [key for key, _ in recipients]
    need(keys == sorted(set(keys)), "key list: order")
    klass, group = number(value["class"], 1 << 8), number(value["group"], 1 << 16)
    return KeyList(klass, hexadecimal(value["dek"], 16), group, value["name"], recipients)


# ---------------------------------------------------------------- 5 frames and packs


@dataclass(frozen=True)
class Frame:
    statement: Block | Notice
    data: bytes
    body: bytes


def check_body(b: Block, body: bytes) -> None:
    need(len(body) == b.size and sha256(body) == b.body, "body: not the one that the header names")


def parse_frame(cursor: Cursor) -> Frame:
    need(cursor.take(5) == b"DRMN\x01", "frame: magic")
    size = cursor.integer(4)
    need(size <= MAX_STATEMENT - 64, "frame: header too long")
    data = cursor.take(size + 64)
    statement = parse_statement(data)
    size = cursor.integer(4)
    need(size <= MAX_BODY, "frame: body too long")
    body = cursor.take(size)
    if isinstance(statement, Notice):
        need(not body, "frame: a notice with a body")
    else:
        check_body(statement, body)
        if statement.kind == KEYS:
            keys = parse_key_list(body)
            same = (keys.dek, keys.group, keys.klass) == (statement.dek, statement.group, statement.klass)
            need(same, "frame: key list of another block")
    return Frame(statement, data, body)


def parse_frames(data: bytes) -> list[Frame]:
    cursor, frames = Cursor(data), []
    while not cursor.done():
        frames.append(parse_frame(cursor))
    return frames


@dataclass(frozen=True)
class Pack:
    klass: int
    first: int
    root: bytes
    previous: bytes
    frames: list[Frame]


def parse_pack(data: bytes) -> Pack:
    need(len(data) <= MAX_PACK, "pack: too large")
    cursor = Cursor(data)
    need(cursor.take(5) == b"DRMP\x01", "pack: magic")
    klass, first, count, before = (cursor.integer(n) for n in (1, 8, 4, 8))
    need(count and before == first, "pack: count or size")
    root, previous = cursor.take(32), cursor.take(32)
    need((first == 0) == (previous == ZERO32), "pack: previous")
    need(first or root == EMPTY, "pack: root before the first")
    frames = [parse_frame(cursor) for _ in range(count)]
    cursor.end()
    for frame in frames:
        s = frame.statement
        need(isinstance(s, Notice) or s.dek == ZERO16 or s.klass == klass, "pack: class")
    return Pack(klass, first, root, previous, frames)


# ---------------------------------------------------------------- 6 the tenant log


def check_cosignature(signature: bytes, key: tlog.Vkey, c: tlog.Checkpoint) -> None:
    """Hold that an ML-DSA-44 cosignature (C2SP tlog-cosignature) is over this checkpoint."""
    need(key.kind == 6 and len(key.public) == 1312 and len(signature) == 8 + 2420, "cosignature: form")
    need(int.from_bytes(signature[:8], "big") < LIMIT, "cosignature: time")
    name, origin = key.name.encode(), c.origin.encode()
    need(len(name) < 256 and len(origin) < 256, "cosignature: name")
    message = b"subtree/v1\n\0" + bytes([len(name)]) + name + signature[:8] + bytes([len(origin)]) + origin
    message += struct.pack(">QQ", 0, c.size) + c.root
    try:
        MLDSA44PublicKey.from_public_bytes(key.public).verify(signature[8:], message)
    except (InvalidSignature, ValueError) as e:
        raise Refused("cosignature") from e


def check_checkpoint(note: bytes, origin: str, ed25519: str, mldsa: str) -> tlog.Checkpoint:
    """Return a checkpoint that carries both of the log's signatures."""
    try:
        first, second = tlog.parse_vkey(ed25519), tlog.parse_vkey(mldsa)
        c = tlog.parse_checkpoint(tlog.verify_note(note, first))
        _, signatures = tlog.parse_note(note)
    except tlog.TlogError as e:
        raise Refused("checkpoint") from e
    need(
        c.origin == first.name == second.name == origin and not c.extensions,
        "checkpoint: origin or extensions",
    )
    mine = [s for name, key_id, s in signatures if (name, key_id) == (second.name, second.key_id)]
    need(len(mine) == 1, "checkpoint: one cosignature")
    need(sum(line[:2] == (first.name, first.key_id) for line in signatures) == 1, "checkpoint: one signature")
    check_cosignature(mine[0], second, c)
    return c


# ---------------------------------------------------------------- 10 a whole region


@dataclass(frozen=True)
class Region:
    checkpoint: tlog.Checkpoint
    chains: dict[bytes, Chain]
    notices: list[Notice]
    payloads: dict[bytes, Payload]  # by hash of the block; only what the seed opens


def statements_of(packs: Iterable[Pack]) -> Iterator[tuple[int, Frame]]:
    for pack in packs:
        yield from enumerate(pack.frames, pack.first)


def choose_packs(packs: dict[bytes, Pack], log: tlog.Log, leaves: list[bytes]) -> list[Pack]:
    """Return the packs whose statements are the log's entries, in order; the others are orphans."""
    chosen: list[Pack] = []
    at, previous = 0, ZERO32
    while at < log.size:
        found = [
            (name, p)
            for name, p in packs.items()
            if p.first == at
            and p.previous == previous
            and p.root == log.root(at)
            and [tlog.leaf_hash(f.data) for f in p.frames] == leaves[at : at + len(p.frames)]
        ]
        need(len(found) == 1, "region: no pack, or more than one, for an entry")
        previous, pack = found[0]
        chosen.append(pack)
        at += len(pack.frames)
    return chosen


def verify_region(
    read: tlog.Read,
    tenant: str,
    keys: tuple[str, str, str],
    packs: Iterable[str],
    notice_keys: Iterable[bytes],
    seed: bytes | None = None,
    envelope: Callable[[bytes, bytes], bytes] | None = None,
) -> Region:
    """Verify all of a region by the steps of section 10; `keys` are the origin and the two vkeys."""
    origin, ed25519, mldsa = keys
    note = read(f"{tenant}/checkpoint")
    checkpoint = check_checkpoint(note, origin, ed25519, mldsa)
    try:
        log = tlog.Log(lambda p: note if p == "checkpoint" else read(f"{tenant}/{p}"), ed25519)
        entries = log.check()
    except tlog.TlogError as e:
        raise Refused("region: log") from e
    parsed = {}
    for name in packs:
        data = read(f"{tenant}/packs/{name}.pack")
        need(sha256(data).hex() == name, "region: a pack of another name")
        parsed[bytes.fromhex(name)] = parse_pack(data)
    frames = dict(statements_of(choose_packs(parsed, log, [tlog.leaf_hash(e) for e in entries])))
    chains, notices, payloads, chaining = {}, [], {}, {}
    by_id = {sha256(k)[:8]: k for k in notice_keys}
    for i, entry in enumerate(entries):
        s = parse_statement(entry)
        if isinstance(s, Notice):
            need(s.key in by_id, "region: a notice by an unknown key")
            s.verify(by_id[s.key])
            notices.append(s)
            continue
        if s.genesis:
            need(
                s.genesis.tenant == tenant and s.genesis.log == log_id(*keys), "region: chain of another log"
            )
            chains[s.hash] = begin(s)
        else:
            need(s.chain in chains, "region: a chain without genesis")
            chains[s.chain] = advance(chains[s.chain], s)
        if s.seen_size:
            need(
                s.seen_size <= i and log.root(s.seen_size) == s.seen_root,
                "region: a checkpoint of another log was seen",
            )
        if seed is None or envelope is None or s.dek == ZERO16:
            continue
        if s.kind == KEYS:
            public = sha256(reader_private(seed)[1])
            mine = [e for key, e in parse_key_list(frames[i].body).recipients if key == public]
            if mine:
                sealed = envelope(s.dek, public)
                need(sha256(sealed) == mine[0], "region: another envelope")
                chaining[s.chain, s.dek] = open_envelope(sealed, seed, tenant, s)
        elif (s.chain, s.dek) in chaining:
            ck = chaining[s.chain, s.dek]
            payloads[s.hash] = open_body(s, frames[i].body, block_key(ck, s))
            chaining[s.chain, s.dek] = next_chaining_key(ck)
    return Region(checkpoint, chains, notices, payloads)
