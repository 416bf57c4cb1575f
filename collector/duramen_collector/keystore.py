"""The tenants' keys in files below the state directory.

``keys/<tenant>/`` holds ``log-ed25519.seed``, ``log-mldsa44.seed`` and ``notice.seed``. They are made when
the tenant is, and never again: a file that has gone missing is an error, not a reason for a new key, since
every agent has pinned the old one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from duramen.checkpoint import LogKeys, LogSigner
from duramen.errors import ConfigurationError
from duramen.ports import Random
from duramen_collector.logkeys import NoticeSigner, TenantKeys
from duramen_collector.secretfile import ensure_secret, make_directory, read_secret

_FILES: Final = ("log-ed25519.seed", "log-mldsa44.seed", "notice.seed")


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
