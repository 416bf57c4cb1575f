"""The transport against real TLS servers, and sockets that misbehave."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from pathlib import Path

import httpcore
import httpx
import pytest

from duramen.api import MAX_ANSWER_BYTES
from duramen.errors import ConfigurationError
from duramen.system import SystemClock
from duramen_agent import transport
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.transport import Transport, exchange, explain, open_client, tls_context
from tests.agent.reference_collector import Answer
from tests.agent.tls_collector import Authority, TlsCollector, pem

CLOCK = SystemClock()


@pytest.fixture
def server(tmp_path):
    server = TlsCollector(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def context(server, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text(pem(server.authority.certificate))
    return tls_context(ca)


def ask(url: str, context: ssl.SSLContext, body: bytes = b"", timeout_s: float = 5, path: str = "/x"):
    with open_client(context) as client:
        method = "POST" if body else "GET"
        return exchange(client, HttpRequest(7, url, method, path, {"x-a": "b"}, body, timeout_s), CLOCK)


def test_a_request_arrives_whole_and_so_does_its_answer(server, context):
    seen = {}

    def instead(handler):
        seen["headers"] = {key.lower(): value for key, value in handler.headers.items()}
        return Answer(418, {"X-Up": "Down"}, b"tea")

    server.instead = instead
    answer = ask(server.url, context, bytes(200_000))
    assert answer == HttpResponse(7, 418, answer.headers, b"tea")
    assert answer.headers["x-up"] == "Down"
    assert seen["headers"]["content-length"] == "200000"
    assert seen["headers"]["accept-encoding"] == "identity"
    assert seen["headers"]["x-a"] == "b"


def test_redirects_are_not_followed_and_compression_is_not_undone(server, context):
    server.instead = lambda _: Answer(302, {"location": "https://elsewhere/"}, b"")
    assert ask(server.url, context).status == 302
    server.instead = lambda _: Answer(200, {"content-encoding": "gzip"}, b"not gzip at all")
    assert ask(server.url, context).body == b"not gzip at all"


def test_an_endless_answer_is_cut(server, context):
    server.instead = lambda _: Answer(200, {}, bytes(MAX_ANSWER_BYTES + 1))
    assert "more than" in ask(server.url, context).reason
    server.instead = lambda _: Answer(200, {}, bytes(MAX_ANSWER_BYTES))
    assert len(ask(server.url, context).body) == MAX_ANSWER_BYTES


def test_the_environment_has_no_say(server, context, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    server.instead = lambda _: Answer(200, {}, b"ok")
    assert ask(server.url, context).status == 200


def _misbehave(what) -> str:
    """A TCP server that does ``what`` with each connection; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=what, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_each_failure_has_its_sentence(server, context, tmp_path):
    other = tmp_path / "other.pem"
    other.write_text(pem(Authority("other").certificate))
    assert "untrusted certificate" in ask(server.url, tls_context(other)).reason
    named = server.url.replace("127.0.0.1", "localhost")
    reason = ask(named, context).reason
    assert "untrusted certificate" in reason
    assert "localhost" in reason
    assert "refuses connections" in ask("https://127.0.0.1:1", context).reason
    assert "cannot be resolved" in ask("https://no-such-host.invalid", context).reason
    assert (
        "does not speak TLS 1.3"
        in ask(_misbehave(lambda c: c.sendall(b"HTTP/1.1 400 no\r\n\r\n")), context).reason
    )
    assert "not an address" in ask("https://:x", context).reason
    assert "not an address" in ask("gopher://x", context).reason
    assert (
        "cannot be reached in time" in ask(_misbehave(lambda _: time.sleep(5)), context, timeout_s=0.3).reason
    )
    server.instead = lambda _: time.sleep(5)
    assert "did not answer in time" in ask(server.url, context, timeout_s=0.3).reason


def test_a_server_of_tls_1_2_is_refused(server, context):
    server.context.minimum_version = ssl.TLSVersion.TLSv1_2
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "does not speak TLS 1.3" in ask(server.url, context).reason


def test_a_server_that_demands_a_certificate_says_so(server, context):
    server.context.verify_mode = ssl.CERT_REQUIRED
    assert "refuses this agent's certificate" in ask(server.url, context).reason


def test_a_connection_that_is_cut(server, context):
    def cut(handler):
        handler.connection.close()
        raise ConnectionAbortedError

    server.instead = cut
    assert isinstance(ask(server.url, context), HttpFailure)
    server.instead = lambda _: Answer(200, {"content-length": "99"}, b"short")
    assert "does not speak HTTP" in ask(server.url, context).reason


def test_a_slow_drip_ends_at_the_whole_exchange_s_timeout(server, context):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    server.instead = drip
    began = time.monotonic()
    assert "did not answer in time" in ask(server.url, context, timeout_s=0.5).reason
    assert time.monotonic() - began < 3


def _all_exceptions(module) -> list[type[BaseException]]:
    found = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Exception)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize(
    "kind", _all_exceptions(httpx) + _all_exceptions(httpcore), ids=lambda kind: kind.__name__
)
def test_no_exception_of_the_libraries_leaks(kind, context):
    class Client:
        def stream(self, *_, **__):
            error = kind.__new__(kind)
            error.args = ("what happened",)
            raise error

    failure = exchange(Client(), HttpRequest(1, "https://c", "GET", "/", {}, b"", 1), CLOCK)
    assert isinstance(failure, HttpFailure)
    assert failure.reason.startswith("https://c ")
    assert "\n" not in failure.reason


@pytest.mark.parametrize(
    "error", [OSError(113, "No route to host"), ssl.SSLError(1, "odd"), RuntimeError("x"), OSError()]
)
def test_other_errors_have_a_sentence_too(error):
    assert "https://c" in explain(error, "https://c")


def test_files_that_cannot_be_used(tmp_path, context):
    with pytest.raises(ConfigurationError, match="authority"):
        tls_context(tmp_path / "absent")
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(ConfigurationError, match="authority"):
        tls_context(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="certificate"):
        tls_context(tmp_path / "ca.pem", tmp_path / "absent", tmp_path / "absent")


def test_threads_are_started_as_needed_and_everything_comes_back(server, context):
    outcomes: queue.SimpleQueue = queue.SimpleQueue()
    gate = threading.Event()

    def instead(handler):
        if "wait" in handler.path:
            gate.wait(5)
        return Answer(200, {}, handler.path.encode())

    server.instead = instead
    carrier = Transport(context, CLOCK, outcomes.put)

    def send(number: int, path: str) -> None:
        carrier.send(HttpRequest(number, server.url, "GET", path, {}, b"", 5))

    for number in range(3):
        send(number, "/fast")
        assert outcomes.get(timeout=5).request_id == number
        time.sleep(0.02)
    assert len(carrier._threads) == 1
    for number in range(10):
        send(number, "/wait")
    assert len(carrier._threads) == transport.THREADS
    gate.set()
    assert sorted(outcomes.get(timeout=5).request_id for _ in range(10)) == list(range(10))
    carrier.send(HttpRequest(99, "https://127.0.0.1:1", "GET", "/", {}, b"", 5))
    assert isinstance(outcomes.get(timeout=5), HttpFailure)
    carrier.close()
    for thread in carrier._threads:
        thread.join(5)
        assert not thread.is_alive()


def test_the_ca_path_is_a_path(tmp_path):
    with pytest.raises(ConfigurationError):
        tls_context(Path(tmp_path))
