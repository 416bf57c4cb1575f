"""``token create``, ``token list``, ``token revoke``, and ``enroll-token``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from duramen.api import JoinString
from duramen.errors import FormatError, UsageError
from duramen.names import check_agent, check_tenant
from duramen.settings import parse_duration
from duramen.system import SystemClock, SystemRandom
from duramen_collector.chainstate import find_agent
from duramen_collector.cli.options import DEFAULT, AsJson, ConfigPath, database, load, show
from duramen_collector.database import reading, writing
from duramen_collector.statedir import StateDirectory
from duramen_collector.tenancy import find_tenant
from duramen_collector.tokens import (
    MAX_ENROL_LIFE_NS,
    create_enrolment,
    create_token,
    list_tokens,
    revoke_token,
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="API tokens of people and programs.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_all)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")
    app.command("enroll-token")(enroll_token)


def create(
    config: ConfigPath = DEFAULT,
    tenant: Annotated[
        str | None, typer.Option(help="Only for this tenant; without it, for every one.")
    ] = None,
    role: Annotated[str, typer.Option(help="viewer, auditor, operator or admin.")] = "viewer",
    ttl: Annotated[str, typer.Option(help="How long it is valid, such as 90d.")] = "90d",
) -> None:
    """Create an API token and print it, this once; what to call it is said on stderr."""
    configuration, clock = load(config), SystemClock()
    life_ns = parse_duration(ttl, "--ttl")
    pepper = StateDirectory(configuration.state_dir).pepper()
    with database(configuration) as engine, writing(engine) as connection:
        if tenant is not None and find_tenant(connection, tenant) is None:
            raise UsageError(f"there is no tenant {tenant}; tenant list shows what there is")
        token, record = create_token(
            connection,
            pepper,
            SystemRandom(),
            tenant=tenant,
            role=role,
            now_ns=clock.wall_ns(),
            life_ns=life_ns,
        )
    typer.echo(f"token {record.token_id}, valid until {_date(record.expires_ns)}", err=True)
    typer.echo(token)


def list_all(config: ConfigPath = DEFAULT, as_json: AsJson = False) -> None:
    """List the API tokens by id; the tokens themselves are not kept."""
    with database(load(config)) as engine, reading(engine) as connection:
        records = list_tokens(connection)
    if as_json:
        show(
            [
                {
                    "token_id": record.token_id,
                    "tenant": record.tenant,
                    "role": record.role,
                    "created": _date(record.created_ns),
                    "expires": _date(record.expires_ns),
                    "revoked": None if record.revoked_ns is None else _date(record.revoked_ns),
                }
                for record in records
            ]
        )
        return
    for record in records:
        state = "revoked" if record.revoked_ns is not None else f"until {_date(record.expires_ns)}"
        typer.echo(f"{record.token_id}\t{record.role}\t{record.tenant or 'every tenant'}\t{state}")


def revoke(token_id: str, config: ConfigPath = DEFAULT) -> None:
    """Revoke an API token by its id."""
    with database(load(config)) as engine, writing(engine) as connection:
        revoke_token(connection, token_id, SystemClock().wall_ns())
    typer.echo(f"revoked {token_id}")


def enroll_token(
    tenant: Annotated[str, typer.Option(help="The tenant that the agent belongs to.")],
    agent: Annotated[str, typer.Option(help="The agent's name.")],
    config: ConfigPath = DEFAULT,
    url: Annotated[
        list[str] | None, typer.Option(help="Address of a collector, in order of preference.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long the token is valid, at most 7d.")] = "1h",
) -> None:
    """Print one join string, which enrols one agent once; duramen-agent enroll reads it."""
    configuration = load(config)
    try:
        check_tenant(tenant)
        check_agent(agent)
    except FormatError as error:
        raise UsageError(str(error)) from error
    life_ns = parse_duration(ttl, "--ttl")
    if not 0 < life_ns <= MAX_ENROL_LIFE_NS:
        raise UsageError("--ttl is longer than zero and at most 7d")
    state = StateDirectory(configuration.state_dir)
    pepper, authority, log_keys = state.pepper(), state.authority(), state.log_keys()
    with database(configuration) as engine, writing(engine) as connection:
        found = find_tenant(connection, tenant)
        if found is None:
            raise UsageError(f"there is no tenant {tenant}; tenant create makes one")
        if find_agent(connection, tenant, agent) is not None:
            typer.echo(f"note: {agent} has a chain already; the token lets only that chain enrol", err=True)
        expires_ns = SystemClock().wall_ns() + life_ns
        token = create_enrolment(
            connection, pepper, SystemRandom(), tenant=tenant, agent=agent, expires_ns=expires_ns
        )
    default = f"https://{configuration.name}:{configuration.listen_port}"
    join = JoinString(
        tenant=tenant,
        agent=agent,
        collectors=tuple(url or [default]),
        ca_pem=authority.certificate_pem.decode(),
        log_keys=log_keys.load(tenant, found.origin).verifier_keys,
        token=token,
    )
    typer.echo(join.encode())


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
