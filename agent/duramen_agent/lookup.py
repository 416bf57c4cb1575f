"""Looking names up: what patterns match, what lies beside a file, whether a missing name means anything."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from duramen.ports import Disk, FileStat
from duramen_agent.source import Source, beside

NO_FILE_YET: Final = "no file matches yet"

Identity = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class Match:
    """A regular file that a pattern matches, for the first source that wants it."""

    stat: FileStat
    source: Source


@dataclass(frozen=True, slots=True)
class Expansion:
    """What all patterns match now, and why the others match nothing."""

    matches: Mapping[bytes, Match]
    waiting: Mapping[tuple[int, bytes], str]
    """Reason by (number of the source, pattern or path)."""


class Lookup:
    """Names on one disk; nothing is remembered but the listings of one discovery round."""

    def __init__(self, disk: Disk, sources: Sequence[Source]) -> None:
        self._disk = disk
        self._sources = sources
        self._listings: dict[bytes, dict[Identity, tuple[bytes, FileStat]]] = {}

    def expand(self) -> Expansion:
        """Match every pattern, and forget the listings of the round before."""
        self._listings.clear()
        matches: dict[bytes, Match] = {}
        waiting: dict[tuple[int, bytes], str] = {}
        for number, source in enumerate(self._sources):
            for pattern in source.patterns:
                matched = False
                for path in self._disk.glob(pattern):
                    if source.excludes(path):
                        continue
                    try:
                        stat = self._disk.stat(path)
                    except OSError as error:
                        waiting[number, path] = reason_of(error)
                        continue
                    if stat.is_regular:
                        matched = True
                        matches.setdefault(path, Match(stat, source))
                if not matched:
                    waiting.setdefault((number, pattern), self._absence(pattern))
        return Expansion(matches, waiting)

    def _absence(self, pattern: bytes) -> str:
        try:
            stat = self._disk.stat(pattern)
        except OSError as error:
            return reason_of(error)
        return NO_FILE_YET if stat.is_regular else "not a regular file"

    def stat(self, path: bytes) -> FileStat | None:
        """None where there is nothing; raises OSError where that cannot be known."""
        try:
            return self._disk.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def beside(self, path: bytes) -> Mapping[Identity, tuple[bytes, FileStat]]:
        """Every regular file in the directory of ``path``: its name and stat by identity. Raises OSError."""
        pattern = beside(path)
        if pattern not in self._listings:
            self._listings[pattern] = dict(self._listing(pattern))
        return self._listings[pattern]

    def _listing(self, pattern: bytes) -> Iterator[tuple[Identity, tuple[bytes, FileStat]]]:
        for path in self._disk.glob(pattern):
            stat = self.stat(path)
            if stat is not None and stat.is_regular:
                yield (stat.device, stat.inode), (path, stat)

    def can_judge(self, path: bytes, device: int) -> bool:
        """Whether a name missing beside ``path`` means that its file is gone. Raises OSError.

        Not so if the directory is on another device than the file was (it is not mounted), or shows nothing
        (it cannot be listed).
        """
        directory = self.stat(os.path.dirname(path) or b"/")  # noqa: PTH120  # pathlib does not take bytes
        return directory is not None and directory.device == device and bool(self.beside(path))


def reason_of(error: OSError) -> str:
    """Why a file is not read, in a few words."""
    if error.errno == errno.ENOENT:
        return NO_FILE_YET
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    return (error.strerror or str(error)).lower()
