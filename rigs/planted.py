"""Plant a bug in a copy of the library, and see whether the campaigns notice it.

    python -m rigs.planted [--only BUG] [--search] [--jobs N]

The bugs stand in `rigs.planted_bugs`; whoever wrote them had not seen the campaigns. Each is applied to a copy of the
library, and the campaign that is known to notice it runs over that copy, from its own command line, as anybody runs
it. With --search all campaigns are tried, the quickest first.

Rule of this file: a bug counts as caught if a campaign ends with 1, which says that it has found violations, and has
told one. A campaign that breaks down or hangs has found nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

import holdfast
from rigs.planted_bugs import BUGS, Bug, applied

SOURCE = Path(holdfast.__file__).parent
HERE = Path(__file__).parents[1]
PATIENCE = 240.0

# The campaigns, short, the quickest first.
CAMPAIGNS: Mapping[str, tuple[str, ...]] = {
    "faults": ("rigs.faults", "--seed", "1"),
    "flips": ("rigs.flips", "--flips", "300", "--seed", "1"),
    "model": ("rigs.model", "--steps", "6000", "--seed", "1"),
    "power": ("rigs.power", "--images", "1500", "--seed", "1"),
    "kill": ("rigs.kill", "--kills", "80", "--seed", "1"),
    "disk_kill": ("rigs.disk_kill", "--sample", "150", "--seed", "1"),
    "disk_errors": ("rigs.disk_errors", "--sample", "150", "--seed", "1"),
    "stale": ("rigs.stale", "--pauses", "20", "--seed", "1"),
    "append": ("rigs.append", "--turns", "4000", "--seed", "1"),
    "clocks": ("rigs.clocks", "--jumps", "40", "--seed", "1"),
}
# Which of them is known to notice which bug.
CAUGHT_BY: Mapping[str, str] = {
    "sync-dropped": "power",
    "checkpoint-not-synced": "power",
    "acknowledged-before-the-commit": "kill",
    "commit-error-swallowed": "disk_errors",
    "second-descriptor": "append",
    "head-before-turn": "disk_kill",
    "living-run-taken-over": "append",
    "left-over-input-dropped": "kill",
    "key-lost-in-recovery": "disk_kill",
    "open-pair-sealed": "faults",
    "key-of-any-thread": "model",
    "rewound-fork-not-anchored": "model",
    "rewound-turns-sent": "kill",
    "only-the-last-hash-checked": "flips",
    "retry-after-text": "faults",
    "cut-off-answer-completed": "faults",
}


class Outcome(msgspec.Struct, frozen=True):
    """What a campaign made of a bug."""

    bug: str
    campaign: str
    caught: bool
    seconds: float
    told: str


def play(bug: Bug, campaign: str) -> Outcome:
    """Run a campaign over a copy of the library that has the bug."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "src" / "holdfast"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        applied(bug, copy)
        code, told = _run(CAMPAIGNS[campaign], copy.parent, Path(folder))
    return Outcome(bug.name, campaign, code == 1 and bool(told), time.monotonic() - began, told)


def _run(command: Sequence[str], source: Path, folder: Path) -> tuple[int, str]:
    """Exit code and the violations that were told, in short."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source}:{HERE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"did not end within {PATIENCE:.0f} s"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    broke_down = any(line.startswith("Traceback") for line in done.stderr.splitlines())
    return (-1 if broke_down else done.returncode), "\n".join(lines[-12:])


def campaigns_for(bug: Bug, *, search: bool) -> Iterator[str]:
    """The campaigns to try on a bug."""
    if bug.name in CAUGHT_BY:
        yield CAUGHT_BY[bug.name]
    if search:
        yield from (name for name in CAMPAIGNS if name != CAUGHT_BY.get(bug.name))


def hunt(bug: Bug, *, search: bool) -> Outcome:
    """Try campaigns until one notices the bug."""
    last = Outcome(bug.name, "none", False, 0.0, "no campaign is known to notice it")
    for campaign in campaigns_for(bug, search=search):
        last = play(bug, campaign)
        if last.caught:
            break
    return last


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if a bug was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m rigs.planted", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="BUG", choices=[bug.name for bug in BUGS], help="this bug alone")
    parser.add_argument("--campaign", choices=sorted(CAMPAIGNS), help="play this campaign, whatever is known")
    parser.add_argument("--search", action="store_true", help="try all campaigns until one notices it")
    parser.add_argument("--jobs", type=int, default=2, help="bugs at a time; 2 by default")
    parser.add_argument("--told", action="store_true", help="show what the campaign told")
    options = parser.parse_args(argv)
    bugs = [bug for bug in BUGS if options.only in (None, bug.name)]

    def work(bug: Bug) -> Outcome:
        return play(bug, options.campaign) if options.campaign else hunt(bug, search=options.search)

    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(work, bugs):
            missed += not outcome.caught
            sign = "caught by" if outcome.caught else "MISSED, last tried:"
            print(f"{outcome.bug:34} {sign} {outcome.campaign:12} {outcome.seconds:5.1f} s", flush=True)
            if options.told or not outcome.caught:
                print("    " + outcome.told.replace("\n", "\n    "), flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} planted bugs were noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
