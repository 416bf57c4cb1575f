"""``init``, ``serve``, ``check-config``, ``openapi``, ``version``."""

from __future__ import annotations

import json
import logging
import socket
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from duramen.errors import ConfigurationError, UsageError
from duramen.system import SystemClock, SystemRandom
from duramen_collector.assembly import api_document, run
from duramen_collector.cli.options import DEFAULT, ConfigPath, load
from duramen_collector.configuration import parse_configuration
from duramen_collector.publication import open_stores
from duramen_collector.secretfile import write_file
from duramen_collector.statedir import initialise

DEFAULT_STATE_DIRECTORY = "/var/lib/duramen-collector"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.command()(serve)
    app.command("check-config")(check_config)
    app.command()(openapi)
    app.command()(version)
    app.callback()(_main)


def init(
    config: ConfigPath = DEFAULT,
    name: Annotated[str | None, typer.Option(help="The collector's name, a host name.")] = None,
    listen: Annotated[str | None, typer.Option(help="Address and port, such as 0.0.0.0:8443.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where keys and the database lie.")] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="NAME=URL of a region; once for each region.")
    ] = None,
    copies: Annotated[int | None, typer.Option(help="How many regions must hold what is published.")] = None,
) -> None:
    """Make everything the collector needs and say what was made; what is there is left alone.

    Writes the configuration when there is none (the options say what goes into it), then certificate
    authority, server certificate, database and the regions' directories. Never makes reader keys.
    """
    given = {"name": name, "listen": listen, "state_dir": state_dir, "region": region, "copies": copies}
    done = []
    if not config.exists():
        _write_configuration(config, given)
        done.append(f"wrote the configuration {config}")
    elif any(value is not None for value in given.values()):
        raise UsageError(f"{config} is there already; edit it, or leave these options away")
    configuration = load(config)
    done += initialise(configuration, SystemClock(), SystemRandom())
    open_stores(configuration, create=True)
    for sentence in done or ["everything is there already"]:
        typer.echo(sentence)


def serve(config: ConfigPath = DEFAULT) -> None:
    """Run the collector until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    run(load(config), SystemClock(), SystemRandom())


def check_config(config: ConfigPath = DEFAULT) -> None:
    """Check the configuration; exit 78 with a sentence when something is wrong with it."""
    load(config)
    typer.echo(f"{config} is in order")


def openapi() -> None:
    """Print the API as an OpenAPI 3.1 document."""
    typer.echo(json.dumps(api_document(SystemClock(), SystemRandom()), indent=2, sort_keys=True))


def version() -> None:
    """Print the version."""
    try:
        number = metadata.version("duramen-collector")
    except metadata.PackageNotFoundError:  # run from a source tree
        number = "(not installed)"
    typer.echo(f"duramen-collector {number}")


def _version(value: bool) -> None:
    if value:
        version()
        raise typer.Exit


def _main(
    version: Annotated[  # its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Duramen's collector: verifies every chain, sequences tenant logs, publishes them to regions."""


def _write_configuration(path: Path, given: dict[str, Any]) -> None:
    regions = [_region(text) for text in given["region"] or []]
    if not regions:
        raise UsageError("name at least one region, such as --region eu=file:///srv/duramen/eu")
    tree = {
        "name": given["name"] or socket.getfqdn().lower(),
        "listen": given["listen"] or "0.0.0.0:8443",  # the contract's example; agents are elsewhere
        "state_dir": str((given["state_dir"] or Path(DEFAULT_STATE_DIRECTORY)).absolute()),
        "regions": regions,
        "publish": {
            "copies": given["copies"] or len(regions) // 2 + 1,
            "interval": "10s",
            "max_bytes": "1MiB",
        },
        "retention": {"default": "7y"},
    }
    data = yaml.safe_dump(tree, sort_keys=False).encode()
    parse_configuration(data, {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path.parent} cannot be made: {error.strerror}") from error
    write_file(path, data, 0o644)


def _region(text: str) -> dict[str, str]:
    name, equals, url = text.partition("=")
    if not equals:
        raise UsageError(f"a region is written NAME=URL, not {text!r}")
    return {"name": name, "url": url}
