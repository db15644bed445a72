"""Telling: how far a campaign has come, and its figures in words.

Rule of this file: on a terminal one line that is written anew, in a pipe a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from rigs.oracle import Violation

_EVERY = 5.0  # seconds between two lines in a pipe
_SHOWN = 20


class Ticker:
    """Says how far it has come, if it is time to: what `told` says then."""

    def __init__(self, told: Callable[[], str]) -> None:
        self._told = told
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def show(self, *, last: bool = False) -> None:
        """Say a line. `last`: in any case."""
        now = time.monotonic()
        if now - self._last < (0.1 if self._terminal else _EVERY) and not last:
            return
        self._last = now
        if self._terminal:
            print(f"\r\x1b[K{self._told()}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(self._told(), file=sys.stderr, flush=True)


def time_left(done: int, wanted: int, began: float) -> str:
    """About how long it will take yet."""
    if not done:
        return "? s left"
    return f"{(time.monotonic() - began) / done * max(0, wanted - done):.0f} s left"


def per_minute(done: int, seconds: float) -> int:
    """A rate, to plan longer campaigns by."""
    return round(60 * done / seconds) if seconds > 0 else 0


def at(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def violation_lines(violations: Sequence[tuple[str, Violation]]) -> list[str]:
    """Violations in words, each with the round it was found in; the first ones, and how many more there are."""
    found = [f"violations          {len(violations)}"]
    found += [f"  {one.kind}: {one.what}   ({where})" for where, one in violations[:_SHOWN]]
    if len(violations) > _SHOWN:
        found.append(f"  and {len(violations) - _SHOWN} more")
    return found
