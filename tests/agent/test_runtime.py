"""The main loop and the command line in this process; test_processes has what needs one of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import yaml

from duramen.commandline import run as run_app
from duramen.envelope import ReaderKey
from duramen.errors import ConfigurationError
from duramen.keyfile import NamedRecipient
from duramen.statement import Flags
from duramen.system import SystemClock
from duramen_agent import cli, daemon, trust
from duramen_agent.configuration import load_configuration
from duramen_agent.daemon import main as daemon_main
from duramen_agent.runtime import Runtime, notify
from duramen_agent.status_socket import call
from tests.agent.tls_collector import TlsCollector


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = TlsCollector(tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def config(tmp_path, server, capsys):
    """The configuration file of an enrolled host."""
    join = tmp_path / "join"
    join.write_text(server.join().encode())
    config = tmp_path / "agent.yaml"
    assert run(["enroll", str(join), "--config", str(config), "--state-dir", str(tmp_path / "state")]) == 0
    assert "is enrolled as chain" in capsys.readouterr().out
    readers = tmp_path / "readers.pub"
    readers.write_text(NamedRecipient("auditor", ReaderKey(b"r" * 32).recipient).encode() + "\n")
    (tmp_path / "app.log").write_bytes(b"one\n")
    value = yaml.safe_load(config.read_text()) | {
        "recipients": [str(readers)],
        "sources": [{"stream": "app", "paths": [str(tmp_path / "*.log")]}],
        "heartbeat": "1s",
        "spool": {"min_free_bytes": "1MiB"},
    }
    config.write_text(yaml.safe_dump(value))
    return config


def run(words: list[str]) -> int:
    return run_app(cli.app, words, "duramen-agent")


class Running:
    """A runtime in the main thread while ``what`` happens in another one, which ends it by a signal."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.state = config.parent / "state"
        self.runtime = Runtime(load_configuration(str(config), {}))

    def status(self) -> dict | None:
        answer = call(self.state / "status.sock", "status", SystemClock())
        return None if answer is None else json.loads(answer)

    def wait(self, what, seconds: float = 15) -> dict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.status()
            if value is not None and what(value):
                return value
            time.sleep(0.02)
        raise AssertionError(value)

    def during(self, what) -> None:
        failures: list[BaseException] = []

        def act() -> None:
            try:
                what()
            except BaseException as error:
                failures.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGTERM, lambda *_: None)
        thread = threading.Thread(target=act)
        thread.start()
        try:
            self.runtime.run()
        finally:
            thread.join()
            signal.signal(signal.SIGTERM, before[0])
            signal.signal(signal.SIGINT, before[1])
        if failures:
            raise failures[0]


def test_from_a_line_to_a_receipt_and_a_stop_event(config, server, capsys):
    running = Running(config)

    def act() -> None:
        running.wait(lambda value: value["head"]["records"] >= 2)
        with (config.parent / "app.log").open("ab") as log:
            log.write(b"two\n")
        began = time.monotonic()
        running.wait(lambda value: value["head"]["records"] >= 3)
        assert time.monotonic() - began < 2
        running.wait(lambda value: value["forward"]["accepted_seq"] == value["head"]["seq"])
        server.publish()
        value = running.wait(lambda value: value["forward"]["published_seq"] >= 2)
        assert value["state"] == "ok"
        assert value["process"]["uptime_seconds"] > 0
        assert run(["status", "--config", str(config)]) == 0
        assert capsys.readouterr().out.startswith("OK  acme/web-1")
        assert run(["events", "--config", str(config)]) == 0
        assert '"event":"start"' in capsys.readouterr().out
        running.runtime._parts.watcher.problem = "a directory cannot be watched"
        assert run(["status", "--json", "--config", str(config)]) == 1
        assert "a directory cannot be watched" in json.loads(capsys.readouterr().out)["reasons"]

    running.during(act)
    (chain,) = server.collector.chains.values()
    assert Flags.STOP in chain.blocks[-1].header.flags
    assert run(["status", "--config", str(config)]) == 3
    assert "after a stop event" in capsys.readouterr().out
    assert run(["status", "--json", "--config", str(config)]) == 3
    assert json.loads(capsys.readouterr().out)["state"] == "unknown"
    assert run(["events", "--config", str(config)]) == 0
    assert '"event":"stop"' in capsys.readouterr().out


def test_a_stop_does_not_wait_for_a_collector_that_is_away(config, server):
    server.stop()
    running = Running(config)
    began = time.monotonic()
    running.during(lambda: running.wait(lambda value: value["state"] == "degraded"))
    assert time.monotonic() - began < 8
    server.start(server.port)


def test_a_stop_does_not_wait_for_ever_for_one_that_hangs(config, server, monkeypatch):
    monkeypatch.setattr("duramen_agent.runtime.STOP_WITHIN_NS", 10**9)
    gate = threading.Event()
    server.instead = lambda _: gate.wait(20) and None
    running = Running(config)
    began = time.monotonic()
    running.during(lambda: running.wait(lambda value: value["head"]["records"] >= 2))
    assert time.monotonic() - began < 6
    gate.set()


def test_enrolling_again_and_wrongly(config, server, tmp_path, capsys):
    join = str(tmp_path / "join")
    assert run(["enroll", join, "--config", str(config)]) == 0
    assert "was enrolled already" in capsys.readouterr().out
    (tmp_path / "join").write_text("nonsense")
    assert run(["enroll", join, "--config", str(config)]) == 65
    assert "join string" in capsys.readouterr().err


def test_checking_the_configuration(config, tmp_path, capsys):
    assert run(["check-config", "--config", str(config)]) == 0
    assert (
        "agent web-1 of tenant acme, log logs.example.com/acme, 1 sources, 1 recipients"
        in capsys.readouterr().out
    )
    assert run(["check-config", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["recipients"] == 1
    text = config.read_text()
    config.write_text(text + "nonsense: 1\n")
    assert run(["check-config", "--config", str(config)]) == 78
    assert "nonsense" in capsys.readouterr().err
    config.write_text(text)
    (tmp_path / "readers.pub").write_text("nobody\n")
    assert run(["check-config", "--config", str(config)]) == 78
    assert "readers.pub: line 1" in capsys.readouterr().err
    assert daemon_main([str(config)]) == 78


def test_the_daemon_s_own_errors(tmp_path, capsys, monkeypatch):
    assert daemon_main([]) == 64
    assert daemon_main([str(tmp_path / "absent")]) == 78
    assert capsys.readouterr().err.count("error: ") == 2

    class Idle:
        def __init__(self, configuration: object) -> None:
            self.configuration = configuration

        def run(self) -> None:
            assert self.configuration == "read"

    monkeypatch.setattr(daemon, "Runtime", Idle)
    monkeypatch.setattr(daemon, "load_configuration", lambda *_: "read")
    assert daemon_main(["x"]) == 0


def test_run_becomes_the_daemon(monkeypatch):
    seen = []
    monkeypatch.setattr(os, "execv", lambda *words: seen.append(words))
    assert run(["run", "--config", "/x.yaml"]) == 0
    assert seen[0][1][1:] == ["-m", "duramen_agent.daemon", "/x.yaml"]


def test_version_and_entry_point(capsys, monkeypatch):
    assert run(["version"]) == run(["--version"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 1
    monkeypatch.setattr("sys.argv", ["duramen-agent", "version"])
    mask = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(mask)
    assert caught.value.code == 0


def test_notify(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0duramen-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@duramen-test-notify")
        notify("READY=1")
        assert manager.recv(64) == b"READY=1"


def test_policies_and_recipients(tmp_path):
    assert trust.read_policy(None) is None
    path = tmp_path / "policy"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        trust.read_policy(str(path))
    path.write_text("nonsense\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        trust.read_policy(str(path))
    path.write_text("quorum none\n")
    assert trust.read_policy(str(path)).quorum == "none"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        trust.read_recipients([str(tmp_path / "absent")])
    line = NamedRecipient("a", ReaderKey(b"1" * 32).recipient).encode()
    path.write_text(line)
    assert len(trust.read_recipients([str(path), str(path)])) == 1
    paths = []
    for number in range(65):
        paths.append(str(tmp_path / f"r{number}"))
        key = ReaderKey(number.to_bytes(32, "big"))
        Path(paths[-1]).write_text(NamedRecipient("a", key.recipient).encode())
    with pytest.raises(ConfigurationError, match="65 readers"):
        trust.read_recipients(paths)
