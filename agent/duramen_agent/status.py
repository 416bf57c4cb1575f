"""The status as the contract has it: composed, written as JSON, read again, and shown to a person.

The engine says how the agent is (:class:`~duramen_agent.agentstatus.AgentStatus`); what only the process
knows is added here. The exit code of ``duramen-agent status`` follows from the state, by the convention of
monitoring plug-ins: 0 ok, 1 degraded, 2 critical, 3 not running (state ``unknown``, read from the state
directory).
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from duramen.errors import FormatError
from duramen_agent.agentstatus import (
    AgentStatus,
    ForwardStatus,
    HeadStatus,
    LossStatus,
    SourceStatus,
    SpoolStatus,
)

UNKNOWN: Final = "unknown"
EXIT_CODES: Final = {"ok": 0, "degraded": 1, "critical": 2, UNKNOWN: 3}
_SHOWN_SOURCES: Final = 12
"""Sources on the one screen for a person; those that are behind come first."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the agent costs its host."""

    rss_bytes: int
    cpu_seconds: float
    open_files: int
    uptime_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of the status."""

    status: AgentStatus
    version: str
    process: ProcessStatus | None
    """None where no process answered."""

    @property
    def exit_code(self) -> int:
        """What ``duramen-agent status`` exits with."""
        return EXIT_CODES.get(self.status.state, 3)


def measure_process(uptime_seconds: float) -> ProcessStatus:
    """This process, now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return ProcessStatus(
        rss_bytes=resident_pages * resource.getpagesize(),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
        open_files=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208  # one of them is the listing's own
        uptime_seconds=round(uptime_seconds, 3),
    )


def encode_report(report: Report) -> bytes:
    """The contract's JSON, a line."""
    value = dataclasses.asdict(report.status)
    forward = value["forward"]
    del forward["degraded"], forward["critical"]  # they are among the reasons
    for source in value["sources"]:
        del source["is_problem"]
    value["version"] = report.version
    value["process"] = None if report.process is None else dataclasses.asdict(report.process)
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def parse_report(data: bytes) -> Report:
    """A report from its JSON; FormatError when it is not one."""
    try:
        value: dict[str, Any] = json.loads(data)
        process = value.pop("process")
        version = str(value.pop("version"))
        status = AgentStatus(
            **{
                **value,
                "head": HeadStatus(**value["head"]),
                "spool": SpoolStatus(**value["spool"]),
                "forward": ForwardStatus(**value["forward"]),
                "sources": [SourceStatus(**item, is_problem=False) for item in value["sources"]],
                "losses": LossStatus(**value["losses"]),
            }
        )
        return Report(status, version, None if process is None else ProcessStatus(**process))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(
            "the agent's status is not what this release expects: restart the agent after an upgrade"
        ) from error


def render_report(report: Report, now_ns: int) -> str:
    """One screen of text for a person under pressure; ``now_ns`` is Unix time."""
    return "\n".join(_lines(report, now_ns)) + "\n"


def _lines(report: Report, now_ns: int) -> Iterator[str]:
    status, forward, spool = report.status, report.status.forward, report.status.spool
    yield f"{status.state.upper()}  {status.tenant}/{status.agent}  version {report.version}"
    for reason in status.reasons:
        yield f"  ! {reason}"
    age = _duration((now_ns - status.head.sealed) / 10**9)
    head = f"block {status.head.seq}, {status.head.records} records, sealed {age} ago"
    yield f"chain    {status.chain[:16]}  {head}"
    oldest = "" if spool.oldest_seconds is None else f", oldest {_duration(spool.oldest_seconds)}"
    yield (
        f"spool    {spool.blocks} blocks, {_size(spool.bytes)} of {_size(spool.max_bytes)}{oldest}; "
        f"{_size(spool.disk_free_bytes)} free on its disk"
    )
    yield (
        f"forward  {forward.collector or 'no collector'}: accepted {forward.accepted_seq}, published "
        f"{forward.published_seq}, {_duration(forward.lag_seconds)} behind, {forward.failovers} failovers"
    )
    if forward.last_error and forward.last_error not in " ".join(status.reasons):
        yield f"         {forward.last_error}"
    lines = "" if status.losses.lines is None else f", {status.losses.lines} lines"
    yield f"losses   {status.losses.events} events, {status.losses.bytes} bytes{lines}"
    if report.process is not None:
        process = report.process
        yield (
            f"process  {_size(process.rss_bytes)}, {process.cpu_seconds:.1f} s CPU in "
            f"{_duration(process.uptime_seconds)}, {process.open_files} open files"
        )
    shown = sorted(status.sources, key=lambda item: -item.behind_bytes)[:_SHOWN_SOURCES]
    yield f"sources  {len(status.sources)}" + (
        f", {len(shown)} shown" if len(shown) < len(status.sources) else ""
    )
    for source in shown:
        behind = f"{_size(source.behind_bytes)} behind"
        yield f"  {source.stream}  {source.file or source.path}  {behind}  {source.state}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.1f} s"
