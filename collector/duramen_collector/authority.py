"""The collector's certificate authority: who may speak as which agent.

One self-signed P-256 certificate (10 years) issues the collector's server certificate and the agents'
client certificates (90 days). An agent is named by a URI in its certificate,
``duramen://<tenant>/<agent>``; the subject is for people. Names come from the enrolment token, never from
the request: of a signing request only the public key is taken, after its self-signature shows that the
requester holds the private half.

OpenSSL checks chain, dates and purpose in the handshake; :meth:`Authority.identify` reads the name and
checks issuer and dates once more, so that no identity rests on how the handshake was configured. There is
no revocation list yet.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from duramen.errors import ConfigurationError, FormatError
from duramen.names import check_agent, check_tenant
from duramen.ports import Random

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 825
CLIENT_DAYS: Final = 90
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""Certificates begin this much before they are made, for clocks that are slow."""
MAX_COMMON_NAME: Final = 64

_URI: Final = re.compile(r"duramen://([^/]+)/([^/]+)")


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who a client certificate speaks for."""

    tenant: str
    agent: str


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate, PEM."""

    key_pem: bytes
    certificate_pem: bytes


class Authority:
    """The certificate authority with its private key. Times are Unix ns."""

    __slots__ = ("_key", "certificate", "certificate_pem")

    def __init__(self, pair: KeyPair) -> None:
        try:
            key = serialization.load_pem_private_key(pair.key_pem, None)
            certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
        except ValueError as error:
            raise ConfigurationError("the certificate authority's files are damaged; restore them") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError("the certificate authority's key and certificate do not belong together")
        self._key = key
        self.certificate = certificate
        self.certificate_pem = pair.certificate_pem

    def issue_server(self, names: Sequence[str], now_ns: int, random: Random) -> KeyPair:
        """A new server key with a certificate for ``names`` (host names and addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(names[0], key.public_key(), SERVER_DAYS, now_ns, random)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), False
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        return KeyPair(_private_pem(key), _pem(builder.sign(self._key, hashes.SHA256())))

    def issue_client(self, identity: AgentIdentity, request: Request, now_ns: int, random: Random) -> bytes:
        """A client certificate (PEM) for ``identity`` and the public key of ``request``."""
        builder = self._builder(identity.agent, request.public, CLIENT_DAYS, now_ns, random)
        uri = x509.UniformResourceIdentifier(f"duramen://{identity.tenant}/{identity.agent}")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def identify(self, certificate_der: bytes, now_ns: int) -> AgentIdentity | None:
        """Who the client certificate speaks for.

        None when it is not one of ours for an agent, or out of date.
        """
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            certificate.verify_directly_issued_by(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return None
        now = _time(now_ns)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return None
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
        if found is None or ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
            return None
        try:
            return AgentIdentity(check_tenant(found[1]), check_agent(found[2]))
        except FormatError:
            return None

    def _builder(
        self, name: str, public: PublicKey, days: int, now_ns: int, random: Random
    ) -> x509.CertificateBuilder:
        builder = _dated(x509.CertificateBuilder(), days, now_ns, random)
        authority = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            builder.subject_name(_subject(name))
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(_key_usage(authority=False), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority),
                False,
            )
        )


PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate signing request that was checked: its public key."""

    public: PublicKey

    @property
    def public_der(self) -> bytes:
        """The SubjectPublicKeyInfo, DER."""
        return self.public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def parse_request(csr_pem: str) -> Request:
    """A signing request (PEM, PKCS #10) whose self-signature holds, for a P-256 or Ed25519 key.

    FormatError otherwise.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        public, holds = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise FormatError("the certificate signing request is not PEM of PKCS #10") from error
    except Exception as error:  # UnsupportedAlgorithm and what else a foreign key makes the library raise
        raise FormatError(
            "the certificate signing request uses an algorithm that is not served here"
        ) from error
    if not isinstance(public, ed25519.Ed25519PublicKey) and not (
        isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
    ):
        raise FormatError("the certificate signing request is for another key than P-256 or Ed25519")
    if not holds:
        raise FormatError("the certificate signing request is not signed by the key it names")
    return Request(public)


def create_authority(name: str, now_ns: int, random: Random) -> KeyPair:
    """A new certificate authority called ``name``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"Duramen CA {name}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _dated(x509.CertificateBuilder(), AUTHORITY_DAYS, now_ns, random)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(_key_usage(authority=True), True)
        .add_extension(identifier, False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_private_pem(key), _pem(certificate))


def certificate_names(certificate_pem: bytes) -> tuple[frozenset[str], int]:
    """(host names and addresses of a server certificate, end of its validity in Unix ns)."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigurationError("the server certificate is damaged; remove it and run init again") from error
    found = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    return frozenset(found), int(certificate.not_valid_after_utc.timestamp()) * 10**9


def _dated(
    builder: x509.CertificateBuilder, days: int, now_ns: int, random: Random
) -> x509.CertificateBuilder:
    now = _time(now_ns)
    serial = int.from_bytes(random.draw(20), "big") >> 1  # RFC 5280 4.1.2.2: positive, at most 20 octets
    return (
        builder.serial_number(serial or 1)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _time(now_ns: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(now_ns // 10**9, dt.UTC)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:MAX_COMMON_NAME])])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
