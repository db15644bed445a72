"""Killed at every call of the disk: all calls of a run of three turns, and some of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from disk_commands import PATIENCE, assert_found, campaign

pytestmark = pytest.mark.timeout(PATIENCE + 20)

# The moments of turns in which some call of the disk falls.
MOMENTS = {
    "make file",
    "open file",
    "open",
    "journal",
    "seal",
    "read",
    "fork",
    "rewind",
    "delete",
    "flush",
    "checkpoint",
}
KINDS = {"open", "write", "sync", "sync folder", "truncate", "delete", "map", "lock", "unlock"}


def test_killed_before_and_after_every_call_of_three_turns_on_a_new_file(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_kill", tmp_path, "--plan", "new")
    assert (code, figures["violations"]) == (0, 0), told
    # Killed at every one, but where a call came to nothing (then there is no "after" it).
    assert figures["points"] >= figures["kills"] >= 0.9 * figures["points"] > 500, told
    assert figures["moments"].keys() >= MOMENTS | {"close"}
    assert figures["faults"].keys() == KINDS
    assert figures["turns acknowledged"] > figures["points"]
    assert figures["interrupted"] > 0
    assert f"{figures['points']}/{figures['points']} points" in told  # progress, as plain lines


def test_killed_on_a_file_that_a_dead_process_has_left(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_kill", tmp_path, "--plan", "history", "--sample", "200")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["kills"] > 150
    assert figures["moments"].keys() >= MOMENTS - {"make file"}


def test_several_deaths_one_after_another_on_one_file(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_kill", tmp_path, "--rounds", "80")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["kills"] > 100
    assert figures["rounds"] == 80


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        ("ack-before-seal", {"acknowledged turn lost", "acknowledged turn changed"}),
        ("seal-in-two", {"half turn", "thread cannot be read", "thread stuck"}),
        ("journal-in-memory", {"file damaged", "store cannot be read", "half turn"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, kinds: set[str], tmp_path: Path) -> None:
    assert_found("disk_kill", plant, kinds, tmp_path, "--sample", "40")
