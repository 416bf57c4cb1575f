"""A file system in memory: inodes that are reused at once, and errors on demand."""

from __future__ import annotations

import errno
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from duramen.errors import LimitError
from duramen.ports import FileStat


@dataclass(eq=False)
class Inode:
    number: int
    data: bytearray = field(default_factory=bytearray)
    modified_ns: int = 0
    links: int = 0
    opened: int = 0
    regular: bool = True


class FakeFile:
    def __init__(self, disk: FakeDisk, inode: Inode) -> None:
        self.disk, self.inode, self.closed = disk, inode, False
        inode.opened += 1

    def read_at(self, offset: int, count: int) -> bytes:
        assert not self.closed
        self.disk.check("read_at", b"")
        return bytes(self.inode.data[offset : offset + count])

    def stat(self) -> FileStat:
        assert not self.closed
        self.disk.check("fstat", b"")
        return self.disk.stat_of(self.inode)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.inode.opened -= 1


class FakeDisk:
    """Implements duramen.ports.Disk; ``fail`` is asked before every operation and may return an errno."""

    def __init__(self) -> None:
        self.names: dict[bytes, Inode] = {}
        self.inodes: list[Inode] = []
        self.ticks = 0
        self.free = 10**12
        self.mounted = True
        self.fail: Callable[[str, bytes], int | None] = lambda operation, path: None

    def check(self, operation: str, path: bytes) -> None:
        number = self.fail(operation, path)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def stat_of(self, inode: Inode) -> FileStat:
        return FileStat(1, inode.number, len(inode.data), inode.modified_ns, inode.regular)

    # What a host does

    def create(self, path: bytes) -> Inode:
        used = {inode.number for inode in self.inodes if inode.links or inode.opened}
        inode = Inode(next(n for n in range(1, 10**6) if n not in used))
        self.inodes.append(inode)
        self.link(path, inode)
        return inode

    def link(self, path: bytes, inode: Inode) -> None:
        self.unlink(path)
        self.names[path] = inode
        inode.links += 1
        self.touch(inode)

    def unlink(self, path: bytes) -> None:
        inode = self.names.pop(path, None)
        if inode is not None:
            inode.links -= 1

    def rename(self, old: bytes, new: bytes) -> None:
        inode = self.names[old]
        self.link(new, inode)
        self.unlink(old)

    def touch(self, inode: Inode) -> None:
        self.ticks += 1
        inode.modified_ns = self.ticks

    def append(self, inode: Inode, data: bytes) -> None:
        inode.data += data
        self.touch(inode)

    def truncate(self, inode: Inode) -> None:
        del inode.data[:]
        self.touch(inode)

    # The port

    def _inode(self, path: bytes) -> Inode:
        inode = self.names.get(path)
        if inode is None or (not self.mounted and b"/state/" not in path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return inode

    def open(self, path: bytes) -> FakeFile:
        self.check("open", path)
        return FakeFile(self, self._inode(path))

    def stat(self, path: bytes) -> FileStat:
        self.check("stat", path)
        if any(name.startswith(path.rstrip(b"/") + b"/") for name in self.names):
            return FileStat(1 if self.mounted else 2, 10**7, 0, 0, False)
        return self.stat_of(self._inode(path))

    def glob(self, pattern: bytes) -> list[bytes]:
        if not self.mounted:
            return []
        directory = pattern.rpartition(b"/")[0]
        return sorted(
            name
            for name in self.names
            if name.rpartition(b"/")[0] == directory and fnmatch.fnmatchcase(name, pattern)
        )

    def free_bytes(self, path: bytes) -> int:
        self.check("free_bytes", path)
        return self.free

    def read_file(self, path: bytes, limit: int) -> bytes:
        self.check("read_file", path)
        data = bytes(self._inode(path).data)
        if len(data) > limit:
            raise LimitError("too large")
        return data

    def write_atomic(self, path: bytes, data: bytes, mode: int = 0o600) -> None:
        self.check("write_atomic", path)
        self.append(self.create(path), data)

    def overwrite(self, path: bytes, data: bytes) -> None:
        self.check("overwrite", path)
        self._inode(path).data[: len(data)] = data
