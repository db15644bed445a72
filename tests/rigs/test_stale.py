"""The rig of stopped writers, short: twenty pauses, and the proof that its judges are not blind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace
from rig_commands import SEED, Plants, campaign
from rigs import processes
from rigs.evidence import Acked, Asks, Contents, Died, Standing, TurnSeen
from rigs.fence import Beaten, Blocked, FenceLine, Given, Paused, Resumed, Sealed, Struck, TurnedAway, judge_fence
from rigs.stale import as_told


def test_twenty_pauses_longer_than_a_lease(tmp_path: Path) -> None:
    code, figures, told = campaign("stale", "--pauses", "20", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["pauses"] == 20
    assert figures["accepted"] == figures["lost"] == 0
    assert figures["takeovers"] >= figures["zombies"] >= 1
    assert figures["moments"]["ask"] >= 3
    assert figures["acked"] > 20
    assert "20/20 pauses" in told  # progress, as plain lines


# --- faults that are put in ----------------------------------------------------------------------------------------

PLANTS = {
    "no-fence": {"stale accepted"},
    "deaf": {"acknowledged turn changed"},
    "takeover-forgets": {"opened turn lost"},
    "beat-on-loop": {"lease lost by the living"},
    "endless-lease": {"slow takeover"},
    "hasty-lease": {"lease stolen"},
}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Plants:
    sizes = dict.fromkeys(PLANTS, ("--pauses", "12"))
    sizes["endless-lease"] = ("--pauses", "20")  # it takes a long pause and somebody who waits all the time
    return Plants("stale", sizes, tmp_path_factory.mktemp("plants"))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, plants: Plants) -> None:
    plants.check(plant, PLANTS[plant])


# --- faults that are written into the evidence ---------------------------------------------------------------------

# Worker 1 is stopped while it asks for a; worker 2 waits, takes over, closes a and says b; worker 1 is turned away.
LEASE = 1.0
LINES: tuple[FenceLine, ...] = (
    Asks(1, 0.9, 0, "t", "a", False),
    Given(1, 1.0, "t", "turn-a", "a", 1, 0.9),
    Beaten(1, 1.05, 1.04),
    Paused(1, 1.1, (Standing(0, "a", "t", "ask"),), "ask"),
    Asks(2, 1.2, 0, "t", "b", False),
    Given(2, 2.3, "t", "turn-a", "", 2, 2.29, over=True),
    Sealed(2, 2.31, "t", "turn-a", 2, 1),
    Given(2, 2.32, "t", "turn-b", "b", 3, 2.31),
    Sealed(2, 2.4, "t", "turn-b", 3, 1),
    Acked(2, 2.41, "t", "b", "turn-b", "..."),
    Resumed(1, 3.5),
    TurnedAway(1, 3.6, 0, "t", "a"),
)
CONTENTS = Contents(
    (
        TurnSeen("turn-a", 1, "t", None, "interrupted", (("user", "a"),), ()),
        TurnSeen("turn-b", 2, "t", "turn-a", "completed", (("user", "b"),), ()),
    )
)

Change = Callable[[list[FenceLine]], object]


def put(place: int, **changes: Any) -> Change:
    """A line that is not what it was."""
    return lambda lines: lines.__setitem__(place, replace(lines[place], **changes))


def later(seconds: float) -> Change:
    """Worker 1 is stopped for longer, and worker 2 takes so long to take over."""

    def change(lines: list[FenceLine]) -> None:
        for place, line in enumerate(lines[5:], 5):
            lines[place] = replace(line, at=line.at + seconds)

    return change


FAULTS: dict[str, tuple[Change, str]] = {
    "the stopped one's seal was acknowledged": (
        lambda lines: lines.insert(11, Sealed(1, 3.55, "t", "turn-a", 1, 1)),
        "stale accepted",
    ),
    "somebody else was let in while it had the thread": (lambda lines: lines.pop(6), "two writers"),
    "two writers have one epoch": (put(7, epoch=2), "two writers"),
    "it had beaten within a lease": (lambda lines: lines.insert(5, Beaten(1, 2.0, 1.99)), "lease stolen"),
    "it was not stopped at all": (lambda lines: [lines.pop(10), lines.pop(3)], "lease lost by the living"),
    "its event loop was blocked, no more": (
        lambda lines: [lines.pop(10), lines.__setitem__(3, Blocked(1, 1.1, "a", 2.4))],
        "lease lost by the living",
    ),
    "its thread was taken over late": (later(1.5), "slow takeover"),
    "it was turned away though nobody took over": (
        lambda lines: [lines.pop(5), lines.pop(5)],
        "turned away for nobody",
    ),
    "who only waited was turned away": (
        lambda lines: lines.append(TurnedAway(2, 9.0, 0, "t", "c")),
        "turned away without having run",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_evidence_is_found(fault: str) -> None:
    change, kind = FAULTS[fault]
    lines = list(LINES)
    change(lines)
    assert Counter(one.kind for one in judge_fence(lines, CONTENTS, lease=LEASE).violations)[kind], fault


def test_a_stale_turn_in_the_log_is_found_though_no_store_said_so() -> None:
    turn = replace(CONTENTS.turns[0], id="turn-c", order=3, status="completed")
    found = judge_fence(LINES, Contents((*CONTENTS.turns, turn)), lease=LEASE)
    assert ([one.kind for one in found.violations], found.accepted) == (["stale accepted"], 1)


def test_evidence_that_nobody_touched_is_clean() -> None:
    found = judge_fence(LINES, CONTENTS, lease=LEASE)
    assert found.violations == []
    assert (found.pauses, found.takeovers, found.zombies, found.accepted) == (1, 1, 1, 0)
    assert found.waits == [pytest.approx(1.1)]


def test_who_is_mute_may_lose_its_thread() -> None:
    lines = [line for line in LINES if not isinstance(line, Paused | Resumed)]
    lines.insert(3, Blocked(1, 1.1, "a", 2.4, mute=True))
    found = judge_fence(lines, CONTENTS, lease=LEASE)
    assert (found.violations, found.muted, found.mute_refused) == ([], 1, 1)


def test_the_dead_may_lose_their_threads_at_once() -> None:
    lines = [line for line in LINES if not isinstance(line, Paused | Resumed | TurnedAway)]
    lines.insert(3, Struck(1, 1.1))
    assert judge_fence(lines, CONTENTS, lease=LEASE).violations == []


def test_nobody_can_take_over_behind_a_locked_file() -> None:
    lines = list(LINES)
    later(1.5)(lines)
    lines.insert(4, Paused(3, 1.15, (), "seal", wrote=True))
    lines.insert(5, Resumed(3, 2.5))
    assert judge_fence(lines, CONTENTS, lease=LEASE).violations == []


def test_to_be_turned_away_is_to_die_while_the_service_is_asked() -> None:
    died = [line for line in as_told(LINES) if isinstance(line, Died)]
    assert died == [Died(1, 3.6, (Standing(0, "a", "t", "ask"),))]


def test_the_kernel_says_who_is_in_the_middle_of_a_write(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    (reads, told), (waits, go) = os.pipe(), os.pipe()

    def write() -> None:
        connection = apsw.Connection(str(path))
        connection.pragma("journal_mode", "wal")
        connection.execute("CREATE TABLE t (a)")
        os.write(told, b"1")
        os.read(waits, 1)
        connection.execute("BEGIN IMMEDIATE")
        os.write(told, b"2")
        os.read(waits, 1)

    child = processes.fork(write)
    assert os.read(reads, 1) == b"1"
    assert not processes.holds_write_lock(child, path)
    os.write(go, b"1")
    assert os.read(reads, 1) == b"2"
    assert processes.holds_write_lock(child, path)
    assert processes.stop(child)
    processes.go_on(child)
    os.write(go, b"2")
    assert os.waitpid(child, 0)[1] == 0
    assert not processes.holds_write_lock(child, path)
