"""The endpoints of people and programs (bearer tokens), and the static C2SP ones (CONTRACT, collector API).

Checkpoints come from the database; tiles and entry bundles from the first region that has them, unverified:
whoever reads a tlog-tiles log verifies it. Full tiles never change and may be cached for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from fastapi import APIRouter, Request, Response

from duramen.errors import FormatError
from duramen.names import ChainId, check_tenant, parse_digest
from duramen.tiles import parse_tile_path
from duramen_collector.app import Front, problem_answers
from duramen_collector.heads import object_key
from duramen_collector.publisher import PublisherState, PublisherStatus
from duramen_collector.refusal import refuse
from duramen_collector.service import ChainSummary
from duramen_collector.store.port import Found, Get, ObjectStore

_TILE_MEDIA_TYPE: Final = "application/octet-stream"
_NOTE_MEDIA_TYPE: Final = "text/plain; charset=utf-8"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """A region of a tenant's log as its publisher knows it."""

    name: str
    behind: int | None
    """Statements that it lacks; None: not known."""
    error: str | None
    quarantine: str | None


@dataclass(frozen=True, slots=True)
class PublicationSummary:
    """Where a tenant's publication stands. ``state``: acquiring, holding, stepped_down, stopped."""

    state: str
    reason: str | None
    code: str | None
    size: int
    regions: tuple[RegionSummary, ...]


@dataclass(frozen=True, slots=True)
class ChainList:
    """A tenant's chains by agent."""

    chains: tuple[ChainSummary, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """``ok``."""

    status: str


def people_routes(
    front: Front, stores: Mapping[str, ObjectStore], statuses: Callable[[], Mapping[str, PublisherStatus]]
) -> list[APIRouter]:
    """Tenants' chains and regions, static files, health."""
    return [_tenant_routes(front, statuses), _static_routes(front, stores), _health_routes(statuses)]


def _tenant_routes(front: Front, statuses: Callable[[], Mapping[str, PublisherStatus]]) -> APIRouter:
    router = APIRouter(prefix="/v1/tenants/{tenant}", tags=["tenants"], responses=problem_answers())
    service = front.service

    @router.get("/chains")
    async def chains(request: Request, tenant: str) -> ChainList:
        """All chains of the tenant, by agent."""
        await front.authorise(request, "viewer", tenant)
        return ChainList(tuple(await front.read(lambda connection: service.chains(connection, tenant))))

    @router.get("/chains/{chain}")
    async def chain(request: Request, tenant: str, chain: str) -> ChainSummary:
        """One chain."""
        await front.authorise(request, "viewer", tenant)
        chain_id = ChainId(parse_digest(chain))
        return await front.read(lambda connection: service.chain(connection, tenant, chain_id))

    @router.get("/regions")
    async def regions(request: Request, tenant: str) -> PublicationSummary:
        """Where publication stands, region by region."""
        await front.authorise(request, "viewer", tenant)
        status = statuses().get(tenant)
        if status is None:
            raise refuse(503, "busy", "publication of this tenant has not begun yet; try again in a moment")
        return _publication(status)

    return router


def _static_routes(front: Front, stores: Mapping[str, ObjectStore]) -> APIRouter:
    router = APIRouter(
        prefix="/t/{tenant}", tags=["static"], default_response_class=Response, responses=problem_answers()
    )
    service = front.service

    @router.get("/checkpoint")
    async def checkpoint(request: Request, tenant: str) -> Response:
        """The newest published checkpoint (C2SP tlog-checkpoint)."""
        await front.authorise_static(request, tenant)
        note = await front.read(lambda connection: service.checkpoint(connection, tenant))
        return Response(note, media_type=_NOTE_MEDIA_TYPE, headers={"Cache-Control": "no-cache"})

    @router.get("/tile/{rest:path}")
    async def tile(request: Request, tenant: str, rest: str) -> Response:
        """A tile or an entry bundle (C2SP tlog-tiles)."""
        await front.authorise_static(request, tenant)
        try:
            path = parse_tile_path(f"tile/{rest}")
            key = object_key(check_tenant(tenant), path.path())
        except FormatError as error:
            raise refuse(404, "not_found", str(error)) from error
        data = await asyncio.to_thread(_first, stores, key)
        if data is None:
            raise refuse(
                404, "not_found", "no region has this tile; ask for the full one or a wider partial one"
            )
        headers = {"Cache-Control": "no-cache" if path.is_partial else _FOR_EVER}
        return Response(data, media_type=_TILE_MEDIA_TYPE, headers=headers)

    return router


def _health_routes(statuses: Callable[[], Mapping[str, PublisherStatus]]) -> APIRouter:
    router = APIRouter(tags=["health"], responses=problem_answers())

    @router.get("/healthz")
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health("ok")

    @router.get("/readyz")
    async def readyz() -> Health:
        """Whether blocks are accepted and published for every tenant; 503 with the reason otherwise."""
        for tenant, status in sorted(statuses().items()):
            if status.state is not PublisherState.HOLDING or status.reason is not None:
                raise refuse(
                    503, "busy", f"the log of {tenant} is {status.state}: {status.reason or 'not yet'}"
                )
        return Health("ok")

    return router


def _publication(status: PublisherStatus) -> PublicationSummary:
    regions = tuple(RegionSummary(**asdict(region)) for region in status.regions)
    return PublicationSummary(str(status.state), status.reason, status.code, status.size, regions)


def _first(stores: Mapping[str, ObjectStore], key: str) -> bytes | None:
    for store in stores.values():
        answer = store.perform(Get(key))
        if isinstance(answer, Found):
            return answer.data
    return None
