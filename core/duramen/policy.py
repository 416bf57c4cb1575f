"""C2SP tlog-policy: which logs are known, and which witnesses must have cosigned a checkpoint.

The file is read as octets: names may hold any byte but ASCII blanks and controls, and two names are the
same only if their bytes are. They are kept as text decoded with ``surrogateescape``, which maps distinct
bytes to distinct text. Verifier keys must be UTF-8.

A name may be a member of one group only, as the specification demands, so that no witness counts twice. The
policy says nothing about who runs a witness; two keys of one operator are two witnesses here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from duramen.errors import FormatError
from duramen.note import KeyKind, VerifierKey, parse_vkey

POLICY_MAX_BYTES: Final = 1024 * 1024
POLICY_MAX_NAMES: Final = 256
"""At most this many of each: logs, witnesses, groups (the specification asks for at least 32)."""
NONE: Final = "none"
"""The predefined quorum that asks for nobody."""

_OCTETS: Final = re.compile(rb"[\x09\x0a\x20-\x7e\x80-\xff]*")
_BLANKS: Final = re.compile("[ \t]+")
_NUMBER: Final = re.compile("[1-9][0-9]{0,3}", re.ASCII)
_LOG_KINDS: Final = frozenset({KeyKind.ED25519, KeyKind.COSIGNATURE_MLDSA44})
_WITNESS_KINDS: Final = frozenset({KeyKind.COSIGNATURE_ED25519, KeyKind.COSIGNATURE_MLDSA44})


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A known log; the key's name is its origin."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A known witness under the policy's own name for it."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A group that has witnessed once ``threshold`` of its members (witnesses or earlier groups) have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as :func:`parse_policy` reads it; groups stand after their members."""

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str

    def satisfied_by(self, cosigned: Collection[str]) -> bool:
        """Whether the quorum is reached when the witnesses named in ``cosigned`` have cosigned.

        Names that are no witness of this policy count for nothing.
        """
        if self.quorum == NONE:
            return True
        reached = {witness.name for witness in self.witnesses if witness.name in cosigned}
        for group in self.groups:
            if sum(member in reached for member in group.members) >= group.threshold:
                reached.add(group.name)
        return self.quorum in reached


def parse_policy(data: bytes) -> Policy:
    """Read a policy file; anything the specification does not allow is a FormatError with its line number."""
    if len(data) > POLICY_MAX_BYTES:
        raise FormatError(f"the policy has {len(data)} bytes; at most {POLICY_MAX_BYTES} are allowed")
    if not data.endswith(b"\n"):
        raise FormatError("the policy does not end in a line feed")
    if not _OCTETS.fullmatch(data):
        raise FormatError("the policy holds a control character other than tab and line feed")
    builder = _Builder()
    for number, line in enumerate(data.decode("utf-8", "surrogateescape")[:-1].split("\n"), 1):
        words = [word for word in _BLANKS.split(line) if word]
        if words and not words[0].startswith("#"):
            try:
                builder.add(words)
            except FormatError as error:
                raise FormatError(f"line {number} of the policy: {error}") from error
    return builder.finish()


class _Builder:
    """The definitions so far; every rule of the specification is checked as a line comes in."""

    def __init__(self) -> None:
        self._logs: list[PolicyLog] = []
        self._witnesses: list[PolicyWitness] = []
        self._groups: list[PolicyGroup] = []
        self._names: set[str] = set()
        self._members: set[str] = set()
        self._quorum: str | None = None

    def add(self, words: list[str]) -> None:
        """Take one line, split at its blanks."""
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self._add_log(parse_vkey(vkey), *url)
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._add_witness(name, parse_vkey(vkey), *url)
            case ["group", name, threshold, *members] if members:
                self._add_group(name, threshold, members)
            case ["quorum", name]:
                self._set_quorum(name)
            case _:
                raise FormatError("this is not a log, witness, group or quorum line")

    def finish(self) -> Policy:
        """The whole policy, once its quorum is known."""
        if self._quorum is None:
            raise FormatError("the policy has no quorum line; write 'quorum none' to demand no witness")
        return Policy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), self._quorum)

    def _add_log(self, key: VerifierKey, url: str | None = None) -> None:
        if key.kind not in _LOG_KINDS:
            raise FormatError("a log's key is of kind 1 or 6; this one is a witness's")
        if any(log.key.public == key.public for log in self._logs):
            raise FormatError("this log's key is listed twice")
        _demand_room(self._logs)
        self._logs.append(PolicyLog(key, url))

    def _add_witness(self, name: str, key: VerifierKey, url: str | None = None) -> None:
        if key.kind not in _WITNESS_KINDS:
            raise FormatError("a witness's key is of kind 4 or 6; this one is a log's")
        if any(witness.key.public == key.public for witness in self._witnesses):
            raise FormatError("this witness's key is listed twice")
        _demand_room(self._witnesses)
        self._define(name)
        self._witnesses.append(PolicyWitness(name, key, url))

    def _add_group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            if member not in self._names:
                raise FormatError("a group's member must be defined on an earlier line")
            if member in self._members:
                raise FormatError("a name can be a group's member only once")
            self._members.add(member)
        if threshold == "any":
            needed = 1
        elif threshold == "all":
            needed = len(members)
        elif _NUMBER.fullmatch(threshold) and int(threshold) <= len(members):
            needed = int(threshold)
        else:
            raise FormatError(f"a group's threshold is any, all, or a number from 1 to {len(members)}")
        _demand_room(self._groups)
        self._define(name)
        self._groups.append(PolicyGroup(name, needed, tuple(members)))

    def _set_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise FormatError("there is more than one quorum line")
        if name != NONE and name not in self._names:
            raise FormatError("the quorum must be none, or a witness or group of an earlier line")
        self._quorum = name

    def _define(self, name: str) -> None:
        if name == NONE or name in self._names:
            raise FormatError(
                "this name is taken; witnesses and groups share their names, and none is reserved"
            )
        self._names.add(name)


def _demand_room(listed: Collection[object]) -> None:
    if len(listed) >= POLICY_MAX_NAMES:
        raise FormatError(f"a policy has at most {POLICY_MAX_NAMES} logs, witnesses and groups each")
