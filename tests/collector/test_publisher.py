"""The publisher's decisions in time, and the driver that performs what it asks for."""

import threading

import pytest

from duramen.system import SystemClock
from duramen_collector.driver import RegionDriver
from duramen_collector.heads import RegionCall
from duramen_collector.publisher import Batch, Publisher, PublisherState, Wait
from duramen_collector.store.port import Create, Failed, Found, Get, Stored
from tests.collector.region_lab import START_NS, MemoryStore, Site, blocks, know_chain, land
from tests.collector.test_sequencer import initialise

SECOND = 10**9


class Drive:
    """A publisher ticked by hand; ``now`` runs with the site's clock."""

    def __init__(self, stores, *, name="one", connection=None, **kwargs):
        self.site = Site(stores, name=name, **({} if connection is None else {"connection": connection}))
        self.publisher = Publisher(
            self.site.sequencer,
            self.site.ledger,
            **({"interval_ns": 10 * SECOND, "max_bytes": 5000} | kwargs),
        )
        self.batches = 0

    @property
    def now(self):
        return self.site.clock.now_ns - START_NS

    def tick(self):
        """Tick, and perform what comes of it until there is a wait."""
        effect = self.publisher.tick(self.now, self.site.clock.now_ns)
        while isinstance(effect, Batch):
            self.batches += 1
            assert self.publisher.tick(self.now, self.site.clock.now_ns) is effect
            answers = [self.site.stores[call.region].perform(call.call) for call in effect.calls]
            effect = self.publisher.answers(answers, self.now)
        assert isinstance(effect, Wait)
        return effect

    def until(self, seconds):
        """Tick whenever a wait is over, for so long."""
        end = self.site.clock.now_ns + round(seconds * SECOND)
        while True:
            wait = self.tick()
            if wait.until_ns is None or START_NS + wait.until_ns > end:
                self.site.clock.now_ns = end
                return
            self.site.clock.now_ns = max(self.site.clock.now_ns, START_NS + wait.until_ns)

    def land(self, count, first):
        land(self.site.connection, "acme", blocks(count, first=first), self.site.clock.now_ns)

    @property
    def size(self):
        return self.site.ledger.position().size


@pytest.fixture
def stores():
    made = {name: MemoryStore() for name in "abc"}
    initialise(made)
    return made


def test_interval_and_size(stores):
    drive = Drive(stores)
    assert drive.publisher.status().state is PublisherState.ACQUIRING
    drive.until(3)
    status = drive.publisher.status()
    assert (status.state, status.reason, status.size) == (PublisherState.HOLDING, None, 0)
    assert status.ballot == drive.site.sequencer.ballot
    drive.land(3, 1)
    drive.until(9.5)
    assert drive.size == 0
    drive.until(1)
    assert drive.size == 3
    drive.land(50, 4)  # more than max_bytes: at once, but a second after the last one
    drive.until(1)
    assert drive.size > 3
    drive.until(6)
    assert drive.size == 53


def test_nothing_to_do_costs_no_calls(stores):
    drive = Drive(stores)
    drive.until(1)
    before = drive.batches
    drive.until(30)
    assert drive.batches == before


def test_statement_from_the_future_is_due(stores):
    """The clock was set back: what is waiting does not wait until it comes round again."""
    drive = Drive(stores)
    drive.until(1)
    drive.site.clock.now_ns += 3600 * SECOND
    drive.land(1, 1)
    drive.site.clock.now_ns -= 3600 * SECOND
    drive.tick()
    assert drive.size == 1


def test_too_few_regions_then_enough(stores):
    drive = Drive(stores)
    drive.until(1)
    stores["a"].is_down = stores["b"].is_down = True
    drive.land(1, 1)
    drive.until(30)
    status = drive.publisher.status()
    assert status.state is PublisherState.HOLDING
    assert "a: down" in status.reason
    assert drive.publisher.is_accepting()
    tries = drive.batches
    drive.until(600)
    assert drive.batches - tries < 60, "it backs off to a minute"
    stores["a"].is_down = stores["b"].is_down = False
    drive.until(61)
    assert drive.size == 1
    assert drive.publisher.status().reason is None


def test_cannot_acquire_yet(stores):
    for store in stores.values():
        store.is_down = True
    drive = Drive(stores)
    drive.until(5)
    assert drive.publisher.status().state is PublisherState.ACQUIRING
    assert "answered" in drive.publisher.status().reason
    for store in stores.values():
        store.is_down = False
    drive.until(60)
    assert drive.publisher.status().state is PublisherState.HOLDING


def test_lagging_region_is_repaired_by_itself(stores):
    drive = Drive(stores)
    drive.until(1)
    stores["b"].is_down = True
    drive.land(10, 1)
    drive.until(12)
    (b,) = [region for region in drive.publisher.status().regions if region.name == "b"]
    assert (b.behind, b.error) == (10, "down")
    before = drive.batches
    drive.until(600)
    assert drive.batches - before < 40
    stores["b"].is_down = False
    drive.until(61)
    assert {region.behind for region in drive.publisher.status().regions} == {0}
    assert stores["b"].objects["acme/checkpoint"]


def test_stepped_down_until_promoted(stores):
    drive = Drive(stores)
    drive.until(1)
    standby = Drive(stores, name="standby")
    standby.until(5)
    assert standby.publisher.status().state is PublisherState.STEPPED_DOWN
    assert standby.publisher.status().ballot == drive.site.sequencer.ballot
    standby.publisher.promote()
    standby.until(5)
    assert standby.publisher.status().state is PublisherState.HOLDING
    drive.land(1, 1)
    drive.until(20)
    status = drive.publisher.status()
    assert status.state is PublisherState.STEPPED_DOWN
    assert str(standby.site.sequencer.ballot) in status.reason
    assert not drive.publisher.is_accepting()
    assert drive.tick() == Wait(None)


def test_stopped(stores):
    drive = Drive(stores)
    know_chain(drive.site.connection, "acme", b"c" * 32)
    with drive.site.connection.begin():
        drive.site.connection.exec_driver_sql("UPDATE chains SET seen_size = 9")
    drive.until(5)
    status = drive.publisher.status()
    assert (status.state, status.code) == (PublisherState.STOPPED, "checkpoint_rollback")
    assert not drive.publisher.is_accepting()
    with drive.site.connection.begin():
        drive.site.connection.exec_driver_sql("UPDATE chains SET seen_size = 0")
    drive.publisher.promote()
    drive.until(1)
    assert drive.publisher.status().state is PublisherState.HOLDING


def test_promotion_while_a_batch_is_out(stores):
    """It takes effect after the operation under way, and is not lost when that ends in stepping down."""
    drive = Drive(stores)
    drive.until(1)
    other = Drive(stores, name="other")
    other.publisher.promote()
    other.until(1)
    drive.land(1, 1)
    drive.site.clock.now_ns += 20 * SECOND
    effect = drive.publisher.tick(drive.now, drive.site.clock.now_ns)
    drive.publisher.promote()
    while isinstance(effect, Batch):
        answers = [stores[call.region].perform(call.call) for call in effect.calls]
        effect = drive.publisher.answers(answers, drive.now)
    drive.until(20)
    assert drive.publisher.status().state is PublisherState.HOLDING
    assert drive.size == 1


def test_database_that_fails_is_tried_again(stores):
    drive = Drive(stores)
    drive.until(1)
    connection = drive.site.connection
    with connection.begin():
        connection.exec_driver_sql("ALTER TABLE landing RENAME TO away")
    wait = drive.tick()
    assert wait.until_ns > drive.now
    assert "database" in drive.publisher.status().reason
    with connection.begin():
        connection.exec_driver_sql("ALTER TABLE away RENAME TO landing")
    drive.until(5)
    assert drive.publisher.status().reason is None


def test_answers_must_fit(stores):
    drive = Drive(stores)
    with pytest.raises(AssertionError):
        drive.publisher.answers([], 0)
    effect = drive.publisher.tick(0, START_NS)
    with pytest.raises(AssertionError):
        drive.publisher.answers([Failed("x")] * (len(effect.calls) + 1), 0)


# The driver


class HangingStore(MemoryStore):
    """Does what it is asked only after it is let go."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def perform(self, call):
        self.gate.wait(10)
        return super().perform(call)


@pytest.fixture
def hanging():
    store = HangingStore()
    yield store
    store.gate.set()


def test_driver_answers_in_order():
    stores = {name: MemoryStore() for name in "ab"}
    driver = RegionDriver(stores, 5)
    calls = [RegionCall(name, Create(f"t/{number}", b"%d" % number)) for number in range(40) for name in "ab"]
    assert all(isinstance(answer, Stored) for answer in driver.perform(calls))
    answers = driver.perform([RegionCall(call.region, Get(call.call.key)) for call in calls])
    assert [answer.data for answer in answers] == [call.call.data for call in calls]
    driver.close()


def test_driver_does_not_wait_for_a_region_that_hangs(hanging):
    """The answer is Failed; what had begun happens later, what had not is taken back."""
    driver = RegionDriver({"a": MemoryStore(), "h": hanging}, 0.1, threads=1, clock=SystemClock())
    calls = [
        RegionCall("h", Create("t/1", b"1")),
        RegionCall("a", Create("t/1", b"1")),
        RegionCall("h", Create("t/2", b"2")),
    ]
    begun, fine, waiting = driver.perform(calls)
    assert "may yet happen" in begun.reason
    assert isinstance(fine, Stored)
    assert "nothing was written" in waiting.reason
    hanging.gate.set()
    driver.close()
    patience = threading.Event()
    while "t/1" not in hanging.objects:
        patience.wait(0.01)
    assert hanging.keys() == {"t/1"}


def test_driver_lets_a_bug_through():
    class Broken:
        def perform(self, call):
            raise ZeroDivisionError

    driver = RegionDriver({"a": Broken()}, 5)
    with pytest.raises(ZeroDivisionError):
        driver.perform([RegionCall("a", Get("x"))])
    driver.close()


def test_driver_runs_a_whole_log(stores):
    driver = RegionDriver(stores, 5)
    site = Site(stores)
    driver.run(site.sequencer.acquire())
    site.land(blocks(30))
    driver.run(site.sequencer.publish())
    assert site.ledger.position().size == 30
    (answer,) = driver.perform([RegionCall("a", Get("acme/checkpoint"))])
    assert isinstance(answer, Found)
    driver.close()
