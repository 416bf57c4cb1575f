"""Telling a collector's answer from everything else that may answer in its place.

Captive portals answer 200 with HTML, proxies 502 with a page of their own, a wrong address with somebody
else's JSON. :func:`expect` accepts exactly what the contract (:mod:`duramen.api`) says, and turns the rest
into a :class:`RefusalError` (a peer error, retried with backoff), with the collector's own problem document
if it sent one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from duramen.api import JSON_MEDIA_TYPE, MAX_ANSWER_BYTES, PROBLEM_MEDIA_TYPE, Problem, parse_problem
from duramen.errors import FormatError, PeerError
from duramen_agent.effects import HttpResponse

T = TypeVar("T")


class RefusalError(PeerError):
    """Any answer but the expected one."""

    def __init__(self, message: str, problem: Problem | None = None, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.problem = problem
        """What a collector said; None when the answer is not a collector's, or contradicts itself."""
        self.retry_after_s = retry_after_s


def expect(response: HttpResponse, collector: str, parse: Callable[[bytes], T]) -> T:
    """What ``parse`` makes of a 200 in JSON; RefusalError for any other answer."""
    if response.status != 200:
        raise refusal(response, collector)
    if _media_type(response) != JSON_MEDIA_TYPE or len(response.body) > MAX_ANSWER_BYTES:
        raise _foreign(response, collector)
    try:
        return parse(response.body)
    except FormatError as error:
        raise RefusalError(
            f"{collector} says what no collector of this release says ({error}): check the address, and "
            "upgrade whichever of agent and collector is older"
        ) from error


def expect_nothing(response: HttpResponse, collector: str) -> None:
    """Demand a 204 without a body; RefusalError for any other answer."""
    if response.status != 204 or response.body:
        raise refusal(response, collector)


def refusal(response: HttpResponse, collector: str) -> RefusalError:
    """What an answer other than the expected one means."""
    problem = _problem(response)
    if problem is None:
        return _foreign(response, collector)
    if response.status in (401, 403):
        text = (
            f"{collector} refuses this agent's certificate ({problem.detail}): approve the agent there, or "
            "enrol this host again"
        )
    else:
        text = f"{collector} refused: {problem.detail}"
    return RefusalError(text, problem, _retry_after_s(response))


def _foreign(response: HttpResponse, collector: str) -> RefusalError:
    kind = _media_type(response)[:80] or "no stated media type"
    return RefusalError(
        f"{collector} answered {response.status} with {len(response.body)} bytes of {kind!r}, which is not a "
        "collector's answer: check the address, and whether a proxy or captive portal stands between",
        retry_after_s=_retry_after_s(response),
    )


def _problem(response: HttpResponse) -> Problem | None:
    if _media_type(response) != PROBLEM_MEDIA_TYPE or len(response.body) > MAX_ANSWER_BYTES:
        return None
    try:
        problem = parse_problem(response.body)
    except FormatError:
        return None
    return problem if problem.status == response.status else None


def _media_type(response: HttpResponse) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _retry_after_s(response: HttpResponse) -> int:
    """Seconds (RFC 9110 section 10.2.3). A date, the other form, would need clocks that agree: ignored."""
    text = response.headers.get("retry-after", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
