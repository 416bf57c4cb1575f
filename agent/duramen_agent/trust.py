"""Whom the agent trusts: the pinned log keys, the policy and the recipients that its configuration names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from duramen.checkpoint import LogKeys
from duramen.envelope import Recipient
from duramen.errors import ConfigurationError, FormatError
from duramen.keyfile import parse_recipients
from duramen.limits import RECIPIENTS_MAX
from duramen.note import parse_vkey
from duramen.policy import Policy, parse_policy


def pinned_keys(log_keys: tuple[str, str]) -> LogKeys:
    """The tenant log's verifier keys from their text; ConfigurationError when they are not such a pair."""
    try:
        first, second = (parse_vkey(text) for text in log_keys)
        return LogKeys(first.name, first, second)
    except FormatError as error:
        raise ConfigurationError(
            f"log_keys: {error}; copy both keys of the tenant log, the Ed25519 key first"
        ) from error


def read_policy(path: str | None) -> Policy | None:
    """The policy in the file ``path``, if one is configured."""
    if path is None:
        return None
    try:
        return parse_policy(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"the policy {path} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_recipients(paths: Iterable[str]) -> list[Recipient]:
    """The recipients of all the files ``paths``; a reader named in two of them counts once."""
    found: dict[bytes, Recipient] = {}
    for path in paths:
        try:
            named = parse_recipients(Path(path).read_text())
        except OSError as error:
            raise ConfigurationError(f"the recipients {path} cannot be read: {error.strerror}") from error
        except (FormatError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        found.update((item.recipient.public, item.recipient) for item in named)
    if len(found) > RECIPIENTS_MAX:
        raise ConfigurationError(
            f"recipients: {len(found)} readers are named, and at most {RECIPIENTS_MAX} may be"
        )
    return list(found.values())
