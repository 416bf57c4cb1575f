"""``status``: asks the running collector whether it is ready, and the database how far it is."""

from __future__ import annotations

import http.client
import ssl
from typing import Final

import sqlalchemy as sa
import typer

from duramen.api import parse_problem
from duramen.canonical import Json
from duramen.errors import FormatError
from duramen_collector.chainstate import list_chains
from duramen_collector.cli.options import DEFAULT, AsJson, ConfigPath, database, load, show
from duramen_collector.configuration import Configuration
from duramen_collector.database import reading
from duramen_collector.schema import landing
from duramen_collector.statedir import StateDirectory
from duramen_collector.tenancy import list_tenants

TIMEOUT_SECONDS: Final = 5.0
NOT_RUNNING: Final = 3
DEGRADED: Final = 1


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(status)


def status(config: ConfigPath = DEFAULT, as_json: AsJson = False) -> int:
    """Show whether the collector runs, and each tenant's progress; exit 0 ok, 1 degraded, 3 not running."""
    configuration = load(config)
    state, reason, code = _ask(configuration)
    with database(configuration) as engine, reading(engine) as connection:
        tenants = [_tenant(connection, tenant.tenant) for tenant in list_tenants(connection)]
    if as_json:
        show({"state": state, "reasons": [reason] if reason else [], "tenants": list(tenants)})
        return code
    typer.echo(state if reason is None else f"{state}: {reason}")
    for item in tenants:
        typer.echo(
            f"{item['tenant']}\t{item['chains']} chains\t{item['waiting']} statements wait for publication"
        )
    return code


def _tenant(connection: sa.Connection, tenant: str) -> dict[str, Json]:
    waiting = sa.select(sa.func.count()).select_from(landing).where(landing.c.tenant == tenant)
    return {
        "tenant": tenant,
        "chains": len(list_chains(connection, tenant)),
        "waiting": connection.execute(waiting).scalar_one(),
    }


def _ask(configuration: Configuration) -> tuple[str, str | None, int]:
    """(state, reason, exit code) from the running collector's ``/readyz``."""
    path = StateDirectory(configuration.state_dir).authority_certificate
    host = configuration.listen_host
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # where it listens everywhere, the loopback will do
        host = "localhost"
    try:
        context = ssl.create_default_context(cafile=path)
        connection = http.client.HTTPSConnection(
            host, configuration.listen_port, timeout=TIMEOUT_SECONDS, context=context
        )
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(65_536)
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        return "not running", f"nothing answers at {configuration.listen}: {error}", NOT_RUNNING
    if answer.status == http.HTTPStatus.OK:
        return "ok", None, 0
    try:
        return "degraded", parse_problem(body).detail, DEGRADED
    except FormatError:
        return "degraded", f"/readyz answered {answer.status}", DEGRADED
