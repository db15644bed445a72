"""Reports: what a campaign prints, while it runs and at its end.

Rule of this file: on a terminal one line that is written anew, in a pipe a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from rigs.marks import FACES
from rigs.oracle import Verdict

_EVERY = 5.0  # seconds between two lines in a pipe
_SHOWN = 20


class Totals:
    """What all rounds came to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.kills = 0
        self.faces: Counter[str] = Counter()
        self.in_takeover = 0
        self.figures: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.violations: list[tuple[str, str, str]] = []  # kind, what, round
        self.refused_moves: Counter[str] = Counter()
        self.stalled = 0.0

    def add(self, verdict: Verdict, where: str) -> None:
        """Take in what a round came to."""
        for name in (
            "asked",
            "acked",
            "completed",
            "interrupted",
            "unacknowledged",
            "moved",
            "cut",
            "cut_streamed",
            "requests",
        ):
            self.figures[name] += getattr(verdict, name)
        self.refused_moves.update(verdict.refused_moves)
        self.recoveries += verdict.recoveries
        self.stalled += verdict.stalled
        self.violations += [(violation.kind, violation.what, where) for violation in verdict.violations]

    @property
    def slowest(self) -> float:
        return max(self.recoveries, default=0.0)

    def as_json(self) -> dict[str, Any]:
        """The figures, for programs."""
        return {
            "kills": self.kills,
            "moments": {face: self.faces[face] for face in FACES},
            "in a take-over": self.in_takeover,
            **dict(self.figures),
            "refused moves": dict(self.refused_moves),
            "violations": len(self.violations),
            "kinds": dict(Counter(kind for kind, _, _ in self.violations)),
            "recoveries": len(self.recoveries),
            "recovery p50 ms": round(_at(self.recoveries, 0.5) * 1e3, 1),
            "recovery p99 ms": round(_at(self.recoveries, 0.99) * 1e3, 1),
            "recovery max ms": round(self.slowest * 1e3, 1),
            "machine stalled s": round(self.stalled, 2),
            "wall s": round(time.monotonic() - self.began, 1),
        }

    def lines(self) -> list[str]:
        """The figures, for people."""
        told = self.as_json()
        moments = "   ".join(f"{face} {self.faces[face]}" for face in FACES)
        refused = ", ".join(f"{count} {code}" for code, count in sorted(self.refused_moves.items())) or "none"
        found = [
            f"kills               {self.kills}",
            f"  at the moments    {moments}",
            f"  runs cut          {told['cut']}, {told['cut_streamed']} of them streamed; "
            f"{self.in_takeover} kills fell into a take-over",
            f"turns               {told['asked']} asked, {told['acked']} acknowledged",
            f"  interrupted       {told['interrupted']}",
            f"  sealed, not told  {told['unacknowledged']}",
            f"forks and rewinds   {told['moved']}; refused: {refused}",
            f"requests            {told['requests']}",
            f"recovery            {told['recoveries']} first turns after a death: p50 {told['recovery p50 ms']} ms, "
            f"p99 {told['recovery p99 ms']} ms, slowest {told['recovery max ms']} ms",
            f"wall time           {told['wall s']} s; the machine stood still for {told['machine stalled s']} s",
            f"violations          {len(self.violations)}",
        ]
        found += [f"  {kind}: {what}   ({where})" for kind, what, where in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            found.append(f"  and {len(self.violations) - _SHOWN} more: {told['kinds']}")
        return found


def _at(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


class Progress:
    """How far it has come."""

    def __init__(self, wanted: int, *, shown: bool) -> None:
        self._wanted = wanted
        self._shown = shown
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def show(self, totals: Totals, *, last: bool = False) -> None:
        """Say it, if it is time to."""
        now = time.monotonic()
        if not self._shown or (now - self._last < (0.1 if self._terminal else _EVERY) and not last):
            return
        self._last = now
        moments = " ".join(f"{face} {totals.faces[face]}" for face in FACES[:4])
        spent = now - totals.began
        left = spent / totals.kills * (self._wanted - totals.kills) if totals.kills else 0.0
        line = (
            f"{totals.kills}/{self._wanted} kills ({moments}), {totals.figures['acked']} acknowledged, "
            f"{len(totals.violations)} violations, slowest {totals.slowest * 1e3:.0f} ms, {left:.0f} s left"
        )
        if self._terminal:
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
