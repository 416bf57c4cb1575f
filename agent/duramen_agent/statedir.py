"""The state directory, read where no agent answers: stopped, killed or hung.

The spool is locked by an agent that hangs, and opening it would write to it. So it is read from a copy,
database and write-ahead log, in a private temporary directory; the log's checksums make a copy that was taken
in the middle of a write end at the last whole transaction. Nothing in the state directory is touched.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from duramen.errors import ConfigurationError, LimitError, StorageError
from duramen_agent.agentstatus import (
    AgentStatus,
    ForwardStatus,
    HeadStatus,
    LossStatus,
    SourceStatus,
    SpoolStatus,
)
from duramen_agent.configuration import AgentConfiguration
from duramen_agent.event import readable
from duramen_agent.sealer import SPOOL_FILE
from duramen_agent.spool import Spool
from duramen_agent.status import UNKNOWN

COPY_MAX_BYTES: Final = 1024 * 1024 * 1024

T = TypeVar("T")


def read_status(configuration: AgentConfiguration, now_ns: int) -> AgentStatus:
    """What the state directory tells, ``now_ns`` being Unix time; its state is ``unknown``."""

    def read(spool: Spool) -> AgentStatus:
        state = spool.load()
        if state is None:
            raise ConfigurationError("this host is not enrolled: run duramen-agent enroll")
        usage = spool.usage()
        waiting = spool.blocks(state.accepted_seq + 1, 1, 1)
        oldest = None if usage.oldest_ns is None else max(0, now_ns - usage.oldest_ns) / 10**9
        chain = state.chain
        ended = "after a stop event" if chain.stopped else "without a stop event"
        return AgentStatus(
            state=UNKNOWN,
            reasons=[f"no agent answers; this is what {configuration.state_dir} holds, which ends {ended}"],
            tenant=chain.tenant,
            agent=chain.agent,
            chain=chain.chain.hex(),
            head=HeadStatus(chain.seq, chain.head.hex(), chain.records, chain.sealed_ns),
            spool=SpoolStatus(
                usage.blocks,
                usage.bytes,
                configuration.spool.max_bytes,
                oldest,
                shutil.disk_usage(configuration.state_dir).free,
            ),
            forward=ForwardStatus(
                collector=None,
                accepted_seq=state.accepted_seq,
                published_seq=state.published_seq,
                lag_seconds=(oldest or 0.0) if waiting else 0.0,
                last_error=None,
                failovers=0,
            ),
            sources=[
                SourceStatus(
                    stream=item.stream,
                    path=readable(item.path),
                    file=readable(item.path),
                    offset=item.offset,
                    size=item.size,
                    behind_bytes=max(0, item.size - item.offset),
                    state="not being read",
                    is_problem=True,
                )
                for item in state.positions
            ],
            losses=LossStatus(state.lost_bytes, None, state.loss_events),
            config_sha256=state.configuration.hex(),
        )

    return _with_copy(Path(configuration.state_dir), read)


def read_events(state_dir: Path) -> list[bytes]:
    """The latest agent events, JSON lines, oldest first."""
    return _with_copy(state_dir, lambda spool: spool.events())


def _with_copy(state_dir: Path, read: Callable[[Spool], T]) -> T:
    source = state_dir / SPOOL_FILE
    log = Path(f"{source}-wal")
    try:
        size = source.stat().st_size
        if size > COPY_MAX_BYTES:
            raise LimitError(
                f"the spool has {size} bytes, and is copied to be read up to {COPY_MAX_BYTES}: start the "
                "agent"
            )
        with tempfile.TemporaryDirectory(prefix="duramen-") as directory:
            copy = Path(directory, SPOOL_FILE)
            shutil.copyfile(source, copy)
            if log.exists():
                shutil.copyfile(log, f"{copy}-wal")
            spool = Spool(str(copy))
            try:
                return read(spool)
            finally:
                spool.close()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{state_dir} holds no spool: check state_dir, or run duramen-agent enroll"
        ) from error
    except OSError as error:
        raise StorageError(f"the spool {source} cannot be read: {error.strerror}") from error
