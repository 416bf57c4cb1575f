"""Secrets in files of their own: 32 random bytes in hex, for their owner alone.

A file that others may read is refused rather than repaired: whoever could read it may have done so already.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from duramen.errors import ConfigurationError
from duramen.ports import Random
from duramen.system import SystemDisk

SECRET_BYTES: Final = 32


def make_directory(path: Path) -> None:
    """A directory that nobody else may enter; nothing happens when it is there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the directory {path} cannot be made: {error.strerror}") from error


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write ``path`` durably, whole or not at all."""
    try:
        SystemDisk().write_atomic(os.fsencode(path), data, mode)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path, limit: int = 65_536) -> bytes:
    """The bytes of a file that only its owner may read.

    ConfigurationError when it is missing or open to others.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(limit)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}; duramen-collector init makes what is missing"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"{path} holds a secret and is open to others; replace it, then chmod 600 {path}"
        )
    return data


def read_secret(path: Path) -> bytes:
    """The 32 bytes in the secret file ``path``."""
    text = read_private(path)
    try:
        secret = bytes.fromhex(text.decode("ascii").removesuffix("\n"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"{path} is damaged: it should hold {SECRET_BYTES} bytes in hex")
    return secret


def ensure_secret(path: Path, random: Random) -> bool:
    """Make the secret file ``path`` unless it is there; whether it was made.

    One that is there is read and checked.
    """
    if path.exists():
        read_secret(path)
        return False
    write_file(path, random.draw(SECRET_BYTES).hex().encode() + b"\n")
    return True
