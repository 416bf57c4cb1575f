"""The simulated disk gives back what was durable, whatever was written after."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.sim.disk import Inode

writes = st.lists(st.one_of(st.tuples(st.integers(0, 40), st.binary(max_size=20)), st.integers(0, 40)))


def change(inode: Inode, item: int | tuple[int, bytes]) -> None:
    if isinstance(item, int):
        inode.truncate(item)
    else:
        inode.write(*item)


@given(writes, writes)
def test_what_was_synced_is_durable(
    before: list[int | tuple[int, bytes]], after: list[int | tuple[int, bytes]]
) -> None:
    inode = Inode(1)
    for item in before:
        change(inode, item)
    inode.sync()
    synced = bytes(inode.data)
    for item in after:
        change(inode, item)
    assert bytes(inode.durable()) == synced


def test_a_power_cut_may_lose_what_was_not_synced_and_nothing_else() -> None:
    found = set()
    for seed in range(20):
        inode = Inode(1)
        inode.write(0, b"synced")
        inode.sync()
        inode.write(6, b"+")
        inode.cut_power(random.Random(seed))
        found.add(bytes(inode.data))
    assert found == {b"synced", b"synced+"}
