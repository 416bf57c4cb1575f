"""``duramen keys``: reader keys.

Private ones never leave the machine they are made on, and never unencrypted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from duramen import keyfile
from duramen.canonical import Json
from duramen.cli.arguments import (
    JsonOption,
    PassphraseOption,
    print_json,
    read_file,
    read_passphrase,
    read_reader_key,
)
from duramen.envelope import ReaderKey
from duramen.errors import ConfigurationError, FormatError, UsageError
from duramen.ports import Random
from duramen.system import SystemRandom

app = typer.Typer(help="Make and show reader keys.", no_args_is_help=True)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Who the key is for, as recipients files name it.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where to put the files.")] = Path(),
    passphrase_file: PassphraseOption = None,
    json: JsonOption = False,
) -> None:
    """Make a reader key pair: NAME.key, sealed under a passphrase, and NAME.pub for recipients files."""
    random: Random = SystemRandom()
    private, public = output / f"{name}.key", output / f"{name}.pub"
    key = ReaderKey(random.draw(32))
    if not keyfile.is_reader_name(name):
        raise UsageError(
            f"{name!r} is not a name for a reader: 1 to 128 of A-Z, a-z, 0-9, '@', '.', '_' and '-'"
        )
    line = keyfile.NamedRecipient(name, key.recipient).encode()
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path} is there already; choose another name, or move it away")
    passphrase = read_passphrase(passphrase_file, confirm=True)
    sealed = keyfile.seal_private(
        key, passphrase, random.draw(keyfile.SALT_BYTES), random.draw(keyfile.NONCE_BYTES)
    )
    _write_new(private, sealed, 0o600)
    _write_new(public, f"{line}\n".encode(), 0o644)
    if json:
        print_json(
            {
                "name": name,
                "private": str(private),
                "public": str(public),
                "recipient": line,
                "key": key.recipient.key_hash.hex(),
            }
        )
    else:
        typer.echo(f"private key: {private}\npublic key: {public}\n{line}")


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A private key file, or a recipients file.")],
    passphrase_file: PassphraseOption = None,
    json: JsonOption = False,
) -> None:
    """Show the readers in a recipients file, or the public half of a private key (under its passphrase)."""
    data = read_file(file)
    if data.startswith(b"{"):
        key = read_reader_key(file, passphrase_file)
        name = file.stem if keyfile.is_reader_name(file.stem) else "reader"
        named: tuple[keyfile.NamedRecipient, ...] = (keyfile.NamedRecipient(name, key.recipient),)
    else:
        try:
            named = keyfile.parse_recipients(data.decode(errors="replace"))
        except FormatError as error:
            raise ConfigurationError(f"{file}: {error}") from error
    value: list[Json] = [
        {"name": item.name, "key": item.recipient.key_hash.hex(), "recipient": item.encode()}
        for item in named
    ]
    if json:
        print_json(value)
    else:
        for item in named:
            typer.echo(f"{item.name}  key {item.recipient.key_hash.hex()}\n{item.encode()}")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist, durably before it is spoken of."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
