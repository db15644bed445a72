"""The rig of appends, short: ten thousand turns by four processes, and the proof that its check is not blind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from rig_commands import SEED, Plants, campaign
from rigs.evidence import Contents, Standing, ThreadSeen, TurnSeen
from rigs.linear import Done, Invoked, Killed, Line, Read, Refused, check, digest_after


def test_ten_thousand_appends_by_four_processes_under_kills_and_reads(tmp_path: Path) -> None:
    code, figures, told = campaign("append", "--turns", "10000", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["acked"] >= 10_000
    assert figures["by_agents"] > 100
    assert figures["kills"] >= 2
    assert figures["reads"] > 200
    assert figures["whole_reads"] > 3
    assert "/10000 turns" in told  # progress, as plain lines


# --- faults that are put in ----------------------------------------------------------------------------------------

PLANTS = {
    "ack-before-commit": {"acknowledged turn lost", "read too old"},
    "last-writer-wins": {"acknowledged turn lost"},
    "ordered-by-clock": {"read of another history"},
    "old-reads": {"read too old"},
    "appended-twice": {"doubled turn"},
    "deleted-row": {"acknowledged turn lost"},
}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Plants:
    sizes = dict.fromkeys(PLANTS, ("--turns", "500"))
    return Plants("append", sizes, tmp_path_factory.mktemp("plants"), at_once=2)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, plants: Plants) -> None:
    plants.check(plant, PLANTS[plant])


# --- faults that are written into the evidence ---------------------------------------------------------------------

# Three turns by two processes, one after the other: a was acknowledged before b was begun, c beside b; d was begun by
# a process that died. A reader looked three times.
TURNS = tuple(
    TurnSeen(f"turn-{token}", order, "t", parent, status, (("user", token),), ())
    for order, (token, parent, status) in enumerate(
        [
            ("a", None, "completed"),
            ("b", "turn-a", "completed"),
            ("c", "turn-b", "completed"),
            ("d", "turn-c", "interrupted"),
        ]
    )
)
THREAD = ThreadSeen("t", "turn-d", tuple(turn.id for turn in TURNS))
CONTENTS = Contents(TURNS, (THREAD,))
DIGESTS = [""]
for _token in "abcd":
    DIGESTS.append(digest_after(DIGESTS[-1], _token))


def read(at: float, turns: int) -> Read:
    return Read(9, at + 0.1, at, "t", turns, DIGESTS[turns])


LINES: tuple[Line, ...] = (
    Invoked(1, 1.0, "t", "a"),
    Done(1, 2.0, "t", "a", "turn-a", 1),
    Invoked(1, 3.0, "t", "b"),
    Invoked(2, 3.1, "t", "c"),
    Done(1, 4.0, "t", "b", "turn-b", 2),
    Done(2, 4.1, "t", "c", "turn-c", 3, agent=True),
    Invoked(2, 5.0, "t", "d"),
    Killed(2, 5.5, (Standing(0, "d", "t", "ask"),)),
    read(0.5, 0),
    read(2.5, 1),
    read(6.0, 4),
)

Change = Callable[[tuple[Line, ...], Contents], tuple[tuple[Line, ...], Contents]]


def without(line: Line) -> Change:
    return lambda lines, contents: (tuple(other for other in lines if other is not line), contents)


def instead(line: Line, other: Line) -> Change:
    return lambda lines, contents: (tuple(other if one is line else one for one in lines), contents)


def more(*added: Line) -> Change:
    return lambda lines, contents: ((*lines, *added), contents)


def log(*turns: TurnSeen, **changes: object) -> Change:
    """Other turns in the store, one after the other."""
    thread = replace(THREAD, told=tuple(turn.id for turn in turns), **changes)
    return lambda lines, _: (lines, Contents(turns, (thread,)))


def chained(*turns: TurnSeen) -> Change:
    parents = [None, *(turn.id for turn in turns)]
    pairs = enumerate(zip(turns, parents, strict=False))
    return log(*(replace(turn, order=order, parent=parent) for order, (turn, parent) in pairs))


A, B, C, D = TURNS
FAULTS: dict[str, tuple[Change, str]] = {
    "an acknowledged turn is gone": (chained(A, B, D), "acknowledged turn lost"),
    "an acknowledged turn is interrupted": (
        log(A, replace(B, status="interrupted"), C, D),
        "acknowledged turn changed",
    ),
    "an acknowledged turn has moved": (chained(A, C, B, D), "acknowledged turn moved"),
    "a turn stands before one that ended earlier": (chained(B, A, C, D), "order"),
    "a turn stands twice": (chained(A, B, C, replace(C, id="turn-c2"), D), "doubled turn"),
    "a turn that nobody asked for": (chained(A, B, C, D, replace(D, input=(("user", "x"),))), "turn nobody asked for"),
    "a turn is damaged": (log(A, replace(B, sound=False), C, D), "damaged turn"),
    "a turn is half": (log(A, replace(B, flaw="DamagedError"), C, D), "damaged turn"),
    "an opened turn is gone": (chained(A, B, C), "status that does not fit"),
    "a turn hangs elsewhere": (log(A, B, replace(C, parent="turn-a"), D), "gap"),
    "a turn is beside the log": (
        lambda lines, _: (lines, Contents(TURNS, (replace(THREAD, told=THREAD.told[:3]),))),
        "gap",
    ),
    "a thread cannot be read": (log(A, B, C, D, flaw="DamagedError"), "thread cannot be read"),
    "a run is left open": (log(A, B, C, D, open_run="turn-x"), "run left open"),
    "the file is damaged": (lambda lines, held: (lines, replace(held, integrity="row missing")), "file damaged"),
    "an append never ended": (without(LINES[7]), "append never ended"),
    "a read is of another order": (instead(LINES[-1], replace(LINES[-1], digest="x")), "read of another history"),
    "a read is longer than the log": (more(Read(9, 7.0, 6.9, "t", 9, "x")), "read of another history"),
    "a read misses what was acknowledged": (instead(LINES[-1], read(6.0, 2)), "read too old"),
    "a read is shorter than one before": (more(read(5.1, 4), read(5.3, 3)), "rewound read"),
    "a read sees what is to come": (instead(LINES[-2], read(2.5, 2)), "read of what is to come"),
    "something was refused": (more(Refused(1, 1.0, "x", "StoreBusyError")), "refused"),
    "a process hung": (more(Killed(1, 9.0, hung=True)), "stuck"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_evidence_is_found(fault: str) -> None:
    change, kind = FAULTS[fault]
    assert Counter(one.kind for one in check(*change(LINES, CONTENTS)).violations)[kind], fault


def test_evidence_that_nobody_touched_is_clean() -> None:
    found = check(LINES, CONTENTS)
    assert found.violations == []
    assert (found.begun, found.acked, found.by_agents, found.interrupted, found.kills, found.reads) == (
        4,
        3,
        1,
        1,
        1,
        3,
    )


@pytest.mark.parametrize(("moment", "became"), [("seal", "completed"), ("open", "interrupted"), ("open", None)])
def test_what_nobody_was_told_of_may_be_there_or_not(moment: str, became: str | None) -> None:
    lines, _ = instead(LINES[7], Killed(2, 5.5, (Standing(0, "d", "t", moment),)))(LINES, CONTENTS)
    turns = TURNS[:3] if became is None else (*TURNS[:3], replace(D, status=became))
    held = Contents(turns, (replace(THREAD, told=tuple(turn.id for turn in turns)),))
    reads = [line for line in lines if not (isinstance(line, Read) and line.turns > len(turns))]
    assert check(reads, held).violations == []
