"""The rigs' commands as their users run them: a process of its own, for it forks, and a test framework has threads."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

SEED = "20261122"


class Told(NamedTuple):
    """What a campaign came to: exit code, figures, and all that was printed."""

    code: int
    figures: dict[str, Any]
    text: str


def campaign(rig: str, *options: str) -> Told:
    """Run a campaign."""
    command = [sys.executable, "-m", f"rigs.{rig}", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    text = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, text
    return Told(done.returncode, figures, text)


class Plants:
    """Campaigns with planted faults. So many run at once for the first time: most of them mostly wait."""

    def __init__(self, rig: str, sizes: dict[str, tuple[str, ...]], folder: Path, *, at_once: int = 6) -> None:
        self._rig, self._sizes, self._folder = rig, sizes, folder
        with ThreadPoolExecutor(at_once) as pool:
            self._first = dict(zip(sizes, pool.map(lambda plant: self._run(plant, 0), sizes), strict=True))

    def _run(self, plant: str, attempt: int) -> Told:
        folder = self._folder / f"{plant}-{attempt}"
        folder.mkdir()
        seed = ("--seed", f"{SEED}-{attempt}", "--folder", str(folder))
        return campaign(self._rig, "--plant", plant, *self._sizes[plant], *seed)

    def check(self, plant: str, kinds: set[str]) -> None:
        """Fail unless one of these violations was reported, with the command that repeats it."""
        for attempt in range(3):  # a few faults may all miss the moment that shows it
            told = self._run(plant, attempt) if attempt else self._first[plant]
            if kinds & told.figures["kinds"].keys():
                assert told.code == 1
                assert f"python -m rigs.{self._rig} --seed {SEED}-{attempt} --round" in told.text
                assert f"--plant {plant}" in told.text
                return
        pytest.fail(f"{plant} was not found: {told.text}")
