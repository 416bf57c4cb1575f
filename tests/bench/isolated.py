"""One line after a silence.

How long the engine takes until block, position and seed are synced to the real disk.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.agent.rig import SECOND, Host, append


def isolated_line_seconds(root: Path, count: int) -> list[float]:
    """``count`` measurements, each of a new line that finds the agent idle."""
    (root / "isolated").mkdir()
    host = Host(root / "isolated")
    host.start()
    log = host.logs / "app.log"
    append(log, b"the first line opens the file\n")
    host.changed(log)
    found = []
    for number in range(count):
        host.now_ns += 10 * SECOND  # within the burst allowance
        append(log, b"%06d something happened after a silence\n" % number)
        begun = time.perf_counter()
        host.changed(log)
        found.append(time.perf_counter() - begun)
    sealed = sum(map(len, host.verify().of(log)))
    if sealed != log.stat().st_size:
        raise RuntimeError("not every line was sealed at once: the measurement is void")
    return found
