"""Tenants: each has a log of its own, with keys of its own.

A tenant's first statement is a ``key`` notice that names the key which signs notices: the log's checkpoint
keys, which agents and auditors pin, then vouch for it. Keys are on disk before the tenant is in the
database, so a crash between the two leaves keys without a tenant, which the next attempt takes up.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from duramen.errors import UsageError
from duramen.names import check_tenant
from duramen.region import ENVELOPES_PREFIX
from duramen_collector.landing import land_notice
from duramen_collector.logkeys import TenantKeys
from duramen_collector.refusal import refuse
from duramen_collector.schema import tenants


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant. ``public``: its checkpoint and tiles are served without a token."""

    tenant: str
    origin: str
    public: bool
    created_ns: int


def check_new_tenant(tenant: str) -> str:
    """``tenant`` if a tenant may be called so; FormatError for no name, UsageError for one that is taken."""
    if check_tenant(tenant) == ENVELOPES_PREFIX.rstrip("/"):
        raise UsageError(f"regions keep envelopes under {tenant!r}; give the tenant another name")
    return tenant


def create_tenant(
    connection: sa.Connection, keys: TenantKeys, tenant: str, *, public: bool, now_ns: int
) -> bool:
    """Create ``tenant`` with its first notice; False, and nothing done, when it is there already."""
    check_new_tenant(tenant)
    if find_tenant(connection, tenant) is not None:
        return False
    connection.execute(
        tenants.insert().values(tenant=tenant, origin=keys.log.origin, public=public, created_ns=now_ns)
    )
    notice = keys.notice.sign("key", now_ns, {"public": keys.notice.public.hex(), "use": "notice"})
    land_notice(connection, tenant, notice, now_ns)
    return True


def find_tenant(connection: sa.Connection, tenant: str) -> Tenant | None:
    """The tenant of this name, or None."""
    row = connection.execute(sa.select(tenants).where(tenants.c.tenant == tenant)).first()
    return None if row is None else _tenant(row)


def demand_tenant(connection: sa.Connection, tenant: str) -> Tenant:
    """The tenant of this name; refused with 404 otherwise."""
    found = find_tenant(connection, tenant)
    if found is None:
        raise refuse(404, "not_found", "there is no such tenant here")
    return found


def list_tenants(connection: sa.Connection) -> list[Tenant]:
    """All tenants by name."""
    return [_tenant(row) for row in connection.execute(sa.select(tenants).order_by(tenants.c.tenant))]


def _tenant(row: sa.Row[tuple[object, ...]]) -> Tenant:
    return Tenant(row.tenant, row.origin, row.public, row.created_ns)
