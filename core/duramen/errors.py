"""Every error Duramen raises on purpose, sorted by whose fault it is.

::

    DuramenError
    ├── UsageError          the caller asked for something that makes no sense      exit 64
    ├── ConfigurationError  a file, key or permission on this machine is wrong      exit 78
    ├── LimitError          an input is larger than the stated limit                exit 65
    ├── FormatError         bytes that are not what their format says               exit 65
    ├── IntegrityError      valid bytes that prove something is wrong; never retried  exit 2
    ├── PeerError           the other side refused or misbehaved; may be retried    exit 69
    └── StorageError        a disk, database or object store failed; may be retried exit 74

Each class knows its exit code (sysexits.h, but for the monitoring convention of checks) and the HTTP
status it becomes when the collector answers with it. A message is one sentence that says what to do.
Foreign exceptions are mapped to these where they enter, in the adapters.
"""

from __future__ import annotations

from typing import ClassVar


class DuramenError(Exception):
    """Base of all errors raised on purpose; ``str(error)`` is one sentence for a person."""

    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500


class UsageError(DuramenError):
    """A command or call that makes no sense as given."""

    exit_code = 64
    http_status = 400


class ConfigurationError(DuramenError):
    """A configuration, file or permission on this machine that has to be changed by a person."""

    exit_code = 78
    http_status = 500


class LimitError(DuramenError):
    """An input past a limit of :mod:`duramen.limits`; the message names the limit."""

    exit_code = 65
    http_status = 413


class FormatError(DuramenError):
    """Bytes that are not a valid encoding; the one error that parsers raise."""

    exit_code = 65
    http_status = 422


class IntegrityError(DuramenError):
    """A signature, hash, link or proof that does not hold. Loud, and never retried.

    ``code`` is a finding code of the contract (``signature_invalid``, ``link_broken``, ...).
    """

    exit_code = 2
    http_status = 422

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class PeerError(DuramenError):
    """The other side refused, is unreachable, or answered with something it should not."""

    exit_code = 69
    http_status = 502


class StorageError(DuramenError):
    """A disk, database or object store failed."""

    exit_code = 74
    http_status = 503
