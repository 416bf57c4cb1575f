"""Which collector to talk to: the list in order of preference, each with its own backoff.

A collector that failed is left alone for a random time up to 0.5 s, doubled at every failure in a row, at
most 60 s (full jitter, so that a thousand agents do not come back at one instant), or for as long as its
Retry-After says, whichever is longer. Meanwhile the next one in the list that may be asked is used. While a
less preferred one is in use, the preferred ones are probed now and then, and taken back only when a probe
succeeds: no flapping.

Pure: time and randomness come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from duramen.ports import Random

BACKOFF_FIRST_NS: Final = 500 * 10**6
BACKOFF_MAX_NS: Final = 60 * 10**9
RETRY_AFTER_MAX_S: Final = 600
"""What a Retry-After may ask for at most; a captive portal's year is not waited for."""
PROBE_INTERVAL_NS: Final = 60 * 10**9
"""How often a preferred collector is tried again while another one works."""


@dataclass(slots=True)
class _Peer:
    url: str
    failures: int = 0
    not_before_ns: int = 0


class Failover:
    """Chooses among collectors; times are monotonic nanoseconds."""

    def __init__(self, collectors: Sequence[str], random: Random) -> None:
        self._peers = [_Peer(url) for url in collectors]
        self._random = random
        self._chosen: _Peer | None = None
        self._probe_ns = 0
        self.switches = 0
        """How often another collector than the one before was chosen."""

    def select(self, now_ns: int) -> str | None:
        """The most preferred collector that may be asked now; None while every one is backing off."""
        for peer in self._peers:
            if peer.not_before_ns <= now_ns:
                return self._choose(peer, now_ns)
        return None

    def take_back(self, url: str, now_ns: int) -> None:
        """Use ``url`` from now on: its probe succeeded."""
        self._choose(self._find(url), now_ns)

    def probe(self, now_ns: int) -> str | None:
        """A more preferred collector than the one in use whose time to be tried again has come."""
        if now_ns < self._probe_ns:
            return None
        for peer in self._preferred():
            if peer.not_before_ns <= now_ns:
                self._probe_ns = now_ns + PROBE_INTERVAL_NS
                return peer.url
        return None

    def failed(self, url: str, now_ns: int, retry_after_s: int = 0) -> None:
        """Leave ``url`` alone for a while."""
        peer = self._find(url)
        ceiling = min(BACKOFF_MAX_NS, BACKOFF_FIRST_NS << min(peer.failures, 16))
        jitter = ceiling * int.from_bytes(self._random.draw(8), "big") >> 64
        peer.failures += 1
        peer.not_before_ns = now_ns + max(jitter, min(retry_after_s, RETRY_AFTER_MAX_S) * 10**9)

    def succeeded(self, url: str) -> None:
        """Forget the failures of ``url``."""
        peer = self._find(url)
        peer.failures = 0
        peer.not_before_ns = 0

    def select_ns(self) -> int:
        """When :meth:`select` finds one."""
        return min(peer.not_before_ns for peer in self._peers)

    def probe_ns(self) -> int | None:
        """When :meth:`probe` is worth asking; None while the most preferred collector is in use."""
        times = [peer.not_before_ns for peer in self._preferred()]
        return max(self._probe_ns, min(times)) if times else None

    def _preferred(self) -> list[_Peer]:
        return [] if self._chosen is None else self._peers[: self._peers.index(self._chosen)]

    def _choose(self, peer: _Peer, now_ns: int) -> str:
        if peer is not self._chosen:
            self.switches += self._chosen is not None
            self._chosen = peer
            self._probe_ns = now_ns + PROBE_INTERVAL_NS
        return peer.url

    def _find(self, url: str) -> _Peer:
        return next(peer for peer in self._peers if peer.url == url)
