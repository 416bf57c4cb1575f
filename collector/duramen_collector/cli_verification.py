"""``duramen-collector verify`` and ``duramen-collector regions``.

Exit codes: 0 verified, 1 incomplete, 2 failed.
"""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, Depth
from duramen.canonical import Json
from duramen.checkpoint import LogKeys, open_checkpoint
from duramen.errors import FormatError, IntegrityError, StorageError, UsageError
from duramen.ports import Clock, Random
from duramen.region import CHECKPOINT_KEY
from duramen.system import SystemClock, SystemRandom
from duramen.verdict import EXIT_CODES, Finding, Verdict, judge
from duramen_collector.configuration import DEFAULT_PATH, Configuration, load_configuration
from duramen_collector.database import demand_current, open_database, reading
from duramen_collector.regionreader import StoreReader
from duramen_collector.repair import repair_region
from duramen_collector.sequencer import Retention
from duramen_collector.statedir import StateDirectory
from duramen_collector.store.opening import open_store
from duramen_collector.store.port import ObjectStore
from duramen_collector.tenancy import Tenant, demand_tenant, list_tenants
from duramen_collector.verification import VerificationReport, run_verification

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="One tenant; all of them otherwise.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]

regions_app = typer.Typer(help="Look at the regions, check them, repair them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("verify")(verify)
    app.add_typer(regions_app, name="regions")


@dataclass(frozen=True, slots=True)
class _Site:
    """What the commands work on."""

    configuration: Configuration
    engine: sa.Engine
    stores: dict[str, ObjectStore]
    tenants: tuple[Tenant, ...]
    clock: Clock
    random: Random

    def keys(self, tenant: Tenant) -> LogKeys:
        """The public keys of a tenant's log."""
        return StateDirectory(self.configuration.state_dir).log_keys().public(tenant.tenant, tenant.origin)


@contextmanager
def _open(config: Path, tenant: str | None) -> Iterator[_Site]:
    configuration = load_configuration(config, os.environ)
    engine = open_database(configuration.database_path)
    try:
        demand_current(engine)
        with reading(engine) as connection:
            found = (demand_tenant(connection, tenant),) if tenant else tuple(list_tenants(connection))
        stores = {region.name: open_store(region.url) for region in configuration.regions}
        yield _Site(configuration, engine, stores, found, SystemClock(), SystemRandom())
    finally:
        engine.dispose()


def verify(
    config: ConfigOption = DEFAULT_PATH,
    tenant: TenantOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of the packs, not only headers and trees.")
    ] = False,
    regions: Annotated[bool, typer.Option("--regions", help="Show each region's result.")] = False,
    json: JsonOption = False,
) -> int:
    """Verify tenants' logs in all regions, and the database against them."""
    with _open(config, tenant) as site:
        reports = [
            run_verification(
                site.engine,
                site.stores,
                item.tenant,
                site.keys(item),
                depth=Depth.BODIES if deep else Depth.HEADERS,
                clock=site.clock,
                random=site.random,
            )
            for item in site.tenants
        ]
    if json:
        _show([report.to_json() for report in reports])
    else:
        for report in reports:
            _print_report(report, with_regions=regions)
    return EXIT_CODES[judge([finding for report in reports for finding in report.findings])]


@regions_app.command("status")
def status(config: ConfigOption = DEFAULT_PATH, tenant: TenantOption = None, json: JsonOption = False) -> int:
    """Show each region's checkpoint of every tenant, and how far it lies behind the furthest."""
    with _open(config, tenant) as site:
        rows = [row for item in site.tenants for row in _positions(site, item)]
    if json:
        _show(rows)
    else:
        for row in rows:
            state = row["error"] or f"{row['size']} statements, {row['lag']} behind"
            typer.echo(f"{row['tenant']}  {row['region']}  {state}")
    return EXIT_CODES[
        Verdict.INCOMPLETE if any(row["error"] or row["lag"] for row in rows) else Verdict.VERIFIED
    ]


@regions_app.command("scrub")
def scrub(
    config: ConfigOption = DEFAULT_PATH,
    tenant: TenantOption = None,
    region: Annotated[str | None, typer.Option("--region", help="One region; all of them otherwise.")] = None,
    json: JsonOption = False,
) -> int:
    """Read every byte of the regions; the database is not asked."""
    with _open(config, tenant) as site:
        if region is not None and region not in site.stores:
            raise UsageError(f"there is no region {region!r}; the configuration has {', '.join(site.stores)}")
        reports = [
            audit_region(
                StoreReader(name, store),
                item.tenant,
                site.keys(item),
                AuditOptions(depth=Depth.BODIES, region=name),
            )
            for item in site.tenants
            for name, store in site.stores.items()
            if region in (None, name)
        ]
    findings = [finding for report in reports for finding in report.findings]
    if json:
        _show([report.to_json() for report in reports])
    else:
        for report in reports:
            typer.echo(f"{report.tenant}  {report.region}  {report.verdict}")
        _print_findings(findings)
    return EXIT_CODES[judge(findings)]


@regions_app.command("repair")
def repair(
    region: Annotated[str, typer.Option("--region", help="The region to repair.")],
    config: ConfigOption = DEFAULT_PATH,
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> int:
    """Put back what is damaged or missing in a region, from the others.

    The damaged objects are kept aside.
    """
    with _open(config, tenant) as site:
        retention = Retention(
            site.configuration.retention.default_ns // 10**9,
            {number: life // 10**9 for number, life in site.configuration.retention.classes_ns.items()},
        )
        reports = [
            repair_region(
                site.stores, region, item.tenant, site.keys(item), retention, site.clock.wall_ns() // 10**9
            )
            for item in site.tenants
        ]
    if json:
        _show([report.to_json() for report in reports])
    else:
        for report in reports:
            for key, source in report.repaired:
                typer.echo(f"restored {key} from {source}")
            _print_findings(list(report.audit.findings))
            typer.echo(f"{report.audit.tenant}  {region}  {report.audit.verdict}")
    return EXIT_CODES[judge([finding for report in reports for finding in report.audit.findings])]


def _positions(site: _Site, tenant: Tenant) -> list[dict[str, Json]]:
    keys = site.keys(tenant)
    sizes: dict[str, int] = {}
    errors: dict[str, str] = {}
    for name, store in site.stores.items():
        try:
            data = StoreReader(name, store).read(f"{tenant.tenant}/{CHECKPOINT_KEY}")
            if data is None:
                errors[name] = "the region has no checkpoint"
            else:
                sizes[name] = open_checkpoint(data, keys).checkpoint.size
        except (StorageError, FormatError, IntegrityError) as error:
            errors[name] = str(error)
    furthest = max(sizes.values(), default=0)
    return [
        {
            "tenant": tenant.tenant,
            "region": name,
            "size": sizes.get(name),
            "lag": furthest - sizes.get(name, furthest),
            "error": errors.get(name, ""),
        }
        for name in site.stores
    ]


def _show(value: object) -> None:
    typer.echo(jsonlib.dumps(value, indent=2, ensure_ascii=False))


def _print_report(report: VerificationReport, *, with_regions: bool) -> None:
    _print_findings(list(report.findings))
    if with_regions:
        for result in report.regions:
            verdict = "incomplete" if result.audit is None else str(result.audit.verdict)
            typer.echo(f"  {result.name}  {verdict}")
    typer.echo(f"{report.tenant}  {report.verdict} ({report.depth})")


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        places = [
            f"{name} {value}"
            for name, value in (
                ("region", finding.region or None),
                ("object", finding.key or None),
                ("chain", finding.chain[:16] or None),
                ("block", finding.seq),
                ("leaf", finding.leaf),
            )
            if value is not None
        ]
        typer.echo(f"{finding.severity}: {finding.code}: {finding.detail} ({', '.join(places)})")
