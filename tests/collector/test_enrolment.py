"""Certificates, keys, tokens and enrolment: who gets in, and how everybody else is refused."""

import base64
import contextlib
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from duramen import api
from duramen.checkpoint import Checkpoint
from duramen.errors import (
    ConfigurationError,
    DuramenError,
    FormatError,
    IntegrityError,
    LimitError,
    PeerError,
    StorageError,
    UsageError,
)
from duramen.names import ChainId, Digest
from duramen.statement import Notice, parse_statement, verify_notice
from duramen_collector import schema
from duramen_collector.authority import (
    CLIENT_DAYS,
    AgentIdentity,
    Authority,
    KeyPair,
    certificate_names,
    create_authority,
    parse_request,
)
from duramen_collector.keystore import LogKeyStore
from duramen_collector.refusal import Refused, problem_of
from duramen_collector.secretfile import ensure_secret, make_directory, read_secret, write_file
from duramen_collector.tenancy import create_tenant, list_tenants
from duramen_collector.tokens import authenticate, create_token, list_tokens, revoke_token

DAY_NS = 86_400 * 10**9


def refused(site: Any, agent: Any, token: str | None = None, **changes: Any) -> api.Problem:
    request = api.EnrollRequest(
        token or site.token(agent.agent), site.csr_for(agent.tls_key), agent.blocks[0].block.entry
    )
    before = [len(site.rows(table)) for table in (schema.chains, schema.landing)]
    with pytest.raises(DuramenError) as caught:
        site.write(lambda connection: site.service.enrol(connection, replace(request, **changes)))
    assert [len(site.rows(table)) for table in (schema.chains, schema.landing)] == before
    return problem_of(caught.value)


def test_enrolment_lands_the_genesis_and_a_notice(site: Any) -> None:
    agent = site.new_agent()
    answer = site.enrol(agent)
    assert answer.chain == agent.chain
    certificates = x509.load_pem_x509_certificates(answer.certificate_pem.encode())
    identity = site.authority.identify(certificates[0].public_bytes(Encoding.DER), site.clock.now_ns)
    assert identity == agent.identity
    assert certificates[1] == site.authority.certificate
    assert certificates[0].public_key() == agent.tls_key.public_key()
    statements = [parse_statement(row.statement) for row in site.rows(schema.landing)]
    key, genesis, enrol = statements
    assert isinstance(key, Notice)
    assert isinstance(enrol, Notice)
    assert (key.type, genesis, enrol.type) == ("key", agent.blocks[0].block, "enrol")
    public = bytes.fromhex(str(key.fields["public"]))
    for notice in (key, enrol):
        verify_notice(notice, public)
    assert (enrol.fields["agent"], enrol.fields["chain"]) == ("web-1", agent.chain.hex())
    assert site.stored(agent.chain).published_seq == -1


def test_the_same_request_again_gets_the_same_chain(site: Any) -> None:
    agent, token = site.new_agent(), site.token()
    first = site.enrol(agent, token)
    landed = len(site.rows(schema.landing))
    assert site.enrol(agent, token).chain == first.chain
    assert len(site.rows(schema.landing)) == landed
    site.clock.now_ns += 3600 * 10**9
    assert refused(site, agent, token).code == "token_expired"


def test_a_used_token_serves_no_other_key_and_no_other_genesis(site: Any) -> None:
    agent, token = site.new_agent(), site.token()
    site.enrol(agent, token)
    other_key = site.csr_for(ec.generate_private_key(ec.SECP256R1()))
    problem = refused(site, agent, token, csr_pem=other_key)
    assert (problem.status, problem.code) == (409, "token_used")
    other = site.new_agent(configuration=Digest(b"c" * 32))
    assert refused(site, other, token).code == "token_used"


def test_a_fresh_token_for_the_same_chain_certifies_a_new_key(site: Any) -> None:
    agent = site.enrolled()
    agent.tls_key = ec.generate_private_key(ec.SECP256R1())
    assert site.enrol(agent).chain == agent.chain
    assert len(site.rows(schema.chains)) == 1


def test_a_second_chain_for_an_agent_is_refused(site: Any) -> None:
    site.enrolled()
    other = site.new_agent(configuration=Digest(b"c" * 32))
    problem = refused(site, other)
    assert (problem.status, problem.code) == (409, "already_enrolled")
    replacing = site.new_agent("web-2", replaces=ChainId(b"r" * 32), replaced_hash=Digest(b"h" * 32))
    assert refused(site, replacing).code == "already_enrolled"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"tenant": "beta"}, 403, "not_enrolled"),
        ({"agent": "web-7"}, 403, "not_enrolled"),
        ({"log": Digest(b"l" * 32)}, 422, "header_corrupt"),
    ],
)
def test_a_genesis_that_is_not_what_the_token_says(
    site: Any, changes: dict[str, Any], status: int, code: str
) -> None:
    agent = site.new_agent(**changes)
    problem = refused(site, agent)
    assert (problem.status, problem.code) == (status, code)


def test_tokens_that_do_not_work(site: Any) -> None:
    agent = site.new_agent()
    assert refused(site, agent, "drm-enrol-" + "x" * 43).code == "token_invalid"
    assert refused(site, agent, site.token(life_ns=0)).code == "token_expired"
    assert refused(site, agent, site.token("web-2")).code == "not_enrolled"
    api_token, _ = site.write(
        lambda connection: create_token(
            connection, site.pepper, site.random, tenant=None, role="admin", now_ns=1, life_ns=2**62
        )
    )
    assert refused(site, agent, api_token).code == "token_invalid"


def test_what_is_no_genesis(site: Any) -> None:
    agent = site.ready("web-2")
    site.clock.now_ns += 1
    token = site.token("web-3")
    for entry in (agent.blocks[1].block.entry, site.keys.notice.sign("hold", 1, {}).entry, b"x" * 100):
        assert refused(site, agent, token, genesis=entry).code == "malformed"
    genesis = site.new_agent("web-3").blocks[0].block.entry
    assert (
        refused(site, agent, token, genesis=genesis[:-1] + bytes([genesis[-1] ^ 1])).code
        == "signature_invalid"
    )


def test_signing_requests(site: Any) -> None:
    assert parse_request(site.csr_for(ed25519.Ed25519PrivateKey.generate())).public_der
    good = site.csr_for(ec.generate_private_key(ec.SECP256R1()))
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        with pytest.raises(FormatError, match="another key"):
            parse_request(csr.public_bytes(Encoding.PEM).decode())
    for text in ("", "x", good[:200], good.replace("REQUEST", "THING")):
        with pytest.raises(FormatError):
            parse_request(text)
    der = bytearray(x509.load_pem_x509_csr(good.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)).decode()
    with pytest.raises(FormatError, match=r"not signed|PEM"):
        parse_request(forged + "-----END CERTIFICATE REQUEST-----\n")


@given(st.text(max_size=60), st.integers(0, 400), st.integers(0, 400))
def test_any_text_is_a_request_or_refused(text: str, start: int, stop: int) -> None:
    cut = _CSR[:start] + text + _CSR[stop:]
    with contextlib.suppress(FormatError):
        parse_request(cut)


def _request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(Encoding.PEM).decode()


_CSR = _request()


def test_certificates_that_identify_nobody(site: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = parse_request(site.csr_for(key))
    identity = AgentIdentity("acme", "web-1")
    now_ns = site.clock.now_ns

    def der(pem: bytes) -> bytes:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    good = der(site.authority.issue_client(identity, request, now_ns, site.random))
    assert site.authority.identify(good, now_ns) == identity
    assert site.authority.identify(good, now_ns + (CLIENT_DAYS + 1) * DAY_NS) is None
    assert site.authority.identify(good, now_ns - DAY_NS) is None
    foreign = Authority(create_authority("logs.example.com", now_ns, site.random))
    assert (
        site.authority.identify(der(foreign.issue_client(identity, request, now_ns, site.random)), now_ns)
        is None
    )
    server = site.authority.issue_server(["logs.example.com", "10.0.0.1"], now_ns, site.random)
    assert site.authority.identify(der(server.certificate_pem), now_ns) is None
    odd = AgentIdentity("Acme", "web-1")
    assert (
        site.authority.identify(der(site.authority.issue_client(odd, request, now_ns, site.random)), now_ns)
        is None
    )
    assert site.authority.identify(site.authority.certificate.public_bytes(Encoding.DER), now_ns) is None
    assert site.authority.identify(b"x", now_ns) is None
    assert site.service.identify(None) is None
    assert certificate_names(server.certificate_pem)[0] == {"logs.example.com", "10.0.0.1"}


def test_authorities_that_cannot_be_used(site: Any, tmp_path: Path) -> None:
    one, two = (create_authority("a", site.clock.now_ns, site.random) for _ in range(2))
    with pytest.raises(ConfigurationError, match="belong together"):
        Authority(KeyPair(one.key_pem, two.certificate_pem))
    with pytest.raises(ConfigurationError, match="damaged"):
        Authority(KeyPair(b"x", one.certificate_pem))
    with pytest.raises(ConfigurationError, match="damaged"):
        certificate_names(b"x")
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=one.certificate_pem.decode())


# Secrets and keys


def test_secret_files(tmp_path: Path, site: Any) -> None:
    path = tmp_path / "secret"
    assert ensure_secret(path, site.random)
    assert not ensure_secret(path, site.random)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others"):
        read_secret(path)
    path.chmod(0o600)
    for text in ("", "zz" * 32, "00" * 31, "é"):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="damaged"):
            read_secret(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        make_directory(path / "below")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_file(tmp_path / "absent" / "x", b"")


def test_log_keys_are_made_once_and_never_again(site: Any, tmp_path: Path) -> None:
    store = LogKeyStore(tmp_path / "k")
    assert store.create("acme", site.random)
    assert not store.create("acme", site.random)
    keys = store.load("acme", "logs.example.com/acme")
    assert store.load("acme", "logs.example.com/acme") is keys
    assert LogKeyStore(tmp_path / "k").public("acme", "logs.example.com/acme") == keys.log.keys()
    assert len({keys.log.ed25519_seed, keys.log.mldsa44_seed, keys.notice.seed}) == 3
    assert keys.log.sign(Checkpoint(keys.log.origin, 0, bytes.fromhex(EMPTY)), 1)
    file = tmp_path / "k" / "acme" / "notice.seed"
    file.write_bytes((tmp_path / "k" / "acme" / "log-ed25519.seed").read_bytes())
    with pytest.raises(ConfigurationError, match="are the same"):
        LogKeyStore(tmp_path / "k").load("acme", "o/acme")
    file.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        LogKeyStore(tmp_path / "k").load("acme", "o/acme")


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_api_tokens(site: Any) -> None:
    token, record = site.write(
        lambda connection: create_token(
            connection, site.pepper, site.random, tenant="acme", role="auditor", now_ns=10, life_ns=100
        )
    )
    assert site.read(list_tokens) == [record]
    assert token.encode() not in (site.directory / "collector.db").read_bytes()
    principal = site.read(lambda connection: authenticate(connection, site.pepper, f"bearer {token}", 50))
    assert principal.may("viewer", "acme")
    assert principal.may("auditor", "acme")
    assert not principal.may("operator", "acme")
    assert not principal.may("viewer", "beta")
    for now_ns in (9, 110):
        with pytest.raises(Refused):
            site.read(lambda connection: authenticate(connection, site.pepper, f"Bearer {token}", now_ns))  # noqa: B023  # the lambda is called before the loop goes on
    site.write(lambda connection: revoke_token(connection, record.token_id, 60))
    site.write(lambda connection: revoke_token(connection, record.token_id, 70))
    assert site.read(list_tokens)[0].revoked_ns == 60
    with pytest.raises(Refused):
        site.read(lambda connection: authenticate(connection, site.pepper, f"Bearer {token}", 50))
    with pytest.raises(UsageError):
        site.write(lambda connection: revoke_token(connection, "none", 1))
    with pytest.raises(UsageError):
        site.write(
            lambda connection: create_token(
                connection, site.pepper, site.random, tenant=None, role="king", now_ns=1, life_ns=1
            )
        )


def test_a_tenant_is_created_once(site: Any) -> None:
    assert not site.write(
        lambda connection: create_tenant(connection, site.keys, "acme", public=True, now_ns=5)
    )
    (tenant,) = site.read(list_tenants)
    assert (tenant.tenant, tenant.origin, tenant.public) == ("acme", "logs.example.com/acme", False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FormatError("x"), 422, "malformed"),
        (LimitError("x"), 413, "too_large"),
        (UsageError("x"), 400, "malformed"),
        (StorageError("secret path"), 503, "busy"),
        (ConfigurationError("secret path"), 500, "misconfigured"),
        (PeerError("secret path"), 500, "misconfigured"),
        (IntegrityError("x", code="fork"), 409, "fork"),
        (IntegrityError("x", code="link_broken"), 422, "link_broken"),
    ],
)
def test_what_errors_become(error: DuramenError, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert "secret" not in problem.detail


def test_no_tenant_takes_the_place_of_the_envelopes(site: Any) -> None:
    with pytest.raises(UsageError, match="another name"):
        site.write(
            lambda connection: create_tenant(connection, site.keys, "envelopes", public=False, now_ns=5)
        )
