"""``duramen export``: files restored byte for byte from a region, everything verified on the way.

The log is audited first, with bytes going into a temporary file without a name; files are written only
afterwards, from blocks that are proven to be in the log, signed by their agents, with the bodies and record
roots that they name. A file with holes gets what is there, one piece after the other, under a name that
ends in ``.incomplete``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import typer

from duramen.audit import audit_region
from duramen.auditreport import AuditOptions, AuditReport, Depth
from duramen.canonical import Json, wide
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
    print_findings,
    print_json,
    printable,
    read_policy,
    read_reader_key,
    read_token,
)
from duramen.cli.proving import last_chain, write_bundle
from duramen.disclosure import EvidenceRequest, build_evidence
from duramen.errors import (
    ConfigurationError,
    FormatError,
    IntegrityError,
    StorageError,
    UsageError,
)
from duramen.logreader import ObjectTileReader
from duramen.merkle import inclusion_proof_from, verify_inclusion
from duramen.names import Seq
from duramen.pinnedregion import PinnedRegion, pin_region
from duramen.readers import open_reader
from duramen.restoration import Generation, Restoration, Selection
from duramen.tiles import TileHashReader
from duramen.verdict import EXIT_CODES, Verdict


@dataclass(frozen=True, slots=True)
class _Written:
    generation: Generation
    output: Path
    sha256: str

    def to_json(self) -> dict[str, Json]:
        generation = self.generation
        return {
            "agent": generation.agent,
            "stream": generation.stream,
            "path": generation.path.decode(errors="backslashreplace"),
            "file": generation.file,
            "output": os.fsencode(self.output).decode(errors="backslashreplace"),
            "bytes": wide(generation.size),
            "sha256": self.sha256,
            "holes": [{"offset": wide(offset), "bytes": wide(size)} for offset, size in generation.holes],
            "sealed_twice": wide(generation.overlaps),
        }


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export")(export)


def export(
    region: RegionOption,
    tenant: TenantOption,
    vkey: VkeyOption,
    key: KeyOption,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="An empty directory, or one to make.")
    ],
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's files.")] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="Only this stream.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="Only the file that had this path.")] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence", metavar="FILE", help="Also make an evidence bundle of the agent's whole chain."
        ),
    ] = None,
    policy: PolicyOption = None,
    passphrase_file: PassphraseOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> int:
    """Restore files from a region byte for byte, verifying everything on the way."""
    if evidence is not None and agent is None:
        raise UsageError("--evidence discloses one chain: name its --agent")
    keys = parse_log_keys(vkey)
    parsed_policy, policy_bytes = read_policy(policy)
    reader_key = read_reader_key(key, passphrase_file)
    pinned = pin_region(open_reader(region, read_token(token)), tenant)
    _prepare(output)
    selection = Selection(agent, stream, None if path is None else os.fsencode(path))
    with tempfile.TemporaryFile(dir=output) as spool:
        restoration = Restoration(selection, lambda raw: _append(spool, raw))
        report = audit_region(
            pinned,
            tenant,
            keys,
            AuditOptions(
                depth=Depth.RECORDS,
                region=region,
                policy=parsed_policy,
                reader_key=reader_key,
                opens=lambda name, _: agent in (None, name),
                on_block=restoration.take,
            ),
        )
        unproven = 0 if report.is_proven else restoration.keep_leaves(_Inclusion(pinned, tenant, report))
        written = [_write(output, name, item, spool) for name, item in _names(restoration.generations())]
    if evidence is not None:
        chain = last_chain(pinned, tenant, keys, agent or "")
        last = next(item.seq for item in report.chains if item.chain == chain)
        request = EvidenceRequest(chain, Seq(0), last, whole_lineage=True, policy=policy_bytes)
        write_bundle(evidence, build_evidence(pinned, tenant, keys, request, reader_key))
    return _conclude(report, written, unproven, json=json)


def _conclude(report: AuditReport, written: list[_Written], unproven: int, *, json: bool) -> int:
    """Say what was done; the exit code."""
    holes = sum(len(item.generation.holes) for item in written)
    verdict = report.verdict
    if holes or unproven:
        verdict = Verdict.FAILED
    elif verdict is Verdict.VERIFIED and report.counts.unopened:
        verdict = Verdict.INCOMPLETE
    if json:
        print_json(
            {
                "verdict": str(verdict),
                "files": [item.to_json() for item in written],
                "unproven_blocks": unproven,
                "audit": report.to_json(),
            }
        )
        return EXIT_CODES[verdict]
    for item in written:
        output = printable(os.fsencode(item.output))
        typer.echo(f"{output}  {item.generation.size} bytes  sha256 {item.sha256}")
        for offset, size in item.generation.holes:
            typer.echo(f"  hole: {size} bytes from {offset} on are not in the log, or not readable here")
    print_findings(report.findings)
    if report.counts.unopened:
        typer.echo(f"{report.counts.unopened} blocks are not sealed to this reader key and were left out")
    if unproven:
        typer.echo(f"{unproven} blocks could not be proven to be in the log and were left out")
    typer.echo(f"{verdict}: {len(written)} files")
    return EXIT_CODES[verdict]


class _Inclusion:
    """Whether single leaves are in the log, where not all of it could be read."""

    def __init__(self, reader: PinnedRegion, tenant: str, report: AuditReport) -> None:
        self._checkpoint = None if report.signed is None else report.signed.checkpoint
        size = 0 if self._checkpoint is None else self._checkpoint.size
        self._hashes = TileHashReader(ObjectTileReader(reader, f"{tenant}/"), size)

    def __call__(self, leaf: int, digest: bytes) -> bool:
        if self._checkpoint is None:
            return False
        size = self._checkpoint.size
        try:
            proof = inclusion_proof_from(self._hashes, leaf, size)
            verify_inclusion(digest, leaf, size, proof, self._checkpoint.root)
        except (StorageError, FormatError, IntegrityError):
            return False
        return True


def _prepare(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UsageError(f"{output} is not empty; name an empty directory or one that is not there")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {output}: {error.strerror}") from error


def _append(spool: IO[bytes], raw: bytes) -> int:
    at = spool.tell()
    spool.write(raw)
    return at


def _names(generations: list[Generation]) -> Iterator[tuple[Path, Generation]]:
    """A name below the output directory for every generation; several of one path are numbered."""
    places = [_place(generation) for generation in generations]
    taken = {parent for place in places for parent in place.parents}
    for place, generation in zip(places, generations, strict=True):
        suffix = ".incomplete" if generation.holes else ""
        names = (place.name + number + suffix for number in _numbers(is_one=places.count(place) == 1))
        name = next(found for found in map(place.with_name, names) if found not in taken)
        taken.add(name)
        yield name, generation


def _numbers(*, is_one: bool) -> Iterator[str]:
    """What tells names apart: ``~1``, ``~2``, ...; nothing at first where there is but one."""
    if is_one:
        yield ""
    yield from (f"~{number}" for number in itertools.count(1))


def _place(generation: Generation) -> Path:
    """Where a file goes: its agent, then its path; nothing in a path may lead out of there."""
    parts = [part for part in os.fsdecode(generation.path).replace("\0", "%00").split("/") if part]
    if not parts:
        parts = ["_streams", *(part for part in generation.stream.replace("\0", "%00").split("/") if part)]
    safe = [part.replace(".", "%2E") if part in (".", "..") else part for part in parts]
    return Path(generation.agent or "_unknown", *safe)


def _write(output: Path, name: Path, generation: Generation, spool: IO[bytes]) -> _Written:
    target = output / name
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for piece in generation.pieces:
                spool.seek(piece.spooled)
                raw = spool.read(piece.size)
                digest.update(raw)
                file.write(raw)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error
    return _Written(generation, target, digest.hexdigest())
