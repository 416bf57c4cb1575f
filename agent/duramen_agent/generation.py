"""One life of a file: what was read of it, cut into records, and how its end is told from its truncation.

Reading is checked *after* the fact: bytes read at an offset belong to this generation only if the file,
looked at afterwards, is at least as long as it was ever seen and still begins with what it began with.
Whatever happened before that look happened to bytes that are discarded, so a truncation between two system
calls cannot put a new file's bytes at an old file's offset. A file rewritten in place with the same first
KiB and at least its old length cannot be told from one that grew; nor can one that was rewritten before its
first read, if no look in between saw it shorter.

What follows the last line feed waits: it is kept in memory (so that it survives a truncation) and sealed
when its line feed arrives, when it is as long as a record may be, or when the generation ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from duramen import records
from duramen.limits import RECORD_MAX_BYTES
from duramen.ports import FileStat, ReadableFile
from duramen_agent.position import FINGERPRINT_MAX_BYTES, Position, fingerprint
from duramen_agent.source import Source

QUANTUM_BYTES: Final = 256 * 1024
"""What one read asks for: large enough that the system calls vanish beside the hashing."""
PENDING_KEPT_BYTES: Final = 64 * 1024
"""A longer unfinished line is read again instead of kept, so that many files cannot fill the memory."""


class Outcome(Enum):
    """What a read found."""

    MORE = 1
    """There may be more behind it."""
    END = 2
    """The end of the file as it is now."""
    REPLACED = 3
    """The file is not the one whose bytes were read before: it was truncated or rewritten."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive bytes of one generation that become one run."""

    source: Source
    path: bytes
    file: str
    offset: int
    raw: bytes
    lines: int
    """Records in ``raw``."""
    read_ns: int
    more: bool
    """A piece of an over-long line: one record without a line feed, continued by the next chunk."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a chunk lies in a buffer."""

    start: int
    end: int
    more: bool


def pieces(buffer: bytes, *, continuing: bool, final: bool, limit: int = RECORD_MAX_BYTES) -> list[Piece]:
    """Cut ``buffer`` into chunks whose records are at most ``limit`` bytes; what is left over waits.

    Each piece of a line longer than ``limit``, its end included, is a chunk of its own; ``continuing`` says
    that the buffer begins within such a line. ``final`` leaves nothing over: an unfinished line becomes a
    torn record.
    """
    found = []
    at, size = 0, len(buffer)
    while continuing or size - at >= limit:
        first = buffer.find(b"\n", at, at + limit) + 1
        if first == 0:
            if size - at < limit:
                break
            found.append(Piece(at, at + limit, more=True))
            at, continuing = at + limit, True
        elif continuing:
            found.append(Piece(at, first, more=False))
            at, continuing = first, False
        else:
            end = buffer.rfind(b"\n", at, at + limit) + 1
            found.append(Piece(at, end, more=False))
            at = end
    end = buffer.rfind(b"\n", at) + 1
    if end > at:
        found.append(Piece(at, end, more=False))
        at = end
    if final and at < size:
        found.append(Piece(at, size, more=False))
    return found


class Generation:
    """A generation while the agent runs. Offsets: ``sealed <= taken <= end``."""

    __slots__ = (
        "_continuing",
        "_head",
        "_head_size",
        "_key",
        "_pending",
        "_sealed_position",
        "_verified_size",
        "_was_shorter",
        "device",
        "end",
        "file",
        "inode",
        "modified_ns",
        "name",
        "number",
        "path",
        "problem",
        "quiet_since_ns",
        "size",
        "source",
        "taken",
    )

    def __init__(self, position: Position, source: Source, fingerprint_key: bytes) -> None:
        self.number = position.generation
        self.source = source
        self.path = position.path
        self.device = position.device
        self.inode = position.inode
        self.name: bytes | None = position.path
        """Under which it is found now; None when it is nowhere."""
        self.file: ReadableFile | None = None
        self.size = position.size
        self.modified_ns = -1
        self.quiet_since_ns = 0
        """Monotonic ns of the last sign of life."""
        self.problem: str | None = None
        self.taken = position.offset
        """Everything before it is sealed or on its way."""
        self.end = position.offset
        """Everything before it has been read once, if only to find an unfinished line."""
        self._pending = b""
        self._key = fingerprint_key
        self._head_size = position.head_size
        self._head = position.head
        self._continuing = position.continuing
        self._sealed_position = position
        self._verified_size = position.offset
        self._was_shorter = False
        """Whether it was seen shorter than before: it is over, however long the file is now."""

    @property
    def sealed(self) -> int:
        """Everything before it is sealed."""
        return self._sealed_position.offset

    @property
    def unfinished(self) -> bool:
        """Whether a line was read that had no end."""
        return self.end > self.taken

    @property
    def behind(self) -> int:
        """Bytes known to be there and not read, as of the last look."""
        return max(0, self.size - self.end)

    @property
    def rotated(self) -> bool:
        """Whether the file no longer has the name it was found under."""
        return self.name != self.path

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.device, self.inode

    def position(self, *, gone: bool = False) -> Position:
        """Where the generation stands once everything taken is sealed."""
        return Position(
            generation=self.number,
            stream=self.source.stream,
            path=self.path,
            device=self.device,
            inode=self.inode,
            offset=self.taken,
            size=max(self.size, self.end),
            head_size=self._head_size,
            head=self._head,
            continuing=self._continuing,
            gone=gone,
        )

    def observe(self, stat: FileStat, now_ns: int) -> bool:
        """Note how large the file is; whether there is a reason to read it."""
        changed = stat.size != self.end or stat.modified_ns != self.modified_ns
        if stat.size != self.size or stat.modified_ns != self.modified_ns:
            self.quiet_since_ns = now_ns
        self._was_shorter = self._was_shorter or stat.size < self.size
        if not self._was_shorter:
            self.size = stat.size
        self.modified_ns = stat.modified_ns
        return changed

    def is_same(self, stat: FileStat) -> bool:
        """Whether the open file, which has ``stat`` now, is the one that was read so far.

        May raise OSError.
        """
        if self._was_shorter or stat.size < max(self.end, self.size):
            return False
        if not self._head_size:
            return True
        return fingerprint(self._key, self._opened().read_at(0, self._head_size)) == self._head

    def read(self, read_ns: int, *, final: bool = False) -> tuple[list[Chunk], Outcome]:
        """Read on: about :data:`QUANTUM_BYTES`, or to the end of one record.

        Raises OSError, changing nothing.

        ``final`` makes a torn record of an unfinished line at the end of the file.
        """
        file = self._opened()
        buffer = self._pending
        while True:
            data = file.read_at(self.taken + len(buffer), QUANTUM_BYTES)
            buffer = buffer + data if buffer else data
            if len(data) < QUANTUM_BYTES or len(buffer) >= RECORD_MAX_BYTES or b"\n" in data:
                break
        stat = file.stat()
        is_shorter = self._was_shorter or stat.size < max(self.size, self.taken + len(buffer))
        if is_shorter or not self._recognise(file, buffer):
            return [], Outcome.REPLACED
        self.size = self._verified_size = max(self.size, stat.size)
        self._pending = buffer
        self.end = self.taken + len(buffer)
        ended = len(data) < QUANTUM_BYTES
        return list(self._cut(read_ns, final=final and ended)), Outcome.END if ended else Outcome.MORE

    def salvage(self, read_ns: int) -> list[Chunk]:
        """What is in memory of an unfinished line, as a torn record: the file has lost it."""
        return list(self._cut(read_ns, final=True))

    def lost_bytes(self, size_after: int) -> int:
        """How many bytes are known to be lost, now that the file was found replaced by one of ``size_after``.

        A size that was seen by name alone may be the replacement's: it counts if the replacement is shorter.
        """
        known = self.size if self._was_shorter or size_after < self.size else self._verified_size
        return max(0, known - self.taken)

    def sealed_all(self) -> None:
        """Everything taken is sealed."""
        self._sealed_position = self.position()

    def close(self) -> None:
        """Let the descriptor go; what was read of an unfinished line is read again."""
        if self.file is not None:
            self.file.close()
            self.file = None
        self._pending = b""

    def _opened(self) -> ReadableFile:
        if self.file is None:
            raise OSError("the file is not open")
        return self.file

    def _recognise(self, file: ReadableFile, buffer: bytes) -> bool:
        """Check the first bytes, and remember more of them while there are more."""
        if not self._head_size:  # the first read, from offset 0
            head = buffer[:FINGERPRINT_MAX_BYTES]
        else:
            head = file.read_at(0, FINGERPRINT_MAX_BYTES)
            if fingerprint(self._key, head[: self._head_size]) != self._head:
                return False
        if len(head) > self._head_size:
            self._head_size, self._head = len(head), fingerprint(self._key, head)
        return True

    def _cut(self, read_ns: int, *, final: bool) -> Iterator[Chunk]:
        buffer, base = self._pending, self.taken
        last = 0
        for piece in pieces(buffer, continuing=self._continuing, final=final):
            raw = buffer[piece.start : piece.end]
            yield Chunk(
                source=self.source,
                path=self.path,
                file=self._sealed_position.file,
                offset=base + piece.start,
                raw=raw,
                lines=1 if piece.more else records.count(raw),
                read_ns=read_ns,
                more=piece.more,
            )
            last = piece.end
            self._continuing = piece.more
        self.taken = base + last
        self._pending = buffer[last:]
        if len(self._pending) > PENDING_KEPT_BYTES:
            self._pending = b""
