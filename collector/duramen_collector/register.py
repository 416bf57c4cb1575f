"""The deciding register of a region: the object ``head`` (PROTOCOL.md), as canonical JSON.

``{"accepted": null | {"ballot", "pack", "root", "root_before", "size", "size_before", "configuration"},
"configuration": {"epoch", "k", "regions"}, "log", "promised": {"counter", "uuid"}, "region", "write"}``:
digests and uuids in lower-case hex, one encoding only. ``log`` is the tenant log's origin: with ``region``
it says whose head this is, so that one copied from elsewhere is foreign. ``write`` is fresh at every write:
no head ever repeats its bytes, and whoever wrote it can recognise its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from duramen import canonical
from duramen.errors import FormatError
from duramen.names import Digest

UUID_BYTES: Final = 16
REGIONS_MAX: Final = 16
HEAD_MAX_BYTES: Final = 16 * 1024
COUNTER_MAX: Final = 2**53
"""No log is acquired as often; a head beyond it is malformed, so that none can use up all numbers."""
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SIZE_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """A sequencer's number: higher ones win; fresh at every acquisition."""

    counter: int
    uuid: bytes

    def __str__(self) -> str:
        return f"{self.counter}.{self.uuid.hex()[:8]}"


NO_BALLOT: Final = Ballot(0, bytes(UUID_BYTES))
"""What a new head has promised: lower than every ballot that is drawn."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Which regions hold a log, and in how many of them (``copies``, k) a value has to be accepted."""

    epoch: int
    regions: tuple[str, ...]
    """Names, ascending."""
    copies: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.regions) <= REGIONS_MAX or list(self.regions) != sorted(set(self.regions)):
            raise FormatError(
                f"a configuration names 1 to {REGIONS_MAX} regions, each once, in ascending order"
            )
        if not all(_REGION.fullmatch(name) for name in self.regions):
            raise FormatError(
                "a region's name is 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
            )
        if not 1 <= self.copies <= len(self.regions):
            raise FormatError(f"of {len(self.regions)} regions, 1 to {len(self.regions)} can hold a copy")


@dataclass(frozen=True, slots=True)
class Value:
    """What is decided: a longer log, by the pack that makes it longer."""

    size: int
    root: Digest
    size_before: int
    root_before: Digest
    pack: Digest
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Accepted:
    """A value under the ballot that proposed it."""

    ballot: Ballot
    value: Value

    @property
    def rank(self) -> tuple[Ballot, int]:
        """What the choice among accepted values goes by."""
        return (self.ballot, self.value.size)


@dataclass(frozen=True, slots=True)
class Head:
    """One region's register."""

    log: str
    region: str
    configuration: Configuration
    promised: Ballot
    accepted: Accepted | None
    write: bytes

    def __post_init__(self) -> None:
        if self.accepted is not None and self.accepted.ballot > self.promised:
            raise FormatError("a head has accepted a ballot higher than it promised")

    def encode(self) -> bytes:
        """The head's one encoding."""
        return canonical.encode(
            {
                "log": self.log,
                "region": self.region,
                "configuration": _configuration_json(self.configuration),
                "promised": _ballot_json(self.promised),
                "accepted": None if self.accepted is None else _accepted_json(self.accepted),
                "write": self.write.hex(),
            }
        )


def parse_head(data: bytes) -> Head:
    """The head in ``data``; FormatError for anything but its one encoding."""
    if len(data) > HEAD_MAX_BYTES:
        raise FormatError(f"a head has at most {HEAD_MAX_BYTES} bytes, not {len(data)}")
    fields = canonical.Fields(canonical.decode(data, "a head"), "a head")
    accepted = fields.take("accepted")
    head = Head(
        log=fields.text("log", 512),
        region=fields.text("region", 63),
        configuration=_parse_configuration(fields.take("configuration")),
        promised=_parse_ballot(fields.take("promised")),
        accepted=None if accepted is None else _parse_accepted(accepted),
        write=fields.hexed("write", UUID_BYTES),
    )
    fields.finish()
    return head


def _configuration_json(configuration: Configuration) -> canonical.Json:
    return {
        "epoch": canonical.wide(configuration.epoch),
        "regions": list(configuration.regions),
        "k": configuration.copies,
    }


def _ballot_json(ballot: Ballot) -> canonical.Json:
    return {"counter": canonical.wide(ballot.counter), "uuid": ballot.uuid.hex()}


def _accepted_json(accepted: Accepted) -> canonical.Json:
    value = accepted.value
    return {
        "ballot": _ballot_json(accepted.ballot),
        "size": canonical.wide(value.size),
        "root": value.root.hex(),
        "size_before": canonical.wide(value.size_before),
        "root_before": value.root_before.hex(),
        "pack": value.pack.hex(),
        "configuration": _configuration_json(value.configuration),
    }


def _parse_configuration(value: canonical.Json) -> Configuration:
    fields = canonical.Fields(value, "a head's configuration")
    names = fields.items("regions", REGIONS_MAX)
    configuration = Configuration(
        epoch=fields.uint("epoch", _SIZE_MAX),
        regions=tuple(name if isinstance(name, str) else "" for name in names),
        copies=fields.uint("k", REGIONS_MAX),
    )
    fields.finish()
    return configuration


def _parse_ballot(value: canonical.Json) -> Ballot:
    fields = canonical.Fields(value, "a ballot")
    ballot = Ballot(fields.uint("counter", COUNTER_MAX), fields.hexed("uuid", UUID_BYTES))
    fields.finish()
    return ballot


def _parse_accepted(value: canonical.Json) -> Accepted:
    fields = canonical.Fields(value, "an accepted value")
    accepted = Accepted(
        _parse_ballot(fields.take("ballot")),
        Value(
            size=fields.uint("size", _SIZE_MAX),
            root=Digest(fields.hexed("root", 32)),
            size_before=fields.uint("size_before", _SIZE_MAX),
            root_before=Digest(fields.hexed("root_before", 32)),
            pack=Digest(fields.hexed("pack", 32)),
            configuration=_parse_configuration(fields.take("configuration")),
        ),
    )
    fields.finish()
    if accepted.value.size <= accepted.value.size_before:
        raise FormatError("an accepted value is not longer than what lay before it")
    return accepted
