"""``duramen prove`` and ``duramen verify``: evidence bundles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, Depth
from duramen.checkpoint import LogKeys
from duramen.cli.arguments import (
    JsonOption,
    KeyOption,
    PassphraseOption,
    PolicyOption,
    RegionOption,
    TenantOption,
    TokenOption,
    VkeyOption,
    parse_log_keys,
    print_json,
    printable,
    read_file,
    read_policy,
    read_reader_key,
    read_token,
)
from duramen.disclosure import EvidenceRequest, build_evidence
from duramen.errors import ConfigurationError, FormatError, IntegrityError, UsageError
from duramen.evidence import EvidenceReport, report_json, verify_evidence
from duramen.limits import BUNDLE_MAX_BYTES
from duramen.names import ChainId, Digest, Seq, parse_digest
from duramen.packs import RegionReader
from duramen.pinnedregion import pin_region
from duramen.readers import open_reader
from duramen.verdict import EXIT_CODES, Verdict


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("prove")(prove)
    app.command("verify")(verify)


def prove(
    region: RegionOption,
    tenant: TenantOption,
    vkey: VkeyOption,
    key: KeyOption,
    seq: Annotated[
        str, typer.Option("--seq", metavar="N[-M]", help="Which blocks of the chain to disclose.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The bundle to write.")],
    agent: Annotated[str | None, typer.Option("--agent", help="The agent; its last chain is meant.")] = None,
    chain: Annotated[str | None, typer.Option("--chain", help="The chain, 64 hex digits.")] = None,
    lineage: Annotated[
        bool,
        typer.Option(
            "--lineage", help="Put in every statement from the genesis on, not just the one before."
        ),
    ] = False,
    policy: PolicyOption = None,
    passphrase_file: PassphraseOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Make an evidence bundle that discloses whole blocks and proves them to anyone, offline."""
    keys = parse_log_keys(vkey)
    first, last = _parse_range(seq)
    if (agent is None) == (chain is None):
        raise UsageError("name either --agent or --chain")
    policy_bytes = read_policy(policy)[1]
    reader_key = read_reader_key(key, passphrase_file)
    pinned = pin_region(open_reader(region, read_token(token)), tenant)
    identity = _parse_chain(chain) if chain is not None else last_chain(pinned, tenant, keys, agent or "")
    request = EvidenceRequest(identity, first, last, whole_lineage=lineage, policy=policy_bytes)
    data = build_evidence(pinned, tenant, keys, request, reader_key)
    write_bundle(output, data)
    if json:
        print_json(
            {"bundle": str(output), "bytes": len(data), "chain": identity.hex(), "first": first, "last": last}
        )
    else:
        typer.echo(f"{output}: blocks {first} to {last} of chain {identity.hex()}, {len(data)} bytes")


def verify(
    bundle: Annotated[Path, typer.Argument(help="The evidence bundle.")],
    vkey: VkeyOption,
    genesis: Annotated[
        str | None, typer.Option("--genesis", metavar="HASH", help="The hash of the genesis that you expect.")
    ] = None,
    policy: PolicyOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the lines themselves, and nothing else.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Verify an evidence bundle; needs nothing but the bundle and the log's keys."""
    if show and json:
        raise UsageError("--show and --json exclude each other")
    keys = parse_log_keys(vkey)
    pin = None if genesis is None else _parse_chain(genesis)
    data = read_file(bundle, BUNDLE_MAX_BYTES)
    try:
        report = verify_evidence(data, keys, read_policy(policy)[0], pin)
    except (FormatError, IntegrityError) as error:
        code = error.code if isinstance(error, IntegrityError) else "malformed"
        if json:
            print_json({"verdict": "failed", "code": str(code), "detail": str(error)})
        else:
            typer.echo(f"NOT PROVEN: {code}: {error}", err=True)
        return EXIT_CODES[Verdict.FAILED]
    if json:
        print_json(report_json(report))
    elif show:
        _show_lines(report)
    else:
        _print_report(report)
    return 0


def last_chain(reader: RegionReader, tenant: str, keys: LogKeys, agent: str) -> ChainId:
    """The chain of ``agent`` that began last in the log."""
    report = audit_region(reader, tenant, keys, AuditOptions(depth=Depth.HEADERS))
    if report.signed is None:
        raise IntegrityError(report.findings[0].detail, code=str(report.findings[0].code))
    chains = [chain.chain for chain in report.chains if chain.agent == agent]
    if not chains:
        known = ", ".join(sorted({chain.agent for chain in report.chains if chain.agent})) or "none"
        raise UsageError(f"the log has no chain of the agent {agent!r}; it knows: {known}")
    return chains[-1]


def write_bundle(path: Path, data: bytes) -> None:
    """Write a new file; what is there already is not replaced."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def _parse_range(text: str) -> tuple[Seq, Seq]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or max(len(first), len(last)) > 18:
        raise UsageError("--seq is a number, or two with a dash: 5 or 5-9")
    return Seq(int(first)), Seq(int(last if dash else first))


def _parse_chain(text: str) -> ChainId:
    try:
        digest: Digest = parse_digest(text)
    except FormatError as error:
        raise UsageError(f"{text!r} is not a chain: {error}") from error
    return ChainId(digest)


def _show_lines(report: EvidenceReport) -> None:
    sys.stdout.flush()
    for item in report.blocks:
        for _, _, raw in item.payload.runs if item.payload is not None else ():
            sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def _print_report(report: EvidenceReport) -> None:
    typer.echo("proven:")
    for line in report.proven:
        typer.echo(f"  + {line}")
    for item in report.blocks:
        for run, _, _ in item.payload.runs if item.payload is not None else ():
            path = printable(run.path)
            place = f"stream {printable(run.stream)}, {path}, file {printable(run.file)}"
            end = run.offset + run.size - 1
            typer.echo(
                f"  + block {item.block.header.seq}: {place}, bytes {run.offset} to {end}, {run.lines} lines"
            )
    typer.echo("not proven:")
    for line in report.not_proven:
        typer.echo(f"  - {line}")
