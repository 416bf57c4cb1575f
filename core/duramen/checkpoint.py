"""C2SP checkpoints and cosignatures: what a log, and its witnesses, have signed about its tree.

A checkpoint of a Duramen log counts only with both of the log's signatures, plain Ed25519 (kind 1) and
ML-DSA-44 (a cosignature, kind 6, under the log's own name), and without extension lines, which ML-DSA-44
does not sign. :func:`open_checkpoint` demands that, and the quorum of a policy where one is given. Logs of
other software are read with :func:`open_foreign_checkpoint`, which takes any one of the given keys.

ML-DSA signatures are randomised by the library that makes them: two signatures of one checkpoint differ, so
checkpoints are compared by text (:meth:`Checkpoint.text`), not by the bytes of their notes. Timestamps are
checked for range only; whether one is too old or in the future is for the caller, who has a clock.

A witness that signs with one of the log's own keys is no witness: it adds nothing to the quorum.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from duramen import ed25519
from duramen.errors import FormatError, IntegrityError
from duramen.merkle import EMPTY_ROOT, HASH_BYTES, SIZE_LIMIT
from duramen.note import (
    KeyKind,
    Note,
    NoteSigner,
    SignatureLine,
    VerifierKey,
    check_key_name,
    encode_base64,
    parse_base64,
    parse_note,
    verify_text,
)
from duramen.policy import Policy
from duramen.wire import prefixed, uint

TIMESTAMP_LIMIT: Final = 1 << 63
"""POSIX timestamps of cosignatures, in seconds, stay below this."""
MLDSA44_SEED_BYTES: Final = 32

_TIMESTAMP_BYTES: Final = 8
_SUBTREE_LABEL: Final = b"subtree/v1\n\x00"
_DECIMAL: Final = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's origin, its size in entries, and its root; extension lines only in logs of other software."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.origin or any(not line for line in self.extensions):
            raise FormatError("a checkpoint has an empty line for an origin or an extension")
        if any(_CONTROL.search(line) for line in (self.origin, *self.extensions)):
            raise FormatError("a checkpoint holds a control character within a line")
        if not 0 <= self.size < SIZE_LIMIT:
            raise FormatError(f"a checkpoint's size is between 0 and 2**63 - 1, not {self.size}")
        if len(self.root) != HASH_BYTES:
            raise FormatError(f"a checkpoint's root hash has {HASH_BYTES} bytes, not {len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError("a checkpoint of no entries has a root that is not the empty tree's")

    def text(self) -> str:
        """The note text, with its final line feed: what is signed and compared."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The two keys of a Duramen log, both named by its origin (kinds 1 and 6)."""

    origin: str
    ed25519: VerifierKey
    mldsa44: VerifierKey

    def __post_init__(self) -> None:
        if (self.ed25519.kind, self.mldsa44.kind) != (KeyKind.ED25519, KeyKind.COSIGNATURE_MLDSA44):
            raise FormatError("a log has one Ed25519 key of kind 1 and one ML-DSA-44 key of kind 6")
        if not self.origin == self.ed25519.name == self.mldsa44.name:
            raise FormatError("a log's keys are named by its origin")


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint that was opened with known keys, and the bytes that prove it.

    ``timestamp_seconds`` is the time of the log's own ML-DSA-44 signature (0: none given); ``witnesses``
    are the names, in the policy, of those whose cosignatures hold.
    """

    checkpoint: Checkpoint
    note: Note = field(repr=False)
    timestamp_seconds: int
    raw: bytes = field(repr=False)
    witnesses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class LogSigner:
    """Both secret keys of a log, by their 32-byte seeds."""

    origin: str
    ed25519_seed: bytes
    mldsa44_seed: bytes

    def __post_init__(self) -> None:
        check_key_name(self.origin)
        if len(self.ed25519_seed) != ed25519.SEED_BYTES or len(self.mldsa44_seed) != MLDSA44_SEED_BYTES:
            raise FormatError("a log's seeds have 32 bytes each")

    def keys(self) -> LogKeys:
        """The public half."""
        mldsa44 = mldsa44_public_from_seed(self.mldsa44_seed)
        return LogKeys(
            self.origin,
            VerifierKey(self.origin, KeyKind.ED25519, ed25519.public_from_seed(self.ed25519_seed)),
            VerifierKey(self.origin, KeyKind.COSIGNATURE_MLDSA44, mldsa44),
        )

    def sign(self, checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
        """A note with both signatures.

        Nothing here remembers what was signed before: that no other root is signed for a size is the
        caller's duty.
        """
        if checkpoint.origin != self.origin or checkpoint.extensions:
            raise FormatError("a log signs checkpoints of its own origin, without extension lines")
        plain = NoteSigner(self.origin, self.ed25519_seed).sign(checkpoint.text())
        kind = KeyKind.COSIGNATURE_MLDSA44
        cosigned = cosign(checkpoint, self.origin, kind, self.mldsa44_seed, timestamp_seconds)
        return Note(checkpoint.text(), (plain, cosigned)).encode()


def parse_checkpoint_text(text: str, *, allow_extensions: bool = False) -> Checkpoint:
    """Read a note text; anything that :meth:`Checkpoint.text` would not write is a FormatError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise FormatError("a checkpoint has three lines at least, and ends in a line feed")
    origin, size, root, *extensions = lines
    if extensions and not allow_extensions:
        raise FormatError("the checkpoint has extension lines; a Duramen log has none")
    if not _DECIMAL.fullmatch(size):
        raise FormatError("the checkpoint's size is not a decimal number below 2**63")
    return Checkpoint(origin, int(size), parse_base64(root, "the checkpoint's root hash"), tuple(extensions))


def open_checkpoint(data: bytes, keys: LogKeys, policy: Policy | None = None) -> SignedCheckpoint:
    """Read a checkpoint of the log with these keys, demanding both signatures and the policy's quorum.

    Raises FormatError for bytes that are no checkpoint; IntegrityError ``checkpoint_invalid`` for another
    origin, a missing or invalid signature of the log, two by one key, or an invalid one of a witness of the
    policy; IntegrityError ``below_policy`` where everything holds but the quorum is not reached, or the
    policy lists logs and not this one.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint_text(note.text)
    if checkpoint.origin != keys.origin:
        raise _invalid(f"the checkpoint is of {checkpoint.origin!r}, not of {keys.origin!r}")
    _verified_line(note, checkpoint, keys.ed25519)
    timestamp_seconds = _verified_line(note, checkpoint, keys.mldsa44)
    witnesses = frozenset[str]()
    if policy is not None:
        witnesses = _cosigners(note, checkpoint, keys, policy)
        _demand_policy(checkpoint, keys, policy, witnesses)
    return SignedCheckpoint(checkpoint, note, timestamp_seconds, bytes(data), witnesses)


def open_foreign_checkpoint(data: bytes, vkeys: Sequence[VerifierKey]) -> SignedCheckpoint:
    """Read a checkpoint of a log of other software, signed by one of ``vkeys``; it may have extension lines.

    Of the given keys, those named by a signature line must all verify (``checkpoint_invalid`` otherwise).
    The key's name need not be the origin, which C2SP recommends but does not demand: a caller who expects
    an origin compares it. The timestamp is that of the first cosignature among them, or 0. Extension lines
    are signed by the Ed25519 kinds only: where a key of kind 6 alone has signed, anybody may have added them.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint_text(note.text, allow_extensions=True)
    signed = [key for key in vkeys if any(map(key.matches, note.signatures))]
    if not signed:
        raise _invalid("the checkpoint is signed by none of the given keys")
    times = [_verified_line(note, checkpoint, key) for key in signed]
    return SignedCheckpoint(checkpoint, note, next(filter(None, times), 0), bytes(data))


def cosign(
    checkpoint: Checkpoint, name: str, kind: KeyKind, seed: bytes, timestamp_seconds: int
) -> SignatureLine:
    """Cosignature of ``checkpoint`` by the cosigner ``name`` (kind 4 or 6), from its 32-byte seed."""
    stamp = _timestamp(timestamp_seconds)
    if kind is KeyKind.COSIGNATURE_ED25519:
        public = ed25519.public_from_seed(seed)
        signature = ed25519.sign(seed, _ed25519_message(checkpoint, timestamp_seconds))
    elif kind is KeyKind.COSIGNATURE_MLDSA44:
        public = mldsa44_public_from_seed(seed)
        signature = _mldsa44_private(seed).sign(_mldsa44_message(checkpoint, name, timestamp_seconds))
    else:
        raise FormatError("a cosignature is of kind 4 or 6")
    return SignatureLine(name, VerifierKey(name, kind, public).key_id, stamp + signature)


def verify_cosignature(checkpoint: Checkpoint, line: SignatureLine, key: VerifierKey) -> int:
    """Demand that ``line`` is a valid cosignature of ``checkpoint`` by ``key``; returns its time in seconds.

    Raises IntegrityError (``signature_invalid``).
    """
    if key.kind is KeyKind.ED25519 or not key.matches(line):
        raise IntegrityError("the signature line is no cosignature by this key", code="signature_invalid")
    timestamp_seconds = cosignature_timestamp(line)
    signature = line.signature[_TIMESTAMP_BYTES:]
    if key.kind is KeyKind.COSIGNATURE_ED25519:
        ed25519.verify(key.public, _ed25519_message(checkpoint, timestamp_seconds), signature)
    else:
        message = _mldsa44_message(checkpoint, key.name, timestamp_seconds)
        try:
            MLDSA44PublicKey.from_public_bytes(key.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise IntegrityError("the ML-DSA-44 signature does not hold", code="signature_invalid") from error
    return timestamp_seconds


def cosignature_timestamp(line: SignatureLine) -> int:
    """The POSIX time, in seconds, that a cosignature line states; IntegrityError ``signature_invalid``."""
    timestamp_seconds = int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big")
    if len(line.signature) <= _TIMESTAMP_BYTES or timestamp_seconds >= TIMESTAMP_LIMIT:
        raise IntegrityError("the cosignature has no valid timestamp", code="signature_invalid")
    return timestamp_seconds


def mldsa44_public_from_seed(seed: bytes) -> bytes:
    """The 1,312-byte ML-DSA-44 public key of a 32-byte seed (FIPS 204 section 6.1)."""
    return _mldsa44_private(seed).public_key().public_bytes_raw()


def _verified_line(note: Note, checkpoint: Checkpoint, key: VerifierKey) -> int:
    """Demand exactly one line by ``key`` and that it verifies; its timestamp, 0 for a plain signature."""
    lines = [line for line in note.signatures if key.matches(line)]
    if len(lines) != 1:
        raise _invalid(f"the checkpoint has {len(lines)} signatures, not one, by the {key.kind.name} key")
    try:
        if key.kind is KeyKind.ED25519:
            verify_text(note.text, lines[0], key)
            return 0
        return verify_cosignature(checkpoint, lines[0], key)
    except IntegrityError as error:
        raise _invalid(
            f"the {key.kind.name} signature of the checkpoint by {key.name!r} does not hold"
        ) from error


def _cosigners(note: Note, checkpoint: Checkpoint, keys: LogKeys, policy: Policy) -> frozenset[str]:
    own = {keys.ed25519.public, keys.mldsa44.public}
    found = set()
    for witness in policy.witnesses:
        if witness.key.public not in own and any(map(witness.key.matches, note.signatures)):
            _verified_line(note, checkpoint, witness.key)
            found.add(witness.name)
    return frozenset(found)


def _demand_policy(checkpoint: Checkpoint, keys: LogKeys, policy: Policy, witnesses: frozenset[str]) -> None:
    if policy.logs and not any(log.key in (keys.ed25519, keys.mldsa44) for log in policy.logs):
        raise IntegrityError(f"the policy does not list the log {keys.origin!r}", code="below_policy")
    if not policy.satisfied_by(witnesses):
        raise IntegrityError(
            f"the checkpoint of {checkpoint.size} entries has {len(witnesses)} known cosignatures, "
            f"which does not reach the policy's quorum {policy.quorum!r}",
            code="below_policy",
        )


def _ed25519_message(checkpoint: Checkpoint, timestamp_seconds: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp_seconds}\n{checkpoint.text()}".encode()


def _mldsa44_message(checkpoint: Checkpoint, name: str, timestamp_seconds: int) -> bytes:
    """The ``cosigned_message`` of C2SP tlog-cosignature, for a checkpoint: the subtree that starts at 0."""
    return (
        _SUBTREE_LABEL
        + prefixed(name.encode(), 1)
        + uint(timestamp_seconds, 8)
        + prefixed(checkpoint.origin.encode(), 1)
        + uint(0, 8)
        + uint(checkpoint.size, 8)
        + checkpoint.root
    )


def _timestamp(seconds: int) -> bytes:
    if not 0 <= seconds < TIMESTAMP_LIMIT:
        raise FormatError(f"a cosignature's timestamp is between 0 and 2**63 - 1 seconds, not {seconds}")
    return uint(seconds, _TIMESTAMP_BYTES)


def _mldsa44_private(seed: bytes) -> MLDSA44PrivateKey:
    if len(seed) != MLDSA44_SEED_BYTES:
        raise FormatError(f"an ML-DSA-44 seed has {MLDSA44_SEED_BYTES} bytes, not {len(seed)}")
    return MLDSA44PrivateKey.from_seed_bytes(seed)


def _invalid(message: str) -> IntegrityError:
    return IntegrityError(message, code="checkpoint_invalid")
