"""``duramen log``: any tlog-tiles log, Duramen's or not, held against its checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from duramen.canonical import Json
from duramen.checkpoint import SignedCheckpoint, open_checkpoint, open_foreign_checkpoint
from duramen.cli.arguments import (
    JsonOption,
    PolicyOption,
    TokenOption,
    VkeyOption,
    parse_log_keys,
    parse_vkeys,
    print_json,
    read_policy,
    read_token,
)
from duramen.errors import ConfigurationError, FormatError, IntegrityError, UsageError
from duramen.logreader import CheckpointOpener, check_log
from duramen.note import KeyKind
from duramen.policy import Policy
from duramen.readers import open_reader
from duramen.statement import parse_statement

app = typer.Typer(help="Check a transparency log as it is stored.", no_args_is_help=True)

TargetArgument = Annotated[
    str, typer.Argument(metavar="URL-OR-DIR", help="The log: where its checkpoint and tile/ lie.")
]


@app.command("fsck")
def fsck(
    target: TargetArgument,
    vkey: VkeyOption,
    policy: PolicyOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> int:
    """Check every tile and entry of a log. Entries that are no statements of Duramen are opaque."""
    statements = 0

    def visit(_: int, entry: bytes) -> None:
        nonlocal statements
        try:
            parse_statement(entry)
        except FormatError:
            return
        statements += 1

    opener = _opener(vkey, read_policy(policy)[0])
    report = check_log(open_reader(target, read_token(token)), opener, on_entry=visit)
    if json:
        print_json(
            {
                "verdict": "verified" if report.is_sound else "failed",
                "checkpoint": None if report.signed is None else _checkpoint_json(report.signed),
                "entries": report.entries,
                "statements": statements,
                "complete": report.is_complete,
                "defects": [
                    {
                        "code": defect.code,
                        "key": defect.path,
                        "first": defect.index_range[0],
                        "end": defect.index_range[1],
                        "detail": defect.detail,
                    }
                    for defect in report.defects
                ],
            }
        )
        return 0 if report.is_sound else 2
    for defect in report.defects:
        first, end = defect.index_range
        typer.echo(f"{defect.code}: {defect.path}, leaves {first} to {end - 1}: {defect.detail}")
    if report.signed is not None:
        _print_checkpoint(report.signed)
        typer.echo(f"{report.entries} entries read, {statements} of them statements")
    typer.echo("the log is whole" if report.is_sound else "the log is NOT whole")
    return 0 if report.is_sound else 2


@app.command("checkpoint")
def checkpoint(
    target: TargetArgument,
    vkey: VkeyOption,
    policy: PolicyOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> int:
    """Verify and show a log's checkpoint."""
    opener = _opener(vkey, read_policy(policy)[0])
    data = open_reader(target, read_token(token)).read("checkpoint")
    if data is None:
        raise ConfigurationError(f"there is no checkpoint at {target}; name the log itself: REGION/TENANT")
    try:
        signed = opener(data)
    except FormatError as error:
        raise IntegrityError(str(error), code="checkpoint_invalid") from error
    if json:
        print_json(_checkpoint_json(signed))
    else:
        _print_checkpoint(signed)
    return 0


def _opener(texts: list[str], policy: Policy | None) -> CheckpointOpener:
    """Both keys of one Duramen log demand both signatures; else any of the keys will do."""
    vkeys = parse_vkeys(texts)
    kinds = {key.kind for key in vkeys}
    names = {key.name for key in vkeys}
    if len(vkeys) == 2 and kinds == {KeyKind.ED25519, KeyKind.COSIGNATURE_MLDSA44} and len(names) == 1:
        keys = parse_log_keys(texts)
        return lambda data: open_checkpoint(data, keys, policy)
    if policy is not None:
        raise UsageError("--policy needs both keys of a Duramen log")
    return lambda data: open_foreign_checkpoint(data, vkeys)


def _checkpoint_json(signed: SignedCheckpoint) -> dict[str, Json]:
    return {
        "origin": signed.checkpoint.origin,
        "size": signed.checkpoint.size,
        "root": signed.checkpoint.root.hex(),
        "time": signed.timestamp_seconds,
        "witnesses": [*sorted(signed.witnesses)],
    }


def _print_checkpoint(signed: SignedCheckpoint) -> None:
    checkpoint = signed.checkpoint
    typer.echo(f"log {checkpoint.origin}, {checkpoint.size} entries, root {checkpoint.root.hex()}")
