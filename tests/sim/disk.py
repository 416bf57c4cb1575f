"""A host's disk in memory: files with what is durable and what is not, behind the ports and behind SQLite.

Every write is held back until its file is synced. A kill of the process loses nothing (the kernel has it); a
power cut keeps a random subset of the unsynced writes of each file, in any order, the last of them torn at a
sector. Directory operations (create, rename, unlink) are durable at once. Files of applications survive a
power cut whole: they are the ledger that tests compare with, life by life (:class:`Life`).
"""

from __future__ import annotations

import errno
import fnmatch
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import apsw

from duramen.errors import LimitError
from duramen.ports import FileStat

SECTOR = 512
DIRECTORIES = (b"/", b"/logs", b"/state")
_vfs_names = itertools.count()


@dataclass(slots=True)
class Life:
    """What an application wrote to one file, from its creation or truncation to its truncation or end."""

    data: bytearray
    shown: dict[int, int] = field(default_factory=dict)
    """Largest size that a process of the agent was shown."""
    first: dict[int, int] = field(default_factory=dict)
    """First size that it was shown."""
    ended_ns: int | None = None
    """When it was truncated or unlinked; None while it may grow."""


@dataclass(slots=True)
class Inode:
    """One file: its bytes, and the writes that a power cut may undo."""

    number: int
    data: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes), or (length, None) for a truncation"""
    undo: list[tuple[int, bytes, int]] = field(default_factory=list)
    """What each unsynced write replaced: (offset, bytes, length of the file)."""
    modified_ns: int = 0
    volatile: bool = True
    """Whether a power cut may undo what was not synced."""
    lives: list[Life] = field(default_factory=list)
    """Of its number, for the files of applications: the last one is of what is there now."""

    def write(self, offset: int, data: bytes) -> None:
        if self.volatile:
            self.undo.append((offset, bytes(self.data[offset : offset + len(data)]), len(self.data)))
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        if self.volatile:
            self.unsynced.append((offset, bytes(data)))

    def truncate(self, size: int) -> None:
        if self.volatile:
            self.undo.append((size, bytes(self.data[size:]), len(self.data)))
            self.unsynced.append((size, None))
        del self.data[size:]

    def sync(self) -> None:
        self.unsynced.clear()
        self.undo.clear()

    def durable(self) -> bytearray:
        """What a power cut would leave if it kept nothing that was not synced."""
        data = bytearray(self.data)
        for offset, replaced, size in reversed(self.undo):
            data[offset : offset + len(replaced)] = replaced
            del data[size:]
        return data

    def cut_power(self, rng: random.Random) -> None:
        if not self.volatile:
            return
        kept = [item for item in self.unsynced if rng.random() < 0.5]
        rng.shuffle(kept)
        data = self.durable()
        for number, (offset, written) in enumerate(kept):
            if written is None:
                del data[offset:]
                continue
            torn = number == len(kept) - 1 and len(written) > SECTOR
            piece = written[: rng.randrange(0, len(written) // SECTOR + 1) * SECTOR] if torn else written
            if len(data) < offset:
                data.extend(bytes(offset - len(data)))
            data[offset : offset + len(piece)] = piece
        self.data = data
        self.sync()


class Fault(Exception):
    """Raised by a hook to stand for the process dying at this system call."""


class SimFile:
    """An open descriptor: it keeps its inode alive."""

    def __init__(self, disk: SimDisk, inode: Inode) -> None:
        self._disk, self._inode = disk, inode
        disk.open_files += 1
        disk.open_inodes[inode.number] += 1

    def read_at(self, offset: int, count: int) -> bytes:
        self._disk.demand_readable()
        return bytes(self._inode.data[offset : offset + count])

    def stat(self) -> FileStat:
        return self._disk.stat_of(self._inode)

    def close(self) -> None:
        self._disk.open_files -= 1
        self._disk.open_inodes[self._inode.number] -= 1


class SimDisk:
    """One host's file system. ``on_write`` is called before every write and sync of the agent's own files."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.files: dict[bytes, Inode] = {}
        self.capacity_bytes = capacity_bytes
        self.now_ns: Callable[[], int] = lambda: 0
        """The host's own wall clock."""
        self.true_ns: Callable[[], int] = lambda: 0
        self.on_write: Callable[[], None] = lambda: None
        self.open_files = 0
        self.open_inodes: Counter[int] = Counter()
        """How often the running process has each inode open."""
        self.lives: dict[int, list[Life]] = {}
        """The ledger: what applications wrote, by inode number, oldest first."""
        self.failing_reads = False
        """Whether every read ends in EIO."""
        self.failing_writes = False
        self.is_quota_exhausted = False
        """Whether no file may grow, whatever space is free."""
        self.process = 0
        """Counts the agent's processes: a dead one's handles write nothing any more."""
        self.is_burying = False
        """Whether a dead process's database is being closed, to free its memory."""
        self._numbers = itertools.count(100)
        self.vfs = SimVfs(self)

    # Applications and operators

    def append(self, path: bytes, data: bytes) -> None:
        """An application writes to its log."""
        inode = self.files.get(path) or self.create(path, volatile=False)
        inode.data += data
        inode.modified_ns = self.now_ns()

    def create(self, path: bytes, *, volatile: bool, number: int | None = None) -> Inode:
        """A new file; under the inode ``number`` if that is free."""
        if (
            number is None
            or self.open_inodes[number]
            or any(it.number == number for it in self.files.values())
        ):
            number = next(self._numbers)
        inode = self.files[path] = Inode(number, volatile=volatile, modified_ns=self.now_ns())
        if not volatile:
            inode.lives = self.lives.setdefault(number, [])
            inode.lives.append(Life(inode.data))
        return inode

    def truncate(self, path: bytes) -> None:
        """An operator empties a log in place."""
        inode = self.files[path]
        inode.lives[-1].ended_ns = self.true_ns()
        inode.data = bytearray()
        inode.lives.append(Life(inode.data))
        inode.modified_ns = self.now_ns()

    def rename(self, old: bytes, new: bytes) -> None:
        self.files[new] = self.files.pop(old)

    def unlink(self, path: bytes) -> None:
        inode = self.files.pop(path)
        if inode.lives:
            inode.lives[-1].ended_ns = self.true_ns()

    def bury(self) -> None:
        """The agent's process is gone, and its descriptors with it."""
        self.process += 1
        self.open_files = 0
        self.open_inodes.clear()

    def demand_readable(self) -> None:
        if self.failing_reads:
            raise OSError(errno.EIO, "Input/output error")

    def demand_writable(self) -> None:
        self.on_write()
        if self.failing_writes:
            raise OSError(errno.EIO, "Input/output error")

    def cut_power(self, rng: random.Random) -> None:
        for path in sorted(self.files):
            self.files[path].cut_power(rng)

    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in self.files.values())

    # duramen.ports.Disk

    def stat_of(self, inode: Inode) -> FileStat:
        self.demand_readable()
        if inode.lives:
            shown = inode.lives[-1].shown
            inode.lives[-1].first.setdefault(self.process, len(inode.data))
            shown[self.process] = max(shown.get(self.process, 0), len(inode.data))
        return FileStat(1, inode.number, len(inode.data), inode.modified_ns, is_regular=True)

    def open(self, path: bytes) -> SimFile:
        return SimFile(self, self._inode(path))

    def stat(self, path: bytes) -> FileStat:
        if path in DIRECTORIES:
            self.demand_readable()
            return FileStat(1, DIRECTORIES.index(path), 0, 0, is_regular=False)
        return self.stat_of(self._inode(path))

    def glob(self, pattern: bytes) -> list[bytes]:
        return sorted(
            path
            for path in self.files
            if fnmatch.fnmatchcase(path, pattern) and path.count(b"/") == pattern.count(b"/")
        )

    def free_bytes(self, path: bytes) -> int:
        return max(0, self.capacity_bytes - self.used_bytes())

    def read_file(self, path: bytes, limit: int) -> bytes:
        self.demand_readable()
        data = bytes(self._inode(path).data)
        if len(data) > limit:
            raise LimitError(f"{path!r} has more than {limit} bytes")
        return data

    def write_atomic(self, path: bytes, data: bytes, mode: int = 0o600) -> None:
        del mode
        self.demand_writable()
        self._demand_room(len(data))
        inode = Inode(next(self._numbers), modified_ns=self.now_ns())
        inode.write(0, data)
        inode.sync()
        self.files[path] = inode

    def overwrite(self, path: bytes, data: bytes) -> None:
        inode = self._inode(path)
        self.demand_writable()
        inode.write(0, data)
        self.demand_writable()
        inode.sync()

    def _inode(self, path: bytes) -> Inode:
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", path.decode(errors="replace")) from None

    def _demand_room(self, size: int) -> None:
        if self.free_bytes(b"/") < size:
            raise OSError(errno.ENOSPC, "No space left on device")


class SimVfs(apsw.VFS):
    """SQLite on a :class:`SimDisk`: WAL with an exclusive lock, so no shared memory is needed."""

    def __init__(self, disk: SimDisk) -> None:
        self.name = f"sim-{next(_vfs_names)}"
        self._disk = disk
        super().__init__(self.name, "")

    def xOpen(  # type: ignore[override]  # SQLite asks for the methods, not for the class
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> _SimVfsFile:
        path = (name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary").encode()
        inode = self._disk.files.get(path)
        if inode is None:
            inode = self._disk.create(path, volatile=True)
        return _SimVfsFile(self._disk, inode, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        del syncdir
        if self._disk.is_burying:
            return
        self._disk.on_write()
        self._disk.files.pop(filename.encode(), None)

    def xAccess(self, pathname: str, flags: int) -> bool:
        del flags
        return pathname.encode() in self._disk.files

    def xFullPathname(self, name: str) -> str:
        return name


class _SimVfsFile:
    """What SQLite asks of one open file; only what happens here can fail."""

    def __init__(self, disk: SimDisk, inode: Inode, flags: list[int]) -> None:
        self._disk, self._inode, self._process = disk, inode, disk.process
        flags[1] = flags[0]

    def _lives(self) -> bool:
        if self._process != self._disk.process:
            return False
        self._disk.on_write()
        if self._disk.failing_writes:
            raise apsw.IOError("disk I/O error")
        return True

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._disk.failing_reads and self._process == self._disk.process:
            raise apsw.IOError("disk I/O error")
        return bytes(self._inode.data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        if not self._lives():
            return
        if offset + len(data) > len(self._inode.data) and (
            self._disk.is_quota_exhausted or self._disk.free_bytes(b"/") < len(data)
        ):
            raise apsw.FullError("database or disk is full")
        self._inode.write(offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        if self._lives():
            self._inode.truncate(newsize)

    def xSync(self, flags: int) -> None:
        del flags
        if self._lives():
            self._inode.sync()

    def xFileSize(self) -> int:
        return len(self._inode.data)

    def xClose(self) -> None:
        pass

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        del op, pointer
        return False

    def xSectorSize(self) -> int:
        return SECTOR

    def xDeviceCharacteristics(self) -> int:
        return 0
