"""A program that writes a log and rotates it, as applications and logrotate do together.

``python writer.py LOG LEDGER`` appends numbered lines to LOG until SIGTERM, renames it to LOG.1, LOG.2, ...
every so many lines, and appends the same bytes to LEDGER first: what a log holds at the end can be compared
with the ledger byte for byte.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

LINES_PER_SECOND = 400
LINES_PER_FILE = 1500


def main(log: str, ledger: str) -> int:
    """Write until told to stop; the last line is always whole."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stopping.set())
    number = generation = 0
    with open(ledger, "ab", buffering=0) as record:
        while not stopping.is_set():
            with open(log, "ab", buffering=0) as file:
                for _ in range(LINES_PER_FILE):
                    number += 1
                    line = b"%08d %.6f request handled by pid %d\n" % (number, time.time(), os.getpid())
                    record.write(line)
                    file.write(line)
                    if number % 20 == 0:
                        time.sleep(20 / LINES_PER_SECOND)
                    if stopping.is_set():
                        return 0
            generation += 1
            os.rename(log, f"{log}.{generation}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
