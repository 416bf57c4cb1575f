"""Random lives of log files on a disk in memory, against a ledger of every incarnation."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from duramen_agent.step import PathsChanged
from tests.agent.fake_disk import FakeDisk, Inode
from tests.agent.rig import SECOND, Host


@dataclass
class Life:
    """One incarnation of a file: from creation or truncation to the next."""

    inode: Inode
    written: bytes = b""
    cut_off: bool = False
    """Whether bytes of it may have been lost: it was truncated, or unlinked while nobody held it."""


@dataclass
class World:
    host: Host
    disk: FakeDisk
    lives: list[Life] = field(default_factory=list)
    current: dict[int, Life] = field(default_factory=dict)
    changed: set[bytes] = field(default_factory=set)

    def path(self, name: str) -> bytes:
        return b"%s/%s" % (str(self.host.logs).encode(), name.encode())

    def begin(self, inode: Inode) -> None:
        life = Life(inode)
        self.lives.append(life)
        self.current[id(inode)] = life
        self.append(inode, b"life %d\n" % len(self.lives))

    def append(self, inode: Inode, data: bytes) -> None:
        self.disk.append(inode, data)
        self.current[id(inode)].written += data

    def act(self, action: str, name: str, data: bytes) -> None:
        path = self.path(name)
        inode = self.disk.names.get(path)
        self.changed.add(path)
        if action == "append":
            if inode is None:
                self.begin(self.disk.create(path))
            else:
                self.append(inode, data)
        elif action == "truncate" and inode is not None:
            self.current[id(inode)].cut_off = True
            self.disk.truncate(inode)
            self.begin(inode)
        elif action == "delete" and inode is not None:
            self.disk.unlink(path)
            self.current[id(inode)].cut_off |= not inode.opened
        elif action == "rotate" and inode is not None:
            target = self.path(name.replace(".log", ".1.log") if name == "a.log" else name + ".1")
            old = self.disk.names.get(target)
            known = self.host.engine._tailer._by_identity.get((1, inode.number))
            if known is None or (known.name != path and self.disk.names.get(known.name) is not inode):
                self.current[id(inode)].cut_off = True  # renamed out of the patterns before it was seen
            if not inode.opened and sum(life.inode is inode for life in self.lives) > 1:
                self.current[
                    id(inode)
                ].cut_off = True  # truncated, too, while nobody held it: an event says so
            self.disk.rename(path, target)
            self.changed.add(target)
            if old is not None:
                self.current[id(old)].cut_off |= not old.opened
            self.begin(self.disk.create(path))
        elif action == "late" and self.lives:
            life = self.lives[-min(len(self.lives), 2)]
            if self.current[id(life.inode)] is life and (life.inode.links or life.inode.opened):
                self.append(life.inode, data)

    def time(self, action: str) -> None:
        host = self.host
        if action == "report":
            host.step(PathsChanged(frozenset(self.changed)))
            self.changed.clear()
            host.settle()
        elif action == "second":
            host.run(1)
        elif action == "minute":
            host.run(60)
        elif action == "crash":
            for inode in self.disk.inodes:
                if inode.opened and not inode.links:
                    self.current[id(inode)].cut_off = True
                inode.opened = 0
            host.restart()
        elif action == "unmount":
            self.disk.mounted = not self.disk.mounted

    def check(self) -> None:
        self.disk.mounted = True
        self.host.run(200)
        sealed = self.host.verify()
        by_life = {}
        for file, content in sealed.files.items():
            first = content.split(b"\n")[0]
            assert first not in by_life, "a life is sealed once"
            by_life[first] = (file, content)
        for number, life in enumerate(self.lives, 1):
            file, content = by_life.pop(b"life %d" % number, ("", b""))
            if content == life.written:
                continue
            assert life.written.startswith(content)
            missing = life.written[len(content) :]
            note(f"life {number} lacks {missing!r}; {sealed.events}")
            if not life.cut_off:
                assert b"\n" not in missing, "only an unfinished line waits"
            elif file and b"\n" in missing:
                assert any(event.get("file") == file for event in sealed.events if event["event"] != "start")
        assert not by_life


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
NAMES = st.sampled_from(["a.log", "b.log"])
TEXTS = {
    "line": b"x\n",
    "torn": b"torn",
    "two": b"y\nz\n",
    "long": b"-" * 2000 + b"\n",
    "end": b"\n",
    "longer": b"w" * 70_000,
}
DATA = st.sampled_from(list(TEXTS))
ACTIONS = st.one_of(
    st.tuples(st.just("append"), NAMES, DATA),
    st.tuples(st.sampled_from(["append", "truncate", "delete", "rotate", "late"]), NAMES, DATA),
    st.tuples(st.sampled_from(["report", "report", "second", "minute", "crash", "unmount"]), NAMES, DATA),
)


@settings(max_examples=100, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=30), st.booleans())
def test_every_life_is_sealed_once_and_whole(actions: list[tuple[str, str, str]], few: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        disk = FakeDisk()
        host = Host(Path(root), disk)
        disk.create(str(host.logs).encode() + b"/keeps-the-directory-listable")
        host.start()
        if few:
            host.engine._tailer._max_open = 1
        world = World(host, disk)
        for action, name, data in actions:
            world.act(action, name, TEXTS[data])
            world.time(action)
        world.check()
        host.spool.close()


@settings(max_examples=30, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(NAMES, DATA), max_size=12), st.data())
def test_errors_of_the_disk_delay_and_lose_nothing(
    writes: list[tuple[str, str]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as root:
        disk = FakeDisk()
        host = Host(Path(root), disk)
        disk.create(str(host.logs).encode() + b"/keeps-the-directory-listable")
        world = World(host, disk)
        numbers = st.sampled_from(
            [None, None, errno.EIO, errno.EACCES, errno.ENOENT, errno.EMFILE, errno.ESTALE]
        )
        host.start()
        failing = {"read_at", "fstat", "open", "stat", "overwrite", "free_bytes"}
        disk.fail = lambda operation, path: data.draw(numbers) if operation in failing else None
        for name, content in writes:
            world.act("append", name, TEXTS[content])
            host.step(PathsChanged(frozenset({world.path(name)})))
            for _ in range(3):
                host.now_ns += SECOND
                host.step()
        disk.fail = lambda operation, path: None
        world.check()
        assert [life.cut_off for life in world.lives] == [False] * len(world.lives)
        assert set(host.verify().kinds()) <= {"start", "paused"}
        host.spool.close()
