"""The keys that sign for a tenant's log: checkpoints (Ed25519 and ML-DSA-44) and notices (Ed25519).

Each is a 32-byte seed; :mod:`duramen_collector.keystore` keeps them in files. Reader keys are never made,
held or seen by a collector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from duramen import ed25519
from duramen.canonical import Json
from duramen.checkpoint import LogSigner
from duramen.names import Digest
from duramen.statement import Notice, encode_notice, log_digest, notice_message, parse_statement


@dataclass(frozen=True, slots=True, repr=False)
class NoticeSigner:
    """Signs what the collector itself has to say in a tenant's log."""

    seed: bytes

    @property
    def public(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return ed25519.public_from_seed(self.seed)

    def sign(self, type_: str, time_ns: int, fields: dict[str, Json]) -> Notice:
        """A signed notice."""
        header = encode_notice(type_, time_ns, self.public, fields)
        statement = parse_statement(header + ed25519.sign(self.seed, notice_message(header)))
        assert isinstance(statement, Notice)
        return statement


@dataclass(frozen=True, slots=True, repr=False)
class TenantKeys:
    """Everything that signs for one tenant."""

    log: LogSigner
    notice: NoticeSigner

    @property
    def verifier_keys(self) -> tuple[str, str]:
        """The vkeys of the log, Ed25519 and ML-DSA-44, as agents pin them."""
        keys = self.log.keys()
        return keys.ed25519.encode(), keys.mldsa44.encode()

    def digest(self) -> Digest:
        """What a genesis for this log commits to."""
        return log_digest(self.log.origin, self.verifier_keys)


class KeyRing(Protocol):
    """Where the tenants' keys come from."""

    def load(self, tenant: str, origin: str) -> TenantKeys:
        """The keys of ``tenant``, whose log is ``origin``; ConfigurationError when they cannot be had."""
        ...
