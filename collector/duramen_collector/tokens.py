"""Secrets that people and programs carry: API tokens, one-time enrolment tokens, and heartbeat nonces.

A token is 256 random bits behind a prefix that says what it is. The database holds HMAC-SHA-256 of it under
a pepper that lies in a file beside the database: neither alone lets anyone in, and looking a token up by
its digest leaks nothing about others. A nonce is not stored at all: it is the time with an HMAC over chain
and time, valid for ``NONCE_LIFE_NS``; a collector with another pepper answers with a fresh one.

Roles are ordered, each may do what those before it may: viewer (checkpoints, tiles, chains, regions,
verdicts), auditor (also sealed blocks, and starting verifications), operator, admin (no request of this
release needs these two).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from duramen import wire
from duramen.errors import UsageError
from duramen.names import ChainId, check_agent, check_tenant
from duramen.ports import Random
from duramen_collector.refusal import refuse
from duramen_collector.schema import enrolments, tokens

API_PREFIX: Final = "drm-api-"
ENROL_PREFIX: Final = "drm-enrol-"
ROLES: Final = ("viewer", "auditor", "operator", "admin")
NONCE_LIFE_NS: Final = 300 * 10**9
MAX_ENROL_LIFE_NS: Final = 7 * 86_400 * 10**9
_TOKEN_BYTES: Final = 32
_TAG_BYTES: Final = 24
_MAX_TOKEN_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid API token speaks for."""

    token_id: str
    role: str
    tenant: str | None
    """None: every tenant."""

    def may(self, role: str, tenant: str) -> bool:
        """Whether this principal has at least ``role`` for ``tenant``."""
        return ROLES.index(self.role) >= ROLES.index(role) and self.tenant in {None, tenant}


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as ``token list`` shows it; never the token itself."""

    token_id: str
    tenant: str | None
    role: str
    created_ns: int
    expires_ns: int
    revoked_ns: int | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An enrolment token that was presented: whom it may enrol, and whether it has been used."""

    digest: bytes
    tenant: str
    agent: str
    used_by: bytes | None


class Pepper:
    """The secret under which tokens are digested and nonces are made."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def digest(self, token: str) -> bytes:
        """How a token is stored, 32 bytes."""
        return self._mac(b"duramen/token/v1\n" + token.encode())

    def nonce(self, chain: ChainId, now_ns: int) -> bytes:
        """A nonce for the next heartbeat of ``chain``: time (8), tag (24)."""
        time = wire.uint(now_ns, 8)
        return time + self._tag(chain, time)

    def nonce_time(self, chain: ChainId, nonce: bytes, now_ns: int) -> int | None:
        """When ``nonce`` was made for ``chain`` (Unix ns).

        None when it was not made here, or too long ago.
        """
        time, tag = nonce[:8], nonce[8:]
        if not hmac.compare_digest(tag, self._tag(chain, time)):
            return None
        made_ns = int.from_bytes(time, "big")
        return made_ns if 0 <= now_ns - made_ns <= NONCE_LIFE_NS else None

    def _tag(self, chain: ChainId, time: bytes) -> bytes:
        return self._mac(b"duramen/nonce/v1\n" + chain + time)[:_TAG_BYTES]

    def _mac(self, message: bytes) -> bytes:
        return hmac.new(self._secret, message, hashlib.sha256).digest()


def create_token(
    connection: sa.Connection,
    pepper: Pepper,
    random: Random,
    *,
    tenant: str | None,
    role: str,
    now_ns: int,
    life_ns: int,
) -> tuple[str, TokenRecord]:
    """A new API token: its text, shown this once, and its record."""
    if role not in ROLES:
        raise UsageError(f"{role!r} is not a role; there are {', '.join(ROLES)}")
    token = API_PREFIX + _draw(random)
    record = TokenRecord(random.draw(8).hex(), tenant, role, now_ns, now_ns + life_ns, None)
    connection.execute(
        tokens.insert().values(
            token_id=record.token_id,
            digest=pepper.digest(token),
            tenant=tenant,
            role=role,
            created_ns=now_ns,
            expires_ns=record.expires_ns,
        )
    )
    return token, record


def list_tokens(connection: sa.Connection) -> list[TokenRecord]:
    """All API tokens, oldest first."""
    columns = (tokens.c.token_id, tokens.c.tenant, tokens.c.role)
    times = (tokens.c.created_ns, tokens.c.expires_ns, tokens.c.revoked_ns)
    rows = connection.execute(sa.select(*columns, *times).order_by(tokens.c.created_ns, tokens.c.token_id))
    return [TokenRecord(*row) for row in rows]


def revoke_token(connection: sa.Connection, token_id: str, now_ns: int) -> None:
    """Revoke a token by its id; revoking twice keeps the first time. UsageError when there is none."""
    matches = tokens.c.token_id == token_id
    if connection.execute(sa.select(tokens.c.token_id).where(matches)).first() is None:
        raise UsageError(f"there is no token {token_id}; token list shows what there is")
    connection.execute(
        tokens.update().where(matches, tokens.c.revoked_ns.is_(None)).values(revoked_ns=now_ns)
    )


def authenticate(connection: sa.Connection, pepper: Pepper, authorization: str, now_ns: int) -> Principal:
    """Whom the value of an Authorization header speaks for; refused with 401 otherwise."""
    scheme, _, token = authorization.partition(" ")
    row = None
    if scheme.lower() == "bearer" and token.startswith(API_PREFIX) and len(token) <= _MAX_TOKEN_CHARACTERS:
        row = connection.execute(sa.select(tokens).where(tokens.c.digest == pepper.digest(token))).first()
    if row is None or row.revoked_ns is not None or not row.created_ns <= now_ns < row.expires_ns:
        raise refuse(401, "token_invalid", "send a valid API token as Authorization: Bearer TOKEN")
    return Principal(row.token_id, row.role, row.tenant)


def create_enrolment(
    connection: sa.Connection, pepper: Pepper, random: Random, *, tenant: str, agent: str, expires_ns: int
) -> str:
    """A new one-time token that enrols ``agent`` of ``tenant`` until ``expires_ns``."""
    token = ENROL_PREFIX + _draw(random)
    connection.execute(
        enrolments.insert().values(
            digest=pepper.digest(token),
            tenant=check_tenant(tenant),
            agent=check_agent(agent),
            expires_ns=expires_ns,
        )
    )
    return token


def find_enrolment(connection: sa.Connection, pepper: Pepper, token: str, now_ns: int) -> Enrolment:
    """What an enrolment token may do; refused with 401 when it is unknown or past its time."""
    digest = pepper.digest(token)
    row = connection.execute(sa.select(enrolments).where(enrolments.c.digest == digest)).first()
    if row is None:
        raise refuse(
            401, "token_invalid", "this enrolment token is not known here; ask for a new join string"
        )
    if now_ns >= row.expires_ns:
        raise refuse(401, "token_expired", "this enrolment token has expired; ask for a new join string")
    return Enrolment(digest, row.tenant, row.agent, row.used_by)


def use_enrolment(connection: sa.Connection, enrolment: Enrolment, used_by: bytes) -> None:
    """Mark a token as used by one request, the only one that may present it again."""
    if enrolment.used_by not in {None, used_by}:
        raise refuse(409, "token_used", "this enrolment token has been used; ask for a new join string")
    connection.execute(
        enrolments.update().where(enrolments.c.digest == enrolment.digest).values(used_by=used_by)
    )


def _draw(random: Random) -> str:
    return base64.urlsafe_b64encode(random.draw(_TOKEN_BYTES)).decode().rstrip("=")
