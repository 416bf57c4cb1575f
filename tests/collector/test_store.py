"""File regions and the fake in memory against one suite, and what only files can do wrong."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.errors import ConfigurationError, UsageError
from duramen_collector.store import file_store
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.opening import open_store
from duramen_collector.store.port import (
    Absent,
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
from tests.collector.region_lab import MemoryStore, TurnedClock
from tests.collector.store_conformance import NOW_S, StoreConformance


@pytest.fixture
def clock():
    return TurnedClock()


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self, clock):
        return MemoryStore(clock)


class TestFileStore(StoreConformance):
    @pytest.fixture
    def store(self, clock, tmp_path):
        return FileStore(tmp_path, clock)

    def test_modes(self, store, tmp_path):
        store.perform(Create("t/packs/a", b"x", NOW_S + 1))
        store.perform(Swap("t/head", b"x", None))
        for path in (tmp_path / "t/packs/a", tmp_path / "t/head"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o444
        for path in (tmp_path / "t", tmp_path / "t/packs", tmp_path / ".tmp"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert (tmp_path / "t/packs/a").stat().st_mtime == NOW_S + 1

    def test_two_stores_of_one_directory_agree(self, store, clock, tmp_path):
        other = FileStore(tmp_path, clock)
        first = store.perform(Swap("t/head", b"1", None))
        assert other.perform(Get("t/head")).version == first.version
        second = other.perform(Swap("t/head", b"2", first.version))
        assert isinstance(store.perform(Swap("t/head", b"3", second.version)), Stored)

    def test_a_file_put_there_by_other_means_is_another_version(self, store, tmp_path):
        first = store.perform(Swap("t/head", b"1", None))
        copy = tmp_path / "copy"
        copy.write_bytes(b"1")
        copy.rename(tmp_path / "t/head")
        assert store.perform(Get("t/head")).version != first.version

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "../a",
            ".tmp/a",
            "a/.b",
            "a\0b",
            "a b",
            "é",
            "-a",
            "a" * 201,
            "a/" * 600 + "a",
        ],
    )
    def test_keys_that_are_none(self, store, key):
        for call in (Get(key), Stat(key), Create(key, b""), Swap(key, b"", None), Delete(key)):
            with pytest.raises(UsageError):
                store.perform(call)

    @pytest.mark.parametrize("prefix", ["/", "../", "a/../", ".tmp", "a/.", "a\n"])
    def test_prefixes_that_are_none(self, store, prefix):
        with pytest.raises(UsageError):
            store.perform(List(prefix))

    def test_senseless_numbers(self, store):
        for call in (Get("a", -1), Get("a", 0, -1), List("", limit=0)):
            with pytest.raises(UsageError):
                store.perform(call)

    def test_leftovers_are_never_listed_and_are_swept(self, clock, tmp_path):
        """What a writer that died left: its temporary file, and a lock."""
        (tmp_path / ".tmp").mkdir()
        (tmp_path / ".tmp/123-4-5-0").write_bytes(b"half")
        (tmp_path / "t").mkdir()
        (tmp_path / "t/.head.lock").write_bytes(b"")
        store = FileStore(tmp_path, clock)
        assert store.perform(List("")) == Listed((), more=False)
        assert store.perform(Get("t/head")) == Absent()
        assert isinstance(store.perform(Swap("t/head", b"1", None)), Stored)
        assert not list((tmp_path / ".tmp").iterdir())

    def test_a_living_writers_file_is_not_swept(self, clock, tmp_path):
        store, other = FileStore(tmp_path, clock), FileStore(tmp_path, clock)
        with store._temporary(b"data", None) as temporary:
            assert isinstance(other.perform(Create("t/b", b"x")), Stored)
            (tmp_path / "t").mkdir(exist_ok=True)
            temporary.link(tmp_path / "t/a")
        assert other.perform(Get("t/a")).data == b"data"

    def test_missing_root_is_not_made(self, clock, tmp_path):
        store = FileStore(tmp_path / "gone", clock)
        for call in (Get("a"), Create("a", b""), Swap("a", b"", None), Delete("a"), List("")):
            answer = store.perform(call)
            assert isinstance(answer, Failed)
            assert "mount" in answer.reason
        assert not (tmp_path / "gone").exists()

    def test_a_directory_is_no_object(self, store):
        store.perform(Create("t/a/b", b"x"))
        assert store.perform(Get("t/a")) == Absent()
        assert store.perform(Get("t/a/b/c")) == Absent()
        assert isinstance(store.perform(Create("t/a", b"x")), Conflict_or_failed)
        assert isinstance(store.perform(Create("t/a/b/c", b"x")), Failed)
        assert isinstance(store.perform(Delete("t/a")), Stored)
        assert store.perform(Get("t/a/b")).data == b"x"

    def test_a_directory_that_was_removed_is_made_again(self, store, tmp_path):
        store.perform(Create("t/x/a", b"x"))
        store.perform(Delete("t/x/a"))
        (tmp_path / "t/x").rmdir()
        assert isinstance(store.perform(Create("t/x/a", b"x")), Stored)

    def test_symbolic_links_are_not_followed(self, store, tmp_path):
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "t").mkdir()
        (tmp_path / "t/a").symlink_to(tmp_path / "secret")
        assert isinstance(store.perform(Get("t/a")), Failed)
        assert isinstance(store.perform(Create("t/a", b"secret")), Failed)

    @pytest.mark.parametrize("name", ["open", "write", "fsync", "fchmod", "link", "utime", "mkdir"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_faults_of_create(self, store, tmp_path, monkeypatch, name, number):
        """Whatever fails.

        Failed with a sentence, no object or the whole object, no temporary left, and it works again.
        """
        holder = Path if name == "mkdir" else os
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, _raise(number))
            answer = store.perform(Create("t/a", b"data", NOW_S + 5))
        assert isinstance(answer, Failed)
        assert os.strerror(number) in answer.reason
        assert store.perform(List("")).keys in ((), ("t/a",))
        assert not (tmp_path / ".tmp").exists() or not list((tmp_path / ".tmp").iterdir())
        assert isinstance(store.perform(Create("t/a", b"data", NOW_S + 5)), Stored)

    @pytest.mark.parametrize("name", ["open", "fsync", "fdatasync", "pwrite", "rename"])
    def test_faults_of_swap(self, store, tmp_path, monkeypatch, name):
        first = store.perform(Swap("t/h", b"old", None))
        with monkeypatch.context() as patch:
            patch.setattr(Path if name == "rename" else os, name, _raise(errno.EIO))
            assert isinstance(store.perform(Swap("t/h", b"new", first.version)), Failed)
        found = store.perform(Get("t/h"))
        assert found.data == b"old"
        assert isinstance(store.perform(Swap("t/h", b"newer", found.version)), Stored)

    def test_fault_of_reading(self, store, monkeypatch):
        store.perform(Create("t/a", b"data"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", lambda *_: b"")
            assert isinstance(store.perform(Get("t/a")), Failed)
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", _raise(errno.EACCES))
            assert isinstance(store.perform(List("")), Failed)

    def test_short_writes(self, store, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        assert isinstance(store.perform(Create("t/a", b"0123456789")), Stored)
        assert store.perform(Get("t/a")).data == b"0123456789"

    def test_kill_at_any_moment(self, store, tmp_path):
        """Processes that count in one register and create objects, killed: no half object, no lost count."""
        program = (
            "import sys; from pathlib import Path\n"
            "from duramen_collector.store.file_store import FileStore\n"
            "from duramen_collector.store.port import *\n"
            "store = FileStore(Path(sys.argv[1])); n = 0\n"
            "store.perform(Swap('t/head', b'0', None)); print('up', flush=True)\n"
            "while True:\n"
            "    found = store.perform(Get('t/head')); value = int(found.data) + 1\n"
            "    if isinstance(store.perform(Swap('t/head', b'%d' % value, found.version)), Stored):\n"
            "        assert isinstance(store.perform(Create(f't/n/{value}', b'%d' % value * 1000)), Stored)\n"
            "        n += 1; print(value, flush=True)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for _ in range(2):
            children = [
                subprocess.Popen(
                    [sys.executable, "-c", program, str(tmp_path)],
                    stdout=subprocess.PIPE,
                    env=environment,
                    text=True,
                )
                for _ in range(2)
            ]
            for child in children:
                child.stdout.readline()
            time.sleep(0.3)
            counts = []
            for child in children:
                child.kill()
                counts += [int(line) for line in child.communicate()[0].split("\n")[:-1]]
            assert len(set(counts)) == len(counts), "two processes won the same swap"
            assert counts
            head = int(store.perform(Get("t/head")).data)
            assert head >= max(counts)
            for key in store.perform(List("t/n/", limit=100_000)).keys:
                value = int(key.removeprefix("t/n/"))
                assert store.perform(Get(key)).data == b"%d" % value * 1000
            assert set(counts) <= {
                int(key.removeprefix("t/n/")) for key in store.perform(List("t/n/", limit=100_000)).keys
            }


Conflict_or_failed = (file_store.Conflict, Failed)


def _raise(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@given(
    st.lists(
        st.tuples(
            st.sampled_from("csgdl"),
            st.sampled_from(["a/x", "a/y", "b", "a/z.p/1"]),
            st.sampled_from([b"", b"1", b"22"]),
        ),
        max_size=25,
    )
)
def test_file_store_and_fake_agree(tmp_path_factory, script):
    clock = TurnedClock()
    stores = [FileStore(tmp_path_factory.mktemp("region"), clock), MemoryStore(clock)]
    versions: list[dict] = [{}, {}]
    for action, key, data in script:
        answers = []
        for store, known in zip(stores, versions, strict=True):
            call = {
                "c": Create(key, data),
                "s": Swap(key, data, known.get(key)),
                "g": Get(key),
                "d": Delete(key),
                "l": List(key[:1]),
            }[action]
            answer = store.perform(call)
            if isinstance(answer, Found | Stored):
                known[key] = answer.version or None
            answers.append((type(answer), getattr(answer, "data", None), getattr(answer, "keys", None)))
        assert answers[0] == answers[1]


def test_open_store(tmp_path):
    with pytest.raises(ConfigurationError, match="file:// regions only"):
        open_store("s3://bucket/prefix")
    with pytest.raises(ConfigurationError, match="file:// regions only"):
        open_store("gs://bucket/prefix")
    for url in ("file://host/path", "file:relative", "http://x/y", "/path", "file:///a?b", "file:///a#b"):
        with pytest.raises(ConfigurationError, match="absolute"):
            open_store(url)
    store = open_store(f"file://{tmp_path}/with%20space/r", create=True)
    assert isinstance(store.perform(Create("t/a", b"x")), Stored)
    assert (tmp_path / "with space/r/t/a").read_bytes() == b"x"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        open_store(f"file://{tmp_path}/file/r", create=True)
