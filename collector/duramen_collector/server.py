"""The server: uvicorn with TLS 1.3, and the peer's certificate in the ASGI scope.

A client certificate is optional in the handshake (enrolling agents and people have none); one that is
presented must be our authority's, or the handshake fails. Whether a request needs one is the endpoint's
question.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from duramen.errors import ConfigurationError
from duramen_collector.app import PEER

GRACE_SECONDS: Final = 10
CLOSURE_SECONDS: Final = 1.0
KEEP_ALIVE_SECONDS: Final = 75
HEAD_MAX_BYTES: Final = 64 * 1024
PATIENCE_SECONDS: Final = 30.0
BACKLOG: Final = 512
MAX_CONNECTIONS: Final = 4096


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with bounds, and with the name of who is at the other end.

    uvicorn bounds neither the head of a request nor the time that one may take, and anyone may connect:
    here a head has ``HEAD_MAX_BYTES`` and ``PATIENCE_SECONDS``, a body may pause for as long, and trailers
    are dropped.
    """

    peer_certificate: bytes | None = None
    is_stopping = False
    _is_in_body = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Remember the certificate that the handshake verified, DER; None when the client has none."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.peer_certificate = None if tls is None else tls.getpeercert(binary_form=True)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head; cut the connection when that is too much."""
        if self._is_in_body:
            self._expect()
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._is_in_body and self._head_bytes > HEAD_MAX_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Put the certificate into the scope of each request."""
        super().on_message_begin()
        self.scope[PEER] = self.peer_certificate  # type: ignore[typeddict-unknown-key]  # an extension of ours
        if self._deadline is None:
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers come here too, and are dropped."""
        if not self._is_in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._is_in_body = True
        self._head_bytes = 0
        self._expect()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here."""
        self._is_in_body = False
        self._head_bytes = 0
        self._expect_nothing()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Stop this connection: at once when it is idle, after its response otherwise."""
        super().shutdown()
        self.is_stopping = True
        if self.transport.is_closing():
            self._cut_soon()

    def on_response_complete(self) -> None:
        """A connection that is to stop does so after its response."""
        super().on_response_complete()
        if self.is_stopping:
            self._cut_soon()

    def _expect(self) -> None:
        """Cut the connection unless there is progress within ``PATIENCE_SECONDS``."""
        self._expect_nothing()
        self._deadline = self.loop.call_later(PATIENCE_SECONDS, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_soon(self) -> None:
        """End a closing connection whose peer does not answer the TLS closure.

        An idle client need not, and would keep us.
        """
        self.loop.call_later(CLOSURE_SECONDS, self.transport.abort)


def tls_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """TLS 1.3 only, our server certificate, client certificates of our authority or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed session would outlive the check of a certificate's dates
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificates beside {certificate} cannot be used; run duramen-collector init"
        ) from error
    return context


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigurationError when the address is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def serve(
    app: FastAPI,
    context: ssl.SSLContext,
    listener: socket.socket,
    lifespan: Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]],
) -> None:
    """Serve, within ``lifespan``, until SIGTERM or SIGINT; then finish what runs within ``GRACE_SECONDS``."""
    app.router.lifespan_context = lifespan
    configuration = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        ssl_context_factory=lambda _config, _default: context,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, _noted
        )  # uvicorn raises the signal again when it has stopped; we have more to end
    uvicorn.Server(configuration).run(sockets=[listener])


def _noted(_number: int, _frame: FrameType | None) -> None:
    """What is left of a signal once uvicorn has stopped for it."""
