"""Plant a bug in a copy of the library, and see whether the campaigns notice it.

    python -m rigs.planted [--only BUG] [--search] [--jobs N]
    python -m rigs.planted --sound                     the same commands over the library as it is find nothing

The bugs stand in `rigs.planted_bugs`; whoever wrote them had not seen the campaigns. Each is applied to a copy of the
library, and the campaign that is known to notice it runs over that copy, from its own command line, as anybody runs
it: with options by which it looks there alone, so that it takes seconds. With --search whole campaigns are tried, the
quickest first.

Rule of this file: a bug counts as caught if a campaign ends with 1, which says that it has found violations, and has
told one. A campaign that breaks down or hangs has found nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

import holdfast
from rigs import planted_bugs, planted_tools
from rigs.planted_bugs import Bug, applied

SOURCE = Path(holdfast.__file__).parent
HERE = Path(__file__).parents[1]
PATIENCE = 240.0
# Seeds that are tried until a bug is noticed.
TRIES = 4

BUGS = (*planted_bugs.BUGS, *planted_tools.BUGS)

# The campaigns, short, the quickest first.
CAMPAIGNS: Mapping[str, str] = {
    "faults": "rigs.faults --seed 1",
    "flips": "rigs.flips --flips 300 --seed 1",
    "model": "rigs.model --steps 6000 --seed 1",
    "power": "rigs.power --images 1500 --seed 1",
    "kill": "rigs.kill --kills 80 --seed 1",
    "disk_kill": "rigs.disk_kill --sample 150 --seed 1",
    "disk_errors": "rigs.disk_errors --sample 150 --seed 1",
    "rescue": "rigs.rescue --pauses 30 --seed 1",
    "stale": "rigs.stale --pauses 20 --seed 1",
    "append": "rigs.append --turns 4000 --seed 1",
    "clocks": "rigs.clocks --jumps 40 --seed 1",
    "moves": "rigs.moves --steps 1000 --seed 1",
    "cancel": "rigs.cancel --brief --seed 1",
    "tools": "rigs.tools --kills 40 --seed 1",
}
# By which command each bug is noticed, in seconds.
CAUGHT_BY: Mapping[str, str] = {
    "sync-dropped": "rigs.power --images 200 --seed 1",
    "checkpoint-not-synced": "rigs.power --images 1000 --seed 1",
    "acknowledged-before-the-commit": "rigs.kill --kills 40 --seed 1",
    "commit-error-swallowed": "rigs.disk_errors --moment seal --sample 20 --seed 1",
    "second-descriptor": "rigs.append --turns 400 --a-round 400 --seed 1",
    "head-before-turn": "rigs.disk_kill --plan new --moment seal --sample 24 --seed 1",
    "epoch-not-compared": "rigs.rescue --pauses 8 --seed 1",
    "living-run-taken-over": "rigs.append --turns 400 --a-round 400 --seed 1",
    "left-over-input-dropped": "rigs.kill --kills 16 --seed 1",
    "key-lost-in-recovery": "rigs.disk_kill --plan closed --sample 24 --seed 1",
    "journal-deleted-at-take-over": "rigs.disk_kill --plan resumed --moment journal --seed 1",
    "failed-seal-keeps-the-thread": "rigs.disk_errors --moment seal --sample 2 --seed 1",
    "cancelled-open-left-open": "rigs.cancel --only a_run_on_a_thread_with_turns --world slow --brief",
    "cancelled-waiter-keeps-its-ticket": "rigs.cancel --only a_run_that_waits_in_line --world memory --brief",
    "unread-updates-recorded": "rigs.cancel --only a_stream_of_which_much_comes_at_once --brief",
    "open-pair-sealed": "rigs.faults --part faults --talk tools --kind 'cut (reset)'",
    "cut-off-run-poisons-the-cache": "rigs.cancel --only a_run_on_a_thread_with_turns --world memory --brief",
    "key-of-any-thread": "rigs.model --steps 1000 --seed 1",
    "rewound-fork-not-anchored": "rigs.model --steps 1000 --seed 1",
    "deleted-bytes-stay": "rigs.disk_kill --plan history --sample 30 --seed 1",
    "rewound-turns-sent": "rigs.cancel --only rewinding --world memory --brief",
    "hash-without-status": "rigs.flips --column turns.status --flips 10 --seed 1",
    "only-the-last-hash-checked": "rigs.flips --column turns.record --flips 20 --seed 1",
    "retry-after-text": "rigs.faults --part faults --talk jokes --kind 'cut (reset)'",
    "cut-off-answer-completed": "rigs.faults --part faults --talk jokes --kind 'cut (clean)'",
    **planted_tools.CAUGHT_BY,
}


class Outcome(msgspec.Struct, frozen=True):
    """What a campaign made of a bug; of none, if it has no name."""

    bug: str
    command: str
    code: int
    seconds: float
    told: str

    @property
    def caught(self) -> bool:
        return self.code == 1 and bool(self.told)

    @property
    def as_wished(self) -> bool:
        """A bug is to be noticed, and nothing where there is none."""
        return self.caught if self.bug else self.code == 0


def play(bug: Bug | None, command: str) -> Outcome:
    """Run a campaign over a copy of the library that has the bug, if there is to be one."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "src" / "holdfast"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if bug is not None:
            applied(bug, copy)
        code, told = _run(shlex.split(command), copy.parent, Path(folder))
    return Outcome("" if bug is None else bug.name, command, code, time.monotonic() - began, told)


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


def commands_for(bug: Bug, *, search: bool) -> Iterator[str]:
    """The commands to try on a bug."""
    if bug.name in CAUGHT_BY:
        yield CAUGHT_BY[bug.name]
    if search:
        yield from CAMPAIGNS.values()


def hunt(bug: Bug, *, search: bool) -> Outcome:
    """Try campaigns until one notices the bug: each with some seeds, for the machine adds its own chance."""
    last = Outcome(bug.name, "none", 0, 0.0, "no campaign is known to notice it")
    for command in commands_for(bug, search=search):
        for seed in range(1, TRIES + 1):
            last = play(bug, command.replace("--seed 1", f"--seed {seed}"))
            if last.caught or "--seed" not in command:
                break
        if last.caught:
            break
    return last


def works(given: argparse.Namespace) -> list[Callable[[], Outcome]]:
    """All that is to be played."""
    bugs = [bug for bug in BUGS if given.only in (None, bug.name)]
    if given.sound:
        commands = dict.fromkeys(CAUGHT_BY[bug.name] for bug in bugs if bug.name in CAUGHT_BY)
        return [partial(play, None, command) for command in commands]
    if given.campaign:
        return [partial(play, bug, CAMPAIGNS[given.campaign]) for bug in bugs]
    return [partial(hunt, bug, search=given.search) for bug in bugs]


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if a bug was not noticed, or something where there was none."""
    parser = argparse.ArgumentParser(prog="python -m rigs.planted", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="BUG", choices=[bug.name for bug in BUGS], help="this bug alone")
    parser.add_argument("--campaign", choices=sorted(CAMPAIGNS), help="play this campaign, whatever is known")
    parser.add_argument("--search", action="store_true", help="try all campaigns until one notices it")
    parser.add_argument("--sound", action="store_true", help="plant nothing: then nothing may be noticed")
    parser.add_argument("--jobs", type=int, default=2, help="bugs at a time; 2 by default")
    parser.add_argument("--told", action="store_true", help="show what the campaign told")
    options = parser.parse_args(argv)
    todo = works(options)
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda work: work(), todo):
            missed += not outcome.as_wished
            sign = ("noticed" if outcome.caught else "quiet") + ("" if outcome.as_wished else ", NOT AS IT IS TO BE")
            name = outcome.bug or "no bug"
            print(
                f"{name:34} {sign} (code {outcome.code}) after {outcome.seconds:5.1f} s  {outcome.command}", flush=True
            )
            if options.told or not outcome.as_wished:
                print("    " + outcome.told.replace("\n", "\n    "), flush=True)
    what = "commands found nothing in the library as it is" if options.sound else "planted bugs were noticed"
    print(f"{len(todo) - missed} of {len(todo)} {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
