"""``duramen-collector``: the collector's command line.

Each module adds its commands to the application in ``register``; exit codes and errors are
:mod:`duramen.commandline`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from duramen.commandline import run
from duramen_collector import cli_verification
from duramen_collector.cli import setup, status, tenants, tokens

app = typer.Typer(
    name="duramen-collector",
    help="Duramen's collector: verifies every chain, sequences tenant logs, publishes them to regions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (setup, status, tenants, tokens, cli_verification):
    module.register(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(app, argv, "duramen-collector"))
