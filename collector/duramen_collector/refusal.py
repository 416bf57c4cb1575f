"""Refusals: how the collector says no, as an exception that carries a problem document (RFC 9457).

Logic raises :class:`Refused` or any other DuramenError; :func:`problem_of` turns either into what travels.
What a refusal says is meant for whoever sent the request: nothing of another tenant, no paths, no traces.
"""

from __future__ import annotations

from typing import Final

from duramen.api import Problem
from duramen.errors import DuramenError, FormatError, IntegrityError, LimitError, StorageError, UsageError

RETRY_AFTER_SECONDS: Final = 5
_CONFLICTS: Final = frozenset({"gap", "fork", "replay"})


class Refused(DuramenError):  # noqa: N818  # it is an answer, not a failure of ours
    """A request that is refused with ``problem``."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(status: int, code: str, detail: str) -> Refused:
    """A refusal with ``status`` and ``code``; ``detail`` is one sentence that says what to do."""
    return Refused(Problem(status, code, detail))


def problem_of(error: DuramenError) -> Problem:
    """The problem document of any error raised on purpose."""
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, IntegrityError):
        return Problem(409 if error.code in _CONFLICTS else 422, error.code, str(error))
    if isinstance(error, FormatError):
        return Problem(422, "malformed", str(error))
    if isinstance(error, LimitError):
        return Problem(413, "too_large", str(error))
    if isinstance(error, UsageError):
        return Problem(400, "malformed", str(error))
    if isinstance(error, StorageError):
        return Problem(503, "busy", "the collector cannot reach its storage; try again later")
    return Problem(
        500, "misconfigured", "the collector is not set up for this; its operator finds the reason in its log"
    )
