"""Retries: what failed, whether asking again may help, and how long to wait before.

Rule of this file: it decides, it does nothing. Who retries has handed on nothing of the answer yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from holdfast.conversation.errors import ServiceError
from holdfast.ports.runtime import Runtime

LONGEST_WAIT = 60.0  # seconds; a service that asks for more is not waited for, the caller is told
_LONGEST_BACKOFF = 8.0
_FIRST_BACKOFF = 0.5
_PASSING = frozenset((408, 409, 429))
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE = re.compile(r"\w{3}, (\d{2}) (\w{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT")


class Fault(Exception):
    """What came instead of an answer: the error for the caller, and whether sending `again` may help.

    It goes from the transport to the client and no further.
    """

    def __init__(self, error: ServiceError, *, again: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again


def may_pass(status: int, headers: Mapping[str, str]) -> bool:
    """True if the same request may be accepted later. The service's own word, if it says one, goes before ours."""
    asked = headers.get("x-should-retry")
    if asked in ("true", "false"):
        return asked == "true"
    return status in _PASSING or status >= 500


def asked_wait(headers: Mapping[str, str], now_us: int) -> float | None:
    """The seconds for which the service asks us to wait, or None."""
    precise = _seconds(headers.get("retry-after-ms"))
    if precise is not None:
        return precise / 1000
    said = headers.get("retry-after")
    seconds = _seconds(said)
    if seconds is None and said is not None:
        seconds = _until(said, now_us)
    return seconds


def pause(fault: Fault, tries: int, runtime: Runtime) -> float | None:
    """The seconds to wait before the next try, or None to give up. `tries` is how often it was tried again already."""
    if not fault.again:
        return None
    asked = fault.error.retry_after
    if asked is None:
        # Half of it by chance, so that many who failed together do not come back together.
        return float(min(_FIRST_BACKOFF * 2**tries, _LONGEST_BACKOFF) * (0.5 + runtime.random() / 2))
    return asked if asked <= LONGEST_WAIT else None


def _seconds(said: str | None) -> float | None:
    try:
        seconds = float(said or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str, now_us: int) -> float | None:
    parts = _HTTP_DATE.fullmatch(date.strip())
    if parts is None or parts[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(parts[n]) for n in (1, 3, 4, 5, 6))
    try:
        when = datetime(year, _MONTHS.index(parts[2]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - now_us / 1e6)
