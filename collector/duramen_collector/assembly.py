"""The running collector put together from its configuration: the one place where its parts meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI

from duramen.ports import Clock, Random
from duramen_collector.app import Front, create_app
from duramen_collector.authority import Authority, create_authority
from duramen_collector.configuration import Configuration, VerificationTimes
from duramen_collector.database import demand_current, open_database
from duramen_collector.keystore import LogKeyStore
from duramen_collector.people import people_routes
from duramen_collector.publication import Publication, open_stores
from duramen_collector.secretfile import SECRET_BYTES
from duramen_collector.server import listen, serve, tls_context
from duramen_collector.service import Service
from duramen_collector.statedir import StateDirectory
from duramen_collector.tokens import Pepper
from duramen_collector.verifications import Verifications
from duramen_collector.writer import Writer


@dataclass(frozen=True, slots=True)
class Collector:
    """Everything that runs in one process."""

    engine: sa.Engine
    writer: Writer
    publication: Publication
    verifications: Verifications
    app: FastAPI


def assemble(configuration: Configuration, clock: Clock, random: Random) -> Collector:
    """Open what the configuration names; ConfigurationError when init has not made all of it."""
    state = StateDirectory(configuration.state_dir)
    authority, pepper, log_keys = state.authority(), state.pepper(), state.log_keys()
    engine = open_database(configuration.database_path)
    demand_current(engine)
    writer = Writer(engine)
    service = Service(authority=authority, log_keys=log_keys, pepper=pepper, clock=clock, random=random)
    publication = Publication(configuration, engine, writer, log_keys, service, clock, random)
    front = Front(service, writer, engine)
    stores = open_stores(configuration)
    verifications = Verifications(engine, stores, log_keys, configuration.verification, clock, random)
    routers = people_routes(front, stores, publication.statuses, verifications)
    return Collector(engine, writer, publication, verifications, create_app(front, routers))


def run(configuration: Configuration, clock: Clock, random: Random) -> None:
    """Serve until a signal; then end requests, publication and writer, in this order."""
    state = StateDirectory(configuration.state_dir)
    context = tls_context(state.server_certificate, state.server_key, state.authority_certificate)
    collector = assemble(configuration, clock, random)
    listener = listen(configuration.listen_host, configuration.listen_port)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(collector.publication.run()),
            asyncio.create_task(collector.verifications.run()),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        collector.verifications.close()

    collector.writer.start()
    try:
        serve(collector.app, context, listener, lifespan)
    finally:
        collector.writer.close()
        collector.engine.dispose()


def api_document(clock: Clock, random: Random) -> dict[str, Any]:
    """The API as OpenAPI 3.1.

    It depends on no configuration: the service behind it has keys that nobody gets.
    """
    engine = sa.create_engine("sqlite://")
    log_keys = LogKeyStore(Path())
    service = Service(
        authority=Authority(create_authority("document", clock.wall_ns(), random)),
        log_keys=log_keys,
        pepper=Pepper(random.draw(SECRET_BYTES)),
        clock=clock,
        random=random,
    )
    front = Front(service, Writer(engine), engine)
    verifications = Verifications(engine, {}, log_keys, VerificationTimes(), clock, random)
    return create_app(front, people_routes(front, {}, dict, verifications)).openapi()
