"""The process that ``duramen-agent run`` becomes: ``python -m duramen_agent.daemon CONFIGURATION``.

It exists so that the running agent holds no command-line library in memory: ``run`` checks its arguments and
replaces itself by this with execve(2), under the same process id.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from duramen.errors import DuramenError, UsageError
from duramen_agent.configuration import load_configuration
from duramen_agent.runtime import Runtime


def main(argv: Sequence[str]) -> int:
    """Run the agent of the configuration file that is the only argument; the process's exit code."""
    os.umask(0o077)
    try:
        if len(argv) != 1:
            raise UsageError(
                "the daemon takes the path of a configuration file; start it with duramen-agent run"
            )
        Runtime(load_configuration(argv[0], os.environ)).run()
    except DuramenError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # the service manager keeps it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
