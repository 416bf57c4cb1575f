"""The only door to the world: clock, randomness, disk, as protocols.

Agent and collector logic take these as arguments and never import ``time``, ``os.urandom`` or ``open``.
Real adapters live in :mod:`duramen.system`; the simulation brings its own. Networks are not called but
described: state machines return requests as effects and take responses as events, so no port is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Time. Wall clocks jump; monotonic clocks restart with the machine, which ``boot_id`` tells."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that only grow within one boot, suspend included (CLOCK_BOOTTIME)."""
        ...

    def boot_id(self) -> bytes:
        """First 8 bytes of the kernel's boot id."""
        ...


class Random(Protocol):
    """Cryptographic randomness."""

    def draw(self, count: int) -> bytes:
        """``count`` unpredictable bytes."""
        ...


@dataclass(frozen=True, slots=True)
class FileStat:
    """What identifies and measures a file: device, inode, size in bytes, modification time in ns."""

    device: int
    inode: int
    size: int
    modified_ns: int
    is_regular: bool


class ReadableFile(Protocol):
    """An open file that is only read; it keeps its inode alive after rename or unlink."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``; empty at the end. Raises OSError."""
        ...

    def stat(self) -> FileStat:
        """Fstat of the open file. Raises OSError."""
        ...

    def close(self) -> None:
        """Release the descriptor."""
        ...


class Disk(Protocol):
    """The file system as the agent sees it. Every method may raise :class:`OSError`."""

    def open(self, path: bytes) -> ReadableFile:
        """Open an existing file for reading, following symbolic links, without blocking on FIFOs."""
        ...

    def stat(self, path: bytes) -> FileStat:
        """Stat ``path``, following symbolic links."""
        ...

    def glob(self, pattern: bytes) -> list[bytes]:
        """Paths that match a shell pattern (``**`` crosses directories), sorted; never raises for absence."""
        ...

    def free_bytes(self, path: bytes) -> int:
        """Bytes an unprivileged process may still write on the file system of ``path``."""
        ...

    def read_file(self, path: bytes, limit: int) -> bytes:
        """The whole of a small file; raises :class:`OSError` when absent, LimitError past ``limit``."""
        ...

    def write_atomic(self, path: bytes, data: bytes, mode: int = 0o600) -> None:
        """Replace ``path`` durably: temporary file, fsync, rename, fsync of the directory."""
        ...

    def overwrite(self, path: bytes, data: bytes) -> None:
        """Overwrite the start of an existing file in place and sync it (the seed file; one sector)."""
        ...


class ObjectReader(Protocol):
    """Read access to named objects: a folder, a web server, an object store, a bundle."""

    def read(self, key: str) -> bytes | None:
        """The whole object, or None when no such key exists.

        Any other failure, an object of a size that no format allows included, is a StorageError.
        """
        ...
