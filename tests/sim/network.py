"""The network between agents and collectors: late, lost, repeated, overtaken, cut one way or both."""

from __future__ import annotations

import random
from collections.abc import Callable

from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_collector.authority import AgentIdentity
from tests.sim.clock import SECOND, Timeline, chance
from tests.sim.collector import SimCollector
from tests.sim.host import SimHost


class Network:
    """Carries requests of hosts to ``collectors`` and answers back; ``observe`` sees each one."""

    def __init__(
        self,
        timeline: Timeline,
        rng: random.Random,
        tenant: str,
        collectors: list[SimCollector],
        observe: Callable[[SimHost, int], None],
    ) -> None:
        self.lossy = 0.0
        self.cut: set[tuple[str, str]] = set()
        self.deaf: set[tuple[str, str]] = set()
        """Links that carry requests and no answers."""
        self.on_request: Callable[[HttpRequest], HttpRequest | None] = lambda request: request
        """Who sits between: another request in its place, or None: eaten, and acknowledged."""
        self.on_response: Callable[[HttpResponse], HttpResponse] = lambda response: response
        self._timeline, self._rng, self._tenant = timeline, rng, tenant
        self._collectors = {item.name: item for item in collectors}
        self._observe = observe

    def heal(self) -> None:
        """Nothing is lost any more."""
        self.lossy = 0.0
        self.cut.clear()
        self.deaf.clear()

    def send(self, host: SimHost, request: HttpRequest) -> None:
        """Carry one request."""
        rng, process = self._rng, host.disk.process
        self._observe(host, self._timeline.now_ns)
        name = request.collector.removeprefix("https://")
        collector, link = self._collectors[name], (host.name, name)

        def fail(reason: str, delay_ns: int) -> None:
            outcome = HttpFailure(request.request_id, reason)
            self._timeline.after(delay_ns, lambda: host.receive(process, outcome))

        if link in self.cut or not collector.is_running:
            fail("connection refused", rng.randrange(1, SECOND))
            return
        if chance(rng, self.lossy):
            fail("timeout", int(request.timeout_s * SECOND))
            return
        repeats = 2 if chance(rng, self.lossy) else 1

        def arrive() -> None:
            if not collector.is_running:
                return
            passed = self.on_request(request)
            if passed is None:
                response = HttpResponse(request.request_id, 204, {}, b"")
            else:
                response = self.on_response(collector.answer(passed, AgentIdentity(self._tenant, host.name)))
            if link not in self.deaf and not chance(rng, self.lossy):
                self._timeline.after(rng.randrange(1, SECOND // 20), lambda: host.receive(process, response))

        for _ in range(repeats):
            late = rng.randrange(20 * SECOND) if chance(rng, self.lossy) else rng.randrange(1, SECOND // 20)
            self._timeline.after(late, arrive)
        fail("timeout", int(request.timeout_s * SECOND) + SECOND)
