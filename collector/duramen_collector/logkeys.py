"""The keys that sign for a tenant's log: checkpoints (Ed25519 and ML-DSA-44) and notices (Ed25519).

Each is a 32-byte seed in a file of its own, ``keys/<tenant>/{log-ed25519,log-mldsa44,notice}.seed`` below
the state directory. They are made when the tenant is, and never again: a file that has gone missing is an
error, not a reason for a new key, since every agent has pinned the old one. Reader keys are never made,
held or seen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duramen import ed25519
from duramen.canonical import Json
from duramen.checkpoint import LogKeys, LogSigner
from duramen.errors import ConfigurationError
from duramen.names import Digest
from duramen.ports import Random
from duramen.statement import Notice, encode_notice, log_digest, notice_message, parse_statement
from duramen_collector.secretfile import ensure_secret, make_directory, read_secret

_FILES = ("log-ed25519.seed", "log-mldsa44.seed", "notice.seed")


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


class LogKeyStore:
    """The tenants' keys below one directory; read once, then kept in memory."""

    __slots__ = ("_directory", "_loaded")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loaded: dict[str, TenantKeys] = {}

    def create(self, tenant: str, random: Random) -> bool:
        """Make the keys of ``tenant`` where they are missing; whether any was made."""
        directory = self._directory / tenant
        make_directory(directory)
        made = [ensure_secret(directory / name, random) for name in _FILES]
        return any(made)

    def load(self, tenant: str, origin: str) -> TenantKeys:
        """The keys of ``tenant``; ConfigurationError when one is missing, damaged or open to others."""
        keys = self._loaded.get(tenant)
        if keys is None or keys.log.origin != origin:
            plain, quantum_safe, notice = (read_secret(self._directory / tenant / name) for name in _FILES)
            if len({plain, quantum_safe, notice}) != 3:
                raise ConfigurationError(f"two of the keys of tenant {tenant} are the same; restore them")
            keys = TenantKeys(LogSigner(origin, plain, quantum_safe), NoticeSigner(notice))
            self._loaded[tenant] = keys
        return keys

    def public(self, tenant: str, origin: str) -> LogKeys:
        """The public half of a log's keys."""
        return self.load(tenant, origin).log.keys()
