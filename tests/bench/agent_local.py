"""Throughput and latency of the local half of the agent: tail, seal, spool, on real files, without a network.

    python tests/bench/agent_local.py CORPUS_DIRECTORY [MEGABYTES]

Repeats the ``*.log`` files of the corpus to MEGABYTES (250), seals them, prints lines per CPU second and the
peak memory of the process; then seals isolated lines and prints how long each took until it was durable.
``--profile`` shows where the time goes, and costs some.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / name) for name in ("", "core", "agent")]

from tests.agent.rig import SECOND, Host, append  # noqa: E402  # the path is set first


def fill(directory: Path, corpus: Path, size: int) -> tuple[int, int]:
    """Write the corpus repeatedly; return (lines, bytes)."""
    lines = total = 0
    sources = [path.read_bytes() for path in sorted(corpus.glob("*.log"))]
    with (directory / "corpus.log").open("wb") as file:
        while total < size:
            for data in sources:
                file.write(data if data.endswith(b"\n") else data + b"\n")
                lines += data.count(b"\n") + (not data.endswith(b"\n"))
                total += len(data)
    return lines, total


def main() -> None:
    """Run both measurements."""
    corpus, size = Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 250) * 10**6
    with tempfile.TemporaryDirectory() as root:
        host = Host(Path(root))
        lines, total = fill(host.logs, corpus, size)
        gc.freeze()
        profile = cProfile.Profile() if "--profile" in sys.argv else None
        before = time.process_time()
        wall = time.monotonic()
        if profile:
            profile.enable()
        host.start()
        host.settle()
        if profile:
            profile.disable()
        cpu, wall = time.process_time() - before, time.monotonic() - wall
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        usage = host.spool.usage()
        print(f"lines {lines}  bytes {total}  cpu {cpu:.2f} s  wall {wall:.2f} s  peak rss {rss:.0f} MiB")
        print(f"lines/cpu-second {lines / cpu:,.0f}  MB/cpu-second {total / cpu / 1e6:.0f}")
        print(f"blocks {usage.blocks}  spool {usage.bytes / total:.3f} of the raw size")
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)
        log, times = host.logs / "isolated.log", []
        for i in range(200):
            host.now_ns += 10 * SECOND
            append(log, b"isolated line %d\n" % i)
            at = time.perf_counter()
            host.changed(log)
            times.append(time.perf_counter() - at)
            host.settle()
        times.sort()
        print(f"isolated line: median {times[100] * 1e3:.2f} ms  p99 {times[198] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
