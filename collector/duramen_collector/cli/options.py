"""What the commands share: the configuration option, JSON output, the database."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from duramen.canonical import Json
from duramen_collector.configuration import DEFAULT_PATH, Configuration, load_configuration
from duramen_collector.database import demand_current, open_database

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
DEFAULT = DEFAULT_PATH


def load(path: Path) -> Configuration:
    """The configuration in ``path``, laid over by the environment."""
    return load_configuration(path, os.environ)


@contextlib.contextmanager
def database(configuration: Configuration) -> Iterator[sa.Engine]:
    """The database, which must be at this release's revision."""
    engine = open_database(configuration.database_path)
    try:
        demand_current(engine)
        yield engine
    finally:
        engine.dispose()


def show(value: Json) -> None:
    """Print JSON for a person or a program."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
