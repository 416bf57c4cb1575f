"""Sources: which files are read, and what is sealed with them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple


class Slot(NamedTuple):
    """What one block may hold: records of one shred group and one retention class."""

    group: int
    retention_class: int


DEFAULT_SLOT = Slot(0, 0)
"""Where the agent's own start and stop are sealed; group 0 is named ``default``."""
DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True)
class Watch:
    """A directory whose changes an adapter should report."""

    directory: bytes
    recursive: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Files that become one stream."""

    stream: str
    patterns: tuple[bytes, ...]
    """Shell patterns of absolute paths; ``**`` crosses directories."""
    exclude: tuple[bytes, ...]
    """Patterns of whole paths, or of file names where they have no slash; here ``*`` crosses directories."""
    labels: Mapping[str, str]
    slot: Slot

    @property
    def label_characters(self) -> int:
        """Characters of all labels."""
        return sum(len(key) + len(value) for key, value in self.labels.items())

    def excludes(self, path: bytes) -> bool:
        """Whether ``path`` is left out although a pattern matches it."""
        name = path.rpartition(b"/")[2]
        return any(fnmatchcase(path if b"/" in item else name, item) for item in self.exclude)

    def may_match(self, path: bytes) -> bool:
        """Whether a pattern could match ``path``; sometimes true in vain, never false in vain."""
        return any(fnmatchcase(path, item.replace(b"**/", b"*")) for item in self.patterns)

    def watches(self) -> list[Watch]:
        """The directories where files of this source appear or change."""
        return [_watch(item) for item in self.patterns]


def _watch(pattern: bytes) -> Watch:
    directory, _, rest = pattern.rpartition(b"/")
    recursive = False
    while glob.has_magic(directory):
        directory, _, rest = directory.rpartition(b"/")
        recursive = True
    return Watch(directory or b"/", recursive or b"**" in rest)


def beside(path: bytes) -> bytes:
    """The pattern that matches whatever lies in the directory of ``path``."""
    return glob.escape(os.path.dirname(path)).rstrip(b"/") + b"/*"  # noqa: PTH120  # pathlib does not take bytes
