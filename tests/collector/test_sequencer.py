"""The sequencer over stores that do as they are told: what is where afterwards."""

import pytest

from duramen.region import CHECKPOINT_KEY
from duramen_collector.heads import initialise_regions
from duramen_collector.outcome import Acquired, Idle, Published, Repaired, SteppedDown, Stopped, Unavailable
from tests.collector.region_lab import ORIGIN, CountedRandom, MemoryStore, Site, blocks, run, settings


def make_stores(names="abc"):
    stores = {name: MemoryStore() for name in names}
    configuration = settings(names=tuple(names)).configuration
    run(stores, initialise_regions("acme", ORIGIN, configuration, CountedRandom("init")))
    return stores


def checkpoint_size(store) -> int:
    data = store.objects.get(f"acme/{CHECKPOINT_KEY}")
    return 0 if data is None else int(data[0].split(b"\n")[1])


def test_publish():
    stores = make_stores()
    site = Site(stores)
    assert isinstance(site.acquire(), Acquired)
    assert site.publish() == Idle()
    site.land(blocks(10))
    assert site.publish() == Published(10, 10)
    site.land(blocks(300, first=11))
    assert site.publish() == Published(310, 300)
    assert [checkpoint_size(store) for store in stores.values()] == [310] * 3
    assert site.ledger.position().size == 310
    restarted = Site(stores, site.connection, "again")
    assert restarted.acquire() == Acquired(restarted.sequencer.ballot, 310)
    assert restarted.publish() == Idle()
