"""The Unix socket on which a running agent answers: one word in, one answer out.

``status`` is answered with the status as JSON, ``events`` with the latest agent events, a JSON object a line.
The socket lies in the state directory, which nobody but the agent's user can enter. A client that says
nothing is dropped, one that does not read is, too: neither can hold up the agent, whose main loop only
composes answers. A caller gives up after :data:`CALL_TIMEOUT_S`, so that a stopped agent hangs nobody.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from duramen.errors import ConfigurationError
from duramen.ports import Clock

CALL_TIMEOUT_S: Final = 2.0
ANSWER_MAX_BYTES: Final = 64 * 1024 * 1024
_ANSWER_TIMEOUT_S: Final = 1.8
_WORDS: Final = frozenset({"status", "events"})
_PATH_MAX_BYTES: Final = 107
"""Of a Unix socket's address (unix(7))."""


@dataclass(frozen=True, slots=True)
class Query:
    """Somebody asked; the main loop puts the answer into ``reply``."""

    word: str
    reply: queue.SimpleQueue[bytes] = field(default_factory=queue.SimpleQueue)


class StatusServer:
    """Listens in a thread of its own and hands queries to ``ask``, which must not block."""

    def __init__(self, path: Path, ask: Callable[[Query], None]) -> None:
        self._path = path
        self._ask = ask
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            path.unlink(missing_ok=True)  # of an agent that was killed; the spool's lock says that none runs
            with _short(path) as address:
                self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise ConfigurationError(
                f"the status socket {path} cannot be made: {error.strerror or error}"
            ) from error
        path.chmod(0o600)
        self._socket.listen(8)
        threading.Thread(target=self._serve, name="status", daemon=True).start()

    def close(self) -> None:
        """Stop listening and take the socket away."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, queue.Empty):
                connection.settimeout(_ANSWER_TIMEOUT_S)
                word = connection.recv(64).decode(errors="replace").strip()
                if word in _WORDS:
                    query = Query(word)
                    self._ask(query)
                    connection.sendall(query.reply.get(timeout=_ANSWER_TIMEOUT_S))


def call(path: Path, word: str, clock: Clock, timeout_s: float = CALL_TIMEOUT_S) -> bytes | None:
    """What the agent behind ``path`` answers to ``word``; None when none answers in time."""
    end_ns = clock.monotonic_ns() + int(timeout_s * 10**9)
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(timeout_s)
            with _short(path) as address:
                connection.connect(address)
            connection.sendall(word.encode() + b"\n")
            while len(answer) <= ANSWER_MAX_BYTES:
                connection.settimeout(max(0.001, (end_ns - clock.monotonic_ns()) / 10**9))
                piece = connection.recv(65_536)
                if not piece:
                    return bytes(answer) or None
                answer += piece
    except OSError:
        pass
    return None


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for ``path``, which may be longer than a socket's address can be."""
    if len(os.fsencode(path)) <= _PATH_MAX_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
