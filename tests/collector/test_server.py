"""The protocol bounds what strangers may send, and how long they may take."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from duramen.errors import ConfigurationError
from duramen_collector import server
from duramen_collector.app import PEER
from duramen_collector.server import HEAD_MAX_BYTES, PeerProtocol, listen, tls_context

SEEN: list[Any] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    SEEN.append(scope)
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(state: ServerState) -> AsyncIterator[int]:
    configuration = uvicorn.Config(application, http=PeerProtocol, ws="none", lifespan="off", log_config=None)
    configuration.load()
    loop = asyncio.get_running_loop()
    listener = listen("127.0.0.1", 0)
    made = await loop.create_server(
        lambda: PeerProtocol(configuration, state, {}, loop), sock=listener, start_serving=True
    )
    yield listener.getsockname()[1]
    made.close()


async def ask(port: int, *pieces: bytes, pause_seconds: float = 0.0, until: bytes = b"ok") -> bytes:
    """What comes back for ``pieces``, until it ends with ``until`` or the connection does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        while not got.endswith(until):
            piece = await asyncio.wait_for(reader.read(65_536), 5)
            if not piece:
                break
            got += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    return got


def run(*pieces: bytes, pause_seconds: float = 0.0) -> bytes:
    async def scenario() -> bytes:
        async with serving(ServerState()) as port:
            return await ask(port, *pieces, pause_seconds=pause_seconds)

    SEEN.clear()
    return asyncio.run(scenario())


def test_a_request_in_pieces() -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n"
    assert run(*[bytes([byte]) for byte in head + b"abc"]).startswith(b"HTTP/1.1 200")
    assert SEEN[0][PEER] is None


def test_a_head_is_bounded() -> None:
    line = b"x-filler: " + b"a" * 1000 + b"\r\n"
    start = b"GET / HTTP/1.1\r\nhost: a\r\n"
    assert run(start, line * 10, b"\r\n").startswith(b"HTTP/1.1 200")
    assert run(start, *[line * 10] * 20, b"\r\n") == b""
    assert run(start, b"x: ", *[b"a" * 8192] * (HEAD_MAX_BYTES // 8192 + 2)) == b""
    assert run(b"GET /" + b"a" * (HEAD_MAX_BYTES + 1)) == b""


def test_a_body_larger_than_a_head_is_taken_and_trailers_are_dropped() -> None:
    size = 4 * HEAD_MAX_BYTES
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size
    assert run(head, bytes(size)).startswith(b"HTTP/1.1 200")
    chunked = (
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-late: 1\r\n\r\n"
    )
    assert run(chunked).startswith(b"HTTP/1.1 200")
    assert b"x-late" not in dict(SEEN[0]["headers"])


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"GET / HTTP/1.1\r\n",),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n", b"abc"),
    ],
)
def test_who_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]) -> None:
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.2)
    assert run(*pieces) == b""


def test_a_slow_body_that_goes_on_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.5)
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n"
    assert run(head, *[b"a"] * 8, pause_seconds=0.1).startswith(b"HTTP/1.1 200")


def test_two_requests_on_one_connection() -> None:
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert run(request + request).count(b"HTTP/1.1 200") >= 1


def test_stopping_ends_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLOSURE_SECONDS", 0.05)

    async def scenario() -> tuple[bytes, bytes]:
        state = ServerState()
        async with serving(state) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            busy_reader, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            busy_writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n")
            while len(state.connections) < 2 or not state.tasks:  # noqa: ASYNC110  # uvicorn offers no event
                await asyncio.sleep(0.01)
            for connection in list(state.connections):
                connection.shutdown()
            idle = await asyncio.wait_for(reader.read(), 5)
            busy_writer.write(b"x")
            busy = await asyncio.wait_for(busy_reader.read(), 5)
            writer.close()
            busy_writer.close()
            await asyncio.sleep(0.1)
            assert not state.connections
            return idle, busy

    idle, busy = asyncio.run(scenario())
    assert idle == b""
    assert busy.endswith(b"ok")


def test_addresses_and_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="cannot listen"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigurationError, match="cannot listen"):
        listen("host.invalid", 0)
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigurationError, match="run duramen-collector init"):
        tls_context(tmp_path / "x", tmp_path / "x", tmp_path / "x")
