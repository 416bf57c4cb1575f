"""What the spool remembers and returns, as values, and the one text form of the data keys in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from duramen import canonical
from duramen.canonical import Fields
from duramen.chain import ChainState, DataKeyUse
from duramen.names import ChainId, DataKeyId, Digest, Seq
from duramen_agent.position import Position


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes this chain."""

    tenant: str
    agent: str
    chain: ChainId


@dataclass(frozen=True, slots=True)
class ShredGroup:
    """A shred group's number in this chain, and its name in the configuration."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What the spool remembers besides blocks."""

    identity: Identity
    chain: ChainState
    positions: tuple[Position, ...]
    groups: tuple[ShredGroup, ...]
    first_seq: Seq
    """The lowest block still kept; one past the head when none is."""
    accepted_seq: int
    """-1 before the collector accepted any."""
    published_seq: int
    """-1 before any was published."""
    seen_size: int
    seen_root: Digest
    seen_note: bytes
    """The last checkpoint that was verified, as a signed note; empty before the first."""
    configuration: Digest
    """SHA-256 of the configuration that the last start recorded."""
    fingerprint_key: bytes
    next_generation: int
    lost_bytes: int
    loss_events: int


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block as it travels."""

    seq: Seq
    header_bytes: bytes
    signature: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    """How much the spool holds."""

    blocks: int
    bytes: int
    """Pages in use, in bytes; what the limit ``spool.max_bytes`` is held against."""
    oldest_ns: int | None
    """When the oldest block still kept was sealed, Unix ns."""


def encode_keys(keys: Mapping[tuple[int, int], DataKeyUse]) -> bytes:
    """The data keys in force by (shred group, class), as canonical JSON."""
    return canonical.encode(
        [
            {
                "class": class_,
                "dek": use.dek.hex(),
                "group": group,
                "next_step": use.next_step,
                "since": canonical.wide(use.since_ns),
            }
            for (group, class_), use in sorted(keys.items())
        ]
    )


def parse_keys(data: bytes) -> Mapping[tuple[int, int], DataKeyUse]:
    """The data keys in force from their JSON; FormatError when it is damaged."""
    value = canonical.decode(data, "the spool's list of data keys")
    keys = {}
    for item in Fields({"keys": value}, "the spool").items("keys", 2**24):
        fields = Fields(item, "a data key of the spool")
        use = DataKeyUse(DataKeyId(fields.hexed("dek", 16)), fields.uint("next_step"), fields.uint("since"))
        keys[fields.uint("group"), fields.uint("class")] = use
        fields.finish()
    return keys
