"""Verification in the running collector: on demand, and by itself all the time.

Every tenant is verified each ``verification.every`` (trees, statements, headers, keys), and once in each
``verification.full_cycle`` down to every byte. One verification runs at a time, in a thread of its own, so
that it takes no more than one region's bandwidth and one processor; those that are asked for wait in line,
at most ``WAITING``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from duramen.audit import Depth
from duramen.errors import DuramenError
from duramen.ports import Clock, Random
from duramen_collector.configuration import VerificationTimes
from duramen_collector.database import reading
from duramen_collector.keystore import LogKeyStore
from duramen_collector.refusal import refuse
from duramen_collector.schema import verifications
from duramen_collector.store.port import ObjectStore
from duramen_collector.tenancy import Tenant, list_tenants
from duramen_collector.verification import run_verification

WAITING: Final = 16
LOOK_SECONDS: Final = 30.0
_ID_BYTES: Final = 16

_log = logging.getLogger("duramen.collector")


@dataclass(frozen=True, slots=True)
class Job:
    """A verification that waits or runs; ``region`` and ``step`` say where it is."""

    verification_id: str
    tenant: str
    depth: Depth
    region: str = ""
    step: str = "waiting"


class _StoppingError(Exception):
    """Breaks a verification off."""


class Verifications:
    """Starts verifications and knows those that are under way."""

    def __init__(
        self,
        engine: sa.Engine,
        stores: Mapping[str, ObjectStore],
        log_keys: LogKeyStore,
        times: VerificationTimes,
        clock: Clock,
        random: Random,
    ) -> None:
        self._engine = engine
        self._stores = stores
        self._log_keys = log_keys
        self._times = times
        self._clock = clock
        self._random = random
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verification")

    def start(self, tenant: Tenant, depth: Depth) -> Job:
        """Verify ``tenant`` as soon as it is its turn; the same job while one of that kind waits or runs."""
        with self._lock:
            for job in self._jobs.values():
                if (job.tenant, job.depth) == (tenant.tenant, depth):
                    return job
            if len(self._jobs) >= WAITING:
                raise refuse(429, "busy", f"{WAITING} verifications wait already; try again later")
            job = Job(self._random.draw(_ID_BYTES).hex(), tenant.tenant, depth)
            self._jobs[job.verification_id] = job
            self._pool.submit(self._run, tenant, job)
        return job

    def find(self, tenant: str, verification_id: str) -> Job | None:
        """A verification that waits or runs; None when it is finished or was never started here."""
        job = self._jobs.get(verification_id)
        return job if job is not None and job.tenant == tenant else None

    async def run(self) -> None:
        """Start what is due until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.start_due)
            except DuramenError as error:
                _log.error("a verification that was due could not be started: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    def start_due(self) -> None:
        """Start a verification for every tenant for which one is due."""
        with reading(self._engine) as connection:
            tenants = list_tenants(connection)
            due = [
                (tenant, depth) for tenant in tenants if (depth := self._due(connection, tenant)) is not None
            ]
        for tenant, depth in due:
            self.start(tenant, depth)

    def close(self) -> None:
        """Take back what waits, and break off what runs at its next step."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _due(self, connection: sa.Connection, tenant: Tenant) -> Depth | None:
        now_ns = self._clock.wall_ns()
        last_deep_ns = self._last(connection, tenant.tenant, Depth.BODIES) or tenant.created_ns
        if now_ns - last_deep_ns >= self._times.full_cycle_ns:
            return Depth.BODIES
        last_ns = max(last_deep_ns, self._last(connection, tenant.tenant, Depth.HEADERS) or 0)
        return Depth.HEADERS if now_ns - last_ns >= self._times.every_ns else None

    def _last(self, connection: sa.Connection, tenant: str, depth: Depth) -> int | None:
        query = sa.select(sa.func.max(verifications.c.started_ns)).where(
            verifications.c.tenant == tenant,
            verifications.c.depth == str(depth),
            verifications.c.finished_ns.is_not(None),
        )
        return connection.execute(query).scalar()

    def _run(self, tenant: Tenant, job: Job) -> None:
        def progress(region: str, step: str) -> None:
            if self._stopping.is_set():
                raise _StoppingError
            self._jobs[job.verification_id] = Job(job.verification_id, job.tenant, job.depth, region, step)

        try:
            report = run_verification(
                self._engine,
                self._stores,
                tenant.tenant,
                self._log_keys.public(tenant.tenant, tenant.origin),
                depth=job.depth,
                clock=self._clock,
                random=self._random,
                verification_id=job.verification_id,
                progress=progress,
            )
            _log.info("verification of %s (%s): %s", tenant.tenant, job.depth, report.verdict)
        except _StoppingError:
            _log.info("verification of %s was broken off: the collector is stopping", tenant.tenant)
        except DuramenError as error:
            _log.error("verification of %s was broken off: %s", tenant.tenant, error)
        except Exception:  # noqa: BLE001  # a thread's defect would be seen by nobody
            _log.exception("verification of %s was broken off by a defect of this program", tenant.tenant)
        finally:
            with self._lock:
                del self._jobs[job.verification_id]
