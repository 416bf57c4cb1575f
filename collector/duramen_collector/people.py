"""The endpoints of people and programs (bearer tokens), and the static C2SP ones (docs/CONTRACT.md).

Checkpoints come from the database; tiles and entry bundles from the first region that has them, unverified:
whoever reads a tlog-tiles log verifies it. Full tiles never change and may be cached for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from duramen import canonical
from duramen.api import JSON_MEDIA_TYPE
from duramen.audit import Depth
from duramen.canonical import Fields
from duramen.errors import FormatError
from duramen.frame import FRAMES_MEDIA_TYPE
from duramen.names import ChainId, check_tenant, parse_digest
from duramen.tiles import parse_tile_path
from duramen_collector.app import Front, body_of, number_of, problem_answers, query_of
from duramen_collector.heads import object_key
from duramen_collector.history import find_blocks, read_frames
from duramen_collector.proofs import ConsistencyAnswer, InclusionAnswer, prove_consistency, prove_inclusion
from duramen_collector.publisher import PublisherState, PublisherStatus
from duramen_collector.refusal import refuse
from duramen_collector.service import ChainSummary
from duramen_collector.store.port import Found, Get, ObjectStore
from duramen_collector.verification import find_verification, latest
from duramen_collector.verifications import Verifications

Statuses = Callable[[], Mapping[str, PublisherStatus] | None]
"""Where each tenant's publication stands; None while that is not known yet."""

_TILE_MEDIA_TYPE: Final = "application/octet-stream"
_NOTE_MEDIA_TYPE: Final = "text/plain; charset=utf-8"
_MAX_JSON_BYTES: Final = 4096
_FRAMES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Frames",
        "content": {FRAMES_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}
_DEPTH: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON_MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["depth"],
                    "properties": {"depth": {"enum": ["headers", "bodies"]}},
                }
            }
        },
    }
}
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
    front: Front,
    stores: Mapping[str, ObjectStore],
    statuses: Statuses,
    verifications: Verifications,
) -> list[APIRouter]:
    """Tenants' chains, proofs and regions, verification, static files, health."""
    return [
        _tenant_routes(front, stores, statuses),
        _verification_routes(front, verifications),
        _static_routes(front, stores),
        _health_routes(statuses),
    ]


def _tenant_routes(front: Front, stores: Mapping[str, ObjectStore], statuses: Statuses) -> APIRouter:
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
        status = (statuses() or {}).get(tenant)
        if status is None:
            raise refuse(503, "busy", "publication of this tenant has not begun yet; try again in a moment")
        return _publication(status)

    @router.get("/chains/{chain}/blocks", openapi_extra=query_of("from", "count"), responses=_FRAMES)
    async def blocks(request: Request, tenant: str, chain: str) -> Response:
        """Blocks of a chain from one on, as frames; as many as fit. An auditor's."""
        await front.authorise(request, "auditor", tenant)
        chain_id = ChainId(parse_digest(chain))
        first, count = number_of(request, "from"), number_of(request, "count")
        await front.read(lambda connection: service.chain(connection, tenant, chain_id))
        places = await front.read(lambda connection: find_blocks(connection, tenant, chain_id, first, count))
        data = await asyncio.to_thread(
            read_frames, places, lambda key: _copies(stores, object_key(tenant, key))
        )
        return Response(data, media_type=FRAMES_MEDIA_TYPE)

    @router.get("/proofs/inclusion")
    async def inclusion(request: Request, tenant: str, statement: str) -> InclusionAnswer:
        """That the newest checkpoint holds the statement with this hash."""
        await front.authorise(request, "viewer", tenant)
        digest = parse_digest(statement)
        return await front.read(lambda connection: prove_inclusion(connection, tenant, digest))

    @router.get("/proofs/consistency", openapi_extra=query_of("from"))
    async def consistency(request: Request, tenant: str) -> ConsistencyAnswer:
        """That the newest checkpoint continues the log of so many statements."""
        await front.authorise(request, "viewer", tenant)
        old_size = number_of(request, "from")
        return await front.read(lambda connection: prove_consistency(connection, tenant, old_size))

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
        data = await asyncio.to_thread(lambda: next(_copies(stores, key), None))
        if data is None:
            raise refuse(
                404, "not_found", "no region has this tile; ask for the full one or a wider partial one"
            )
        headers = {"Cache-Control": "no-cache" if path.is_partial else _FOR_EVER}
        return Response(data, media_type=_TILE_MEDIA_TYPE, headers=headers)

    return router


def _health_routes(statuses: Statuses) -> APIRouter:
    router = APIRouter(tags=["health"], responses=problem_answers())

    @router.get("/healthz")
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health("ok")

    @router.get("/readyz")
    async def readyz() -> Health:
        """Whether blocks are accepted and published for every tenant; 503 with the reason otherwise."""
        found = statuses()
        if found is None:
            raise refuse(503, "busy", "the collector is starting; try again in a moment")
        for tenant, status in sorted(found.items()):
            if status.state is not PublisherState.HOLDING or status.reason is not None:
                raise refuse(
                    503, "busy", f"the log of {tenant} is {status.state}: {status.reason or 'not yet'}"
                )
        return Health("ok")

    return router


def _verification_routes(front: Front, verifications: Verifications) -> APIRouter:
    router = APIRouter(prefix="/v1/tenants/{tenant}", tags=["verification"], responses=problem_answers())
    service = front.service

    @router.get("/verification")
    async def newest(request: Request, tenant: str) -> JSONResponse:
        """The last verification that was finished: verdict, findings, regions, chains."""
        await front.authorise(request, "viewer", tenant)
        found = await front.read(lambda connection: latest(connection, tenant))
        if found is None:
            raise refuse(
                404, "not_found", "this tenant has not been verified yet; POST to verifications does"
            )
        return JSONResponse(found.report)

    @router.post("/verifications", status_code=202, openapi_extra=_DEPTH)
    async def start(request: Request, tenant: str) -> JSONResponse:
        """Verify the tenant's log in every region now. An auditor's."""
        await front.authorise(request, "auditor", tenant)
        depth = _depth(await body_of(request, JSON_MEDIA_TYPE, _MAX_JSON_BYTES))
        found = await front.read(lambda connection: service.tenant(connection, tenant))
        job = verifications.start(found, depth)
        location = f"/v1/tenants/{tenant}/verifications/{job.verification_id}"
        return JSONResponse({"id": job.verification_id, "state": "running"}, 202, {"Location": location})

    @router.get("/verifications/{verification_id}")
    async def one(request: Request, tenant: str, verification_id: str) -> JSONResponse:
        """A verification: where it is while it runs, its report when it is finished."""
        await front.authorise(request, "viewer", tenant)
        job = verifications.find(tenant, verification_id)
        if job is not None:
            progress = {"region": job.region, "step": job.step}
            return JSONResponse({"id": verification_id, "state": "running", "progress": progress})
        found = await front.read(lambda connection: find_verification(connection, tenant, verification_id))
        if found is None:
            raise refuse(404, "not_found", "there is no such verification of this tenant")
        if found.finished_ns is None:
            return JSONResponse({"id": verification_id, "state": "broken off"})
        return JSONResponse({"id": verification_id, "state": "finished", "report": found.report})

    return router


def _depth(body: bytes) -> Depth:
    fields = Fields(canonical.read(body, "the request"), "the request")
    depth = fields.text("depth", 16)
    fields.finish()
    if depth not in {Depth.HEADERS, Depth.BODIES}:
        raise FormatError("depth is headers or bodies")
    return Depth(depth)


def _copies(stores: Mapping[str, ObjectStore], key: str) -> Iterator[bytes]:
    for store in stores.values():
        answer = store.perform(Get(key))
        if isinstance(answer, Found):
            yield answer.data


def _publication(status: PublisherStatus) -> PublicationSummary:
    regions = tuple(RegionSummary(**asdict(region)) for region in status.regions)
    return PublicationSummary(str(status.state), status.reason, status.code, status.size, regions)
