"""A region that the collector's sequencer wrote, read by the client that knows only the C2SP texts."""

import pytest

from tests.independent import tiles_client
from tests.sim.world import TENANT, World


@pytest.fixture(scope="module")
def region():
    world = World(5, minutes=3, faults=4)
    world.run()
    prefix = f"{TENANT}/"
    objects = {
        key.removeprefix(prefix): data
        for key, (data, _) in world.stores["eu"].objects.items()
        if key.startswith(prefix)
    }
    vkey = world.vkey
    world.close()
    return objects, vkey


def test_another_client_reads_the_region(region):
    objects, vkey = region
    log = tiles_client.Log(objects.__getitem__, vkey)
    log.check()
    assert log.checkpoint.size > 50


def test_another_client_notices_a_flipped_bit(region):
    objects, vkey = region
    read = []
    tiles_client.Log(lambda key: read.append(key) or objects[key], vkey).check()
    assert len(set(read)) >= 3
    for key in set(read):
        data = bytearray(objects[key])
        data[5 if key == "checkpoint" else len(data) // 3] ^= 1  # that client ignores the other signature
        damaged = {**objects, key: bytes(data)}
        with pytest.raises((tiles_client.TlogError, KeyError)):
            tiles_client.Log(damaged.__getitem__, vkey).check()
