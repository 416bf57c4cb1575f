"""`make bench`: what Duramen costs, as whole processes, and as ratios to plain work on the same machine in
the same run.

Machines are shared and noisy, so absolute seconds say little: the reference is a plain Python process that
reads the same bytes, splits lines, hashes each with SHA-256 and compresses, and does nothing else. Each
measurement has a goal, which is reported, and a loose floor: the run fails only below the floor.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.isolated import isolated_line_seconds
from tests.demo.fleet import Agent, Fleet, wait_until

HERE = Path(__file__).parent
CORPUS = HERE.parents[2] / "shared" / "data" / "loghub"
"""Real logs beside a checkout; the demonstration's sample stands in where they are absent."""
SAMPLE = HERE.parent / "demo" / "sample.log"


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the report.

    ``floor`` fails the run; whether more or less is better, ``wants_more`` says.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    floor: float | None = None
    wants_more: bool = False

    def holds(self, bound: float | None) -> bool:
        """Whether the value is on the right side of ``bound``."""
        return bound is None or (self.value >= bound if self.wants_more else self.value <= bound)

    def __str__(self) -> str:
        sign = "≥" if self.wants_more else "≤"
        goal = (
            ""
            if self.goal is None
            else f"  goal {sign} {self.goal:,g}{'' if self.holds(self.goal) else '  MISSED'}"
        )
        return f"{self.name:<58} {self.value:>12,.2f} {self.unit:<14}{goal}"


def corpus() -> bytes:
    """The logs that are sealed, once through."""
    files = sorted(CORPUS.glob("*.log")) or [SAMPLE]
    parts = [path.read_bytes() for path in files]
    return b"".join(part if part.endswith(b"\n") else part + b"\n" for part in parts)


def write_corpus(path: Path, size: int) -> tuple[int, int]:
    """Repeat the corpus to ``size`` bytes; (bytes, lines)."""
    data = corpus()
    times = max(1, size // len(data))
    with path.open("wb") as file:
        for _ in range(times):
            file.write(data)
    return times * len(data), times * data.count(b"\n")


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def peak_mib(pid: int) -> float:
    """The kernel's high-water mark of resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError("the kernel does not tell VmHWM")


def reference_seconds(path: Path) -> float:
    """CPU seconds of the plain process over the same file."""
    done = subprocess.run(
        [sys.executable, str(HERE / "reference.py"), str(path)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def throughput(fleet: Fleet, agent: Agent, size: int) -> Iterator[Measured]:
    """A full file from the first byte to the last receipt, over TLS on loopback."""
    path = agent.logs / "corpus.log"
    total, lines = write_corpus(path, size)
    reference = reference_seconds(path)
    begun = time.monotonic()
    agent.process.start()
    process = psutil.Process(agent.process.pid)
    wait_until("the corpus is published", agent.is_settled, 300)
    wall = time.monotonic() - begun
    spent = cpu_seconds(process)
    collector = psutil.Process(fleet.collector.pid)
    yield Measured("corpus", total / 2**20, "MiB")
    yield Measured("agent: lines per CPU second", lines / spent, "lines/s", 250_000, 100_000, wants_more=True)
    yield Measured("agent: CPU, ratio to reading, hashing and compressing", spent / reference, "x", 4, 12)
    yield Measured("agent: wall", wall, "s")
    yield Measured("agent: peak memory", peak_mib(agent.process.pid), "MiB", 112, 200)
    yield Measured(
        "collector: lines per CPU second",
        lines / cpu_seconds(collector),
        "lines/s",
        400_000,
        50_000,
        wants_more=True,
    )
    yield Measured("collector: peak memory", peak_mib(fleet.collector.pid), "MiB", None, 600)
    stored = sum(file.stat().st_size for file in fleet.region("eu").rglob("*") if file.is_file())
    yield Measured("stored in one region, share of the raw bytes", stored / total, "x")
    before, at = cpu_seconds(process), time.monotonic()
    time.sleep(10)
    idle = (cpu_seconds(process) - before) / (time.monotonic() - at)
    yield Measured("agent: idle, heartbeat every second", 100 * idle, "% of a core", 1, 5)


def isolated(root: Path) -> Iterator[Measured]:
    """One line after a silence: from the agent being told to block and position being synced."""
    seconds = isolated_line_seconds(root, 200)
    yield Measured("agent: isolated line sealed and synced, median", 1000 * statistics.median(seconds), "ms")
    p99 = 1000 * statistics.quantiles(seconds, n=100)[98]
    yield Measured("agent: isolated line sealed and synced, p99", p99, "ms", 10, 200)


def main() -> int:
    """Measure and report; 1 below a floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=250, help="MB of logs (default 250)")
    size = parser.parse_args().size * 1_000_000
    root = Path(tempfile.mkdtemp(prefix="duramen-bench-"))
    fleet = Fleet(root)
    measured: list[Measured] = []
    try:
        fleet.create_collector()
        fleet.start_collector()
        agent = fleet.add_agent("bench", ["*.log"])
        for item in throughput(fleet, agent, size):
            print(item, flush=True)
            measured.append(item)
    finally:
        fleet.stop()
    for item in isolated(root):
        print(item, flush=True)
        measured.append(item)
    shutil.rmtree(root)
    failed = [item.name for item in measured if not item.holds(item.floor)]
    if failed:
        print(f"below the floor: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
