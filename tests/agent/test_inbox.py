"""The inbox and the file events that fill it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from duramen_agent import inbox as module
from duramen_agent import watcher as watcher_module
from duramen_agent.inbox import Inbox
from duramen_agent.source import Watch
from duramen_agent.watcher import REFRESH_NS, Watcher


@pytest.fixture
def inbox():
    inbox: Inbox[object] = Inbox()
    yield inbox
    inbox.close()


def test_everything_is_taken_once_and_in_order(inbox):
    inbox.put(1)
    inbox.put(2)
    inbox.changed(b"/a", b"/b")
    inbox.changed(b"/a")
    inbox.wait(None)
    assert inbox.take() == ([1, 2], frozenset({b"/a", b"/b"}))
    assert inbox.take() == ([], frozenset())


def test_waiting_ends_at_its_time_or_at_once_when_something_comes(inbox):
    began = time.monotonic()
    inbox.wait(30 * 10**6)
    assert 0.025 < time.monotonic() - began < 1
    inbox.wait(-5)
    threading.Timer(0.05, inbox.put, (1,)).start()
    began = time.monotonic()
    inbox.wait(10 * 10**9)
    assert time.monotonic() - began < 2


def test_many_changes_are_one_wake_up(inbox):
    for number in range(1000):
        inbox.changed(b"/%d" % (number % 3))
    assert os.eventfd_read(inbox._eventfd) == 1
    assert len(inbox.take()[1]) == 3
    inbox.changed(b"/again")
    inbox.wait(0)
    assert inbox.take()[1] == {b"/again"}


def test_too_many_paths_become_anything(inbox, monkeypatch):
    monkeypatch.setattr(module, "MAX_PATHS", 2)
    for name in (b"/a", b"/b", b"/c", b"/d"):
        inbox.changed(name)
    assert inbox.take()[1] is None
    assert inbox.take()[1] == frozenset()


def test_a_signal_may_interrupt_the_taker_anywhere(inbox):
    count = 0

    def handler(*_):
        nonlocal count
        count += 1
        inbox.put(count)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    taken = []
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            inbox.changed(b"/x")
            taken += inbox.take()[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    taken += inbox.take()[0]
    assert count > 50
    assert sorted(taken) == list(range(1, count + 1))  # a handler may interrupt another one


# File events


class Eyes:
    def __init__(self, inbox: Inbox[object]) -> None:
        self.inbox = inbox
        self.watcher = Watcher(inbox)
        self.now = 0

    def look(self, *watches: Watch) -> None:
        self.now += REFRESH_NS
        self.watcher.update(frozenset(watches), self.now)

    def sees(self, path: bytes, seconds: float = 5) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.inbox.wait(50 * 10**6)
            paths = self.inbox.take()[1]
            if paths is None or path in paths:
                return True
        return False


@pytest.fixture
def eyes(inbox):
    eyes = Eyes(inbox)
    yield eyes
    eyes.watcher.close()
    eyes.watcher._observer.join(5)


def test_creation_writing_renaming_and_removal_are_seen(eyes, tmp_path):
    directory = os.fsencode(tmp_path)
    eyes.look(Watch(directory, recursive=False))
    assert eyes.sees(directory)
    path = tmp_path / "a.log"
    path.write_bytes(b"1")
    assert eyes.sees(directory + b"/a.log")
    time.sleep(0.1)
    eyes.inbox.take()
    with path.open("ab") as file:
        file.write(b"2")
    assert eyes.sees(directory + b"/a.log")
    path.rename(tmp_path / "b.log")
    assert eyes.sees(directory + b"/b.log")
    (tmp_path / "b.log").unlink()
    assert eyes.sees(directory + b"/b.log")
    odd = directory + b"/\xff.log"
    os.close(os.open(odd, os.O_CREAT | os.O_WRONLY))
    assert eyes.sees(odd)
    os.unlink(odd)


def test_a_directory_that_appears_later_vanishes_and_is_replaced(eyes, tmp_path):
    directory = tmp_path / "later"
    watch = Watch(os.fsencode(directory), recursive=True)
    eyes.look(watch)
    assert eyes.watcher.problem is None
    for _ in range(2):
        directory.mkdir()
        eyes.look(watch)
        (directory / "sub").mkdir()
        assert eyes.sees(os.fsencode(directory / "sub"))
        (directory / "sub").rmdir()
        directory.rmdir()
        eyes.look(watch)
    directory.mkdir()
    eyes.look(watch)
    directory.rename(tmp_path / "aside")
    directory.mkdir()
    eyes.look(watch)
    (directory / "new.log").write_bytes(b"x")
    assert eyes.sees(os.fsencode(directory / "new.log"))
    eyes.look()
    assert not eyes.watcher._in_force


def test_a_watch_that_is_refused_is_said(eyes, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(eyes.watcher._observer, "schedule", refuse)
    eyes.look(Watch(os.fsencode(tmp_path), recursive=False))
    assert "looked at every 10 s" in eyes.watcher.problem

    def vanish(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(eyes.watcher._observer, "schedule", vanish)
    eyes.look(Watch(os.fsencode(tmp_path), recursive=False))
    assert eyes.watcher.problem is None
    assert watcher_module.REFRESH_NS == REFRESH_NS
