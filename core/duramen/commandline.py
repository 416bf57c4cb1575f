"""One way for every command line of Duramen to end: exit codes, and errors in one sentence on stderr.

:func:`run` calls a Typer application and returns the process's exit code, for the caller's ``sys.exit``:

- what the command returns, when that is an int, or raises as ``typer.Exit``; else 0;
- 64 for wrong usage, where the library would say 2, which the contract keeps for "critical";
- the exit code of a :class:`~duramen.errors.DuramenError`;
- 130 after Ctrl-C; 141, what a shell reports for SIGPIPE, when the reader of our output has gone: quietly.

Anything else is a defect of this program and keeps its traceback. Needs the extra ``duramen[cli]``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import typer
from typer.main import get_command

from duramen.errors import DuramenError, UsageError

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


def run(app: typer.Typer, argv: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run ``app`` on ``argv`` (default: the process's arguments) and return the exit code.

    ``name`` is what help and errors call the program (default: how it was started).
    """
    try:
        result = get_command(app).main(
            args=None if argv is None else list(argv), prog_name=name, standalone_mode=False
        )
        sys.stdout.flush()  # here, so that a reader who has gone is noticed here and not at exit
    except typer.TyperException as error:
        return _refuse(error)
    except DuramenError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _forget_output()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Typer's own answer to a broken pipe is exit(1)
            return _forget_output()
        raise
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _refuse(error: typer.TyperException) -> int:
    message = error.format_message()
    if message:  # an empty one: the help has been shown instead
        _say(f"{message.rstrip('.')}; --help shows what is possible")
    return UsageError.exit_code


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201  # this is the command line


def _forget_output() -> int:
    """Point stdout at nothing, so that the interpreter's flush at exit does not fail a second time."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file: nothing will be flushed to a pipe
        return BROKEN_PIPE
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return BROKEN_PIPE
