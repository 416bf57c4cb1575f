"""Agent events: what the agent has to say for itself, sealed as records of the stream ``_duramen``.

Start, stop, and every loss or doubt about a file: one line of canonical JSON each, so that an auditor can
read them without this program. The spool keeps the most recent ones in the clear, for ``duramen-agent
events``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from duramen import canonical


class EventKind(StrEnum):
    """What happened."""

    START = "start"
    STOP = "stop"
    TRUNCATED = "truncated"
    """A file became shorter, or its first bytes changed, in place."""
    VANISHED = "vanished"
    """A file that was being read cannot be found any more."""
    DROPPED = "dropped"
    """A rotated file was let go unread, because ``spool.hold_bytes`` was reached."""
    PAUSED = "paused"
    """Reading stopped, because the spool or its disk was full."""
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """One event."""

    kind: EventKind
    time_ns: int
    details: Mapping[str, str | int] = field(default_factory=dict)
    lost_bytes: int = 0
    """Bytes known to be lost; 0 for a mere doubt, which the details explain."""

    @property
    def is_loss(self) -> bool:
        """Whether bytes are known to be lost."""
        return self.lost_bytes > 0

    def encode(self) -> bytes:
        """The event's record: canonical JSON and a line feed."""
        value: dict[str, canonical.Json] = {
            key: canonical.wide(item) if isinstance(item, int) else item for key, item in self.details.items()
        }
        value["event"] = self.kind.value
        value["time"] = canonical.wide(self.time_ns)
        if self.lost_bytes:
            value["lost_bytes"] = canonical.wide(self.lost_bytes)
        return canonical.encode(value) + b"\n"


def readable(path: bytes) -> str:
    """``path`` as text; bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")
