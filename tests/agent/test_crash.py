"""The process ends at every step of every write, and starts again: nothing lost, nothing twice.

In-process: an exception that nothing catches at the n-th system call that changes something. Process-level:
``os._exit`` at the same places, in a child; what SQLite had not synced is left as the kernel has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from duramen.system import SystemDisk
from tests.agent.rig import Host, append


class Crash(BaseException):
    """The process is gone."""


class Countdown:
    """Crashes at the n-th change, before it happens or after."""

    def __init__(self) -> None:
        self.left = 0
        self.after = False
        self.count = 0

    def __call__(self, change: object) -> object:
        self.count += 1
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        result = change()
        if self.left == 0:
            raise Crash
        return result


class CrashingDisk(SystemDisk):
    """SystemDisk whose changes are counted."""

    def __init__(self, countdown: Countdown) -> None:
        self.countdown = countdown

    def overwrite(self, path: bytes, data: bytes) -> None:
        self.countdown(lambda: SystemDisk.overwrite(self, path, data))


class CrashingFile(apsw.VFSFile):
    """A file of SQLite whose writes and syncs are counted."""

    countdown: Countdown

    def xWrite(self, data: bytes, offset: int) -> None:
        self.countdown(lambda: super(CrashingFile, self).xWrite(data, offset))

    def xSync(self, flags: int) -> None:
        self.countdown(lambda: super(CrashingFile, self).xSync(flags))

    def xTruncate(self, size: int) -> None:
        self.countdown(lambda: super(CrashingFile, self).xTruncate(size))


class CrashingVfs(apsw.VFS):
    """The system's VFS with counted changes."""

    def __init__(self, countdown: Countdown) -> None:
        self.countdown = countdown
        super().__init__("crashing", "")

    def xOpen(self, name: object, flags: list[int]) -> CrashingFile:
        file = CrashingFile("", name, flags)
        file.countdown = self.countdown
        return file


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_every_change(tmp_path: Path, after: bool) -> None:
    countdown = Countdown()
    vfs = CrashingVfs(countdown)
    at = 0
    finished = False
    while not finished:
        at += 1
        root = tmp_path / str(at)
        root.mkdir()
        host = Host(root, CrashingDisk(countdown), "crashing")
        log = host.logs / "a.log"
        append(log, b"before\n")
        countdown.left, countdown.after = at, after
        try:
            host.start()
            host.settle()
            append(log, b"one\ntwo\n")
            host.changed(log)
            host.settle()
            finished = True
        except Crash:
            finished = False
        countdown.left = 0
        written = log.read_bytes()
        abandon(host)
        host.restart()
        written += append(log, b"three\n")
        host.run(11)
        sealed = host.verify()
        assert sealed.of(log) == [written], at
        host.spool.close()
    assert at > 10
    vfs.unregister()


def abandon(host: Host) -> None:
    """Drop the process's state without letting SQLite tidy up: the files are copied as they are."""
    for name in ("spool.db", "spool.db-wal"):
        path = host.state_dir / name
        if path.exists():
            (host.state_dir / f"{name}.kept").write_bytes(path.read_bytes())
    seed = (host.state_dir / "seed").read_bytes()
    try:
        host.spool.close()
    except BaseException:
        host.spool._db.close(True)
    for name in ("spool.db", "spool.db-wal"):
        path, kept = host.state_dir / name, host.state_dir / f"{name}.kept"
        path.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(path)
    (host.state_dir / "seed").write_bytes(seed)
    host.spool = host.open_spool()


CHILD = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from tests.agent.rig import CountingRandom, Host, append
    from tests.agent.test_crash import Countdown, CrashingDisk, CrashingVfs

    class Exit(Countdown):
        def __call__(self, change):
            self.left -= 1
            if self.left == 0:
                os._exit(9)
            return change()

    countdown = Exit()
    vfs = CrashingVfs(countdown)
    host = Host(Path(sys.argv[1]), CrashingDisk(countdown), "crashing")
    host.random = CountingRandom(sys.argv[2].encode())
    countdown.left = int(sys.argv[2])
    host.start()
    for i in range(5):
        append(host.logs / "a.log", b"%s line %d\\n" % (sys.argv[2].encode(), i))
        host.now_ns += 10**9
        host.changed(host.logs / "a.log")
        host.settle()
    host.stop()
    """
)


@pytest.mark.process
def test_a_process_that_is_killed_again_and_again(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / name) for name in (".", "core", "agent"))
    codes = []
    for at in (1, 2, 3, 5, 8, 9, 10, 11, 13, 17, 21, 26, 33, 1000):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), str(at)],
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
            capture_output=True,
        )
        assert done.returncode in (0, 9), done.stderr.decode()
        codes.append(done.returncode)
    assert set(codes) == {0, 9}
    host = Host(tmp_path)
    host.start()
    host.settle()
    sealed = host.verify()
    assert sealed.of(host.logs / "a.log") == [(host.logs / "a.log").read_bytes()]
