"""What every object store must do (the port's words, one test each); a subclass's ``store`` fixture says
which one.

Concurrency is part of it: threads race for one name, and for one register.
"""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from duramen_collector.store.port import (
    Absent,
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
from tests.collector.region_lab import START_NS

NOW_S = START_NS // 10**9


class StoreConformance:
    """Tests; ``store`` is an empty one whose clock (``clock``) stands at START_NS."""

    def test_absent(self, store):
        assert store.perform(Get("t/a")) == Absent()
        assert store.perform(Stat("t/a")) == Absent()
        assert store.perform(List("")) == Listed((), more=False)
        assert isinstance(store.perform(Delete("t/a")), Stored)

    def test_create_and_read(self, store):
        stored = store.perform(Create("t/a", b"hello"))
        assert isinstance(stored, Stored)
        assert store.perform(Get("t/a")) == Found(b"hello", stored.version, 5)
        assert store.perform(Stat("t/a")) == Found(b"", stored.version, 5)

    def test_ranges(self, store):
        store.perform(Create("t/a", b"0123456789"))

        def read(*span):
            answer = store.perform(Get("t/a", *span))
            assert answer.size == 10
            return answer.data

        assert read(3) == b"3456789"
        assert read(3, 2) == b"34"
        assert read(8, 99) == b"89"
        assert read(10, 1) == read(99) == read(0, 0) == b""

    def test_empty_object(self, store):
        store.perform(Create("t/a", b""))
        assert store.perform(Get("t/a")).data == b""

    def test_create_is_exclusive(self, store):
        assert isinstance(store.perform(Create("t/a", b"one")), Stored)
        assert isinstance(store.perform(Create("t/a", b"one")), Stored)
        assert store.perform(Create("t/a", b"two")) == Conflict()
        assert store.perform(Create("t/a", b"on")) == Conflict()
        assert store.perform(Get("t/a")).data == b"one"

    def test_swap(self, store):
        assert store.perform(Swap("t/h", b"x", "nonsense")) == Conflict()
        first = store.perform(Swap("t/h", b"one", None))
        assert store.perform(Swap("t/h", b"x", None)) == Conflict()
        second = store.perform(Swap("t/h", b"two", first.version))
        assert store.perform(Swap("t/h", b"x", first.version)) == Conflict()
        assert store.perform(Get("t/h")) == Found(b"two", second.version, 3)

    def test_created_object_can_be_swapped(self, store):
        created = store.perform(Create("t/h", b"one"))
        assert isinstance(store.perform(Swap("t/h", b"two", created.version)), Stored)
        assert store.perform(Create("t/h", b"one")) == Conflict()

    def test_bytes_that_come_back_are_another_version(self, store):
        first = store.perform(Swap("t/h", b"A", None))
        second = store.perform(Swap("t/h", b"B", first.version))
        third = store.perform(Swap("t/h", b"A", second.version))
        assert len({first.version, second.version, third.version}) == 3
        assert store.perform(Swap("t/h", b"X", first.version)) == Conflict()
        store.perform(Delete("t/h"))
        assert store.perform(Swap("t/h", b"X", third.version)) == Conflict()
        fourth = store.perform(Swap("t/h", b"A", None))
        assert fourth.version != third.version

    def test_retention(self, store, clock):
        store.perform(Create("t/a", b"one", NOW_S + 100))
        assert isinstance(store.perform(Delete("t/a")), Failed)
        version = store.perform(Get("t/a")).version
        assert isinstance(store.perform(Swap("t/a", b"two", version)), Failed)
        clock.now_ns += 101 * 10**9
        assert isinstance(store.perform(Delete("t/a")), Stored)
        assert store.perform(Get("t/a")) == Absent()

    def test_retention_is_extended_and_never_shortened(self, store, clock):
        store.perform(Create("t/a", b"one", NOW_S + 10))
        assert isinstance(store.perform(Create("t/a", b"one", NOW_S + 100)), Stored)
        assert isinstance(store.perform(Create("t/a", b"one", NOW_S + 5)), Stored)
        assert isinstance(store.perform(Create("t/a", b"one")), Stored)
        clock.now_ns += 50 * 10**9
        assert isinstance(store.perform(Delete("t/a")), Failed)

    def test_list(self, store):
        keys = ["t/tile/0/000", "t/tile/0/000.p/5", "t/tile/0/001", "t/tile/0/x001/000", "t/z", "u/a"]
        for key in reversed(keys):
            store.perform(Create(key, key.encode()))
        store.perform(Swap("t/head", b"h", None))
        everything = sorted([*keys, "t/head"])
        assert store.perform(List("")) == Listed(tuple(everything), more=False)
        assert store.perform(List("t/tile/0/000")).keys == ("t/tile/0/000", "t/tile/0/000.p/5")
        assert store.perform(List("t/tile/0/000.p/")).keys == ("t/tile/0/000.p/5",)
        assert store.perform(List("t/q")).keys == ()
        assert store.perform(List("t/z/")).keys == ()
        for limit in range(1, len(everything) + 2):
            found, after, more = [], "", True
            while more:
                answer = store.perform(List("", after, limit))
                assert len(answer.keys) <= limit
                found += answer.keys
                more, after = answer.more, found[-1]
            assert found == everything

    def test_delete_and_create_again(self, store):
        for data in (b"one", b"two", b"three"):
            assert isinstance(store.perform(Create("t/p/000.p/7", data)), Stored)
            assert store.perform(Get("t/p/000.p/7")).data == data
            assert isinstance(store.perform(Delete("t/p/000.p/7")), Stored)
            assert store.perform(Get("t/p/000.p/7")) == Absent()

    @pytest.mark.parametrize("round_", range(4))
    def test_one_creator_wins(self, store, round_):
        barrier = threading.Barrier(8)

        def create(number):
            barrier.wait()
            return store.perform(Create(f"t/{round_}/deep/name", b"%d" % number))

        with ThreadPoolExecutor(8) as pool:
            kinds = Counter(type(answer) for answer in pool.map(create, range(8)))
        assert kinds == {Stored: 1, Conflict: 7}

    def test_same_bytes_are_success_for_all(self, store):
        barrier = threading.Barrier(8)

        def create(_):
            barrier.wait()
            return store.perform(Create("t/same/name", b"same"))

        with ThreadPoolExecutor(8) as pool:
            assert all(isinstance(answer, Stored) for answer in pool.map(create, range(8)))

    def test_no_swap_is_lost(self, store):
        """Eight writers count in one register; every success is in the sum."""
        store.perform(Swap("t/head", b"0", None))

        def count(_):
            wins = 0
            while wins < 10:
                found = store.perform(Get("t/head"))
                wins += isinstance(
                    store.perform(Swap("t/head", b"%d" % (int(found.data) + 1), found.version)), Stored
                )

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count, range(8)))
        assert store.perform(Get("t/head")).data == b"80"

    def test_create_and_delete_side_by_side(self, store):
        def churn(number):
            for turn in range(20):
                key = f"t/churn/{number}.{turn}"
                assert isinstance(store.perform(Create(key, b"x")), Stored)
                assert isinstance(store.perform(Delete(key)), Stored)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(churn, range(4)))
