"""Commands: what the commands of several campaigns have in common: rounds, evidence, progress, and what is printed.

Rule of this file: nothing here knows what a campaign does. The evidence of a round without violations is deleted,
unless it was asked to be kept, so that a campaign of any length needs no more room than one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from rigs.oracle import Violation
from rigs.telling import Ticker, per_minute, time_left, violation_lines


class Found(Protocol):
    """What a round came to."""

    @property
    def violations(self) -> Sequence[Violation]: ...


class Totals(ABC):
    """What all rounds came to. A campaign adds its figures."""

    unit = ""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.figures: Counter[str] = Counter()
        self.violations: list[tuple[str, Violation]] = []

    @property
    @abstractmethod
    def done(self) -> int:
        """How many of what was asked for were done."""

    @abstractmethod
    def brief(self) -> str:
        """The figures that are shown while it runs."""

    @abstractmethod
    def own_json(self) -> dict[str, Any]:
        """The campaign's figures, for programs."""

    @abstractmethod
    def own_lines(self) -> list[str]:
        """The campaign's figures, for people."""

    @abstractmethod
    def take_in(self, found: Any) -> None:
        """Add a round's figures."""

    def add(self, found: Found, where: str) -> None:
        """Take in what a round came to."""
        self.take_in(found)
        self.violations += [(where, violation) for violation in found.violations]

    def as_json(self) -> dict[str, Any]:
        """All figures, for programs."""
        seconds = time.monotonic() - self.began
        return {
            **self.own_json(),
            "violations": len(self.violations),
            "kinds": dict(Counter(one.kind for _, one in self.violations)),
            "wall s": round(seconds, 1),
            f"{self.unit} per minute": per_minute(self.done, seconds),
        }

    def lines(self) -> list[str]:
        """All figures, for people."""
        told = self.as_json()
        wall = f"wall time           {told['wall s']} s, {told[f'{self.unit} per minute']} {self.unit} per minute"
        return [*self.own_lines(), wall, *violation_lines(self.violations)]


class Command(Struct, frozen=True):
    """A campaign's command. `unit` is what it counts and is asked for, so many `a_round`, `default` if nothing is said.

    `judge` judges a folder of evidence once more.
    """

    name: str
    doc: str
    unit: str
    default: int
    a_round: int
    plants: Iterable[str]
    judge: Callable[[Path, argparse.Namespace], Found]

    def parser(self) -> argparse.ArgumentParser:
        """The options that all campaigns have."""
        parser = argparse.ArgumentParser(prog=f"python -m rigs.{self.name}", description=self.doc.splitlines()[0])
        add = parser.add_argument
        add(f"--{self.unit}", type=int, dest="wanted", default=self.default, help=f"{self.default} by default")
        add("--seed", help="of the plan: to whom it happens, and when; the machine adds its own chance")
        add("--round", type=int, dest="first", default=0, metavar="N", help="begin with this round of the seed")
        add("--a-round", type=int, default=self.a_round, help=f"{self.unit} in one file")
        add("--folder", type=Path, help="where the evidence goes; a new temporary folder by default")
        add("--keep", action="store_true", help="keep the evidence of all rounds, not only of bad ones")
        add("--json", action="store_true", help="print the figures as JSON at the end")
        add("--judge", type=Path, metavar="FOLDER", help="judge kept evidence once more, and do nothing else")
        add("--plant", choices=sorted(self.plants), default="none", help="put a fault in; it must be reported")
        parser.set_defaults(also="")  # options of one campaign alone, for the command that repeats
        return parser

    def carry_out(
        self, given: argparse.Namespace, totals: Totals, run_round: Callable[[int, Path, int, Ticker], Found]
    ) -> int:
        """All rounds: each is given its number, its folder, how many it is to do, and whom to tell. The exit code."""
        if given.judge is not None:
            totals.add(self.judge(given.judge, given), str(given.judge))
            print("\n".join(totals.lines()))
            return 1 if totals.violations else 0
        given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
        folder = given.folder or Path(tempfile.mkdtemp(prefix=f"holdfast-{self.name}-"))
        print(f"seed                {given.seed}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            self._rounds(given, totals, run_round, folder)
        if given.json:
            print(json.dumps({"seed": given.seed, **totals.as_json()}))
        print("\n".join(violation_lines(totals.violations) if given.json else totals.lines()))
        if any(folder.iterdir()):
            print(f"evidence            {folder}")
        else:
            folder.rmdir()
        if totals.violations:
            where = totals.violations[0][0]
            print(f"to repeat           {self.again(given, where)}")
            print(f"to judge again      python -m rigs.{self.name} --judge {folder}/round-{where}{given.also}")
        return 1 if totals.violations or totals.done < given.wanted else 0

    def _rounds(
        self,
        given: argparse.Namespace,
        totals: Totals,
        run_round: Callable[[int, Path, int, Ticker], Found],
        folder: Path,
    ) -> None:
        ticker = Ticker(lambda: self._progress(given, totals))
        number, before = given.first, -1
        while before < totals.done < given.wanted:  # a round in which nothing is done is the last
            before = totals.done
            here = folder / f"round-{number}"
            here.mkdir(parents=True)
            found = run_round(number, here, min(given.a_round, given.wanted - before), ticker)
            totals.add(found, str(number))
            if not found.violations and not given.keep:
                shutil.rmtree(here)
            number += 1
        ticker.show(last=True)

    def _progress(self, given: argparse.Namespace, totals: Totals) -> str:
        counts = f"{totals.done}/{given.wanted} {self.unit}, {totals.brief()}, {len(totals.violations)} violations"
        return f"{counts}, {time_left(totals.done, given.wanted, totals.began)}"

    def again(self, given: argparse.Namespace, where: str) -> str:
        """The command that repeats a round."""
        plan = f"--seed {given.seed} --round {where} --a-round {given.a_round}"
        plant = f" --plant {given.plant}" if given.plant != "none" else ""
        size = f"--{self.unit} {min(given.wanted, given.a_round)}"
        return f"python -m rigs.{self.name} {plan} {size}{plant}{given.also} --keep"
