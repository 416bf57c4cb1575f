"""The real clock, randomness and disk: the adapters behind :mod:`duramen.ports` (Linux)."""

from __future__ import annotations

import glob as globbing
import os
import stat
import time
from pathlib import Path

from duramen.errors import LimitError
from duramen.ports import FileStat


class SystemClock:
    """The kernel's clocks."""

    def __init__(self) -> None:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        self._boot_id = bytes.fromhex(text)[:8]

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()  # noqa: TID251  # this is the adapter

    def monotonic_ns(self) -> int:
        """CLOCK_BOOTTIME, which counts suspend."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> bytes:
        """From /proc/sys/kernel/random/boot_id."""
        return self._boot_id


class SystemRandom:
    """The kernel's random source."""

    def draw(self, count: int) -> bytes:
        """getrandom(2)."""
        return os.urandom(count)  # noqa: TID251  # this is the adapter


class SystemFile:
    """An open descriptor, read with pread(2)."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, offset: int, count: int) -> bytes:
        """pread(2)."""
        return os.pread(self._descriptor, count, offset)

    def stat(self) -> FileStat:
        """fstat(2)."""
        return _file_stat(os.fstat(self._descriptor))

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


class SystemDisk:
    """The kernel's file systems."""

    def open(self, path: bytes) -> SystemFile:
        """Open read-only; O_NONBLOCK keeps a FIFO from hanging the agent."""
        return SystemFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))

    def stat(self, path: bytes) -> FileStat:
        """Identity and size of what the path leads to, symbolic links followed."""
        return _file_stat(os.stat(path))  # noqa: PTH116  # pathlib does not take bytes

    def glob(self, pattern: bytes) -> list[bytes]:
        """Paths that match, sorted; ``**`` crosses directories."""
        return sorted(globbing.glob(pattern, recursive=True))  # noqa: PTH207  # pathlib does not take bytes

    def free_bytes(self, path: bytes) -> int:
        """statvfs(2): blocks available to an unprivileged process."""
        vfs = os.statvfs(path)
        return vfs.f_bavail * vfs.f_frsize

    def read_file(self, path: bytes, limit: int) -> bytes:
        """The whole file; LimitError past ``limit`` bytes."""
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib does not take bytes
            data = file.read(limit + 1)
        if len(data) > limit:
            raise LimitError(f"{os.fsdecode(path)} has more than {limit} bytes")
        return data

    def write_atomic(self, path: bytes, data: bytes, mode: int = 0o600) -> None:
        """Write a temporary file beside ``path``, sync it, rename it over, sync the directory.

        In this order, so that a crash leaves the old bytes or the new ones.
        """
        temporary = path + b".new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)  # noqa: PTH104  # pathlib does not take bytes
        directory = os.open(os.path.dirname(path) or b".", os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120  # as above
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def overwrite(self, path: bytes, data: bytes) -> None:
        """pwrite(2) at offset 0 of the existing file, then fdatasync(2)."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(descriptor, data)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _file_stat(result: os.stat_result) -> FileStat:
    return FileStat(
        device=result.st_dev,
        inode=result.st_ino,
        size=result.st_size,
        modified_ns=result.st_mtime_ns,
        is_regular=stat.S_ISREG(result.st_mode),
    )
