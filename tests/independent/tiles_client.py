"""A minimal C2SP tlog-tiles client, written from the C2SP texts alone and sharing no code with the product.

It guarantees that a log it has read is exactly what its signed checkpoint says: every hash tile and entry
bundle that the tree size demands is there, of the exact length, every hash is recomputed, and the root is the
signed one. It knows nothing of what the entries mean.

It assumes only the standard library, Ed25519, and a pinned vkey; signatures by other keys are ignored, as
signed-note demands, so that a log which signs twice can be read with its Ed25519 key only.
"""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Read = Callable[[str], bytes]

WIDTH = 256
MAX_SIZE = 1 << 63
EMPTY = hashlib.sha256(b"").digest()


class TlogError(Exception):
    """The log is not what its checkpoint says, or not a log at all."""


# ---------------------------------------------------------------- RFC 6962


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    """Return the largest power of two below n."""
    return 1 << ((n - 1).bit_length() - 1)


def tree_root(hashes: list[bytes]) -> bytes:
    if not hashes:
        return EMPTY
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return node_hash(tree_root(hashes[:k]), tree_root(hashes[k:]))


def verify_inclusion(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> None:
    """Hold that `leaf` is at `index` of the tree, by RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or any(len(h) != 32 for h in (leaf, root, *proof)):
        raise TlogError("inclusion: out of range")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise TlogError("inclusion: proof too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:
        raise TlogError("inclusion: wrong proof")


def verify_consistency(first: int, second: int, proof: list[bytes], root1: bytes, root2: bytes) -> None:
    """Hold that the tree of `first` entries is a prefix of the other, by RFC 9162, 2.1.4.2."""
    if not 0 < first <= second or any(len(h) != 32 for h in proof):
        raise TlogError("consistency: out of range")
    if first == second:
        if proof or root1 != root2:
            raise TlogError("consistency: same size, other tree")
        return
    if len(root1) != 32 or len(root2) != 32:
        raise TlogError("consistency: a root that is no hash")
    path = [root1, *proof] if first & (first - 1) == 0 else list(proof)
    if not path or not proof:
        raise TlogError("consistency: empty proof")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise TlogError("consistency: proof too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or fr != root1 or sr != root2:
        raise TlogError("consistency: wrong proof")


# ---------------------------------------------------------------- signed notes and checkpoints


@dataclass(frozen=True)
class Vkey:
    name: str
    key_id: bytes
    kind: int
    public: bytes


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def decode64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as e:
        raise TlogError("not base64") from e
    if base64.b64encode(data).decode() != text:
        raise TlogError("base64 that is not canonical")
    return data


def good_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


def parse_vkey(text: str) -> Vkey:
    parts = text.split("+", 2)
    if len(parts) != 3 or not good_name(parts[0]) or not re.fullmatch("[0-9a-f]{8}", parts[1]):
        raise TlogError("malformed vkey")
    name, key_id, material = parts[0], bytes.fromhex(parts[1]), decode64(parts[2])
    if not material or hashlib.sha256(name.encode() + b"\n" + material).digest()[:4] != key_id:
        raise TlogError("vkey with another key's id")
    return Vkey(name, key_id, material[0], material[1:])


def parse_note(note: bytes) -> tuple[bytes, list[tuple[str, bytes, bytes]]]:
    """Return the text and its signatures as (name, key id, signature)."""
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError as e:
        raise TlogError("a note that is not UTF-8") from e
    if any(c < " " and c != "\n" for c in decoded):
        raise TlogError("a note with control characters")
    at = decoded.rfind("\n\n")
    if at < 0 or not decoded.endswith("\n"):
        raise TlogError("a note without signatures")
    signatures = []
    for line in decoded[at + 2 : -1].split("\n"):
        fields = line.split(" ")
        if len(fields) != 3 or fields[0] != "—" or not good_name(fields[1]):
            raise TlogError("malformed signature line")
        data = decode64(fields[2])
        if len(data) < 5:
            raise TlogError("signature too short")
        signatures.append((fields[1], data[:4], data[4:]))
    return decoded[: at + 1].encode(), signatures


def verify_note(note: bytes, vkey: Vkey) -> bytes:
    """Return the text, signed by this Ed25519 key."""
    if vkey.kind != 1 or len(vkey.public) != 32:
        raise TlogError("not an Ed25519 vkey")
    text, signatures = parse_note(note)
    mine = [s for name, key_id, s in signatures if (name, key_id) == (vkey.name, vkey.key_id)]
    if not mine:
        raise TlogError("not signed by this key")
    for signature in mine:
        try:
            Ed25519PublicKey.from_public_bytes(vkey.public).verify(signature, text)
        except (InvalidSignature, ValueError) as e:
            raise TlogError("bad signature") from e
    return text


def parse_checkpoint(text: bytes) -> Checkpoint:
    lines = text.decode().split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise TlogError("a checkpoint has at least three lines, none empty")
    origin, size, root, *extensions = lines[:-1]
    if not re.fullmatch("0|[1-9][0-9]{0,18}", size) or int(size) >= MAX_SIZE:
        raise TlogError("malformed tree size")
    digest = decode64(root)
    if len(digest) != 32 or (size == "0" and digest != EMPTY):
        raise TlogError("malformed root")
    return Checkpoint(origin, int(size), digest, tuple(extensions))


# ---------------------------------------------------------------- tiles


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    digits = f"{index:d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join(["tile", str(level), *("x" + p for p in parts[:-1]), parts[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"


def parse_bundle(data: bytes, width: int) -> list[bytes]:
    entries, at = [], 0
    for _ in range(width):
        if len(data) < at + 2:
            raise TlogError("entry bundle too short")
        (n,) = struct.unpack_from(">H", data, at)
        if len(data) < at + 2 + n:
            raise TlogError("entry bundle too short")
        entries.append(data[at + 2 : at + 2 + n])
        at += 2 + n
    if at != len(data):
        raise TlogError("entry bundle too long")
    return entries


def reader(prefix: str | Path) -> Read:
    """Return a `read` for a log that is a directory."""
    return lambda path: (Path(prefix) / path).read_bytes()


class Log:
    """A log as one checkpoint of it shows it."""

    def __init__(self, read: Read, vkey: str, origin: str | None = None):
        key = parse_vkey(vkey)
        self._read = read
        self.checkpoint = parse_checkpoint(verify_note(self._fetch("checkpoint"), key))
        if self.checkpoint.origin != (key.name if origin is None else origin):
            raise TlogError("checkpoint of another log")
        self.size = self.checkpoint.size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}

    def _fetch(self, path: str) -> bytes:
        try:
            return self._read(path)
        except (OSError, KeyError) as e:
            raise TlogError(f"missing: {path}") from e

    def _fetch_partial(self, level: int | str, index: int, width: int) -> tuple[bytes, int]:
        """Fetch a tile, or the full one that has replaced it since."""
        try:
            return self._fetch(tile_path(level, index, width)), width
        except TlogError:
            if width == WIDTH:
                raise
            return self._fetch(tile_path(level, index)), WIDTH

    def widths(self, level: int) -> list[int]:
        """Return the widths of the tiles of a level."""
        full, rest = divmod(self.size >> (8 * level), WIDTH)
        return [WIDTH] * full + ([rest] if rest else [])

    def levels(self) -> list[int]:
        return [level for level in range(8) if self.size >> (8 * level)]

    def tile(self, level: int, index: int) -> list[bytes]:
        if (level, index) not in self._tiles:
            widths = self.widths(level)
            if not 0 <= index < len(widths):
                raise TlogError("a tile beyond the tree")
            data, width = self._fetch_partial(level, index, widths[index])
            if len(data) != 32 * width:
                raise TlogError("a tile of the wrong length")
            self._tiles[level, index] = [data[i : i + 32] for i in range(0, 32 * widths[index], 32)]
        return self._tiles[level, index]

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries of a bundle, each checked against its hash tile."""
        width = self.widths(0)[index]
        entries = parse_bundle(*self._fetch_partial("entries", index, width))[:width]
        if [leaf_hash(e) for e in entries] != self.tile(0, index):
            raise TlogError("an entry that is not the one hashed")
        return entries

    def entry(self, index: int) -> bytes:
        if not 0 <= index < self.size:
            raise TlogError("an entry beyond the tree")
        return self.bundle(index // WIDTH)[index % WIDTH]

    def node(self, height: int, index: int) -> bytes:
        """Return the hash over entries index * 2^height up to the next."""
        if (height, index) not in self._nodes:
            level, inside = divmod(height, 8)
            if inside == 0:
                found = self.tile(level, index // WIDTH)[index % WIDTH]
            else:
                found = node_hash(self.node(height - 1, 2 * index), self.node(height - 1, 2 * index + 1))
            self._nodes[height, index] = found
        return self._nodes[height, index]

    def subtree(self, start: int, end: int) -> bytes:
        n = end - start
        if n & (n - 1) == 0:
            return self.node(n.bit_length() - 1, start // n)
        k = split(n)
        return node_hash(self.subtree(start, start + k), self.subtree(start + k, end))

    def root(self, size: int | None = None) -> bytes:
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise TlogError("a tree larger than the log")
        return self.subtree(0, size) if size else EMPTY

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise TlogError("no such entry in that tree")
        proof, start, end = [], 0, size
        while end - start > 1:
            middle = start + split(end - start)
            if index < middle:
                proof.append(self.subtree(middle, end))
                end = middle
            else:
                proof.append(self.subtree(start, middle))
                start = middle
        return proof[::-1]

    def consistency_proof(self, old: int, size: int | None = None) -> list[bytes]:
        size = self.size if size is None else size
        if not 0 < old <= size <= self.size:
            raise TlogError("no such trees")
        proof, start, end, whole = [], 0, size, True
        while old < end:
            middle = start + split(end - start)
            if old <= middle:
                proof.append(self.subtree(middle, end))
                end = middle
            else:
                proof.append(self.subtree(start, middle))
                start, whole = middle, False
        if not whole:
            proof.append(self.subtree(start, end))
        return proof[::-1]

    def check(self) -> list[bytes]:
        """Fetch all of the log, recompute every hash, and return the entries."""
        for level in self.levels()[1:]:
            for i, width in enumerate(self.widths(level)):
                for j, seen in enumerate(self.tile(level, i)[:width]):
                    if tree_root(self.tile(level - 1, i * WIDTH + j)) != seen:
                        raise TlogError("a tile that does not hash the one below")
        if self.root() != self.checkpoint.root:
            raise TlogError("the tree has another root than the checkpoint")
        return [e for i in range(len(self.widths(0))) for e in self.bundle(i)]
