"""Requests in flight: which there are, what was known when each was made, and which count as lost.

At most one request of each :class:`Lane` is in flight within a *contact*, the use of one collector from one
question for its head on. A request without an answer counts as lost some seconds after its timeout, so that
an adapter that loses an event delays forwarding and does not stop it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from duramen.api import chain_path
from duramen.names import ChainId, DataKeyId
from duramen_agent.effects import HttpRequest, HttpResponse
from duramen_agent.receipts import Asked

GRACE_NS: Final = 5 * 10**9
"""How long past its timeout a request is waited for."""
TIMEOUT_S: Final = 15.0
"""For a request without a body."""
UPLOAD_TIMEOUT_S: Final = 30.0
SLOWEST_BYTES_PER_S: Final = 32 * 1024
"""A link slower than this needs smaller batches; they halve at every timeout."""
_ACCEPT: Final = "application/json, application/problem+json"


class Lane(Enum):
    """Kinds of request."""

    UPLOAD = "upload"
    """Head, envelopes and blocks: one after the other."""
    RECEIPT = "receipt"
    HEARTBEAT = "heartbeat"
    PROBE = "probe"
    """A question for the head to a more preferred collector than the one in use."""


@dataclass(slots=True)
class Contact:
    """The use of one collector."""

    collector: str
    resumed: bool = False
    """Whether its head has been seen, and was ours: only then does it get heartbeats."""
    head_due: bool = True
    """Whether its head is to be asked for before anything is uploaded."""
    nonce: bytes | None = None
    stale_nonces: int = 0
    """Heartbeats refused in a row for their nonce."""
    uploaded: set[DataKeyId] = field(default_factory=set)
    """Data keys whose envelopes it took."""
    wanted: list[DataKeyId] = field(default_factory=list)
    """Data keys whose envelopes it asked for."""
    hold_ns: int = 0
    """No upload before this time."""


Handler = Callable[["Flight", HttpResponse, int, int], None]
"""Takes the answer, the wall clock and the monotonic clock, in ns."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to be made."""

    method: str
    what: str
    """Below the chain's path."""
    handler: Handler
    body: bytes = field(default=b"", repr=False)
    media_type: str | None = None
    last: int = -1
    """The last of the blocks it carries; -1 for none."""
    dek: DataKeyId | None = None
    """The data key whose envelopes it carries."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A request that was made."""

    lane: Lane
    contact: Contact
    handler: Handler
    lost_ns: int
    asked: Asked
    """What it told the collector about receipts."""
    accepted_seq: int
    """What the collector held, as known when it was made."""
    last: int
    dek: DataKeyId | None


class InFlight:
    """The requests of one chain; times are monotonic nanoseconds."""

    def __init__(self, chain: ChainId) -> None:
        self._chain = chain
        self._flights: dict[int, Flight] = {}
        self._last_id = 0

    def send(
        self, lane: Lane, contact: Contact, ask: Ask, now_ns: int, *, asked: Asked, accepted_seq: int
    ) -> HttpRequest:
        """The request for ``ask``, from now on in flight."""
        size = len(ask.body)
        timeout_s = UPLOAD_TIMEOUT_S + size / SLOWEST_BYTES_PER_S if size else TIMEOUT_S
        lost_ns = now_ns + int(timeout_s * 10**9) + GRACE_NS
        self._last_id += 1
        self._flights[self._last_id] = Flight(
            lane,
            contact,
            ask.handler,
            lost_ns,
            asked=asked,
            accepted_seq=accepted_seq,
            last=ask.last,
            dek=ask.dek,
        )
        headers = {"accept": _ACCEPT}
        if ask.media_type is not None:
            headers["content-type"] = ask.media_type
        return HttpRequest(
            request_id=self._last_id,
            collector=contact.collector,
            method=ask.method,
            path=chain_path(self._chain, ask.what),
            headers=headers,
            body=ask.body,
            timeout_s=timeout_s,
        )

    def land(self, request_id: int) -> Flight | None:
        """Take a request out, because something came back; None when it is not in flight (any more)."""
        return self._flights.pop(request_id, None)

    def lost(self, now_ns: int) -> list[Flight]:
        """Take out what has been waited for long enough."""
        late = [key for key, flight in self._flights.items() if flight.lost_ns <= now_ns]
        return [self._flights.pop(key) for key in late]

    def lost_ns(self) -> list[int]:
        """When each of them counts as lost."""
        return [flight.lost_ns for flight in self._flights.values()]

    def busy(self, lane: Lane, contact: Contact | None) -> bool:
        """Whether one is in flight in this lane of ``contact``; probes have contacts of their own."""
        return any(
            flight.lane is lane and (lane is Lane.PROBE or flight.contact is contact)
            for flight in self._flights.values()
        )
