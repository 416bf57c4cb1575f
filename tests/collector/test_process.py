"""The collector as a process: init, tenant, token, enrolment, blocks, publication, receipt, over real TLS."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from duramen import api
from duramen.checkpoint import LogKeys
from duramen.frame import FRAMES_MEDIA_TYPE
from duramen.names import ZERO_DIGEST, Digest
from duramen.note import VerifierKey, parse_vkey
from duramen.receipt import verify_receipt
from duramen_collector.authority import AgentIdentity, Authority, create_authority, parse_request

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 40.0


class Process:
    """A running collector with two regions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("core", "collector")),
            "DURAMEN_COLLECTOR__PUBLISH__INTERVAL": "1s",
        }
        regions = [f"--region={name}=file://{directory}/{name}" for name in ("eu", "us")]
        self.run(
            "init",
            "--name=logs.example.com",
            f"--listen=127.0.0.1:{self.port}",
            f"--state-dir={directory}/state",
            *regions,
        )
        self.run("tenant", "create", "acme")
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        code = "from duramen_collector.cli import main; main()"
        return [sys.executable, "-c", code, *words, "--config", str(self.directory / "collector.yaml")]

    def run(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command("serve"), env=self.environment)
        until = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with self.client() as client:
                    if client.get(self.url + "/readyz").status_code == 200:
                        return
            except httpx.TransportError:
                assert time.monotonic() < until
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def context(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.directory / "state" / "ca.pem")
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    def client(self, pair: tuple[Path, Path] | None = None) -> httpx.Client:
        return httpx.Client(verify=self.context(pair), timeout=20)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    process.start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.wait()


def pair_of(directory: Path, name: str, key: Any, certificate_pem: str) -> tuple[Path, Path]:
    certificate, private = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_text(certificate_pem)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


def keys_of(join: api.JoinString) -> LogKeys:
    first, second = map(parse_vkey, join.log_keys)
    assert isinstance(first, VerifierKey)
    return LogKeys(first.name, first, second)


def receipt_for(client: httpx.Client, url: str, agent: Any, seq: int, seen: int) -> Any:
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        path = api.chain_path(agent.chain, "receipt")
        answer = client.get(f"{url}{path}?from={seq}&seen={seen}")
        receipt = api.parse_progress_answer(answer.content).receipt
        if receipt is not None and seq + len(receipt.proofs) == len(agent.blocks):
            return receipt
        time.sleep(0.2)
    raise AssertionError("no receipt in time")


def test_from_init_to_a_verified_receipt(process: Process, fake_agent: Any, csr: Any, tmp_path: Path) -> None:
    join = api.parse_join_string(
        process.run("enroll-token", "--tenant=acme", "--agent=web-1", f"--url={process.url}")
    )
    keys = keys_of(join)
    agent = fake_agent(join.log_keys)
    agent.seal_genesis()
    request = api.EnrollRequest(join.token, csr(agent.tls_key), agent.blocks[0].block.entry)
    with process.client() as stranger:
        answer = stranger.post(
            process.url + "/v1/enroll", content=request.encode(), headers={"content-type": "application/json"}
        )
        enrolled = api.parse_enroll_answer(answer.content)
        assert stranger.get(process.url + api.chain_path(agent.chain, "head")).status_code == 401
    pair = pair_of(tmp_path, "agent", agent.tls_key, enrolled.certificate_pem)
    client = process.client(pair)

    def post(*sent: Any) -> api.ProgressAnswer:
        answer = client.post(
            process.url + api.chain_path(agent.chain, "blocks") + "?from=0&seen=0",
            content=b"".join(item.frame for item in sent),
            headers={"content-type": FRAMES_MEDIA_TYPE},
        )
        assert answer.status_code == 200, answer.content
        return api.parse_progress_answer(answer.content)

    dek, upload = agent.upload()
    envelope_path = process.url + api.chain_path(agent.chain, f"envelopes/{dek.hex()}")
    answer = client.put(envelope_path, content=upload.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 204
    assert post(agent.seal_keys(dek, upload), agent.seal_records()).accepted_seq == 2
    receipt = receipt_for(client, process.url, agent, 0, 0)
    entries = [item.block.entry for item in agent.blocks]
    signed = verify_receipt(receipt, entries, keys, 0, ZERO_DIGEST)

    # A collector that is killed comes back with everything it accepted, and its log goes on.
    later = agent.seal_records(2, b"later")
    assert post(later).accepted_seq == 3
    client.close()
    process.stop(signal.SIGKILL)
    process.start()
    client = process.client(pair)
    size, root = signed.checkpoint.size, Digest(signed.checkpoint.root)
    receipt = receipt_for(client, process.url, agent, 3, size)
    verify_receipt(receipt, [later.block.entry], keys, size, root)
    token = process.run("token", "create", "--tenant=acme").strip()
    status = client.get(
        process.url + "/v1/tenants/acme/regions", headers={"authorization": f"Bearer {token}"}
    ).json()
    client.close()
    assert [region["behind"] for region in status["regions"]] == [0, 0]
    for name in ("eu", "us"):
        assert (tmp_path / name / "acme" / "checkpoint").exists()
    assert process.stop() == 0


def test_who_is_kept_out_by_tls(process: Process, csr: Any, fake_agent: Any, tmp_path: Path) -> None:
    context = process.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError), httpx.Client(verify=context) as client:
        client.get(process.url + "/healthz")
    foreign_directory = tmp_path / "foreign"
    foreign_directory.mkdir()
    join = api.parse_join_string(process.run("enroll-token", "--tenant=acme", "--agent=web-1"))
    agent = fake_agent(join.log_keys)
    foreign = Authority(create_authority("logs.example.com", time.time_ns(), _Random()))
    pem = foreign.issue_client(
        AgentIdentity("acme", "web-1"), parse_request(csr(agent.tls_key)), time.time_ns(), _Random()
    )
    pair = pair_of(foreign_directory, "agent", agent.tls_key, pem.decode())
    with pytest.raises(httpx.TransportError), process.client(pair) as client:
        client.get(process.url + "/healthz")
    with process.client() as client:
        assert client.get(process.url + "/healthz").status_code == 200
    assert process.run("status").startswith("ok")


class _Random:
    def draw(self, count: int) -> bytes:
        return os.urandom(count)
