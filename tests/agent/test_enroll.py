"""Enrolment: once, again, after a crash at every write, and as the wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from duramen import api
from duramen.errors import ConfigurationError, PeerError, StorageError
from duramen.ratchet import parse_seed_file
from duramen.statement import log_digest, parse_statement
from duramen.system import SystemClock, SystemDisk, SystemRandom
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.enroll import Enroller, Ports
from duramen_agent.spool import Spool
from tests.agent.reference_collector import SIGNER, Answer, ReferenceCollector, json_answer, problem
from tests.agent.tls_collector import Authority, pem


class Crash(BaseException):
    pass


class Place:
    """A host without a network: requests go to a collector in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "etc/agent.yaml"
        self.state = directory / "state"
        self.authority = Authority()
        self.collector = ReferenceCollector()
        self.disk = SystemDisk()
        self.instead: list[Answer | str] = []
        self.asked: list[HttpRequest] = []

    def join(self, **changes) -> api.JoinString:
        keys = SIGNER.keys()
        values = {
            "tenant": "acme",
            "agent": "web-1",
            "collectors": ("https://a:1/", "https://b:2"),
            "ca_pem": pem(self.authority.certificate),
            "log_keys": (keys.ed25519.encode(), keys.mldsa44.encode()),
            "token": "token",
        }
        return api.JoinString(**{**values, **changes})

    def connect(self, ca: Path):
        assert ca.read_text() == pem(self.authority.certificate)
        return self.send

    def send(self, request: HttpRequest) -> HttpResponse | HttpFailure:
        self.asked.append(request)
        answer = self.instead.pop(0) if self.instead else None
        if isinstance(answer, str):
            return HttpFailure(request.request_id, answer)
        if answer is None:
            self.collector.certificate = self.authority.certify(
                api.parse_enroll_request(request.body).csr_pem
            )
            answer = self.collector.handle(request.method, request.path, {}, request.body)
        return HttpResponse(request.request_id, answer.status, answer.headers, answer.body)

    def enroll(self, **changes):
        ports = Ports(self.disk, SystemRandom(), SystemClock())
        return Enroller(self.join(**changes), self.config, self.state, ports).run(self.connect)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_everything_is_written_but_sources_and_recipients(place):
    done = place.enroll()
    assert not done.already
    value = yaml.safe_load(place.config.read_text())
    assert set(value) == {"tenant", "agent", "collectors", "ca", "log_keys", "state_dir"}
    assert value["state_dir"] == str(place.state)
    assert "# recipients:" in place.config.read_text()
    assert {
        path.name: path.stat().st_mode & 0o777 for path in place.state.iterdir() if path.suffix != ".db"
    } == {
        "agent.key": 0o600,
        "agent.pem": 0o600,
        "seed": 0o600,
    }
    assert place.state.stat().st_mode & 0o777 == 0o700
    certificate = x509.load_pem_x509_certificate((place.state / "agent.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["duramen://acme/web-1"]
    assert certificate.subject.rfc4514_string() == "CN=web-1"
    spool = Spool(str(place.state / "spool.db"))
    genesis = parse_statement(spool.entries(0, 1)[0])
    spool.close()
    assert genesis.hash == done.chain
    assert genesis.header.genesis.log == log_digest(SIGNER.origin, place.join().log_keys)
    assert parse_seed_file((place.state / "seed").read_bytes()).index == 1
    assert place.asked[0].collector == "https://a:1"


def test_again_is_no_error_and_asks_nobody(place):
    chain = place.enroll().chain
    place.asked.clear()
    again = place.enroll(token="another")
    assert again.already
    assert again.chain == chain
    assert not place.asked


def test_the_next_collector_is_asked_when_one_cannot_decide(place):
    place.instead = ["down", problem(503, "busy", "later")]
    with pytest.raises(PeerError, match=r"down; https://b:2 refused: later"):
        place.enroll()
    place.instead = [problem(429, "busy", "slow"), Answer(200, {"content-type": "text/html"}, b"")]
    with pytest.raises(PeerError, match=r"slow; .*not a collector's answer"):
        place.enroll()
    place.instead = ["down"]
    assert not place.enroll().already


def test_a_refusal_ends_it_and_nothing_is_lost(place):
    place.instead = [problem(403, "not_enrolled", "the token has expired")]
    with pytest.raises(PeerError, match=r"refused to enrol this host: the token has expired"):
        place.enroll()
    assert len(place.asked) == 1
    before = api.parse_enroll_request(place.asked[0].body)
    assert not (place.state / "agent.pem").exists()
    place.enroll(token="fresh")
    after = api.parse_enroll_request(place.asked[1].body)
    assert (before.genesis, before.csr_pem) == (after.genesis, after.csr_pem)


@pytest.mark.parametrize("persisted", [False, True])
def test_a_crash_at_every_write_and_then_again(tmp_path, persisted):
    for number in range(40):
        place = Place(tmp_path / f"{persisted}-{number}")
        real = SystemDisk()
        left = [number]

        class CrashingDisk(SystemDisk):
            def _maybe(self, write, left=left):
                if left[0] == 0:
                    if persisted:
                        write()
                    raise Crash
                left[0] -= 1
                write()

            def write_atomic(self, path, data, mode=0o600, real=real):
                self._maybe(lambda: real.write_atomic(path, data, mode))

            def overwrite(self, path, data, real=real):
                self._maybe(lambda: real.overwrite(path, data))

        place.disk = CrashingDisk()
        try:
            place.enroll()
        except Crash:
            pass
        else:
            break
        place.disk = real
        done = place.enroll()
        assert done.chain in place.collector.chains
        assert len(place.collector.chains) == 1
        assert len(place.collector.tokens) == 1
        assert (place.state / "agent.pem").exists()
        spool = Spool(str(place.state / "spool.db"))
        assert parse_seed_file((place.state / "seed").read_bytes()).forward_to(1).public() == (
            spool.load().chain.next_public
        )
        spool.close()
    assert number >= 6


def test_a_crash_while_the_answer_is_under_way(place):
    place.instead = ["the connection broke", "this one, too"]
    real = place.send

    def lose(request):
        answer = real(request)
        place.collector.handle(request.method, request.path, {}, request.body)
        return answer

    place.send = lose
    with pytest.raises(PeerError):
        place.enroll()
    place.send = real
    done = place.enroll()
    assert list(place.collector.chains) == [done.chain]


def test_somebody_else_is_refused(place):
    place.enroll()
    with pytest.raises(ConfigurationError, match="is for agent 'web-1' of tenant 'acme'"):
        place.enroll(agent="web-2")
    place.config.unlink()
    with pytest.raises(ConfigurationError, match="this host is enrolled as agent 'web-1'"):
        place.enroll(agent="web-2")


def test_a_configuration_that_is_there_stays(place):
    place.config.parent.mkdir()
    ca = place.directory / "own-ca.pem"
    elsewhere = place.directory / "elsewhere"
    text = f"tenant: acme\nagent: web-1\nca: {ca}\nstate_dir: {elsewhere}\n# mine\n"
    place.config.write_text(text)
    place.enroll()
    assert place.config.read_text() == text
    assert ca.exists()
    assert (elsewhere / "agent.pem").exists()


@pytest.mark.parametrize("text", ["tenant: other\nagent: web-1\n", "[1]", "", "a: b: c"])
def test_a_configuration_of_something_else_is_refused(place, text):
    place.config.parent.mkdir()
    place.config.write_text(text)
    with pytest.raises(ConfigurationError):
        place.enroll()


def test_modes_do_not_depend_on_the_umask(place):
    before = os.umask(0o077)
    try:
        place.enroll()
    finally:
        os.umask(before)
    assert place.config.parent.stat().st_mode & 0o777 == 0o755
    assert place.config.stat().st_mode & 0o777 == 0o644
    assert (place.config.parent / "ca.pem").stat().st_mode & 0o777 == 0o644


def test_a_state_directory_that_others_can_enter_is_refused(place):
    place.state.mkdir()
    place.state.chmod(0o755)  # whatever the umask
    with pytest.raises(ConfigurationError, match="set its mode to 0700"):
        place.enroll()
    assert not list(place.state.iterdir())
    place.state.chmod(0o700)
    place.enroll()


def test_another_authority_is_refused(place):
    place.config.parent.mkdir()
    (place.config.parent / "ca.pem").write_text(pem(Authority("another").certificate))
    with pytest.raises(ConfigurationError, match="another authority"):
        place.enroll()


def test_log_keys_that_are_none_are_refused_before_anything_is_written(place):
    keys = place.join().log_keys
    for wrong in ((keys[1], keys[0]), (keys[0], keys[0]), ("x", "y")):
        with pytest.raises(ConfigurationError, match="log_keys"):
            place.enroll(log_keys=wrong)
    assert not place.config.exists()


def test_collectors_that_are_no_addresses_are_refused_before_anything_is_written(place):
    with pytest.raises(ConfigurationError, match="address"):
        place.enroll(collectors=("http://plain",))
    assert not place.config.exists()


def test_answers_that_do_not_fit_are_refused(place):
    other = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("duramen://x/y")]), critical=False
    )  # fmt: skip
    signed = csr.sign(other, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    foreign = place.authority.certify(signed)
    place.instead = [json_answer(api.EnrollAnswer(foreign, bytes(32)).encode())]
    with pytest.raises(PeerError, match="another chain"):
        place.enroll()
    spool = Spool(str(place.state / "spool.db"))
    chain = spool.load().chain.chain
    spool.close()
    for certificate, says in ((foreign, "another key"), ("nothing", "no certificate")):
        place.instead = [json_answer(api.EnrollAnswer(certificate, chain).encode())]
        with pytest.raises(PeerError, match=says):
            place.enroll()
    assert not (place.state / "agent.pem").exists()


def test_a_lost_certificate_is_not_a_silent_fresh_start(place):
    place.enroll()
    (place.state / "agent.pem").unlink()
    spool = Spool(str(place.state / "spool.db"))
    spool._db.execute("DELETE FROM block")
    spool.close()
    with pytest.raises(ConfigurationError, match="but no certificate"):
        place.enroll()


def test_keys_that_cannot_be_used(place):
    place.instead = ["down", "down"]
    with pytest.raises(PeerError):
        place.enroll()
    (place.state / "agent.csr").unlink()
    (place.state / "agent.key").write_text("junk")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        place.enroll()
    wrong = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place.state / "agent.key").write_bytes(wrong)
    with pytest.raises(ConfigurationError, match="elliptic"):
        place.enroll()


def test_places_that_cannot_be_written(place):
    place.directory.joinpath("etc").write_text("a file")
    with pytest.raises(StorageError, match="cannot be made"):
        place.enroll()

    class Full(SystemDisk):
        def write_atomic(self, path, data, mode=0o600):
            raise OSError(28, "No space left on device")

    place.directory.joinpath("etc").unlink()
    place.disk = Full()
    with pytest.raises(StorageError, match="No space left"):
        place.enroll()
