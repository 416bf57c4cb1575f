"""An application and its log: lines, halves of lines, and rotations of every kind.

What it wrote is the ledger that the observer compares with: :class:`~tests.sim.disk.Life` by life, each the
content of one file from its creation to its truncation or end. Every line and every piece is unique, so a
file cannot be taken for another one by its first bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim.disk import SimDisk

LOG = b"/logs/app.log"


class Application:
    """Writes to ``LOG`` and rotates it; ``notify`` is told which names changed."""

    def __init__(
        self, name: str, disk: SimDisk, rng: random.Random, notify: Callable[[set[bytes]], None]
    ) -> None:
        self._name = name.encode()
        self._disk = disk
        self._rng = rng
        self._notify = notify
        self._lines = 0
        self._rotations = 0

    def write_lines(self, count: int) -> None:
        """Append whole lines."""
        for _ in range(count):
            self._lines += 1
            padding = b"x" * self._rng.randrange(1, 200)
            self._append(b"%s %06d %s\n" % (self._name, self._lines, padding))

    def write_piece(self) -> None:
        """Half a line; the next one continues it."""
        self._lines += 1
        self._append(b"%s %06d half of a line, " % (self._name, self._lines))

    def rotate(self) -> None:
        """logrotate by renaming: the application goes on in a new file."""
        if LOG in self._disk.files:
            self._rotations += 1
            old = b"%s.%d" % (LOG, self._rotations)
            self._disk.rename(LOG, old)
            self._notify({LOG, old})

    def copy_and_truncate(self, *, within_pattern: bool) -> None:
        """logrotate's copytruncate; the copy may be one that the agent reads, too."""
        if LOG not in self._disk.files:
            return
        if within_pattern:
            self._rotations += 1
            copy = b"%s.%d" % (LOG, self._rotations)
            self._disk.append(copy, bytes(self._disk.files[LOG].data))
            self._notify({copy})
        self._disk.truncate(LOG)
        self._notify({LOG})

    def recreate(self, *, same_inode: bool) -> None:
        """Delete and begin anew; under the old inode if asked, and if nobody has that open."""
        if LOG not in self._disk.files:
            return
        number = self._disk.files[LOG].number
        self._disk.unlink(LOG)
        self._disk.create(LOG, volatile=False, number=number if same_inode else None)
        self._notify({LOG})

    def _append(self, data: bytes) -> None:
        self._disk.append(LOG, data)
        self._notify({LOG})
