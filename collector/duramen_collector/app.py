"""The web adapter: HTTP to :class:`~duramen_collector.service.Service` and back (docs/CONTRACT.md).

Nothing is decided here. Bodies are read while they stream and refused at their limit; media types are
exact; every error, whoever found it, is a problem document. What writes runs in the writer's thread, what
reads in a worker thread; the event loop itself neither parses blocks nor waits for a disk. The peer's
certificate is in the ASGI scope's state under ``PEER`` (:mod:`duramen_collector.server` puts it there).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from duramen.api import (
    JSON_MEDIA_TYPE,
    MAX_REQUEST_BYTES,
    PROBLEM_MEDIA_TYPE,
    Problem,
    parse_enroll_request,
    parse_envelope_upload,
    parse_heartbeat,
)
from duramen.errors import DuramenError, FormatError
from duramen.frame import FRAMES_MEDIA_TYPE
from duramen.names import ChainId, parse_data_key_id, parse_digest
from duramen_collector.authority import AgentIdentity
from duramen_collector.database import reading
from duramen_collector.ingest import parse_blocks
from duramen_collector.judgement import Judged
from duramen_collector.refusal import RETRY_AFTER_SECONDS, Refused, problem_of, refuse
from duramen_collector.service import Service
from duramen_collector.tokens import Principal
from duramen_collector.writer import Writer

PEER: Final = "duramen.peer_certificate"
MAX_JSON_BYTES: Final = 512 * 1024
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_MAX_NUMBER: Final = 2**63 - 1

T = TypeVar("T")
_log = logging.getLogger("duramen.collector")


class Front:
    """What endpoints share: the service, where it writes and where it reads."""

    def __init__(self, service: Service, writer: Writer, engine: sa.Engine) -> None:
        self.service = service
        self._writer = writer
        self._engine = engine

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in the writer's next transaction; returns once that is on disk."""
        return await asyncio.wrap_future(self._writer.submit(work))

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in a reading transaction of a worker thread."""
        return await run_in_threadpool(self._read, work)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        with reading(self._engine) as connection:
            return work(connection)

    async def authorise(self, request: Request, role: str, tenant: str) -> Principal:
        """Whom the request's token speaks for; refused unless that one has ``role`` for ``tenant``."""
        header = request.headers.get("authorization", "")
        return await self.read(lambda connection: self.service.authorise(connection, header, role, tenant))

    async def authorise_static(self, request: Request, tenant: str) -> None:
        """As :meth:`authorise` for a viewer, but for a public tenant's log."""
        header = request.headers.get("authorization", "")
        await self.read(lambda connection: self.service.authorise_static(connection, header, tenant))

    async def peer(self, request: Request) -> AgentIdentity | None:
        """Who the connection's client certificate speaks for."""
        return self.service.identify(request.scope.get(PEER))


async def body_of(request: Request, media_type: str, limit: int) -> bytes:
    """The request's body; 415 for another media type, 413 as soon as it is longer than ``limit``."""
    if request.headers.get("content-type") != media_type:
        raise refuse(415, "media_type", f"send the body as {media_type}")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise refuse(415, "media_type", "send the body without a content encoding")
    announced = request.headers.get("content-length")
    if announced is not None and (not announced.isdecimal() or int(announced) > limit):
        raise _too_large(limit)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def number_of(request: Request, name: str) -> int:
    """The query parameter ``name``, a decimal number, which must be there once."""
    values = request.query_params.getlist(name)
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]) or int(values[0]) > _MAX_NUMBER:
        raise FormatError(f"the query names {name} once, as a decimal number")
    return int(values[0])


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response."""
    extra = dict(headers or {})
    if problem.status in {429, 503}:
        extra["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if problem.status == 401 and problem.code.startswith("token"):
        extra["WWW-Authenticate"] = "Bearer"
    return Response(problem.encode(), problem.status, extra, PROBLEM_MEDIA_TYPE)


def agent_routes(front: Front) -> APIRouter:
    """The agents' endpoints (core's ``duramen.api``)."""
    router = APIRouter(prefix="/v1", tags=["agents"], default_response_class=Response)
    service = front.service

    @router.post("/enroll", openapi_extra=_body(JSON_MEDIA_TYPE), responses=_ANSWER)
    async def enroll(request: Request) -> Response:
        """Enrol an agent with a one-time token: a certificate and a chain."""
        enrolment = parse_enroll_request(await body_of(request, JSON_MEDIA_TYPE, MAX_JSON_BYTES))
        answer = await front.write(lambda connection: service.enrol(connection, enrolment))
        return _json(answer.encode())

    @router.get("/chains/{chain}/head", responses=_ANSWER)
    async def head(request: Request, chain: str) -> Response:
        """What the collector holds of a chain, and the nonce for its next heartbeat."""
        peer, chain_id = await front.peer(request), ChainId(parse_digest(chain))
        answer = await front.read(lambda connection: service.head(connection, peer, chain_id))
        return _json(answer.encode())

    @router.put(
        "/chains/{chain}/envelopes/{dek}",
        status_code=204,
        openapi_extra=_body(JSON_MEDIA_TYPE),
        responses=problem_answers(),
    )
    async def envelopes(request: Request, chain: str, dek: str) -> Response:
        """Upload all envelopes of a data key, before the keys block that commits to them."""
        peer, chain_id, data_key = (
            await front.peer(request),
            ChainId(parse_digest(chain)),
            parse_data_key_id(dek),
        )
        _demand_certificate(peer)
        upload = parse_envelope_upload(await body_of(request, JSON_MEDIA_TYPE, MAX_JSON_BYTES))
        await front.write(
            lambda connection: service.put_envelopes(connection, peer, chain_id, data_key, upload)
        )
        return Response(status_code=204)

    @router.post(
        "/chains/{chain}/blocks", openapi_extra=_body(FRAMES_MEDIA_TYPE, "from", "seen"), responses=_ANSWER
    )
    async def blocks(request: Request, chain: str) -> Response:
        """Deliver blocks as frames, in order."""
        peer, chain_id = await front.peer(request), ChainId(parse_digest(chain))
        _demand_certificate(peer)
        first, seen = number_of(request, "from"), number_of(request, "seen")
        data = await body_of(request, FRAMES_MEDIA_TYPE, MAX_REQUEST_BYTES)
        uploads = await run_in_threadpool(parse_blocks, data)
        judged = await front.write(lambda connection: service.receive(connection, peer, chain_id, uploads))
        return await _progress(judged, peer, chain_id, first, seen, beat=False)

    @router.post("/chains/{chain}/heartbeat", openapi_extra=_body(JSON_MEDIA_TYPE), responses=_ANSWER)
    async def heartbeat(request: Request, chain: str) -> Response:
        """A signed heartbeat."""
        peer, chain_id = await front.peer(request), ChainId(parse_digest(chain))
        _demand_certificate(peer)
        beat = parse_heartbeat(await body_of(request, JSON_MEDIA_TYPE, MAX_JSON_BYTES))
        judged = await front.write(lambda connection: service.heartbeat(connection, peer, chain_id, beat))
        return await _progress(judged, peer, chain_id, beat.receipt_from, beat.seen_size, beat=True)

    @router.get("/chains/{chain}/receipt", openapi_extra=query_of("from", "seen"), responses=_ANSWER)
    async def receipt(request: Request, chain: str) -> Response:
        """Ask for the receipt that is due."""
        peer, chain_id = await front.peer(request), ChainId(parse_digest(chain))
        first, seen = number_of(request, "from"), number_of(request, "seen")
        answer = await front.read(
            lambda connection: service.progress(connection, peer, chain_id, first, seen)
        )
        return _json(answer.encode())

    async def _progress(
        judged: Judged, peer: AgentIdentity | None, chain: ChainId, first: int, seen: int, *, beat: bool
    ) -> Response:
        if judged.problem is not None:
            return problem_response(judged.problem)
        answer = await front.read(
            lambda connection: service.progress(
                connection, peer, chain, first, seen, want=judged.want, beat=beat
            )
        )
        return _json(answer.encode())

    return router


def create_app(front: Front, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The ASGI application: agents' endpoints, and those of ``routers``."""
    app = FastAPI(
        title="Duramen collector",
        version="1",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(agent_routes(front))
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(DuramenError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_defect)
    return app


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DuramenError)
    problem = problem_of(error)
    if problem.status >= 500 and not isinstance(error, Refused):
        _log.error("%s", error)
    return problem_response(problem)


_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
_HTTP_DETAILS: Final = {
    404: "there is nothing at this address; the document at /openapi.json lists what is",
    405: "this address does not serve this method; the Allow header lists those it does",
}


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    detail = _HTTP_DETAILS.get(status, "the request could not be read; send it again as the API describes")
    return problem_response(Problem(status, _HTTP_CODES.get(status, "malformed"), detail), error.headers)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    where = ".".join(str(part) for part in error.errors()[0]["loc"])
    return problem_response(
        Problem(422, "malformed", f"{where} of the request is not as the API describes it")
    )


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return problem_response(Problem(400, "malformed", "the body of the request broke off; send it again"))


async def _on_defect(_request: Request, error: Exception) -> Response:
    _log.error("a request failed for a defect of this program", exc_info=error)
    return problem_response(
        Problem(500, "internal", "the collector failed; its operator finds the reason in its log")
    )


def _demand_certificate(peer: AgentIdentity | None) -> None:
    """Refuse strangers before their body is read; whose chain it is, the service asks."""
    if peer is None:
        raise refuse(
            401, "certificate_needed", "present the client certificate that enrolment gave this agent"
        )


def _too_large(limit: int) -> Refused:
    return refuse(
        413, "too_large", f"the body of this request has at most {limit} bytes; send less at a time"
    )


def _json(data: bytes) -> Response:
    return Response(data, media_type=JSON_MEDIA_TYPE)


def query_of(*names: str) -> dict[str, Any]:
    """Numbers that the query must name, for the API document."""
    schema = {"type": "integer", "minimum": 0, "maximum": _MAX_NUMBER}
    return {
        "parameters": [{"name": name, "in": "query", "required": True, "schema": schema} for name in names]
    }


def _body(media_type: str, *query: str) -> dict[str, Any]:
    schema = {"type": "object"} if media_type == JSON_MEDIA_TYPE else {"type": "string", "format": "binary"}
    body = {"required": True, "content": {media_type: {"schema": schema}}}
    return {"requestBody": body, **(query_of(*query) if query else {})}


_PROBLEM: Final = {
    "description": "A refusal (RFC 9457)",
    "content": {
        PROBLEM_MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}


def problem_answers() -> dict[int | str, dict[str, Any]]:
    """How every endpoint may refuse, for the API document."""
    return {"4XX": _PROBLEM, "5XX": _PROBLEM}


_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The answer", "content": {JSON_MEDIA_TYPE: {"schema": {"type": "object"}}}},
    **problem_answers(),
}
