"""Report: what the disk rigs count, and how they print it.

Rule of this file: on a terminal one line that is written anew, in a pipe a plain line now and then; figures for
people, or as JSON for programs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rigs.oracle import Violation

_EVERY = 5.0  # seconds between two lines in a pipe
_SHOWN = 20
_KEPT = 20  # violations whose files are kept


class Tally:
    """What a campaign came to. `faults` and `moments` count what was injected, by its kind and by when it fell."""

    def __init__(self, name: str, wanted: int = 0, *, shown: bool = True) -> None:
        self.name = name
        self.wanted = wanted
        self.began = time.monotonic()
        self.done = 0
        self.faults: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self.figures: dict[str, float] = {}
        self.violations: list[tuple[Violation, str]] = []  # with where: what --only takes
        self._shown = shown
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def count(self, figure: str, by: float = 1) -> None:
        self.figures[figure] = self.figures.get(figure, 0) + by

    def at_most(self, figure: str, value: float) -> None:
        """Keep the largest value."""
        self.figures[figure] = max(self.figures.get(figure, 0.0), value)

    def found(self, violations: Sequence[Violation], where: str) -> None:
        self.violations += [(violation, where) for violation in violations]

    # --- progress ----------------------------------------------------------------------------------------------------

    def tick(self, by: int = 1) -> None:
        """So many more are done; say so, if it is time to."""
        self.done += by
        now = time.monotonic()
        if self._shown and now - self._last >= (0.1 if self._terminal else _EVERY):
            self._last = now
            self._say()

    def finish(self) -> None:
        if self._shown:
            self._say(end="\n")

    def _say(self, end: str = "") -> None:
        spent = time.monotonic() - self.began
        left = spent / self.done * (self.wanted - self.done) if self.done else 0.0
        line = f"{self.done}/{self.wanted} {self.name}, {len(self.violations)} violations, {max(0.0, left):.0f} s left"
        if self._terminal:
            print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    # --- the end -----------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        spent = time.monotonic() - self.began
        return {
            self.name: self.done,
            "faults": dict(self.faults),
            "moments": dict(self.moments),
            **{name: round(value, 4) for name, value in self.figures.items()},
            "violations": len(self.violations),
            "kinds": dict(Counter(violation.kind for violation, _ in self.violations)),
            "wall s": round(spent, 1),
            "per minute": round(60 * self.done / spent),
        }

    def lines(self) -> list[str]:
        told = self.as_json()
        found = [f"{self.name:<32}{self.done}, {told['per minute']} a minute, {told['wall s']} s"]
        for title, counts in (("  kinds", self.faults), ("  at the moments", self.moments)):
            if counts:
                found.append(f"{title:<32}{', '.join(f'{name} {count}' for name, count in counts.most_common())}")
        found += [f"{name:<32}{round(value, 4):g}" for name, value in self.figures.items()]
        found.append(f"{'violations':<32}{len(self.violations)}")
        return found

    def violation_lines(self) -> list[str]:
        found = [f"  {violation.kind}: {violation.what}   ({where})" for violation, where in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            kinds = dict(Counter(violation.kind for violation, _ in self.violations))
            found.append(f"  and {len(self.violations) - _SHOWN} more: {kinds}")
        return found

    def conclude(self, seed: str, given: argparse.Namespace, again: Callable[[str], str], evidence: Path | None) -> int:
        """Print all; the exit code: 1 if there was a violation, or if less was done than wanted."""
        self.finish()
        print(json.dumps({"seed": seed, **self.as_json()}) if given.json else "\n".join(self.lines()))
        for line in self.violation_lines():
            print(line)
        if evidence is not None and evidence.exists():
            print(f"{'evidence':<32}{evidence}")
        if self.violations:
            print(f"{'to repeat':<32}{again(self.violations[0][1])}")
        return 1 if self.violations or self.done < self.wanted else 0


def parser(name: str, doc: str | None, plants: Sequence[str]) -> argparse.ArgumentParser:
    """What all disk rigs take on their command lines."""
    found = argparse.ArgumentParser(prog=f"python -m rigs.{name}", description=(doc or "").splitlines()[0])
    found.add_argument("--seed", help="of all that is chosen at random; a random one by default")
    found.add_argument("--only", metavar="WHERE", help="repeat one fault, by the name that a violation is told with")
    found.add_argument("--folder", type=Path, help="where the evidence of violations goes; a temporary one by default")
    found.add_argument("--jobs", type=int, default=2, help="processes at a time; 2 by default")
    found.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    found.add_argument("--plant", choices=["none", *plants], default="none", help="put a fault in; it must be seen")
    return found


def keep(folder: Path, where: Path) -> None:
    """Keep the files of a violation, if not so many are kept already."""
    where.parent.mkdir(parents=True, exist_ok=True)
    if len(list(where.parent.iterdir())) < _KEPT:
        shutil.copytree(folder, where, dirs_exist_ok=True)


def seed_of(given: argparse.Namespace) -> str:
    """The seed that was asked for, or a new one; printed."""
    seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    print(f"{'seed':<32}{seed}", flush=True)
    return seed
