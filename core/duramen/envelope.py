"""Who can read: recipients, envelopes, and the keys block's list (DESIGN 4).

An envelope is one data key wrapped to one reader: ``u16 KEM id || enc(1120) || ciphertext(48)``, HPKE base
mode (RFC 9180) with KEM ML-KEM-768+X25519 (X-Wing, 0x647a), HKDF-SHA256 and AES-256-GCM. Its info binds
tenant, chain, data key, shred group, class and recipient, so an envelope moved elsewhere does not open. A
public key is ``ML-KEM-768(1184) || X25519(32)``; a private key is its 32-byte seed, expanded as X-Wing
does.

Wrapping draws randomness inside the library; everything else here is a function of its arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from duramen import canonical, wire
from duramen.datakey import DATA_KEY_BYTES, data_key_id
from duramen.errors import FormatError, IntegrityError
from duramen.limits import RECIPIENTS_MAX
from duramen.names import ChainId, DataKeyId, Digest, check_tenant
from duramen.statement import BlockHeader

KEM_ID: Final = 0x647A
PUBLIC_KEY_BYTES: Final = 1184 + 32
SEED_BYTES: Final = 32
ENVELOPE_BYTES: Final = 2 + 1120 + DATA_KEY_BYTES + 16
_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A reader's public key, ``ML-KEM-768(1184) || X25519(32)``."""

    public: bytes

    def __post_init__(self) -> None:
        if len(self.public) != PUBLIC_KEY_BYTES:
            raise FormatError(f"a reader's public key has {PUBLIC_KEY_BYTES} bytes, not {len(self.public)}")

    @property
    def key_hash(self) -> Digest:
        """SHA-256 of the public key: how keys blocks and regions name a reader."""
        return Digest(hashlib.sha256(self.public).digest())


@dataclass(frozen=True, slots=True)
class EnvelopeContext:
    """What an envelope is bound to."""

    tenant: str
    chain: ChainId
    dek: DataKeyId
    group: int
    retention_class: int

    def info(self, key_hash: Digest) -> bytes:
        """The HPKE info for the recipient whose key has ``key_hash``."""
        return b"".join(
            (
                b"duramen/envelope/v1\n",
                wire.prefixed(check_tenant(self.tenant).encode(), 1),
                self.chain,
                self.dek,
                wire.uint(self.group, 2),
                wire.uint(self.retention_class, 1),
                key_hash,
            )
        )


Wrap = Callable[[bytes, Recipient, EnvelopeContext], bytes]
"""The form of :func:`wrap`; the simulation passes one whose randomness it owns."""


class ReaderKey:
    """A reader's private key."""

    __slots__ = ("_private", "recipient", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise FormatError(f"a reader's private key is a seed of {SEED_BYTES} bytes, not {len(seed)}")
        expanded = hashlib.shake_256(seed).digest(96)  # X-Wing, draft-connolly-cfrg-xwing-kem, section 5.2
        kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        ecdh = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.seed = seed
        self.recipient = Recipient(kem.public_key().public_bytes_raw() + ecdh.public_key().public_bytes_raw())
        self._private = hpke.MLKEM768X25519PrivateKey(kem, ecdh)

    def unwrap(self, envelope: bytes, context: EnvelopeContext) -> bytes:
        """The data key in ``envelope``; IntegrityError when it is not one to this reader in this context."""
        reader = wire.Reader(envelope, "an envelope")
        if reader.uint(2) != KEM_ID:
            raise FormatError(f"an envelope begins with its KEM id 0x{KEM_ID:04x}")
        sealed = reader.take(ENVELOPE_BYTES - 2)
        reader.finish()
        try:
            dek = _SUITE.decrypt(sealed, self._private, context.info(self.recipient.key_hash))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                f"the envelope of data key {context.dek.hex()} does not open with this reader key",
                code="body_corrupt",
            ) from error
        if data_key_id(dek) != context.dek:
            raise IntegrityError(
                f"the envelope of data key {context.dek.hex()} holds another key", code="body_corrupt"
            )
        return dek


def wrap(dek: bytes, recipient: Recipient, context: EnvelopeContext) -> bytes:
    """A new envelope of ``dek`` (32 bytes) for ``recipient``.

    FormatError for a public key that is not one.
    """
    try:
        public = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(recipient.public[:1184]),
            X25519PublicKey.from_public_bytes(recipient.public[1184:]),
        )
        sealed = _SUITE.encrypt(dek, public, context.info(recipient.key_hash))
    except ValueError as error:
        raise FormatError(
            f"the reader key {recipient.key_hash.hex()[:16]} is not a valid public key"
        ) from error
    return wire.uint(KEM_ID, 2) + sealed


def check_envelope(envelope: bytes) -> None:
    """What a keyless party can check: length and KEM id. FormatError otherwise."""
    if len(envelope) != ENVELOPE_BYTES or envelope[:2] != wire.uint(KEM_ID, 2):
        raise FormatError(f"an envelope has {ENVELOPE_BYTES} bytes and begins with 0x{KEM_ID:04x}")


@dataclass(frozen=True, slots=True)
class KeyList:
    """The body of a keys block, in the clear: it commits to who can read under a data key."""

    group_name: str
    group: int
    retention_class: int
    dek: DataKeyId
    envelopes: tuple[tuple[Digest, Digest], ...]
    """(SHA-256 of a recipient's public key, SHA-256 of its envelope), ascending"""

    def encode(self) -> bytes:
        """The body's bytes."""
        return canonical.encode(
            {
                "class": self.retention_class,
                "dek": self.dek.hex(),
                "group": self.group,
                "name": self.group_name,
                "recipients": [{"envelope": e.hex(), "key": k.hex()} for k, e in self.envelopes],
            }
        )


def parse_key_list(data: bytes) -> KeyList:
    """A key list; FormatError unless it is the one encoding, with 1 to 64 recipients in order."""
    what = "the body of a keys block"
    fields = canonical.Fields(canonical.decode(data, what), what)
    envelopes = []
    for item in fields.items("recipients", RECIPIENTS_MAX):
        entry = canonical.Fields(item, "a recipient of a keys block")
        envelopes.append((Digest(entry.hexed("key", 32)), Digest(entry.hexed("envelope", 32))))
        entry.finish()
    if not envelopes or sorted({key for key, _ in envelopes}) != [key for key, _ in envelopes]:
        raise FormatError("a keys block names at least one recipient, each once, in ascending order")
    keys = KeyList(
        group_name=fields.text("name", 256),
        group=fields.uint("group", 0xFFFF),
        retention_class=fields.uint("class", 0xFF),
        dek=DataKeyId(fields.hexed("dek", 16)),
        envelopes=tuple(envelopes),
    )
    fields.finish()
    return keys


def open_key_list(header: BlockHeader, body: bytes) -> KeyList:
    """The key list in the body of the keys block with ``header``.

    FormatError when it is none; IntegrityError ``header_corrupt`` when it is about another data key.
    """
    keys = parse_key_list(body)
    if (keys.dek, keys.group, keys.retention_class) != (header.dek, header.group, header.retention_class):
        raise IntegrityError(
            f"keys block {header.seq} lists another data key, group or class than its header",
            code="header_corrupt",
        )
    return keys
