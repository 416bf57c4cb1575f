"""Publication in the running collector: a publisher for each tenant, driven by asyncio.

A publisher is a state machine (:mod:`duramen_collector.publisher`). Its own steps, which read and write the
database, run in the writer's thread between its transactions, so nothing ever waits for a lock; its calls
to regions run in the region driver's threads, with no transaction open. Tenants that appear while the
collector runs are found within ``LOOK_SECONDS``.

A publisher that raises is dropped and made anew after a pause; its first operation is then an acquisition,
which repairs what was left half done. One that stepped down or stopped makes the service refuse that
tenant's blocks, with its reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import sqlalchemy as sa

from duramen.errors import DuramenError
from duramen.ports import Clock, Random
from duramen_collector.configuration import Configuration
from duramen_collector.database import reading, writing_connection
from duramen_collector.driver import RegionDriver
from duramen_collector.history import pack_index
from duramen_collector.keystore import LogKeyStore
from duramen_collector.ledger import Ledger
from duramen_collector.publisher import Batch, Publisher, PublisherState, PublisherStatus, Wait
from duramen_collector.register import Configuration as RegionConfiguration
from duramen_collector.replica import TwoKeySigner
from duramen_collector.sequencer import LogSettings, Retention, Sequencer
from duramen_collector.service import Service
from duramen_collector.store.opening import open_store
from duramen_collector.store.port import Answer, ObjectStore
from duramen_collector.tenancy import Tenant, list_tenants
from duramen_collector.writer import Writer

LOOK_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 5.0
REGION_TIMEOUT_SECONDS: Final = 30.0
PACK_BYTES: Final = 4 * 1024 * 1024
"""About how much one pack may hold. ``publish.max_bytes`` says when to publish, not how much: a log moves
once a second at most, so a backlog has to travel in large packs."""
_BEGINNING: Final = PublisherStatus(
    PublisherState.ACQUIRING, reason=None, code=None, ballot=None, size=0, regions=()
)

T = TypeVar("T")
_log = logging.getLogger("duramen.collector")


def region_configuration(configuration: Configuration) -> RegionConfiguration:
    """The regions and the number of copies, as their registers hold them."""
    names = tuple(sorted(region.name for region in configuration.regions))
    return RegionConfiguration(epoch=1, regions=names, copies=configuration.publish.copies)


def log_settings(configuration: Configuration, tenant: str) -> LogSettings:
    """What the sequencer of ``tenant`` wants to know."""
    retention = configuration.retention
    return LogSettings(
        tenant=tenant,
        configuration=region_configuration(configuration),
        retention=Retention(
            retention.default_ns // 10**9,
            {number: life_ns // 10**9 for number, life_ns in retention.classes_ns.items()},
        ),
        max_bytes=max(PACK_BYTES, configuration.publish.max_bytes),
    )


def open_stores(configuration: Configuration, *, create: bool = False) -> dict[str, ObjectStore]:
    """The regions' stores by name; ``create`` is the operator's alone."""
    return {region.name: open_store(region.url, create=create) for region in configuration.regions}


class Publication:
    """Runs the publishers of all tenants until it is cancelled."""

    def __init__(
        self,
        configuration: Configuration,
        engine: sa.Engine,
        writer: Writer,
        log_keys: LogKeyStore,
        service: Service,
        clock: Clock,
        random: Random,
    ) -> None:
        self._configuration = configuration
        self._engine = engine
        self._writer = writer
        self._log_keys = log_keys
        self._service = service
        self._clock = clock
        self._random = random
        self._driver = RegionDriver(open_stores(configuration), REGION_TIMEOUT_SECONDS, clock)
        self._statuses: dict[str, PublisherStatus] = {}
        self.has_looked = False

    def statuses(self) -> Mapping[str, PublisherStatus] | None:
        """Where each tenant's publication stands, as of its last step.

        None before the first look for tenants.
        """
        return self._statuses if self.has_looked else None

    async def run(self) -> None:
        """Publish for every tenant; returns only by cancellation."""
        connection = writing_connection(self._engine)
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for tenant in await asyncio.to_thread(self._tenants):
                    if tenant.tenant not in tasks:
                        self._statuses[tenant.tenant] = _BEGINNING
                        tasks[tenant.tenant] = asyncio.create_task(self._keep_publishing(connection, tenant))
                self.has_looked = True
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._driver.close()
            await self._alone(connection.close)

    def _tenants(self) -> list[Tenant]:
        with reading(self._engine) as connection:
            return list_tenants(connection)

    async def _keep_publishing(self, connection: sa.Connection, tenant: Tenant) -> None:
        while True:
            try:
                await self._publish(connection, tenant)
            except DuramenError as error:
                _log.error("publication of %s is interrupted: %s", tenant.tenant, error)
            except Exception:  # noqa: BLE001  # one tenant's defect must not end the others' publication
                _log.exception("publication of %s is interrupted by a defect of this program", tenant.tenant)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _publish(self, connection: sa.Connection, tenant: Tenant) -> None:
        publisher = self._publisher(connection, tenant)
        while True:
            effect = await self._alone(
                lambda: publisher.tick(self._clock.monotonic_ns(), self._clock.wall_ns())
            )
            while isinstance(effect, Batch):
                answers = await asyncio.to_thread(self._driver.perform, effect.calls)
                effect = await self._alone(self._answering(publisher, answers))
            self._note(tenant, publisher)
            await asyncio.sleep(self._pause_seconds(effect))

    def _publisher(self, connection: sa.Connection, tenant: Tenant) -> Publisher:
        ledger = Ledger(connection, tenant.tenant, pack_index(tenant.tenant))
        signer = TwoKeySigner(self._log_keys.load(tenant.tenant, tenant.origin).log)
        settings = log_settings(self._configuration, tenant.tenant)
        publish = self._configuration.publish
        return Publisher(
            Sequencer(settings, ledger, signer, self._clock, self._random),
            ledger,
            interval_ns=publish.interval_ns,
            max_bytes=publish.max_bytes,
        )

    def _answering(self, publisher: Publisher, answers: Sequence[Answer]) -> Callable[[], Batch | Wait]:
        return lambda: publisher.answers(answers, self._clock.monotonic_ns())

    def _pause_seconds(self, wait: Wait) -> float:
        if wait.until_ns is None:
            return PAUSE_SECONDS
        return max(0.0, (wait.until_ns - self._clock.monotonic_ns()) / 10**9)

    def _note(self, tenant: Tenant, publisher: Publisher) -> None:
        status = publisher.status()
        before = self._statuses.get(tenant.tenant)
        self._statuses[tenant.tenant] = status
        if before is None or (before.state, before.reason) != (status.state, status.reason):
            _log.info(
                "log of %s: %s%s", tenant.tenant, status.state, f", {status.reason}" if status.reason else ""
            )
        if publisher.is_accepting():
            self._service.resume(tenant.tenant)
        else:
            self._service.step_down(tenant.tenant, status.reason or "another sequencer took this log over")

    async def _alone(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._writer.submit_alone(work))
