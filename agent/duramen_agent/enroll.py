"""Enrolment: from a join string to a host that can seal and forward.

Every step is durable before the next, and running it again after a crash at any instant goes on where it
broke off::

    1  the configuration file and the collectors' authority, unless they are there already
    2  the state directory, private
    3  the certificate's private key (P-256), then the request for it, kept so that it is sent unchanged
    4  seed and spool with the chain's genesis, which commits to the log's keys and to the configuration file
    5  POST /v1/enroll: the same request under the same token gets the same answer
    6  the certificate: from now on this host is enrolled; the request is deleted

A configuration file that is there is left as it is, and has to be of the same tenant and agent. A host that
is enrolled as somebody else is refused. The private key never leaves the host; what the collector certifies
is its public half, for CN = agent and the URI ``duramen://tenant/agent``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from duramen.api import EnrollAnswer, EnrollRequest, JoinString, enroll_path, parse_enroll_answer
from duramen.errors import ConfigurationError, PeerError, StorageError
from duramen.names import ZERO_DIGEST, ChainId, Digest, Seq
from duramen.ports import Clock, Disk, Random
from duramen.statement import Genesis, log_digest
from duramen_agent.answers import RefusalError, expect
from duramen_agent.configuration import parse_configuration
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.layout import CERTIFICATE_FILE, KEY_FILE, REQUEST_FILE
from duramen_agent.sealer import SPOOL_FILE, enrol_state
from duramen_agent.spool import Spool
from duramen_agent.step import Moment
from duramen_agent.trust import pinned_keys

TIMEOUT_S: Final = 30.0
_MAX_FILE_BYTES: Final = 1024 * 1024
_TO_BE_ADDED: Final = """
# To be added. Who can read; set by the rollout, never by the collector:
# recipients: [/etc/duramen/readers.pub]
# What is read:
# sources:
#   - {stream: nginx/access, paths: [/var/log/nginx/access.log]}
"""
_STAND_IN: Final = b"\nrecipients: [/stand-in]\nsources: [{stream: stand-in, paths: [/stand-in]}]\n"

Send = Callable[[HttpRequest], HttpResponse | HttpFailure]
"""Carries out one request without a client certificate."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The world, as enrolment needs it."""

    disk: Disk
    random: Random
    clock: Clock


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What enrolling led to."""

    chain: ChainId
    state_dir: Path
    already: bool
    """Whether the host was enrolled before."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where this host keeps things, as its configuration file says."""

    state_dir: Path
    ca: Path
    configuration: Digest
    """SHA-256 of the configuration file."""


class Enroller:
    """One enrolment with ``join``; the configuration lies, or will lie, in ``configuration``."""

    def __init__(self, join: JoinString, configuration: Path, state_dir: Path, ports: Ports) -> None:
        self._join = join
        self._configuration = configuration
        self._new_state_dir = state_dir
        self._ports = ports
        self._keys = pinned_keys(join.log_keys)

    def run(self, connect: Callable[[Path], Send]) -> Enrolment:
        """Do every step that is left; ``connect`` makes a :data:`Send` trusting the authority in a file."""
        place = self._place()
        _make_directory(place.state_dir, 0o700)
        if place.state_dir.stat().st_mode & 0o077:
            raise ConfigurationError(
                f"{place.state_dir} holds private keys and can be entered by others: set its mode to 0700"
            )
        spool = Spool(str(place.state_dir / SPOOL_FILE))
        try:
            self._demand_same(spool)
            certificate = place.state_dir / CERTIFICATE_FILE
            state = spool.load()
            if state is not None and certificate.exists():
                return Enrolment(state.identity.chain, place.state_dir, already=True)
            csr = self._request(place.state_dir)
            genesis, chain = self._begin_chain(spool, place)
            answer = self._ask(connect(place.ca), EnrollRequest(self._join.token, csr, genesis))
            _check(answer, chain, place.state_dir / KEY_FILE)
            self._write(certificate, answer.certificate_pem.encode())
            (place.state_dir / REQUEST_FILE).unlink(missing_ok=True)
            return Enrolment(chain, place.state_dir, already=False)
        finally:
            spool.close()

    def _place(self) -> _Place:
        """Read the configuration file, or write it."""
        path = self._configuration
        if not path.exists():
            self._write_configuration(path)
        text = self._ports.disk.read_file(os.fsencode(path), _MAX_FILE_BYTES)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not valid YAML: correct it, or move it aside") from error
        value = value if isinstance(value, dict) else {}
        found = (value.get("tenant"), value.get("agent"))
        if found != (self._join.tenant, self._join.agent):
            raise ConfigurationError(
                f"{path} is for agent {found[1]!r} of tenant {found[0]!r}, and the join string for "
                f"{self._join.agent!r} of {self._join.tenant!r}: use the right join string, or move the file "
                "aside"
            )
        ca = Path(str(value.get("ca", path.parent / "ca.pem")))
        if not ca.exists():
            _make_directory(ca.parent, 0o755)
            self._write(ca, self._join.ca_pem.encode(), 0o644)
        elif ca.read_bytes().strip() != self._join.ca_pem.encode().strip():
            raise ConfigurationError(
                f"{ca} is another authority than the join string's: find out which one is right, and move "
                "the other aside"
            )
        state_dir = Path(str(value.get("state_dir", self._new_state_dir)))
        return _Place(state_dir, ca, Digest(hashlib.sha256(text).digest()))

    def _write_configuration(self, path: Path) -> None:
        join = self._join
        text = yaml.safe_dump(
            {
                "tenant": join.tenant,
                "agent": join.agent,
                "collectors": list(join.collectors),
                "ca": str(path.parent / "ca.pem"),
                "log_keys": list(join.log_keys),
                "state_dir": str(self._new_state_dir),
            },
            sort_keys=False,
            width=10_000,
        ).encode()
        parse_configuration(text + _STAND_IN, {}, "the configuration made from the join string")
        _make_directory(path.parent, 0o755)
        self._write(path, text + _TO_BE_ADDED.encode(), 0o644)

    def _demand_same(self, spool: Spool) -> None:
        state = spool.load()
        if state is None:
            return
        enrolled = (state.identity.tenant, state.identity.agent)
        if enrolled != (self._join.tenant, self._join.agent):
            raise ConfigurationError(
                f"this host is enrolled as agent {enrolled[1]!r} of tenant {enrolled[0]!r}: move its state "
                "directory aside to enrol it as somebody else"
            )

    def _begin_chain(self, spool: Spool, place: _Place) -> tuple[bytes, ChainId]:
        """The genesis statement: a new one, or that of an enrolment that broke off."""
        state = spool.load()
        if state is not None:
            kept = spool.entries(0, 1)
            if not kept:
                raise ConfigurationError(
                    f"{place.state_dir} holds a chain that is in use, but no certificate: restore "
                    f"{CERTIFICATE_FILE} there, or move the directory aside to enrol this host as a "
                    "replacement"
                )
            return kept[0], state.identity.chain
        clock = self._ports.clock
        genesis = Genesis(
            public=bytes(32),  # the sealer fills it in
            tenant=self._join.tenant,
            agent=self._join.agent,
            log=log_digest(self._keys.origin, self._join.log_keys),
            configuration=place.configuration,
            replaces=ChainId(ZERO_DIGEST),
            replaced_seq=Seq(0),
            replaced_hash=ZERO_DIGEST,
        )
        block = enrol_state(
            spool,
            self._ports.disk,
            self._ports.random,
            str(place.state_dir),
            Moment(clock.wall_ns(), clock.monotonic_ns()),
            boot_id=clock.boot_id(),
            genesis=genesis,
            configuration=place.configuration,
        )
        return block.entry, block.chain

    def _request(self, state_dir: Path) -> str:
        """The signing request, PEM: the one of an enrolment that broke off, or a new one."""
        key_path, path = state_dir / KEY_FILE, state_dir / REQUEST_FILE
        if path.exists():
            return path.read_text()
        if not key_path.exists():
            self._write(
                key_path,
                ec.generate_private_key(ec.SECP256R1()).private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                ),
            )
        uri = x509.UniformResourceIdentifier(f"duramen://{self._join.tenant}/{self._join.agent}")
        name = self._join.agent[:64]  # RFC 5280 allows no more; the URI is what identifies the agent
        builder = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        )
        csr = builder.sign(_load_key(key_path), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self._write(path, csr)
        return csr.decode()

    def _ask(self, send: Send, request: EnrollRequest) -> EnrollAnswer:
        """Ask one collector after the other, until one decides."""
        reasons = []
        for number, collector in enumerate(self._join.collectors):
            outcome = send(
                HttpRequest(
                    request_id=number,
                    collector=collector.rstrip("/"),
                    method="POST",
                    path=enroll_path(),
                    headers={"content-type": "application/json", "accept": "application/json"},
                    body=request.encode(),
                    timeout_s=TIMEOUT_S,
                )
            )
            if isinstance(outcome, HttpFailure):
                reasons.append(outcome.reason)
                continue
            try:
                return expect(outcome, collector, parse_enroll_answer)
            except RefusalError as error:
                problem = error.problem
                if problem is not None and 400 <= problem.status < 500 and problem.status != 429:
                    raise PeerError(f"{collector} refused to enrol this host: {problem.detail}") from error
                reasons.append(str(error))
        raise PeerError("; ".join(reasons))

    def _write(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        try:
            self._ports.disk.write_atomic(os.fsencode(path), data, mode)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _check(answer: EnrollAnswer, chain: ChainId, key: Path) -> None:
    if answer.chain != chain:
        raise PeerError(
            "the collector answered for another chain than this host's: ask for a new join string, and tell "
            "its operator"
        )
    try:
        certificate = x509.load_pem_x509_certificates(answer.certificate_pem.encode())[0]
    except ValueError as error:
        raise PeerError("the collector's answer holds no certificate: look at its log") from error
    if certificate.public_key() != _load_key(key).public_key():
        raise PeerError("the collector certified another key than this host's: ask for a new join string")


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the agent's key {path} cannot be read ({error}): move its directory aside and enrol again"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            f"the agent's key {path} is not an elliptic-curve key: move its directory aside and enrol again"
        )
    return key


def _make_directory(path: Path, mode: int) -> None:
    """Make ``path`` with exactly ``mode``, whatever the umask; one that is there keeps its own."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(mode)
    except OSError as error:
        raise StorageError(f"the directory {path} cannot be made: {error.strerror}") from error
