"""File events: watchdog over the directories that the engine names, as changed paths in the inbox.

Only directories are watched. Every event, whatever its kind, becomes the path it is about, and thousands of
them between two rounds one entry of a set. The watch of a directory that is deleted or moved away, or does
not exist yet, is set again when there is one at its path; until then, and where the system allows no more
watches, the engine's own look every ten seconds finds what changes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from duramen_agent.event import readable
from duramen_agent.inbox import Inbox
from duramen_agent.source import Watch

REFRESH_NS: Final = 5 * 10**9
"""How often directories are looked for whose watch is not (any more) in force."""
_KINDS: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]


class _Handler(FileSystemEventHandler):
    """Puts paths into the inbox; called from watchdog's thread for every event, so it does nothing else."""

    def __init__(self, inbox: Inbox[object]) -> None:
        self._changed = inbox.changed

    def dispatch(self, event: FileSystemEvent) -> None:
        """One event."""
        source, target = os.fsencode(event.src_path), os.fsencode(event.dest_path)
        if target:
            self._changed(source, target)
        else:
            self._changed(source)


@dataclass(frozen=True, slots=True)
class _InForce:
    observed: ObservedWatch
    identity: tuple[int, int]
    """Device and inode of the directory."""


class Watcher:
    """Keeps the watches that the engine asks for in force."""

    def __init__(self, inbox: Inbox[object]) -> None:
        self._inbox = inbox
        self._handler = _Handler(inbox)
        self._observer = Observer()
        self._observer.start()
        self._in_force: dict[Watch, _InForce] = {}
        self._asked: frozenset[Watch] = frozenset()
        self._refresh_ns = 0
        self.problem: str | None = None
        """Why a directory that exists is not watched, in one sentence."""

    def update(self, watches: frozenset[Watch], now_ns: int) -> None:
        """Watch these directories; cheap when called again with the same ones within :data:`REFRESH_NS`."""
        if watches == self._asked and now_ns < self._refresh_ns:
            return
        self._asked = watches
        self._refresh_ns = now_ns + REFRESH_NS
        self.problem = None
        for watch in [item for item in self._in_force if item not in watches or not self._holds(item)]:
            self._observer.unschedule(self._in_force.pop(watch).observed)
        self._schedule(watches - self._in_force.keys())

    def close(self) -> None:
        """Stop watching."""
        self._observer.stop()

    def _holds(self, watch: Watch) -> bool:
        return _identity(watch.directory) == self._in_force[watch].identity

    def _schedule(self, watches: Iterable[Watch]) -> None:
        for watch in watches:
            identity = _identity(watch.directory)
            if identity is None:
                continue
            try:
                observed = self._observer.schedule(
                    self._handler,
                    os.fsdecode(watch.directory),
                    recursive=watch.recursive,
                    event_filter=_KINDS,
                    follow_symlink=True,
                )
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self.problem = (
                        f"{readable(watch.directory)} cannot be watched ({error.strerror}) and is looked at "
                        "every 10 s: raise fs.inotify.max_user_watches, or permit reading it"
                    )
                continue
            self._in_force[watch] = _InForce(observed, identity)
            self._inbox.changed(watch.directory)  # what happened before the watch was in force


def _identity(directory: bytes) -> tuple[int, int] | None:
    try:
        stat = os.stat(directory)  # noqa: PTH116  # pathlib does not take bytes
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
