"""Publication in the running collector: tenants are found, logs published, and what goes wrong is said."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from duramen.errors import StorageError
from duramen_collector import publication as publication_module
from duramen_collector import schema
from duramen_collector.configuration import Configuration, parse_configuration
from duramen_collector.database import writing_connection
from duramen_collector.driver import RegionDriver
from duramen_collector.heads import initialise_regions
from duramen_collector.ledger import Ledger
from duramen_collector.publication import Publication, log_settings, open_stores, region_configuration
from duramen_collector.publisher import Publisher, PublisherState
from duramen_collector.refusal import Refused
from duramen_collector.replica import TwoKeySigner
from duramen_collector.sequencer import Sequencer
from duramen_collector.tenancy import create_tenant
from duramen_collector.writer import Writer

YAML = """
name: logs.example.com
state_dir: {directory}
regions: [{{name: us, url: "file://{directory}/us"}}, {{name: eu, url: "file://{directory}/eu"}}]
publish: {{copies: 2, interval: 10ms, max_bytes: 1MiB}}
retention: {{default: 7y, classes: {{1: 1y}}}}
"""


@dataclass
class Publishing:
    """A publication on a site."""

    site: Any
    configuration: Configuration
    publication: Publication

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(600):
            if holds():
                return
            self.site.clock.now_ns += 200 * 10**6
            await asyncio.sleep(0.02)
        raise AssertionError("it did not come to that")

    def state(self, tenant: str = "acme") -> PublisherState | None:
        status = (self.publication.statuses() or {}).get(tenant)
        return None if status is None else status.state

    def reason(self) -> str | None:
        return (self.publication.statuses() or {})["acme"].reason

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.publication.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def publishing(site: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publishing]:
    monkeypatch.setattr(publication_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(publication_module, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(Publication, "_pause_seconds", lambda *_: 0.02)
    configuration = parse_configuration(YAML.format(directory=site.directory).encode(), {})
    initialise(site, configuration, "acme")
    writer = Writer(site.engine)
    writer.start()
    made = Publication(
        configuration, site.engine, writer, site.log_keys, site.service, site.clock, site.random
    )
    yield Publishing(site, configuration, made)
    writer.close()


def initialise(site: Any, configuration: Configuration, tenant: str) -> None:
    driver = RegionDriver(open_stores(configuration, create=True), 20.0, site.clock)
    driver.run(
        initialise_regions(
            tenant, configuration.origin(tenant), region_configuration(configuration), site.random
        )
    )
    driver.close()


def test_settings_come_from_the_configuration(publishing: Publishing) -> None:
    settings = log_settings(publishing.configuration, "acme")
    assert settings.configuration.regions == ("eu", "us")
    assert settings.retention.seconds(1) == 365 * 86_400
    assert settings.retention.seconds(0) == 7 * 365 * 86_400


def test_what_is_accepted_is_published(publishing: Publishing) -> None:
    site = publishing.site
    agent = site.ready()

    async def scenario() -> None:
        async with publishing.running():
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 1)
            site.send(agent, agent.seal_records())
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 2)

    assert publishing.publication.statuses() is None
    asyncio.run(scenario())
    assert len(site.rows(schema.packs)) >= 2
    assert publishing.state() is PublisherState.HOLDING
    for name in ("eu", "us"):
        assert Path(site.directory / name / "acme" / "checkpoint").exists()


def test_a_tenant_that_appears_while_it_runs(publishing: Publishing) -> None:
    site = publishing.site

    async def scenario() -> None:
        async with publishing.running():
            await publishing.until(lambda: publishing.state() is PublisherState.HOLDING)
            initialise(site, publishing.configuration, "beta")
            site.log_keys.create("beta", site.random)
            keys = site.log_keys.load("beta", "logs.example.com/beta")
            site.write(
                lambda connection: create_tenant(
                    connection, keys, "beta", public=False, now_ns=site.clock.now_ns
                )
            )
            await publishing.until(lambda: "beta" in {row.tenant for row in site.rows(schema.checkpoints)})

    asyncio.run(scenario())


def test_after_another_took_over_blocks_are_refused_with_the_reason(publishing: Publishing) -> None:
    site = publishing.site
    agent = site.ready()

    def take_over() -> None:
        other = site.engine_beside("other.db")
        connection = writing_connection(other)
        driver = RegionDriver(open_stores(publishing.configuration), 20.0, site.clock)
        ledger = Ledger(connection, "acme")
        settings = log_settings(publishing.configuration, "acme")
        sequencer = Sequencer(settings, ledger, TwoKeySigner(site.keys.log), site.clock, site.random)
        driver.run(sequencer.acquire(promote=True))
        driver.close()
        connection.close()
        other.dispose()

    async def scenario() -> None:
        async with publishing.running():
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 1)
            await asyncio.to_thread(take_over)
            site.send(agent, agent.seal_records())
            await publishing.until(lambda: publishing.state() is PublisherState.STEPPED_DOWN)

    asyncio.run(scenario())
    with pytest.raises(Refused) as caught:
        site.send(agent, agent.seal_records())
    assert caught.value.problem.code == "stepped_down"
    assert "ballot" in str(caught.value)


@pytest.mark.parametrize("error", [StorageError("the disk is gone"), ZeroDivisionError("defect")])
def test_a_publisher_that_raises_is_made_anew(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, caplog: Any, error: Exception
) -> None:
    site = publishing.site
    agent = site.ready()
    answers = Publisher.answers
    failures: list[Publisher] = []

    def failing(self: Publisher, *words: Any) -> Any:
        if len(failures) < 2:
            failures.append(self)
            raise error
        return answers(self, *words)

    monkeypatch.setattr(Publisher, "answers", failing)

    async def scenario() -> None:
        async with publishing.running():
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 1)

    asyncio.run(scenario())
    assert len({id(publisher) for publisher in failures}) == 2
    assert str(error) in caplog.text


def test_a_region_that_is_gone(publishing: Publishing) -> None:
    site = publishing.site
    agent = site.ready()
    region = site.directory / "eu"

    async def scenario() -> None:
        async with publishing.running():
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 1)
            region.rename(site.directory / "away")
            site.send(agent, agent.seal_records())
            await publishing.until(lambda: publishing.reason() is not None)
            assert site.stored(agent.chain).published_seq == 1
            (site.directory / "away").rename(region)
            await publishing.until(lambda: site.stored(agent.chain).published_seq == 2)

    asyncio.run(scenario())
