"""The rig of turns that others go on with, short: twenty pauses, and the proof that its judges are not blind."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig_commands import SEED, Plants, campaign
from rigs.evidence import Acked, Asks, Contents, Died, Request, TurnSeen
from rigs.fence import FenceLine, Given, Rescued, Sealed, TurnedAway, judge_fence
from rigs.rescue import asked_once
from rigs.stale import as_told


def test_twenty_writers_wake_up_amid_their_own_turns(tmp_path: Path) -> None:
    code, figures, told = campaign("rescue", "--pauses", "20", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["pauses"] == 20
    assert figures["accepted"] == 0
    assert figures["rescued"] >= 2, told
    assert figures["zombies"] >= 2, told
    assert "20/20 pauses" in told  # progress, as plain lines


PLANTS = {
    "no-fence": {"stale accepted"},
    "takeover-forgets": {"acknowledged turn lost"},
}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Plants:
    return Plants("rescue", dict.fromkeys(PLANTS, ("--pauses", "12")), tmp_path_factory.mktemp("plants"), at_once=1)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, plants: Plants) -> None:
    plants.check(plant, PLANTS[plant])


# --- faults that are written into the evidence ---------------------------------------------------------------------

# Worker 1 is stopped while it asks for a; worker 2 goes on with that, and worker 1 is turned away meanwhile.
LINES: tuple[FenceLine, ...] = (
    Asks(1, 0.9, 0, "t", "a", False),
    Given(1, 1.0, "t", "turn-a", "a", 1, 0.9),
    Given(2, 2.3, "t", "turn-a", "", 2, 2.29, over=True),
    TurnedAway(1, 2.6, 0, "t", "a"),
    Sealed(2, 2.7, "t", "turn-a", 2, 1),
    Rescued(2, 2.71, "t", "turn-a", "..."),
)
CONTENTS = Contents((TurnSeen("turn-a", 1, "t", None, "completed", (("user", "a"),), (("assistant", "..."),)),))


def found(lines: tuple[FenceLine, ...]) -> set[str]:
    return {one.kind for one in judge_fence(lines, CONTENTS, lease=0.5).violations} - {"lease lost by the living"}


def test_whoever_goes_on_with_a_turn_may_complete_it() -> None:
    assert found(LINES) == set()


def test_a_turn_that_nobody_was_told_is_done_must_not_be_complete() -> None:
    assert found(LINES[:-1]) == {"stale accepted"}


def test_the_seal_of_one_who_slept_is_found() -> None:
    sealed = Sealed(1, 2.55, "t", "turn-a", 1, 1)
    assert found((*LINES[:3], sealed, *LINES[3:])) == {"stale accepted"}


def test_what_was_gone_on_with_was_acknowledged_to_whoever_did() -> None:
    told = as_told(LINES)
    assert [type(line) for line in told] == [Asks, Died, Acked]
    assert told[-1] == Acked(2, 2.71, "t", "a", "turn-a", "...")


def test_a_question_may_be_asked_once_more_by_the_next_writer_alone() -> None:
    request = Request("a", ("x",))
    assert asked_once((request, request), LINES) == (request,)
    assert asked_once((request, request, request), LINES) == (request, request)
    assert asked_once((request, request), LINES[:2]) == (request, request)
