"""The state directory: which file is where, how it comes to be, and what is made of it.

::

    ca.key ca.pem            the certificate authority
    server.key server.pem    what the server shows
    pepper                   under which tokens are digested and nonces are made
    keys/<tenant>/*.seed     what signs for a tenant (duramen_collector.logkeys)
    collector.db             the database, unless it is configured elsewhere

:func:`initialise` makes what is missing and leaves what is there, so it can be run again at any time. Two
cases are different: a certificate authority of which one half is missing is an error (a new one would lock
every agent out), and a server certificate is made anew when it lacks a configured name or has less than
``RENEW_DAYS`` left.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from duramen.errors import ConfigurationError
from duramen.ports import Clock, Random
from duramen_collector.authority import Authority, KeyPair, certificate_names, create_authority
from duramen_collector.configuration import Configuration
from duramen_collector.database import open_database, revision, upgrade
from duramen_collector.keystore import LogKeyStore
from duramen_collector.secretfile import ensure_secret, make_directory, read_private, read_secret, write_file
from duramen_collector.tokens import Pepper

RENEW_DAYS: Final = 30
_DAY_NS: Final = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Paths below one directory, and readers of them."""

    path: Path

    @property
    def authority_certificate(self) -> Path:
        """The authority's certificate, which agents get with the join string."""
        return self.path / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate."""
        return self.path / "server.pem"

    @property
    def server_key(self) -> Path:
        """The server's private key."""
        return self.path / "server.key"

    def authority(self) -> Authority:
        """The certificate authority; ConfigurationError when it is missing or damaged."""
        key = read_private(self.path / "ca.key")
        return Authority(KeyPair(key, _read(self.authority_certificate)))

    def pepper(self) -> Pepper:
        """The pepper; ConfigurationError when it is missing or damaged."""
        return Pepper(read_secret(self.path / "pepper"))

    def log_keys(self) -> LogKeyStore:
        """The tenants' keys."""
        return LogKeyStore(self.path / "keys")


def server_names(configuration: Configuration) -> tuple[str, ...]:
    """What the server certificate is for.

    The collector's name, further names, and the address it listens on.
    """
    names = [configuration.name, *configuration.names]
    host = configuration.listen_host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names.append(host)
    else:
        if not address.is_unspecified:
            names.append(str(address))
        if address.is_unspecified or address.is_loopback:
            names += ["localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(names))


def initialise(configuration: Configuration, clock: Clock, random: Random) -> list[str]:
    """Make everything that is missing; a sentence for each thing that was done."""
    state = StateDirectory(configuration.state_dir)
    done: list[str] = []
    make_directory(state.path)
    if _ensure_authority(state, configuration.name, clock.wall_ns(), random):
        done.append(f"made the certificate authority {state.authority_certificate}")
    if _ensure_server(state, configuration, clock.wall_ns(), random):
        done.append(f"issued the server certificate {state.server_certificate}")
    if ensure_secret(state.path / "pepper", random):
        done.append(f"made the pepper of the tokens {state.path / 'pepper'}")
    make_directory(state.path / "keys")
    engine = open_database(configuration.database_path)
    before, _ = revision(engine)
    upgrade(engine)
    after, _ = revision(engine)
    engine.dispose()
    if before != after:
        done.append(f"brought the database {configuration.database_path} to revision {after}")
    return done


def _ensure_authority(state: StateDirectory, name: str, now_ns: int, random: Random) -> bool:
    key, certificate = state.path / "ca.key", state.authority_certificate
    if certificate.exists():
        state.authority()
        return False
    if key.exists():
        key.unlink()  # made by an init that did not come to write the certificate: nothing was issued with it
    pair = create_authority(name, now_ns, random)
    write_file(key, pair.key_pem)
    write_file(certificate, pair.certificate_pem, 0o644)
    return True


def _ensure_server(state: StateDirectory, configuration: Configuration, now_ns: int, random: Random) -> bool:
    names = server_names(configuration)
    if state.server_certificate.exists() and state.server_key.exists():
        present, until_ns = certificate_names(_read(state.server_certificate))
        if present >= frozenset(names) and until_ns > now_ns + RENEW_DAYS * _DAY_NS:
            return False
    pair = state.authority().issue_server(names, now_ns, random)
    write_file(state.server_key, pair.key_pem)
    write_file(state.server_certificate, pair.certificate_pem, 0o644)
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}; duramen-collector init makes what is missing"
        ) from error
