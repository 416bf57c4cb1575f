"""Bodies: what a block's header commits to and only its readers can read (DESIGN 3).

``nonce(12) || AES-256-GCM(BK, nonce, zstd(payload) || zero padding, aad)``; aad is the header fields chain,
seq, group, class, dek and step. ``payload = u32 manifest length || manifest || raw bytes``. The manifest is
JSON Lines, each in the one encoding of :mod:`duramen.canonical`: a header line with the salt key, then one
line a run. The raw bytes are the runs' bytes in order, untouched, so concatenating what was sealed for a
file gives back the file.

The padding is Padmé (Nikitin et al., PETS 2019): at most 12 %, about 2 % on average, and it leaks O(log log
n) bits of the length.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from duramen import canonical, records, wire
from duramen.errors import FormatError, IntegrityError
from duramen.limits import BODY_MAX_BYTES, MANIFEST_MAX_BYTES, PAYLOAD_MAX_BYTES, RECORD_MAX_BYTES
from duramen.names import ChainId, DataKeyId, Digest
from duramen.statement import BlockHeader

NONCE_BYTES: Final = 12
COMPRESSION_LEVEL: Final = 1
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_RLE: Final = 1
_ZSTD_RESERVED: Final = 3
EVENT_STREAM: Final = "_duramen"
"""The stream of the agent's own events."""


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the manifest: consecutive bytes of one file, read at one time."""

    stream: str
    path: bytes
    """The file's path as the kernel has it; empty for a source that is not a file."""
    file: str
    """Identity of the file's generation, as its agent names it; it holds no fingerprint of contents."""
    offset: int
    """Of the first byte in that generation."""
    size: int
    """How many bytes."""
    lines: int
    """How many records."""
    read_ns: int
    """When they were read, Unix ns."""
    more: bool = False
    """One piece of a line that is longer than a record may be: the next run of the file continues it."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The manifest line without its LF."""
        value: dict[str, canonical.Json] = {
            "bytes": self.size,
            "file": self.file,
            "lines": self.lines,
            "offset": canonical.wide(self.offset),
            "read": canonical.wide(self.read_ns),
            "stream": self.stream,
        }
        try:
            value["path"] = self.path.decode()
        except UnicodeDecodeError:
            value["path64"] = base64.b64encode(self.path).decode()
        if self.more:
            value["more"] = True
        if self.labels:
            value["labels"] = dict(self.labels)
        return canonical.encode(value)


@dataclass(frozen=True, slots=True)
class Payload:
    """A body's contents: the salt key, and each run with its manifest line and its bytes."""

    salt_key: bytes
    runs: tuple[tuple[Run, bytes, bytes], ...]
    """(run, its manifest line without LF, its raw bytes)"""

    def root(self) -> Digest:
        """The record root that these contents have."""
        return records.root(self.salt_key, ((line, _records(run, raw)) for run, line, raw in self.runs))


def additional_data(
    chain: ChainId, seq: int, group: int, retention_class: int, dek: DataKeyId, step: int
) -> bytes:
    """What AES-GCM authenticates beside the contents, 63 bytes."""
    return (
        chain
        + wire.uint(seq, 8)
        + wire.uint(group, 2)
        + wire.uint(retention_class, 1)
        + dek
        + wire.uint(step, 4)
    )


def padded_size(size: int) -> int:
    """The Padmé size for ``size`` bytes."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def encode_payload(salt_key: bytes, lines: Sequence[bytes], raws: Sequence[bytes]) -> bytes:
    """The payload of runs whose manifest lines (without LF) and raw bytes are given in the same order."""
    head = canonical.encode({"salt": salt_key.hex()})
    manifest = b"\n".join((head, *lines, b""))
    if len(manifest) > MANIFEST_MAX_BYTES:
        raise FormatError(f"a manifest has at most {MANIFEST_MAX_BYTES} bytes, not {len(manifest)}")
    payload = b"".join((wire.uint(len(manifest), 4), manifest, *raws))
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise FormatError(f"a payload has at most {PAYLOAD_MAX_BYTES} bytes, not {len(payload)}")
    return payload


def seal(
    payload: bytes, block_key: bytes, nonce: bytes, aad: bytes, compressor: zstandard.ZstdCompressor
) -> bytes:
    """The body of ``payload``.

    ``nonce`` (12) is random; ``compressor`` states the content size and no checksum.
    """
    if len(nonce) != NONCE_BYTES:
        raise FormatError(f"a nonce has {NONCE_BYTES} bytes")
    frame = compressor.compress(payload)
    body = nonce + AESGCM(block_key).encrypt(nonce, frame.ljust(padded_size(len(frame)), b"\0"), aad)
    if len(body) > BODY_MAX_BYTES:
        raise FormatError(
            f"a body has at most {BODY_MAX_BYTES} bytes, not {len(body)}; seal fewer bytes in a block"
        )
    return body


def compressor(level: int = COMPRESSION_LEVEL) -> zstandard.ZstdCompressor:
    """A compressor as :func:`seal` wants it; one may serve many blocks."""
    return zstandard.ZstdCompressor(
        level=level, write_content_size=True, write_checksum=False, write_dict_id=False
    )


def open_body(header: BlockHeader, body: bytes, block_key: bytes) -> Payload:
    """Decrypt, decompress (bounded) and parse ``body``, and check that its records have the header's root.

    IntegrityError ``body_corrupt`` when the key does not open it or the records are not those committed to;
    FormatError when what was sealed is not a payload.
    """
    aad = additional_data(
        header.chain, header.seq, header.group, header.retention_class, header.dek, header.step
    )
    try:
        padded = AESGCM(block_key).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError) as error:
        raise IntegrityError(
            f"the body of block {header.seq} does not open: it was changed, or the key is another's",
            code="body_corrupt",
        ) from error
    payload = parse_payload(_decompress(padded))
    if payload.root() != header.root or sum(run.lines for run, _, _ in payload.runs) != header.count:
        raise IntegrityError(
            f"the records of block {header.seq} are not those that its header commits to", code="body_corrupt"
        )
    return payload


def _decompress(padded: bytes) -> bytes:
    """The payload in ``padded``; it costs no more memory than the size that the frame states."""
    size = _frame_size(padded)
    if len(padded) != padded_size(size) or padded[size:].strip(b"\0"):
        raise FormatError("a body's zstd frame is followed by something else than its zero padding")
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=PAYLOAD_MAX_BYTES)
        return decompressor.decompress(padded[:size])
    except zstandard.ZstdError as error:
        raise FormatError(f"a body's zstd frame cannot be decompressed: {error}") from error


def _frame_size(padded: bytes) -> int:
    """Where the one zstd frame at the start of ``padded`` ends (RFC 8878, sections 3.1.1 and 3.1.1.2).

    The library tells no end, and walking the block headers makes sure that there is one.
    """
    try:
        parameters = zstandard.get_frame_parameters(padded)
        at: int = zstandard.frame_header_size(padded)
    except zstandard.ZstdError as error:
        raise FormatError(f"a body is not a zstd frame: {error}") from error
    if not padded.startswith(_ZSTD_MAGIC) or parameters.content_size > PAYLOAD_MAX_BYTES:
        raise FormatError(f"a body is a zstd frame that states its size, at most {PAYLOAD_MAX_BYTES} bytes")
    if parameters.dict_id or parameters.has_checksum:
        raise FormatError("a body's zstd frame has no dictionary and no checksum")
    is_last = False
    while not is_last:
        block = int.from_bytes(padded[at : at + 3], "little")
        is_last, kind = bool(block & 1), block >> 1 & 3
        at += 3 + (1 if kind == _ZSTD_RLE else block >> 3)
        if at > len(padded) or kind == _ZSTD_RESERVED:
            raise FormatError("a body's zstd frame is cut off")
    return at


def parse_payload(payload: bytes) -> Payload:
    """The payload's manifest and raw bytes; FormatError unless every byte is accounted for."""
    reader = wire.Reader(payload, "a payload")
    manifest = reader.prefixed(4, MANIFEST_MAX_BYTES)
    if not manifest.endswith(b"\n"):
        raise FormatError("a manifest ends with a line feed")
    head, *lines = manifest[:-1].split(b"\n")
    fields = canonical.Fields(canonical.decode(head, "a manifest's first line"), "a manifest's first line")
    salt_key = fields.hexed("salt", records.SALT_KEY_BYTES)
    fields.finish()
    runs = []
    for line in lines:
        run = parse_run(line)
        raw = reader.take(run.size)
        _records(run, raw)
        runs.append((run, line, raw))
    reader.finish()
    return Payload(salt_key, tuple(runs))


def parse_run(line: bytes) -> Run:
    """A run from its manifest line; FormatError unless it is the one encoding."""
    fields = canonical.Fields(canonical.decode(line, "a manifest line"), "a manifest line")
    run = Run(
        stream=fields.text("stream", 1024),
        path=_path(fields),
        file=fields.text("file", 256),
        offset=fields.uint("offset"),
        size=fields.uint("bytes", PAYLOAD_MAX_BYTES),
        lines=fields.uint("lines", PAYLOAD_MAX_BYTES),
        read_ns=fields.uint("read"),
        more=fields.flag("more") if fields.has("more") else False,
        labels=fields.labels("labels") if fields.has("labels") else {},
    )
    fields.finish()
    if run.encode() != line:
        raise FormatError("a manifest line spells out a default or writes a UTF-8 path in base64")
    return run


def _path(fields: canonical.Fields) -> bytes:
    if not fields.has("path64"):
        return fields.text("path", 65_536).encode()
    try:
        return base64.b64decode(fields.text("path64", 65_536), validate=True)
    except ValueError as error:  # binascii.Error, or text that is not ASCII
        raise FormatError("a path of a manifest is not base64") from error


def _records(run: Run, raw: bytes) -> list[bytes]:
    """The records of a run; FormatError when they are not as many as its line says."""
    found = [raw] if run.more else records.split(raw)
    if len(found) != run.lines or not run.lines or (run.more and b"\n" in raw):
        raise FormatError("a run does not hold as many records as its manifest line says")
    if max(map(len, found)) > RECORD_MAX_BYTES:
        raise FormatError(f"a record has at most {RECORD_MAX_BYTES} bytes")
    return found
