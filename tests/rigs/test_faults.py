"""The rig of service faults, short: every kind at every place of a conversation, and the proof that its judge sees.

The campaign runs as its users run it, as a process of its own.
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

from rigs.faults_kinds import KINDS, spots  # noqa: E402

SEED = "20261122"


def campaign(*options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, figures, and all that was printed."""
    command = [sys.executable, "-m", "rigs.faults", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=115, check=False)
    told = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    print(told)
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, told
    return done.returncode, figures, told


def test_every_kind_at_every_place_of_a_conversation() -> None:
    code, figures, told = campaign("--part", "faults", "--talk", "jokes")
    assert (code, figures["violations"]) == (0, 0), told
    assert set(figures["kinds of faults"]) == {kind.name for kind in KINDS}
    assert figures["points"] > 700
    assert figures["outcomes"]["answer"] > figures["points"]  # each is followed by turns that go well


def test_every_fifth_place_of_conversations_with_calls_thoughts_and_refusals() -> None:
    talks = [part for name in ("tools", "thoughts", "refusals", "long") for part in ("--talk", name)]
    code, figures, told = campaign("--part", "faults", "--every", "5", *talks)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["points"] > 700


def test_the_same_answers_streamed_and_in_one_piece_leave_the_same_log() -> None:
    code, figures, told = campaign("--part", "answers")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["answers compared"] > 50


def test_conversations_by_chance() -> None:
    code, figures, told = campaign("--sequences", "150", "--seed", SEED)
    assert (code, figures["violations"]) == (0, 0), told
    assert len(figures["outcomes"]) > 5


def test_a_kind_strikes_before_the_headers_after_them_and_after_each_event() -> None:
    cut = next(kind for kind in KINDS if kind.name == "cut (reset)")
    assert list(spots(cut, 3, streamed=True)) == [None, 0, 1, 2, 3]
    assert list(spots(cut, 1, streamed=False)) == [None, 0, 1]
    inside = next(kind for kind in KINDS if kind.name == "cut in an event (reset)")
    assert list(spots(inside, 3, streamed=True)) == [0, 1, 2]
    assert list(spots(inside, 1, streamed=False)) == []


# --- faults that are put in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "kind", "found"),
    [
        ("asks-again-amid-an-answer", "cut (close)", {"half an answer"}),
        ("half-taken-for-whole", "cut (close)", {"half an answer"}),
        ("untyped-error", "half a JSON for an answer", {"untyped error"}),
        ("asks-in-vain", "status 400", {"tried in vain"}),
        ("asks-too-often", "status 500", {"tried too often"}),
        ("never-asks-again", "status 500", {"not tried again"}),
        ("does-not-wait", "status 429, wait", {"did not wait"}),
        ("answers-not-told", "status 400", {"request does not fit"}),
        ("failed-counts", "status 400", {"user message doubled"}),
        ("failed-says-nothing", "cut (close)", {"not what was read"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, kind: str, found: set[str]) -> None:
    code, figures, told = campaign("--part", "faults", "--talk", "tools", "--kind", kind, "--plant", plant)
    assert code == 1
    assert found <= figures["kinds"].keys(), told
    assert f"--plant {plant}" in told.partition("to repeat")[2]


def test_a_client_whose_streams_leave_another_log_is_found() -> None:
    code, figures, _ = campaign("--part", "answers", "--plant", "tokens-of-streams-alone")
    assert code == 1
    assert "logs differ" in figures["kinds"]
