"""What the agent's state machines ask of the world, and what the world tells them, as values.

The machines do no I/O with networks: they return :class:`HttpRequest` values, and whoever carries them out
(the transport's threads, a simulation) hands back one :class:`HttpResponse` or one :class:`HttpFailure` for
each. Losing one is allowed, and so is bringing one twice: the forwarder gives a request up some seconds
after its timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request to one collector."""

    request_id: int
    collector: str
    """Base URL, without a slash at its end."""
    method: str
    path: str
    """With its query; begins with a slash."""
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    timeout_s: float
    """For the whole exchange; connecting, and every silence within it, are bounded more tightly."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back, whatever its status and whoever sent it."""

    request_id: int
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpFailure:
    """No answer came back."""

    request_id: int
    reason: str
    """One sentence that says what to do."""
