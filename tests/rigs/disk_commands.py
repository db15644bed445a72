"""The commands of the disk rigs, as their users run them; they have more patience than a test as a rule has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

SEED = "20261122"
PATIENCE = 280.0


class Told(NamedTuple):
    """What a campaign came to: exit code, figures, and all that was printed."""

    code: int
    figures: dict[str, Any]
    text: str


def campaign(rig: str, folder: Path, *options: str) -> Told:
    """Run a campaign; the evidence of violations goes into the folder."""
    command = [sys.executable, "-m", f"rigs.{rig}", "--json", "--folder", str(folder / "evidence")]
    if "--seed" not in options:
        command += ["--seed", SEED]
    command += options
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    text = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, text
    return Told(done.returncode, figures, text)


def assert_found(rig: str, plant: str, kinds: set[str], folder: Path, *options: str) -> None:
    """A campaign with a planted fault reports one of these violations, and the command that repeats it."""
    told = campaign(rig, folder, "--plant", plant, *options)
    assert kinds & told.figures["kinds"].keys(), told.text
    assert told.code == 1
    again = next(line for line in told.text.splitlines() if line.startswith("to repeat"))
    command = again.split(maxsplit=2)[2].split()
    assert command[:5] == ["python", "-m", f"rigs.{rig}", "--seed", SEED], again
    repeated = campaign(rig, folder, *command[5:])
    assert (repeated.code, repeated.figures["violations"] > 0) == (1, True), repeated.text
