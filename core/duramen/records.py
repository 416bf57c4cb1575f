"""Records and their salted Merkle tree (DESIGN 3.3).

A record is a line with its LF; one without is torn, and says so by that. Records come in *runs*:
consecutive bytes of one file, described by one line of the manifest. ``leaf = SHA-256(0x00 || salt_i ||
SHA-256(run line) || record)`` with ``salt_i`` the i-th block of an AES-256-CTR key stream, so that one
record can be disclosed while its neighbours' hashes stay unguessable. Nodes are RFC 6962's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from duramen.errors import FormatError
from duramen.merkle import root_of
from duramen.names import Digest

SALT_BYTES: Final = 16
SALT_KEY_BYTES: Final = 32


def split(run: bytes) -> list[bytes]:
    """The records of a run: cut after each LF; what follows the last LF, if anything, is a torn record."""
    pieces = run.split(b"\n")
    last = pieces.pop()
    records = [piece + b"\n" for piece in pieces]
    if last:
        records.append(last)
    return records


def count(run: bytes) -> int:
    """How many records :func:`split` finds, without making them."""
    return run.count(b"\n") + (not run.endswith(b"\n") and bool(run))


def salts(salt_key: bytes, number: int) -> bytes:
    """The salts of records 0 to ``number`` - 1 of a block, 16 bytes each, concatenated."""
    if len(salt_key) != SALT_KEY_BYTES:
        raise FormatError(f"a salt key has {SALT_KEY_BYTES} bytes")
    encryptor = Cipher(algorithms.AES(salt_key), modes.CTR(bytes(16))).encryptor()
    return encryptor.update(bytes(SALT_BYTES * number))


def leaf(salt: bytes, run_line: bytes, record: bytes) -> Digest:
    """One record's leaf hash; ``run_line`` is the manifest's line without its LF."""
    return Digest(hashlib.sha256(b"\0" + salt + hashlib.sha256(run_line).digest() + record).digest())


def leaves(salt_key: bytes, runs: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[bytes]:
    """The leaf hashes of a block; ``runs`` are (run line, records) in order."""
    parts = [(hashlib.sha256(line).digest(), records) for line, records in runs]
    stream = salts(salt_key, sum(len(records) for _, records in parts))
    sha256 = hashlib.sha256
    hashes: list[bytes] = []
    at = 0
    for line_hash, records in parts:  # the agent's hottest loop: no function call but the hash itself
        hashes += [
            sha256(b"\0" + stream[i : i + 16] + line_hash + record).digest()
            for i, record in zip(range(at, at + 16 * len(records), 16), records, strict=True)
        ]
        at += 16 * len(records)
    return hashes


def root(salt_key: bytes, runs: Iterable[tuple[bytes, Sequence[bytes]]]) -> Digest:
    """The Merkle root over a block's records, 32 bytes."""
    return Digest(root_of(leaves(salt_key, runs)))
