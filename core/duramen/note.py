"""C2SP signed notes: a text, a blank line, and signature lines; and the text forms of note keys.

Parsing accepts exactly one encoding: UTF-8 without control characters other than line feeds, canonical
base64, at most :data:`~duramen.limits.NOTE_MAX_SIGNATURES` lines and :data:`~duramen.limits.NOTE_MAX_BYTES`
bytes. A parsed note proves nothing: its text is to be ignored until :mod:`duramen.checkpoint`, or another
user of :func:`verify_text`, has found a valid signature of a known key. Key names and key ids only select a
key to try.

Only the kinds of key that a log or a witness uses here exist: plain Ed25519, and the two cosignatures.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from duramen import ed25519
from duramen.errors import FormatError, IntegrityError
from duramen.limits import NOTE_MAX_BYTES, NOTE_MAX_SIGNATURES

KEY_ID_BYTES: Final = 4
MLDSA44_PUBLIC_BYTES: Final = 1312
_DASH: Final = "\N{EM DASH} "
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
_KEY_ID: Final = re.compile("[0-9a-f]{8}", re.ASCII)
_SKEY_PREFIX: Final = "PRIVATE+KEY+"


class KeyKind(IntEnum):
    """Signature type identifier bytes of C2SP signed-note and tlog-cosignature."""

    ED25519 = 1
    COSIGNATURE_ED25519 = 4
    COSIGNATURE_MLDSA44 = 6


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One line: key name, 4-byte key id, signature bytes (their layout is the key kind's)."""

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.key_id) != KEY_ID_BYTES or not self.signature:
            raise FormatError("a signature line holds a 4-byte key id and at least one byte of signature")

    def encode(self) -> str:
        """The line with its line feed."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a line feed, and the signature lines below it, in their order."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n") or _CONTROL.search(self.text):
            raise FormatError("a note's text ends in a line feed and holds no other control character")
        if not 1 <= len(self.signatures) <= NOTE_MAX_SIGNATURES:
            raise FormatError(f"a note has 1 to {NOTE_MAX_SIGNATURES} signatures, not {len(self.signatures)}")

    def encode(self) -> bytes:
        """The exact bytes of the note."""
        lines = "".join([line.encode() for line in self.signatures])
        try:
            data = f"{self.text}\n{lines}".encode()
        except UnicodeEncodeError as error:
            raise FormatError("a note holds a character that UTF-8 cannot express") from error
        _demand_note_size(data)
        return data

    def with_signatures(self, lines: Iterable[SignatureLine]) -> Note:
        """The same text with more signature lines at its end."""
        return Note(self.text, (*self.signatures, *lines))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name: 32 bytes for the Ed25519 kinds, 1,312 for ML-DSA-44.

    Construction refuses, with a FormatError, wrong lengths and the Ed25519 points of small order or in
    non-canonical encoding.
    """

    name: str
    kind: KeyKind
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if self.kind is not KeyKind.COSIGNATURE_MLDSA44:
            ed25519.check_public(self.public)
        elif len(self.public) != MLDSA44_PUBLIC_BYTES:
            raise FormatError(
                f"an ML-DSA-44 public key has {MLDSA44_PUBLIC_BYTES} bytes, not {len(self.public)}"
            )

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || LF || kind || public key)[:4]; selects a key, proves nothing."""
        return key_id_of(self.name, bytes([self.kind]) + self.public)

    def encode(self) -> str:
        """The verifier key as text, ``name+id+base64(kind || public key)``."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.kind]) + self.public)}"

    def matches(self, line: SignatureLine) -> bool:
        """Whether a signature line claims to be by this key; it must then verify."""
        return line.name == self.name and line.key_id == self.key_id


@dataclass(frozen=True, slots=True, repr=False)
class NoteSigner:
    """Signs notes with a plain Ed25519 key (kind 1) from its 32-byte seed."""

    name: str
    seed: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.seed) != ed25519.SEED_BYTES:
            raise FormatError(f"an Ed25519 seed has {ed25519.SEED_BYTES} bytes, not {len(self.seed)}")

    def key(self) -> VerifierKey:
        """The verifier key that goes with it."""
        return VerifierKey(self.name, KeyKind.ED25519, ed25519.public_from_seed(self.seed))

    def sign(self, text: str) -> SignatureLine:
        """The signature line over a note text (with its final line feed)."""
        return SignatureLine(self.name, self.key().key_id, ed25519.sign(self.seed, _utf8(text)))

    def encode(self) -> str:
        """The signer key as text: a secret. ``PRIVATE+KEY+name+id+base64(0x01 || seed)``."""
        secret = encode_base64(bytes([KeyKind.ED25519]) + self.seed)
        return f"{_SKEY_PREFIX}{self.name}+{self.key().key_id.hex()}+{secret}"


def parse_note(data: bytes) -> Note:
    """Split a note into text and signature lines, at its last blank line; verifies nothing."""
    _demand_note_size(data)
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError("the note is not valid UTF-8") from error
    text, blank, block = whole.rpartition("\n\n")
    if not blank or not block.endswith("\n"):
        raise FormatError("the note does not end in a blank line and signature lines")
    lines = block[:-1].split("\n")
    if len(lines) > NOTE_MAX_SIGNATURES:
        raise FormatError(f"the note has {len(lines)} signatures; at most {NOTE_MAX_SIGNATURES} are read")
    return Note(text + "\n", tuple(_parse_line(line) for line in lines))


def parse_vkey(text: str) -> VerifierKey:
    """Read a verifier key; one of another kind, or whose id is not its own, is a FormatError."""
    name, key_id, material = _split_key(text, "the verifier key")
    kind = material[0]
    if kind not in KeyKind.__members__.values():
        raise FormatError(f"the verifier key is of kind {kind}; this software knows 1, 4 and 6")
    key = VerifierKey(name, KeyKind(kind), material[1:])
    if key.key_id != key_id:
        raise FormatError("the verifier key's id does not match its name and key; copy the whole key again")
    return key


def parse_skey(text: str) -> NoteSigner:
    """Read a signer key; no message of an error quotes any of it."""
    if not text.startswith(_SKEY_PREFIX):
        raise FormatError("the signer key does not start with PRIVATE+KEY+")
    name, key_id, material = _split_key(text.removeprefix(_SKEY_PREFIX), "the signer key")
    if material[0] != KeyKind.ED25519:
        raise FormatError("the signer key is not an Ed25519 key")
    signer = NoteSigner(name, material[1:])
    if signer.key().key_id != key_id:
        raise FormatError("the signer key's id does not match its name and key; copy the whole key again")
    return signer


def verify_text(text: str, line: SignatureLine, key: VerifierKey) -> None:
    """Demand a valid plain Ed25519 signature (kind 1) over a note text.

    Raises IntegrityError (``signature_invalid``); cosignatures are for :mod:`duramen.checkpoint` to verify.
    """
    if key.kind is not KeyKind.ED25519 or not key.matches(line):
        raise IntegrityError("the signature line is not by this key", code="signature_invalid")
    ed25519.verify(key.public, _utf8(text), line.signature)


def check_key_name(name: str) -> None:
    """Refuse, with a FormatError, an empty key name, or one with a space, plus sign or control character."""
    if not name or "+" in name or _CONTROL.search(name) or any(map(str.isspace, name)):
        raise FormatError("a key name is not empty and holds no space, plus sign or control character")
    _utf8(name)


def key_id_of(name: str, material: bytes) -> bytes:
    """The key id over a name and ``kind || public key``."""
    return sha256(_utf8(name) + b"\n" + material).digest()[:KEY_ID_BYTES]


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def parse_base64(text: str, what: str) -> bytes:
    """The bytes of canonical base64; unused bits that are not zero are refused like any other defect."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not base64") from error
    if encode_base64(data) != text:
        raise FormatError(f"{what} is not base64 in its canonical form")
    return data


def _parse_line(line: str) -> SignatureLine:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise FormatError("the note has a signature line that is not a dash, a key name and base64")
    data = parse_base64(encoded, "a signature")
    return SignatureLine(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def _split_key(text: str, what: str) -> tuple[str, bytes, bytes]:
    name, key_id, encoded = (*text.split("+", 2), "", "")[:3]
    if not _KEY_ID.fullmatch(key_id):
        raise FormatError(f"{what} is not a name, 8 hexadecimal digits and base64 joined by plus signs")
    material = parse_base64(encoded, what)
    if not material:
        raise FormatError(f"{what} is empty")
    return name, bytes.fromhex(key_id), material


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError("a name or text holds a character that UTF-8 cannot express") from error


def _demand_note_size(data: bytes) -> None:
    if len(data) > NOTE_MAX_BYTES:
        raise FormatError(f"the note has {len(data)} bytes; at most {NOTE_MAX_BYTES} are allowed")
