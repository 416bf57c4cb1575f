"""The status: its JSON, its screen, its socket, and the state directory read without an agent."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from duramen.errors import ConfigurationError, FormatError, LimitError, StorageError
from duramen.system import SystemClock
from duramen_agent import statedir
from duramen_agent.agentstatus import (
    AgentStatus,
    ForwardStatus,
    HeadStatus,
    LossStatus,
    SourceStatus,
    SpoolStatus,
)
from duramen_agent.configuration import parse_configuration
from duramen_agent.spool import Spool
from duramen_agent.status import (
    ProcessStatus,
    Report,
    encode_report,
    measure_process,
    parse_report,
    render_report,
)
from duramen_agent.status_socket import StatusServer, call
from tests.agent.chain_writer import ChainWriter
from tests.agent.reference_collector import SIGNER

CLOCK = SystemClock()
STATUS = AgentStatus(
    state="degraded",
    reasons=["c1 refuses connections"],
    tenant="acme",
    agent="web-1",
    chain="ab" * 32,
    head=HeadStatus(7, "cd" * 32, 99, 1_700_000_000 * 10**9),
    spool=SpoolStatus(3, 4096, 1 << 31, 12.5, 1 << 40),
    forward=ForwardStatus("https://c1", 5, -1, 12.5, "c1 refuses connections", 2, degraded="x", critical="y"),
    sources=[
        SourceStatus("app", "/var/log/*.log", "/var/log/\\xff.log", 10, 30, 20, "reading", is_problem=False)
    ],
    losses=LossStatus(0, None, 0),
    config_sha256="ef" * 32,
)
REPORT = Report(STATUS, "1.2.3", ProcessStatus(50 << 20, 1.5, 9, 3700.0))


def test_the_json_is_the_contract_s():
    value = json.loads(encode_report(REPORT))
    assert set(value) == {
        "state", "reasons", "tenant", "agent", "chain", "version", "head", "spool", "forward", "sources",
        "losses", "config_sha256", "process",
    }  # fmt: skip
    assert set(value["head"]) == {"seq", "hash", "records", "sealed"}
    assert set(value["spool"]) == {"blocks", "bytes", "max_bytes", "oldest_seconds", "disk_free_bytes"}
    assert set(value["forward"]) == {
        "collector", "accepted_seq", "published_seq", "lag_seconds", "last_error", "failovers",
    }  # fmt: skip
    assert set(value["sources"][0]) == {"stream", "path", "file", "offset", "size", "behind_bytes", "state"}
    assert set(value["losses"]) == {"bytes", "lines", "events"}
    assert set(value["process"]) == {"rss_bytes", "cpu_seconds", "open_files", "uptime_seconds"}


def test_a_report_survives_its_json():
    again = parse_report(encode_report(REPORT))
    assert encode_report(again) == encode_report(REPORT)
    assert parse_report(encode_report(replace(REPORT, process=None))).process is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"process":null,"version":1}'])
def test_what_is_no_report_is_said(data):
    with pytest.raises(FormatError):
        parse_report(data)


@pytest.mark.parametrize(
    ("state", "code"), [("ok", 0), ("degraded", 1), ("critical", 2), ("unknown", 3), ("odd", 3)]
)
def test_exit_codes(state, code):
    assert replace(REPORT, status=replace(STATUS, state=state)).exit_code == code


def test_the_screen():
    text = render_report(REPORT, STATUS.head.sealed + 90 * 10**9)
    assert text.startswith("DEGRADED  acme/web-1  version 1.2.3\n  ! c1 refuses connections\n")
    assert "sealed 1.5 min ago" in text
    assert "4.0 KiB of 2.0 GiB, oldest 12.5 s; 1.0 TiB free" in text
    assert text.count("c1 refuses connections") == 1
    assert "50.0 MiB, 1.5 s CPU in 1.0 h, 9 open files" in text
    many = [replace(STATUS.sources[0], behind_bytes=number) for number in range(1000)]
    forward = replace(STATUS.forward, last_error="something else", collector=None)
    full = replace(STATUS, sources=many, reasons=[], forward=forward, losses=LossStatus(5, 2, 1))
    text = render_report(Report(full, "1", None), 3 * 86_400 * 10**9)
    assert text.count("\n") < 24
    assert "999 B behind" in text
    assert "something else" in text
    assert "no collector" in text
    assert "2 lines" in text


def test_this_process_is_measured():
    process = measure_process(3.0)
    assert 5 << 20 < process.rss_bytes < 1 << 30
    assert process.cpu_seconds > 0
    with open(os.devnull):
        assert measure_process(0).open_files == process.open_files + 1


# The socket


def _answer(query) -> None:
    query.reply.put(b"answer to " + query.word.encode() + b"x" * 3_000_000)


def test_words_and_answers(tmp_path):
    path = tmp_path / ("long" * 40) / "status.sock"
    path.parent.mkdir()
    server = StatusServer(path, _answer)
    assert path.stat().st_mode & 0o777 == 0o600
    assert call(path, "status", CLOCK).startswith(b"answer to status")
    assert call(path, "events", CLOCK).startswith(b"answer to events")
    assert call(path, "reboot", CLOCK) is None
    StatusServer(path, _answer).close()  # what a killed agent left is replaced
    server.close()
    assert not path.exists()
    assert call(path, "status", CLOCK) is None


def test_a_client_that_says_nothing_holds_up_nobody_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("duramen_agent.status_socket._ANSWER_TIMEOUT_S", 0.2)
    path = tmp_path / "s"
    server = StatusServer(path, _answer)
    silent, deaf = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with silent, deaf:
        silent.connect(str(path))
        deaf.connect(str(path))
        deaf.sendall(b"status\n")
        assert call(path, "status", CLOCK) is not None
    server.close()


def test_an_agent_that_does_not_answer_is_given_up(tmp_path):
    path = tmp_path / "s"
    asked: queue.SimpleQueue = queue.SimpleQueue()
    server = StatusServer(path, asked.put)
    began = time.monotonic()
    assert call(path, "status", CLOCK, 0.3) is None
    assert time.monotonic() - began < 1
    assert asked.get(timeout=1).word == "status"
    server.close()
    with socket.socket(socket.AF_UNIX) as drip:
        drip.bind(str(path))
        drip.listen()

        def serve() -> None:
            connection, _ = drip.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(50):
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        assert call(path, "status", CLOCK, 0.3) is None
        assert time.monotonic() - began < 1


def test_a_socket_that_cannot_be_made(tmp_path):
    with pytest.raises(ConfigurationError, match="status socket"):
        StatusServer(tmp_path / "absent" / "s", _answer)


# The state directory


def _configuration(state_dir: Path):
    keys = SIGNER.keys()
    text = json.dumps(
        {
            "tenant": "acme",
            "agent": "web-1",
            "collectors": ["https://c"],
            "ca": "/ca",
            "log_keys": [keys.ed25519.encode(), keys.mldsa44.encode()],
            "recipients": ["/r"],
            "sources": [{"stream": "s", "paths": ["/p"]}],
            "state_dir": str(state_dir),
        }
    )
    return parse_configuration(text.encode(), {}, "x")


def test_a_locked_spool_is_read_and_left_as_it_is(tmp_path):
    spool = Spool(str(tmp_path / "spool.db"))
    writer = ChainWriter(spool)
    writer.keys()
    writer.records(b"one")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status = statedir.read_status(_configuration(tmp_path), writer.state.sealed_ns + 10**9)
    assert status.state == "unknown"
    assert status.head.seq == 2
    assert status.head.hash == writer.state.head.hex()
    assert status.spool.blocks == 3
    assert status.spool.oldest_seconds == pytest.approx(1, abs=0.1)
    assert status.forward.accepted_seq == -1
    assert status.forward.lag_seconds > 0
    assert "without a stop event" in status.reasons[0]
    assert statedir.read_events(tmp_path) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    spool.close()
    assert statedir.read_status(_configuration(tmp_path), 0).head.seq == 2


def test_state_directories_that_hold_nothing(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="holds no spool"):
        statedir.read_status(_configuration(tmp_path), 0)
    (tmp_path / "spool.db").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="not enrolled"):
        statedir.read_status(_configuration(tmp_path), 0)
    (tmp_path / "spool.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError):
        statedir.read_status(_configuration(tmp_path), 0)
    monkeypatch.setattr(statedir, "COPY_MAX_BYTES", 100)
    with pytest.raises(LimitError, match="start the agent"):
        statedir.read_status(_configuration(tmp_path), 0)
    (tmp_path / "spool.db").unlink()
    (tmp_path / "spool.db").mkdir()
    monkeypatch.undo()
    with pytest.raises(StorageError, match="cannot be read"):
        statedir.read_events(tmp_path)
