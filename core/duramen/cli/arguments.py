"""What several commands take: verifier keys, reader keys, policies; and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from duramen.canonical import Json
from duramen.checkpoint import LogKeys
from duramen.envelope import ReaderKey
from duramen.errors import ConfigurationError, FormatError, UsageError
from duramen.keyfile import open_private
from duramen.note import KeyKind, VerifierKey, parse_vkey
from duramen.policy import Policy, parse_policy
from duramen.verdict import Finding

FILE_MAX_BYTES = 1024 * 1024
"""Keys, policies and passphrases."""

RegionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--region", metavar="URL-OR-DIR", help="The region: a directory, file:// or http(s):// URL."
    ),
]
TenantOption: TypeAlias = Annotated[str, typer.Option("--tenant", help="The tenant whose log it is.")]
VkeyOption: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--vkey", metavar="VKEY", help="A verifier key of the log, or @FILE that holds it. Repeat it."
    ),
]
TokenOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--token", metavar="@FILE", help="@FILE with a bearer token, for a region over HTTP."),
]
KeyOption: TypeAlias = Annotated[Path, typer.Option("--key", metavar="FILE", help="Your reader key file.")]
PassphraseOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="File with the passphrase; asked for otherwise."),
]
PolicyOption: TypeAlias = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="A tlog-policy that checkpoints must satisfy.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_file(path: Path, limit: int = FILE_MAX_BYTES) -> bytes:
    """A small file that the user named; ConfigurationError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise ConfigurationError(f"{path} has more than {limit} bytes; this is not the file that is wanted")
    return data


def read_text(text: str) -> str:
    """``text``, or what the file behind an ``@`` holds, without blanks around it."""
    if not text.startswith("@"):
        return text.strip()
    try:
        return read_file(Path(text[1:])).decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{text[1:]} is not text") from error


def read_token(token: str | None) -> str | None:
    """A bearer token out of its file: on a command line everybody on the machine could read it."""
    if token is not None and not token.startswith("@"):
        raise UsageError("name a file with --token @FILE: other users can read a command line")
    return None if token is None else read_text(token)


def parse_vkeys(texts: list[str]) -> list[VerifierKey]:
    """Verifier keys; a file may hold several, one a line."""
    try:
        found = [
            parse_vkey(line.strip())
            for text in texts
            for line in read_text(text).splitlines()
            if line.strip()
        ]
    except FormatError as error:
        raise UsageError(f"--vkey: {error}") from error
    if not found:
        raise UsageError("--vkey: there is no verifier key in it")
    return found


def parse_log_keys(texts: list[str]) -> LogKeys:
    """The two keys of a Duramen log."""
    keys = parse_vkeys(texts)
    plain = [key for key in keys if key.kind is KeyKind.ED25519]
    hybrid = [key for key in keys if key.kind is KeyKind.COSIGNATURE_MLDSA44]
    if len(keys) != 2 or len(plain) != 1 or len(hybrid) != 1:
        raise UsageError("give --vkey twice: the log's Ed25519 key and its ML-DSA-44 key")
    try:
        return LogKeys(plain[0].name, plain[0], hybrid[0])
    except FormatError as error:
        raise UsageError(f"--vkey: {error}") from error


def read_policy(path: Path | None) -> tuple[Policy | None, bytes | None]:
    """A policy with its bytes."""
    if path is None:
        return None, None
    data = read_file(path)
    try:
        return parse_policy(data), data
    except FormatError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_passphrase(path: Path | None, *, confirm: bool = False) -> str:
    """A passphrase from the first line of a file, or from the terminal."""
    if path is None:
        text: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        lines = read_text(f"@{path}").splitlines()
        text = lines[0] if lines else ""
    if not text:
        raise UsageError("the passphrase is empty")
    return text


def read_reader_key(path: Path, passphrase_file: Path | None) -> ReaderKey:
    """A reader's private key."""
    data = read_file(path)
    try:
        return open_private(data, read_passphrase(passphrase_file))
    except FormatError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def printable(text: str | bytes) -> str:
    """What a host or a store named, fit for a terminal: control characters and broken UTF-8 are escaped."""
    decoded = text.decode(errors="backslashreplace") if isinstance(text, bytes) else text
    return "".join(
        char if char.isprintable() else char.encode(errors="surrogateescape").hex(" ").join(("<", ">"))
        for char in decoded
    )


def print_json(value: Json) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_findings(findings: tuple[Finding, ...]) -> None:
    """Findings, one a line."""
    for finding in findings:
        places = [
            f"{name} {value}"
            for name, value in (
                ("leaf", finding.leaf),
                ("chain", finding.chain[:16] or None),
                ("seq", finding.seq),
                ("in", finding.key or None),
            )
            if value is not None
        ]
        line = f"{finding.severity}: {finding.code}: {finding.detail} ({', '.join(places)})"
        typer.echo(printable(line))
