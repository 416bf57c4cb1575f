"""A region in a directory: :class:`~duramen_collector.store.port.ObjectStore` for ``file://``.

An object is a file, mode 0444, in directories of mode 0700; its key is its path below the root. What a
write relies on:

- **Create**: a temporary file (``.tmp/``, same file system) is written, given its mode and time, and
fsynced; link(2) gives it its name, which fails when there is one already, whoever else tries at the same
moment; fsync of the directory makes the name durable. A crash leaves the object whole or not at all. -
**Swap**: the same temporary file goes over the old one by rename(2), under an exclusive flock(2) of a lock
file beside it (``.<name>.lock``), which threads and processes alike respect. Readers take the lock shared.
- **Version**: the lock file holds a generation, raised and synced before each rename; a version is
generation, inode and modification time. So bytes that come back (A, B, A) are another version, and so is a
file that somebody put there by other means. After a crash between the two the version is new and the bytes
are old: a needless conflict, never a lost one. - **Retention** is the file's modification time: an object
is retained while that lies in the future (SnapLock does the same with the access time). It is set on the
temporary file, before there is a name. Creating an object again with the same bytes and a later date
extends it; nothing shortens it.

What retention is worth here: this store refuses to delete or replace a retained object, and the modes keep
other users out. That guards against mistakes and against bugs of this program. The owner of the files,
root, and whoever holds the disk can delete all the same; who needs more puts the directory on a file system
that enforces it, or uses an object store.

Directories stay when they become empty: one that went away under a writer could take a durable name with it.

What it assumes: a local file system, or one with POSIX rename, link, flock and fsync between all hosts that
write. A root that does not exist is never made here: it may be a volume that is not mounted. A key cannot
be a prefix of another one up to a slash (``a`` and ``a/b``), which object stores allow and no key of DESIGN 8
§4 needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, assert_never

from duramen.errors import UsageError
from duramen.ports import Clock
from duramen.system import SystemClock
from duramen_collector.store.port import (
    Absent,
    Answer,
    Call,
    Conflict,
    Create,
    Delete,
    Failed,
    Found,
    Get,
    List,
    Listed,
    Stat,
    Stored,
    Swap,
)

KEY_MAX_CHARACTERS: Final = 1024

_TEMPORARY: Final = ".tmp"
_DAMAGED: Final = ".damaged"
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,199})*")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*(?:[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_ATTEMPTS: Final = 2
_GENERATION_BYTES: Final = 8
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class FileStore:
    """The region below ``root``. Errors of the operating system come back as ``Failed``, with a sentence."""

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of the two below
        self._durable: set[Path] = set()
        self._is_swept = False

    def perform(self, call: Call) -> Answer:
        """Perform one call; durable before it returns. A key that no layout has is a UsageError: a bug."""
        _check_key(call)
        try:
            if not self._root.is_dir():
                return Failed(f"the region's directory {self._root} is not there; mount it, or run init")
            return self._dispatch(call)
        except OSError as error:
            return Failed(f"the region's directory {self._root} failed: {error.strerror or error}")

    def _dispatch(self, call: Call) -> Answer:
        match call:
            case Get():
                return self._get(call)
            case Stat():
                return self._get(Get(call.key, 0, 0))
            case Create():
                return self._create(call)
            case Swap():
                return self._swap(call)
            case Delete():
                return self._delete(call)
            case List():
                return self._list(call)
            case _:
                assert_never(call)

    # Reading

    def _get(self, call: Get) -> Answer:
        path = self._root / call.key
        with _locked(path, exclusive=False) as lock:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
            except (FileNotFoundError, NotADirectoryError):
                return Absent()
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return Absent()
                length = status.st_size if call.length is None else call.length
                data = _read_all(descriptor, call.offset, min(length, max(0, status.st_size - call.offset)))
                return Found(data, _version(_generation(lock), status), status.st_size)
            finally:
                os.close(descriptor)

    def _list(self, call: List) -> Answer:
        keys = list(itertools.islice(self._keys("", call.prefix, call.after), call.limit + 1))
        return Listed(tuple(keys[: call.limit]), more=len(keys) > call.limit)

    def _keys(self, directory: str, prefix: str, after: str) -> Iterator[str]:
        """Keys below ``directory`` ("" or ending in a slash), ascending; whole subtrees are passed over."""
        names = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    is_directory = entry.is_dir(follow_symlinks=False)
                    names.append(directory + entry.name + ("/" if is_directory else ""))
        for name in sorted(names):
            if not name.endswith("/"):
                if name.startswith(prefix) and name > after:
                    yield name
            elif (name.startswith(prefix) or prefix.startswith(name)) and (
                name > after or after.startswith(name)
            ):
                yield from self._keys(name, prefix, after)

    # Writing

    def _create(self, call: Create) -> Answer:
        path = self._root / call.key
        with self._temporary(call.data, call.retain_until_s) as temporary:
            for _ in range(_ATTEMPTS):  # somebody may have removed a directory that was made before
                self._make_directory(path.parent)
                try:
                    temporary.link(path)
                except FileExistsError:
                    return self._compare(path, call)
                except FileNotFoundError:
                    self._forget_directory(path.parent)
                    continue
                _sync_directory(path.parent)
                return Stored(_version(_generation_of(path), temporary.status()))
        return Failed(f"the directory of {call.key} goes away as it is made; see what else is at work there")

    def _compare(self, path: Path, call: Create) -> Answer:
        """What is there already.

        The same bytes are success, made durable, with the later retention of both.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            return Failed(f"{call.key} vanished while it was being written")
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != len(call.data):
                return Conflict()
            if _read_all(descriptor, 0, status.st_size) != call.data:
                return Conflict()
            if call.retain_until_s is not None and status.st_mtime_ns < call.retain_until_s * 10**9:
                os.utime(descriptor, (call.retain_until_s, call.retain_until_s))
            os.fsync(descriptor)
            _sync_directory(path.parent)  # the one who linked it may not have got there
            return Stored(_version(_generation_of(path), os.fstat(descriptor)))
        finally:
            os.close(descriptor)

    def _swap(self, call: Swap) -> Answer:
        path = self._root / call.key
        self._make_directory(path.parent)
        with self._temporary(call.data, None) as temporary, _locked(path, exclusive=True) as lock:
            generation = _generation(lock)
            try:
                status = path.lstat()
            except FileNotFoundError:
                status = None
            if call.expected != (None if status is None else _version(generation, status)):
                return Conflict()
            if status is not None and status.st_mtime_ns > self._clock.wall_ns():
                return Failed(f"{call.key} is retained and cannot be replaced")
            _set_generation(lock, generation + 1)
            if status is None:
                try:
                    temporary.link(path)  # not over what a Create, which takes no lock, makes at this moment
                except FileExistsError:
                    return Conflict()
            else:
                temporary.rename(path)
            _sync_directory(path.parent)
            return Stored(_version(generation + 1, temporary.status()))

    def _delete(self, call: Delete) -> Answer:
        path = self._root / call.key
        with _locked(path, exclusive=False, is_exclusive_if_there=True) as lock:
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return Stored("")
            if stat.S_ISDIR(status.st_mode):
                return Stored("")
            if status.st_mtime_ns > self._clock.wall_ns():
                return Failed(f"{call.key} is retained until {status.st_mtime_ns // 10**9} (Unix seconds)")
            if lock is not None:
                _set_generation(lock, _generation(lock) + 1)
            path.unlink(missing_ok=True)
            _sync_directory(path.parent)
        return Stored("")

    def supersede(self, key: str, data: bytes, retain_until_s: int | None) -> None:
        """Put ``data`` in a damaged object's place, whatever its retention; keep the damaged one aside.

        For repair alone; not of the port. What was there stays below ``.damaged/`` under its key and its
        SHA-256, linked there before the new file is renamed over it: a crash leaves either of them under
        the key. Raises OSError.
        """
        path = self._root / key
        _check_key(Get(key))
        self._make_directory(path.parent)
        with self._temporary(data, retain_until_s) as temporary, _locked(path, exclusive=True) as lock:
            assert lock is not None  # an exclusive lock has made its file
            if path.exists():
                aside = self._root / _DAMAGED / f"{key}.{hashlib.sha256(path.read_bytes()).hexdigest()}"
                self._make_directory(aside.parent)
                with suppress(FileExistsError):
                    os.link(path, aside, follow_symlinks=False)
                _sync_directory(aside.parent)
            _set_generation(lock, _generation(lock) + 1)
            temporary.rename(path)
            _sync_directory(path.parent)

    @contextmanager
    def _temporary(self, data: bytes, retain_until_s: int | None) -> Iterator[_Temporary]:
        """A file without its name yet: whole, synced, and gone at the end unless renamed."""
        directory = self._root / _TEMPORARY
        self._make_directory(directory)
        with self._lock:
            sweep, self._is_swept = not self._is_swept, True
        if sweep:
            _sweep(directory)
        temporary = _Temporary(directory, f"{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}")
        try:
            temporary.write(data, retain_until_s)
            yield temporary
        finally:
            temporary.close()

    def _make_directory(self, path: Path) -> None:
        """``path`` with its parents up to the root, each durable.

        Only what this object has not seen costs anything.
        """
        with self._lock:
            if path in self._durable or path == self._root:
                return
        self._make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        _sync_directory(path.parent)
        with self._lock:
            self._durable.add(path)

    def _forget_directory(self, path: Path) -> None:
        with self._lock:
            self._durable.discard(path)
            self._durable.discard(path.parent)


class _Temporary:
    """A file in ``.tmp``, under flock while its writer lives: so the sweep tells leftovers from work."""

    def __init__(self, directory: Path, name: str) -> None:
        for attempt in itertools.count():
            self._path = directory / f"{name}-{attempt}"
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
            except FileExistsError:  # another host, or an earlier process of the same number
                continue
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)  # swept between open and flock

    def write(self, data: bytes, retain_until_s: int | None) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fchmod(self._descriptor, 0o444)
        if retain_until_s is not None:
            os.utime(self._descriptor, (retain_until_s, retain_until_s))
        os.fsync(self._descriptor)

    def link(self, path: Path) -> None:
        os.link(self._path, path, follow_symlinks=False)

    def rename(self, path: Path) -> None:
        self._path.rename(path)

    def status(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def close(self) -> None:
        """Remove the temporary name (no longer there after a rename) and release the lock."""
        try:
            self._path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


def _sweep(directory: Path) -> None:
    """Remove what dead writers left: whatever nobody holds under flock."""
    for path in directory.iterdir():
        try:
            descriptor = os.open(path, os.O_RDONLY | _OPEN)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:  # its writer is alive
            continue
        finally:
            os.close(descriptor)


@contextmanager
def _locked(path: Path, *, exclusive: bool, is_exclusive_if_there: bool = False) -> Iterator[int | None]:
    """Hold the lock file of ``path``; only ``exclusive`` makes one.

    None: there is none, nothing was ever swapped.
    """
    flags = os.O_RDWR | os.O_CREAT if exclusive else os.O_RDWR if is_exclusive_if_there else os.O_RDONLY
    try:
        descriptor = os.open(path.parent / f".{path.name}.lock", flags | _OPEN, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        if exclusive:
            raise
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive or is_exclusive_if_there else fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def _generation(lock: int | None) -> int:
    return 0 if lock is None else int.from_bytes(os.pread(lock, _GENERATION_BYTES, 0), "big")


def _generation_of(path: Path) -> int:
    with _locked(path, exclusive=False) as lock:
        return _generation(lock)


def _set_generation(lock: int | None, generation: int) -> None:
    if lock is None:
        raise AssertionError("a generation is set under the lock only")
    os.pwrite(lock, generation.to_bytes(_GENERATION_BYTES, "big"), 0)
    os.fdatasync(lock)


def _version(generation: int, status: os.stat_result) -> str:
    return f"{generation}-{status.st_ino}-{status.st_mtime_ns}"


def _read_all(descriptor: int, offset: int, count: int) -> bytes:
    pieces = []
    while count:
        piece = os.pread(descriptor, count, offset)
        if not piece:
            raise OSError(None, "a file became shorter while it was read")
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_key(call: Call) -> None:
    if isinstance(call, List):
        if call.limit < 1 or not _PREFIX.fullmatch(call.prefix):
            raise UsageError(
                f"{call.prefix!r} is not the beginning of an object's key, or the limit is below 1"
            )
        return
    if len(call.key) > KEY_MAX_CHARACTERS or not _KEY.fullmatch(call.key):
        raise UsageError(
            f"{call.key!r} is not an object's key: letters, digits, '_', '.', '-' between slashes"
        )
    if isinstance(call, Get) and (call.offset < 0 or (call.length is not None and call.length < 0)):
        raise UsageError("an object is read from an offset of 0 or more")
