"""``duramen-agent``: the agent's command line.

Exit codes: 0 to 3 by the state for ``status`` (ok, degraded, critical, not running), 64 for wrong usage, 78
for a configuration that has to be changed; errors are one sentence on stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from duramen.commandline import run as run_app
from duramen.errors import UsageError
from duramen_agent.layout import DEFAULT_CONFIGURATION, DEFAULT_STATE_DIR, STATUS_SOCKET
from duramen_agent.release import release

app = typer.Typer(
    name="duramen-agent",
    help="Tails, chains, encrypts, spools and forwards the logs of this host.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Configuration = Annotated[Path, typer.Option("--config", metavar="PATH", help="The configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
DEFAULT: Path = Path(DEFAULT_CONFIGURATION)


def main() -> None:
    """The entry point."""
    os.umask(0o077)
    sys.exit(run_app(app, name="duramen-agent"))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"duramen-agent {release()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version  # its callback has done it


@app.command()
def run(config: Configuration = DEFAULT) -> None:
    """Run the agent in the foreground until SIGTERM."""
    command = [sys.executable, "-m", "duramen_agent.daemon", str(config)]
    os.execv(sys.executable, command)  # noqa: S606  # ourselves, without the command-line library in memory


@app.command()
def status(config: Configuration = DEFAULT, as_json: AsJson = False) -> int:
    """Show how the agent is; exits 0 ok, 1 degraded, 2 critical, 3 not running."""
    from duramen.system import SystemClock  # noqa: PLC0415  # see check_config
    from duramen_agent.configuration import load_configuration  # noqa: PLC0415  # as above
    from duramen_agent.statedir import read_status  # noqa: PLC0415  # as above
    from duramen_agent.status import Report, encode_report, parse_report, render_report  # noqa: PLC0415  # as above
    from duramen_agent.status_socket import call  # noqa: PLC0415  # as above

    configuration = load_configuration(str(config), os.environ)
    clock = SystemClock()
    answer = call(Path(configuration.state_dir) / STATUS_SOCKET, "status", clock)
    if answer is not None:
        report = parse_report(answer)
    else:
        report = Report(read_status(configuration, clock.wall_ns()), release(), None)
    if as_json:
        typer.echo(encode_report(report).decode(), nl=False)
    else:
        first, _, rest = render_report(report, clock.wall_ns()).partition("\n")
        colour = {"ok": typer.colors.GREEN, "degraded": typer.colors.YELLOW}.get(
            report.status.state, typer.colors.RED
        )
        typer.secho(first, fg=colour)  # colour on terminals only
        typer.echo(rest, nl=False)
    return report.exit_code


@app.command("check-config")
def check_config(config: Configuration = DEFAULT, as_json: AsJson = False) -> None:
    """Check the configuration and every file it names, and change nothing."""
    # Each command imports what it needs: the lightest, run and version, must not pay for the others.
    from duramen_agent.configuration import load_configuration  # noqa: PLC0415  # see the comment
    from duramen_agent.transport import tls_context  # noqa: PLC0415  # see the comment
    from duramen_agent.trust import pinned_keys, read_policy, read_recipients  # noqa: PLC0415  # see the comment

    configuration = load_configuration(str(config), os.environ)
    keys = pinned_keys(configuration.log_keys)
    readers = read_recipients(configuration.recipients)
    read_policy(configuration.receipts.policy)
    tls_context(Path(configuration.ca))
    digest = configuration.config_sha256.hex()
    if as_json:
        typer.echo(json.dumps({"config_sha256": digest, "log": keys.origin, "recipients": len(readers)}))
    else:
        typer.echo(
            f"{config} is right: agent {configuration.agent} of tenant {configuration.tenant}, log "
            f"{keys.origin}, {len(configuration.sources)} sources, {len(readers)} recipients"
        )


@app.command()
def enroll(
    join: Annotated[
        str, typer.Argument(metavar="FILE", help="Where the join string is; - for standard input.")
    ],
    config: Configuration = DEFAULT,
    state_dir: Annotated[
        Path, typer.Option("--state-dir", metavar="PATH", help="For a configuration that is not there yet.")
    ] = Path(DEFAULT_STATE_DIR),
) -> None:
    """Enrol this host with a join string: keys, certificate, chain, and a configuration to be completed."""
    from duramen.api import parse_join_string  # noqa: PLC0415  # see check_config
    from duramen.system import SystemClock, SystemDisk, SystemRandom  # noqa: PLC0415  # as above
    from duramen_agent.enroll import Enroller, Ports, Send  # noqa: PLC0415  # as above
    from duramen_agent.transport import exchange, open_client, tls_context  # noqa: PLC0415  # as above

    try:
        text = sys.stdin.read(70_000) if join == "-" else Path(join).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the join string cannot be read from {join}: {error}") from error
    clock = SystemClock()

    clients = contextlib.ExitStack()

    def connect(ca: Path) -> Send:
        client = clients.enter_context(open_client(tls_context(ca)))
        return lambda request: exchange(client, request, clock)

    enroller = Enroller(
        parse_join_string(text),
        config.absolute(),
        state_dir.absolute(),
        Ports(SystemDisk(), SystemRandom(), clock),
    )
    with clients:
        done = enroller.run(connect)
    how = "was enrolled already" if done.already else "is enrolled"
    typer.echo(f"this host {how} as chain {done.chain.hex()}, state in {done.state_dir}")
    if not done.already:
        typer.echo(f"now add recipients and sources to {config}, and start duramen-agent run")


@app.command()
def events(config: Configuration = DEFAULT) -> None:
    """Show the agent's own latest events, a JSON object a line, oldest first.

    They are records of the chain like any other; these are the copies in the clear that the spool keeps of
    the latest thousand.
    """
    from duramen.system import SystemClock  # noqa: PLC0415  # see check_config
    from duramen_agent.configuration import load_configuration  # noqa: PLC0415  # as above
    from duramen_agent.statedir import read_events  # noqa: PLC0415  # as above
    from duramen_agent.status_socket import call  # noqa: PLC0415  # as above

    state_dir = Path(load_configuration(str(config), os.environ).state_dir)
    answer = call(state_dir / STATUS_SOCKET, "events", SystemClock())
    typer.echo(b"".join(read_events(state_dir)) if answer is None else answer, nl=False)


@app.command()
def version() -> None:
    """Show the version."""
    _show_version(wanted=True)


if __name__ == "__main__":
    main()
