"""Carrying requests to collectors: httpx over TLS 1.3 with a client certificate, in threads of its own.

Every request that is given to :meth:`Transport.send` comes back as one response or one failure. The server's
name and certificate are checked against the configured authority alone, never the system's; redirects are not
followed, proxies of the environment not used, answers neither decompressed nor read past
:data:`duramen.api.MAX_ANSWER_BYTES`. Connections are kept alive and shared by the threads.

Time: connecting, each write and each silence within an answer are bounded, and the exchange as a whole by the
request's own timeout, checked between the pieces of the body that is sent and of the one that comes back.

Every exception of httpx, ssl and the sockets becomes one sentence (:func:`explain`); none leaves a thread.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx

from duramen.api import MAX_ANSWER_BYTES
from duramen.errors import ConfigurationError
from duramen.ports import Clock
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse

CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_TIMEOUT_S: Final = 30.0
KEEP_ALIVE_S: Final = 60.0
PIECE_BYTES: Final = 64 * 1024
THREADS: Final = 8
"""Twice the lanes of the forwarder: a collector whose headers drip holds up some of them, not all."""

Deliver = Callable[[HttpResponse | HttpFailure], None]
"""Called from the transport's threads."""


class _TooLateError(Exception):
    """The exchange took longer than its request allowed."""


def tls_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3, trusting ``ca`` (PEM) alone; ConfigurationError when a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the collectors' authority {ca} cannot be used ({error}): put the PEM file there that came with "
            "enrolment"
        ) from error
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the agent's certificate {certificate} cannot be used ({error}): run duramen-agent enroll"
            ) from error
    return context


def open_client(context: ssl.SSLContext) -> httpx.Client:
    """A client with the rules of this module."""
    return httpx.Client(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        limits=httpx.Limits(
            max_connections=THREADS, max_keepalive_connections=THREADS, keepalive_expiry=KEEP_ALIVE_S
        ),
        headers={"user-agent": "duramen-agent", "accept-encoding": "identity"},
    )


def exchange(client: httpx.Client, request: HttpRequest, clock: Clock) -> HttpResponse | HttpFailure:
    """Carry out one request, and wait for its end."""
    end_ns = clock.monotonic_ns() + int(request.timeout_s * 10**9)
    silence_s = min(SILENCE_TIMEOUT_S, request.timeout_s)
    timeout = httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, request.timeout_s))
    headers = (
        {**request.headers, "content-length": str(len(request.body))} if request.body else request.headers
    )

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(request.body), PIECE_BYTES):
            _demand_time(clock, end_ns)
            yield request.body[at : at + PIECE_BYTES]

    try:
        with client.stream(
            request.method,
            request.collector + request.path,
            headers=headers,
            content=pieces() if request.body else None,
            timeout=timeout,
        ) as response:
            body = bytearray()
            for piece in response.iter_raw():
                _demand_time(clock, end_ns)
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    return HttpFailure(
                        request.request_id,
                        f"{request.collector} answered with more than {MAX_ANSWER_BYTES} bytes: check that "
                        "the "
                        "address is a collector's",
                    )
            return HttpResponse(request.request_id, response.status_code, dict(response.headers), bytes(body))
    except Exception as error:  # noqa: BLE001  # whatever a library raises, the forwarder must hear of it
        return HttpFailure(request.request_id, explain(error, request.collector))


def _demand_time(clock: Clock, end_ns: int) -> None:
    if clock.monotonic_ns() > end_ns:
        raise _TooLateError


_SENTENCES: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...]] = (
    (
        ssl.SSLCertVerificationError,
        "{collector} shows an untrusted certificate ({error.verify_message}): check ca, and the address",
    ),
    (
        socket.gaierror,
        "the name in {collector} cannot be resolved ({error.strerror}): check the address and the host's DNS",
    ),
    (
        ConnectionRefusedError,
        "{collector} refuses connections: check that the collector runs and that the port is right",
    ),
    (
        httpx.ConnectTimeout,
        "{collector} cannot be reached in time: check network and firewall",
    ),
    (
        (_TooLateError, httpx.TimeoutException),
        "{collector} did not answer in time: check its load and the network",
    ),
    (
        (ConnectionResetError, BrokenPipeError),
        "{collector} closed the connection before it answered: check its log, and proxies between",
    ),
    (
        (httpx.RemoteProtocolError, httpx.LocalProtocolError),
        "{collector} does not speak HTTP as expected ({error}): check that the address is a collector's",
    ),
    (
        (httpx.InvalidURL, httpx.UnsupportedProtocol),
        "{collector} is not an address ({error}): write it as https://c1.example.com:8443",
    ),
)
"""Sentences by kind, the first match counts; formatted with the collector's address and the error."""


class Transport:
    """Carries out requests in up to :data:`THREADS` threads, which are started when they are needed."""

    def __init__(self, context: ssl.SSLContext, clock: Clock, deliver: Deliver) -> None:
        self._client = open_client(context)
        self._clock = clock
        self._deliver = deliver
        self._requests: queue.SimpleQueue[HttpRequest | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._idle = 0

    def send(self, request: HttpRequest) -> None:
        """Carry out ``request``; its outcome is delivered."""
        with self._lock:
            if self._idle == 0 and len(self._threads) < THREADS:
                thread = threading.Thread(
                    target=self._work, name=f"transport-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            else:
                self._idle -= 1
        self._requests.put(request)

    def close(self) -> None:
        """Let the threads end; what is under way is not waited for (they are daemons) and not delivered."""
        for _ in self._threads:
            self._requests.put(None)
        self._client.close()

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            outcome = exchange(self._client, request, self._clock)
            with self._lock:
                self._idle += 1
            self._deliver(outcome)


def explain(error: BaseException, collector: str) -> str:
    """One sentence that says what to do about ``error``, raised while talking to ``collector``."""
    for cause in _causes(error):
        sentence = _explain_cause(cause, collector)
        if sentence is not None:
            return sentence
    return f"{collector} cannot be used: {type(error).__name__} ({error})"


def _explain_cause(cause: BaseException, collector: str) -> str | None:
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLCertVerificationError):
        return _explain_tls(cause, collector)
    for kinds, sentence in _SENTENCES:
        if isinstance(cause, kinds):
            return sentence.format(collector=collector, error=cause)
    if isinstance(cause, OSError) and cause.strerror:
        return f"{collector} cannot be reached ({cause.strerror}): check network and routes"
    return None


def _explain_tls(cause: ssl.SSLError, collector: str) -> str:
    reason = getattr(cause, "reason", None) or str(cause)
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")):
        what = (
            reason.removeprefix("TLSV13_")
            .removeprefix("TLSV1_")
            .removeprefix("SSLV3_")
            .removeprefix("ALERT_")
        )
        return (
            f"{collector} refuses this agent's certificate ({what.replace('_', ' ').lower()}): enrol this "
            "host again, or have the agent approved"
        )
    return (
        f"{collector} does not speak TLS 1.3 as expected ({reason.replace('_', ' ').lower()}): check that "
        "the address is a collector's"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The innermost cause, which says what happened, first; a socket's bare timeout is passed over."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return (cause for cause in reversed(chain) if type(cause) is not TimeoutError)
