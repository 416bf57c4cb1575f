"""Reader key files: private keys under a passphrase, public keys as one line of text.

Private: JSON ``{"cipher", "kdf": "scrypt", "n", "r", "p", "salt", "sealed", "type", "public"}``; the seed
is sealed with AES-256-GCM under scrypt (RFC 7914) of the passphrase. scrypt's cost is bounded when reading,
so that a foreign file cannot exhaust memory. Public: ``duramen-reader <name> <base64 of the 1,216 key
bytes>``; a recipients file holds one a line, ``#`` comments.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from duramen import canonical
from duramen.envelope import ReaderKey, Recipient
from duramen.errors import ConfigurationError, FormatError
from duramen.limits import RECIPIENTS_MAX

SCRYPT_N: Final = 2**17
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
_TYPE: Final = "duramen-reader-key/v1"
_AAD: Final = b"duramen/reader-key/v1\n"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,127}")


@dataclass(frozen=True, slots=True)
class NamedRecipient:
    """A line of a recipients file."""

    name: str
    recipient: Recipient

    def encode(self) -> str:
        """The line, without a line feed."""
        return f"duramen-reader {self.name} {base64.b64encode(self.recipient.public).decode()}"


def is_reader_name(name: str) -> bool:
    """Whether a recipients file may call a reader ``name``."""
    return _NAME.fullmatch(name) is not None


def parse_recipients(text: str) -> tuple[NamedRecipient, ...]:
    """The recipients in a file's text, at least one; FormatError that names the line otherwise."""
    found: list[NamedRecipient] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split()
        if len(words) != 3 or words[0] != "duramen-reader" or not _NAME.fullmatch(words[1]):
            raise FormatError(f"line {number} is not 'duramen-reader NAME KEY'")
        try:
            public = base64.b64decode(words[2], validate=True)
        except ValueError as error:
            raise FormatError(f"the key on line {number} is not base64") from error
        found.append(NamedRecipient(words[1], Recipient(public)))
    if (
        not found
        or len({item.recipient.public for item in found}) != len(found)
        or len(found) > RECIPIENTS_MAX
    ):
        raise FormatError(f"a recipients file names 1 to {RECIPIENTS_MAX} readers, each once")
    return tuple(found)


def seal_private(key: ReaderKey, passphrase: str, salt: bytes, nonce: bytes, n: int = SCRYPT_N) -> bytes:
    """The private key file of ``key``.

    ``salt`` (16) and ``nonce`` (12) are random, ``n`` is scrypt's cost.
    """
    sealed = AESGCM(_stretch(passphrase, salt, n)).encrypt(nonce, key.seed, _AAD + key.recipient.public)
    return (
        canonical.encode(
            {
                "cipher": "AES-256-GCM",
                "kdf": "scrypt",
                "n": n,
                "nonce": nonce.hex(),
                "p": SCRYPT_P,
                "public": base64.b64encode(key.recipient.public).decode(),
                "r": SCRYPT_R,
                "salt": salt.hex(),
                "sealed": sealed.hex(),
                "type": _TYPE,
            }
        )
        + b"\n"
    )


def open_private(data: bytes, passphrase: str) -> ReaderKey:
    """The key in a private key file; ConfigurationError when the passphrase does not open it."""
    what = "a reader key file"
    fields = canonical.Fields(canonical.decode(data.removesuffix(b"\n"), what), what)
    if [fields.text(key) for key in ("type", "cipher", "kdf")] != [_TYPE, "AES-256-GCM", "scrypt"]:
        raise FormatError(f"this is not {what} of a known version")
    n, salt, nonce = (
        fields.uint("n", 2**20),
        fields.hexed("salt", SALT_BYTES),
        fields.hexed("nonce", NONCE_BYTES),
    )
    if (fields.uint("r", 64), fields.uint("p", 64)) != (SCRYPT_R, SCRYPT_P) or n < 2 or n & (n - 1):
        raise FormatError("a reader key file has scrypt parameters outside of what is accepted")
    public, sealed = fields.text("public"), fields.hexed("sealed", 48)
    fields.finish()
    try:
        aad = _AAD + base64.b64decode(public, validate=True)
        seed = AESGCM(_stretch(passphrase, salt, n)).decrypt(nonce, sealed, aad)
    except ValueError as error:
        raise FormatError("the public key in a reader key file is not base64") from error
    except InvalidTag as error:
        raise ConfigurationError("the passphrase does not open this reader key file") from error
    return ReaderKey(seed)


def _stretch(passphrase: str, salt: bytes, n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase.encode())
