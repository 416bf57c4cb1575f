"""The agent's real process against a real TLS server: enrolment, forwarding, kills, wrong keys, status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from duramen.body import EVENT_STREAM, open_body
from duramen.checkpoint import LogSigner
from duramen.datakey import DataKeyRatchet
from duramen.envelope import EnvelopeContext, ReaderKey
from duramen.keyfile import NamedRecipient
from duramen.statement import BlockKind, Flags
from tests.agent.tls_collector import Authority, TlsCollector, pem

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'agent'}", "PATH": os.environ["PATH"]}
ENVIRONMENT |= {key: value for key, value in os.environ.items() if key.startswith(("COV_", "COVERAGE"))}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = TlsCollector(tmp_path / "server")
    yield server
    server.stop()


class Host:
    """A host with an agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.config = directory / "etc/agent.yaml"
        self.state = directory / "state"
        self.log = directory / "app.log"
        self.log.write_bytes(b"")
        self.reader = ReaderKey(b"r" * 32)
        self.process: subprocess.Popen | None = None

    def command(self, *words: str, stdin: str = "", timeout: float = 30) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "duramen_agent.cli", *words],
            input=stdin, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False,
        )  # fmt: skip

    def enroll(self, join: str) -> subprocess.CompletedProcess:
        return self.command(
            "enroll", "-", "--config", str(self.config), "--state-dir", str(self.state), stdin=join + "\n"
        )

    def configure(self, **changes) -> None:
        readers = self.directory / "readers.pub"
        readers.write_text(NamedRecipient("auditor", self.reader.recipient).encode() + "\n")
        value = yaml.safe_load(self.config.read_text())
        value |= {
            "recipients": [str(readers)],
            "sources": [{"stream": "app", "paths": [str(self.log)]}],
            "heartbeat": "1s",
            "spool": {"min_free_bytes": "1MiB"},
        }
        self.config.write_text(yaml.safe_dump(value | changes))

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "duramen_agent.cli", "run", "--config", str(self.config)],
            env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.communicate(timeout=15)
        return self.process.returncode

    def status(self, code: int | None = None) -> dict:
        done = self.command("status", "--json", "--config", str(self.config))
        assert done.stdout, done.stderr
        value = json.loads(done.stdout)
        value["exit"] = done.returncode
        if code is not None:
            assert done.returncode == code, value
        return value

    def wait(self, what, seconds: float = 20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            value = self.status()
            if value["exit"] != 3 and what(value):
                return value
            time.sleep(0.05)
        raise AssertionError(value)


@pytest.fixture
def host(tmp_path, server):
    host = Host(tmp_path / "host")
    done = host.enroll(server.join().encode())
    assert done.returncode == 0, done.stderr
    host.configure()
    yield host
    host.stop()


def chain_of(server: TlsCollector):
    (chain,) = server.collector.chains.values()
    return chain


def restored(server: TlsCollector, host: Host) -> bytes:
    """What a reader gets back for the host's log."""
    chain = chain_of(server)
    ratchets: dict[bytes, DataKeyRatchet] = {}
    pieces = []
    for block, body in zip(chain.blocks, chain.bodies, strict=True):
        header = block.header
        if header.kind is not BlockKind.RECORDS or not header.count:
            continue
        if header.dek not in ratchets:
            context = EnvelopeContext("acme", header.chain, header.dek, header.group, header.retention_class)
            envelope = dict(chain.envelopes[header.dek].envelopes)[host.reader.recipient.key_hash]
            ratchets[header.dek] = DataKeyRatchet.start(host.reader.unwrap(envelope, context))
        ratchet = ratchets[header.dek].forward_to(header.step)
        ratchets[header.dek] = ratchet.next()
        payload = open_body(header, body, ratchet.block_key(header.chain, header.seq, header.root))
        pieces += [raw for run, _, raw in payload.runs if run.stream != EVENT_STREAM]
    return b"".join(pieces)


def test_the_whole_way_with_kills_and_a_restart(server, host):
    modes = {path.name: path.stat().st_mode & 0o777 for path in host.state.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert host.state.stat().st_mode & 0o777 == 0o700
    assert "agent.csr" not in modes
    assert host.command("check-config", "--config", str(host.config)).returncode == 0
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    lines = 0
    with host.log.open("ab", buffering=0) as log:
        for _ in range(4):
            for _ in range(250):
                log.write(b"line %d\n" % lines)
                lines += 1
            host.kill()
            host.start()
            log.write(b"line %d\n" % lines)
            lines += 1
            host.wait(lambda value, lines=lines: value["head"]["records"] >= lines)
    server.publish()
    value = host.wait(lambda value: value["forward"]["published_seq"] >= 2)
    assert value["forward"]["collector"] == server.url
    assert value["forward"]["last_error"] is None
    assert value["process"]["rss_bytes"] < 112 << 20
    assert value["losses"]["events"] == 0
    assert host.stop() == 0
    assert restored(server, host) == host.log.read_bytes()
    assert "duramen://acme/web-1" in server.peers[-1]
    chain = chain_of(server)
    assert Flags.STOP in chain.blocks[-1].header.flags  # forwarded before the process ended
    assert chain.heartbeats
    stopped = host.status(3)
    assert stopped["state"] == "unknown"
    assert stopped["head"]["seq"] == chain.state.seq
    assert stopped["process"] is None
    assert host.command("events", "--config", str(host.config)).stdout.count('"event":"start"') == 5


def test_the_collector_goes_and_comes_back(server, host):
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    port = server.port
    server.stop()
    host.log.write_bytes(b"written while it was away\n")
    value = host.wait(lambda value: value["state"] == "degraded")
    assert "refuses connections" in value["forward"]["last_error"]
    server.start(port)
    host.wait(lambda value: value["state"] == "ok" and value["forward"]["lag_seconds"] == 0, 40)
    host.stop()
    assert restored(server, host) == b"written while it was away\n"


def test_a_stopped_agent_does_not_hang_status(host):
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    human = host.command("status", "--config", str(host.config))
    assert human.returncode == 0
    assert human.stdout.startswith("OK  acme/web-1")
    assert "\x1b" not in human.stdout
    assert '"event":"start"' in host.command("events", "--config", str(host.config)).stdout
    host.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    value = host.status(3)
    assert time.monotonic() - began < 6
    assert value["head"]["seq"] >= 2
    assert "no agent answers" in value["reasons"][0]
    host.process.send_signal(signal.SIGCONT)
    host.wait(lambda value: value["state"] == "ok")


def test_a_wrong_authority(server, host, tmp_path):
    Path(yaml.safe_load(host.config.read_text())["ca"]).write_text(pem(Authority("another").certificate))
    host.start()
    value = host.wait(lambda value: value["state"] == "degraded")
    assert "untrusted certificate" in value["forward"]["last_error"]
    assert "check ca" in value["forward"]["last_error"]
    assert value["exit"] == 1


def test_a_wrong_log_key(server, host):
    other = LogSigner(server.collector.signer.origin, b"x" * 32, b"y" * 32).keys()
    host.configure(log_keys=[other.ed25519.encode(), other.mldsa44.encode()])
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    server.publish()
    value = host.wait(lambda value: value["state"] == "critical")
    assert value["exit"] == 2
    assert "compare log_keys" in value["forward"]["last_error"]
    assert value["spool"]["blocks"] >= 3


def test_a_certificate_of_somebody_else_is_refused_by_the_collector(server, host, tmp_path):
    other = Host(tmp_path / "other")
    foreign = Authority("foreign")
    (tmp_path / "server2").mkdir()
    there = TlsCollector(tmp_path / "server2", authority=foreign)
    try:
        assert other.enroll(there.join().encode()).returncode == 0
        shutil.copy(other.state / "agent.pem", host.state / "agent.pem")
        shutil.copy(other.state / "agent.key", host.state / "agent.key")
        host.start()
        value = host.wait(lambda value: value["state"] == "degraded")
        assert "certificate" in value["forward"]["last_error"]
    finally:
        there.stop()


def test_the_service_manager_is_told(host, tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        ENVIRONMENT["NOTIFY_SOCKET"] = address
        try:
            host.start()
        finally:
            del ENVIRONMENT["NOTIFY_SOCKET"]
        assert manager.recv(64) == b"READY=1"
        host.process.terminate()
        assert manager.recv(64) == b"STOPPING=1"
    assert host.stop() == 0


def test_a_second_agent_on_the_same_state_is_refused(host):
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    done = host.command("run", "--config", str(host.config))
    assert done.returncode == 78
    assert "in use by another agent" in done.stderr
    assert done.stderr.count("\n") == 1
    host.wait(lambda value: value["state"] == "ok")  # and the first one still answers


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "--config", "/nowhere/agent.yaml"], 78, "cannot be read"),
        (["status", "--config", "/nowhere/agent.yaml"], 78, "cannot be read"),
        (["check-config", "--config", "/nowhere/agent.yaml"], 78, "cannot be read"),
        (["events", "--config", "/nowhere/agent.yaml"], 78, "cannot be read"),
        (["enroll", "/nowhere/join"], 64, "cannot be read"),
        (["enroll"], 64, "Missing"),
        (["unknown"], 64, "No such command"),
        ([], 64, "Missing command"),
        (["run", "--frobnicate"], 64, "No such option"),
    ],
)
def test_wrong_usage_and_configuration(tmp_path, words, code, says):
    done = Host(tmp_path / "host").command(*words)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_versions(tmp_path):
    host = Host(tmp_path / "host")
    one, two = host.command("version"), host.command("--version")
    assert one.stdout == two.stdout
    assert one.stdout.startswith("duramen-agent 0")
    assert (one.returncode, two.returncode) == (0, 0)


def test_the_daemon_holds_no_command_line_and_no_certificate_library():
    heavy = ["typer", "cryptography.x509", "psutil", "asyncio", "duramen_agent.cli", "duramen_agent.enroll"]
    code = f"import sys, duramen_agent.daemon; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_idle_costs_nothing_measurable(host):
    host.start()
    host.wait(lambda value: value["forward"]["accepted_seq"] >= 2)
    time.sleep(1)

    def ticks() -> int:
        fields = Path(f"/proc/{host.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(5)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 5
    assert share < 0.02, share  # with a heartbeat a second, ten times the default
