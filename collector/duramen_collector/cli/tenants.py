"""``tenant create`` and ``tenant list``."""

from __future__ import annotations

from typing import Annotated

import typer

from duramen.errors import FormatError, UsageError
from duramen.system import SystemClock, SystemRandom
from duramen_collector.cli.options import DEFAULT, AsJson, ConfigPath, database, load, show
from duramen_collector.configuration import Configuration
from duramen_collector.database import reading, writing
from duramen_collector.driver import RegionDriver
from duramen_collector.heads import initialise_regions
from duramen_collector.publication import REGION_TIMEOUT_SECONDS, open_stores, region_configuration
from duramen_collector.statedir import StateDirectory
from duramen_collector.tenancy import check_new_tenant, create_tenant, find_tenant, list_tenants


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Tenants: each has a log of its own.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_all)
    app.add_typer(group, name="tenant")


def create(
    tenant: str,
    config: ConfigPath = DEFAULT,
    public: Annotated[bool, typer.Option(help="Serve checkpoint and tiles without a token.")] = False,
) -> None:
    """Create a tenant: its keys, its place in every region, its log."""
    try:
        check_new_tenant(tenant)
    except FormatError as error:
        raise UsageError(str(error)) from error
    configuration = load(config)
    keys = StateDirectory(configuration.state_dir).log_keys()
    random, clock = SystemRandom(), SystemClock()
    with database(configuration) as engine:
        with reading(engine) as connection:
            present = find_tenant(connection, tenant) is not None
        if present:
            typer.echo(f"the tenant {tenant} is there already")
            return
        keys.create(tenant, random)
        loaded = keys.load(tenant, configuration.origin(tenant))
        _initialise_regions(configuration, tenant)
        with writing(engine) as connection:
            create_tenant(connection, loaded, tenant, public=public, now_ns=clock.wall_ns())
    typer.echo(f"created the tenant {tenant}; its log is {configuration.origin(tenant)}")
    for verifier_key in loaded.verifier_keys:
        typer.echo(verifier_key)


def list_all(config: ConfigPath = DEFAULT, as_json: AsJson = False) -> None:
    """List the tenants with the verifier keys of their logs."""
    configuration = load(config)
    keys = StateDirectory(configuration.state_dir).log_keys()
    with database(configuration) as engine, reading(engine) as connection:
        found = [
            (tenant, keys.load(tenant.tenant, tenant.origin).verifier_keys)
            for tenant in list_tenants(connection)
        ]
    if as_json:
        show(
            [
                {
                    "tenant": item.tenant,
                    "origin": item.origin,
                    "public": item.public,
                    "log_keys": list(log_keys),
                }
                for item, log_keys in found
            ]
        )
        return
    for item, log_keys in found:
        typer.echo(f"{item.tenant}\t{item.origin}\t{'public' if item.public else 'private'}")
        for log_key in log_keys:
            typer.echo(f"\t{log_key}")


def _initialise_regions(configuration: Configuration, tenant: str) -> None:
    driver = RegionDriver(open_stores(configuration, create=True), REGION_TIMEOUT_SECONDS, SystemClock())
    try:
        steps = initialise_regions(
            tenant, configuration.origin(tenant), region_configuration(configuration), SystemRandom()
        )
        driver.run(steps)
    finally:
        driver.close()
