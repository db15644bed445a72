"""The rig of cancellations: every point of every situation, and the proof that its judge is not blind.

The campaign runs as its users run it, as a process of its own: it counts what its process has open.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.cancel_public import NEVER, Waits, line_of, public_coroutines  # noqa: E402

SEED = "20261122"


def campaign(*options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, figures, and all that was printed."""
    command = [sys.executable, "-m", "rigs.cancel", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=115, check=False)
    told = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    print(told)
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, told
    return done.returncode, figures, told


def test_every_point_of_every_public_coroutine() -> None:
    code, figures, told = campaign("--seed", SEED)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["uncovered"] == []
    assert figures["never cancelled at"] == []
    assert all(figures["worlds"].values())
    assert all(figures["ways"].values())
    assert figures["points"] > 2000


def test_points_by_chance_under_faults_of_the_service() -> None:
    code, figures, told = campaign("--random", "350", "--seed", SEED)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["points"] > 50


# --- nothing escapes -----------------------------------------------------------------------------------------------


def test_public_coroutines_are_found_by_inspection() -> None:
    found = public_coroutines()
    # Of each way in which something can be waited for: a coroutine, an awaitable, a stream, a dunder.
    assert {
        "ChatAgent.run",
        "SQLiteStore.seal",
        "ChatAgent.run_stream",
        "TurnFollower.__anext__",
        "OpenAIChatClient.ask",
    } <= {*found}


def test_lines_that_never_wait_are_still_there() -> None:
    lines = {(place[0], line_of(place)) for place in Waits().all}
    assert set(NEVER) <= lines


# --- faults that are put in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "situation", "kinds"),
    [
        ("cancelled-not-sealed", "a_stream_that_is_read", {"open run", "wedged thread"}),
        ("cancelled-without-output", "a_stream_that_is_read --point 2", {"not what was read"}),
        ("cancelled-without-result", "a_run_in_which_tools_are_called", {"unpaired"}),
        ("ticket-kept", "a_run_that_waits_in_line", {"ticket left"}),
        ("holder-kept", "a_stream_that_is_read", {"leaked lease"}),
        ("cancellation-swallowed", "a_run_that_waits_in_line", {"cancellation swallowed"}),
        ("error-never-retrieved", "a_run_that_fails", {"never retrieved"}),
        ("never-awaited", "a_run_that_fails", {"never retrieved"}),
        ("task-left", "a_run_that_fails", {"leaked task"}),
        ("file-left", "a_run_that_fails", {"leaked descriptor"}),
        ("said-again", "a_run_on_a_thread_with_turns", {"doubled turn"}),
        ("connection-left", "a_stream_that_is_read", {"leaked connection"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, situation: str, kinds: set[str]) -> None:
    point = () if "--point" in situation or "tools" in situation else ("--point", "1")
    code, figures, told = campaign(
        "--world", "memory", "--way", "asked", "--plant", plant, "--only", *situation.split(), *point
    )
    assert code == 1
    assert kinds <= figures["kinds"].keys(), told
    assert f"--plant {plant}" in told.partition("to repeat")[2]
