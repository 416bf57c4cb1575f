"""The ``duramen`` command line: reads, restores and proves, with no trust in whoever stores the logs.

Exit codes: 0 everything holds, 1 something could not be checked, 2 something is wrong; 64 usage, 78
configuration. Needs the extra ``duramen[cli]``, and ``duramen[http]`` to read over HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from duramen.cli import exporting, keys, logs, proving
from duramen.commandline import run

app = typer.Typer(
    name="duramen",
    help="Read, restore and prove logs that Duramen sealed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"duramen {version('duramen')}")
        except PackageNotFoundError:
            typer.echo("duramen, not installed: run from its source")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read, restore and prove logs that Duramen sealed."""


app.add_typer(keys.app, name="keys")
app.add_typer(logs.app, name="log")
exporting.register(app)
proving.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run(app, argv, name="duramen")
