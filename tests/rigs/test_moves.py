"""The rig of moves, short; and the proof that its oracle is not blind.

The campaign runs as its users run it, as a process of its own: it forks, and a test framework has threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.evidence import TurnSeen  # noqa: E402
from rigs.moves import read_evidence  # noqa: E402
from rigs.moves_diary import Done, Hung, Told, Tries  # noqa: E402
from rigs.moves_judge import Evidence, judge  # noqa: E402

SEED = "20261122"


def campaign(*options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, figures, and all that was printed."""
    command = [sys.executable, "-m", "rigs.moves", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=115, check=False)
    told = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    print(told)
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, told
    return done.returncode, figures, told


def test_moves_against_running_and_waiting_runs(tmp_path: Path) -> None:
    code, figures, told = campaign("--steps", "1500", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["steps"] > 1000
    assert set(figures["tried"]) == {
        *("run", "regenerate", "resume", "fork", "rewind", "switch", "stop", "delete", "adopt", "follow", "look")
    }
    for what in ("acknowledged", "followed", "forks", "stopped", "cancelled", "branches left"):
        assert figures[what] > 5, what


# --- faults that are put in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "steps", "kinds"),
    [
        ("keys-forgotten", 200, {"key of two turns", "doubled turn"}),
        ("places-forgotten", 200, {"wrong place"}),
        ("turn-lost", 150, {"acknowledged turn lost"}),
        ("turn-cut", 150, {"half turn"}),
        ("forks-at-the-head", 250, {"later turn of the source"}),
        ("ticket-kept", 60, {"hung"}),
        ("untyped-error", 250, {"refused"}),
        ("followers-misled", 200, {"follower misled"}),
        ("nobody-called", 40, {"hung"}),
        ("answers-not-told", 150, {"request does not fit"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, steps: int, kinds: set[str], tmp_path: Path) -> None:
    for attempt in range(3):  # a few steps may all miss what shows it
        folder = tmp_path / str(attempt)
        folder.mkdir()
        options = ("--steps", str(steps), "--seed", f"{SEED}-{attempt}", "--plant", plant, "--folder", str(folder))
        code, figures, told = campaign(*options)
        if kinds <= figures["kinds"].keys():
            assert code == 1
            assert f"--plant {plant}" in told.partition("to repeat")[2]
            return
    pytest.fail(f"{plant} was not found: {figures['kinds']}")


def test_where_everybody_stood_when_something_hung_is_told(tmp_path: Path) -> None:
    _, _, told = campaign("--steps", "40", "--seed", SEED, "--plant", "nobody-called", "--folder", str(tmp_path))
    assert "Stack for <Task" in (tmp_path / "round-0" / "diary.jsonl").read_text()
    assert "rigs.moves --judge" in told


# --- faults that are written into the evidence ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    campaign("--steps", "250", "--seed", SEED, "--keep", "--folder", str(folder))
    return read_evidence(folder / "round-0")


Change = Callable[[Evidence], Evidence]


def turns(change: Callable[[list[TurnSeen], Evidence], object]) -> Change:
    """A change of the turns that the store holds."""

    def changed(evidence: Evidence) -> Evidence:
        found = list(evidence.contents.turns)
        change(found, evidence)
        return replace(evidence, contents=replace(evidence.contents, turns=tuple(found)))

    return changed


def _acked(found: list[TurnSeen], evidence: Evidence) -> int:
    """The place of a turn that was acknowledged, on a thread that nobody deletes."""
    acked = {
        line.turn for line in evidence.diary if isinstance(line, Done) and not line.error and line.status == "completed"
    }
    return next(
        place
        for place, turn in enumerate(found)
        if turn.id in acked and not turn.thread.startswith("d") and turn.output and turn.parent is not None
    )


def _change_acked(**changes: Any) -> Change:
    def change(found: list[TurnSeen], evidence: Evidence) -> None:
        place = _acked(found, evidence)
        found[place] = replace(found[place], **changes)

    return turns(change)


def _lose(found: list[TurnSeen], evidence: Evidence) -> None:
    del found[_acked(found, evidence)]


def _double(found: list[TurnSeen], evidence: Evidence) -> None:
    turn = found[_acked(found, evidence)]
    found.append(replace(turn, id="turn_again", order=10**6))


def _lines(change: Callable[[Any], Any]) -> Change:
    """A change of the first line of the diary that the change does not leave as it is."""

    def changed(evidence: Evidence) -> Evidence:
        diary = list(evidence.diary)
        for place, line in enumerate(diary):
            other = change(line)
            if other is not line:
                diary[place : place + 1] = [] if other is None else [other]
                break
        return replace(evidence, diary=tuple(diary))

    return changed


def _contents(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, contents=replace(evidence.contents, **changes))


def _one_thread(**changes: Any) -> Change:
    def changed(evidence: Evidence) -> Evidence:
        place = next(n for n, thread in enumerate(evidence.contents.threads) if thread.told)
        threads = list(evidence.contents.threads)
        threads[place] = replace(threads[place], **changes)
        return replace(evidence, contents=replace(evidence.contents, threads=tuple(threads)))

    return changed


def _misled(evidence: Evidence) -> Evidence:
    follows = {(line.worker, line.op) for line in evidence.diary if isinstance(line, Tries) and line.what == "follow"}

    def change(line: Any) -> Any:
        ours = isinstance(line, Done) and (line.worker, line.op) in follows and not line.error and line.text
        return replace(line, text=line.text[:-1]) if ours else line

    return _lines(change)(evidence)


def _refuse(line: Any) -> Any:
    return replace(line, error="StoreBusy") if isinstance(line, Done) else line


def _forget_the_end(line: Any) -> Any:
    return None if isinstance(line, Done) else line


def _other_history(line: Any) -> Any:
    return replace(line, messages=line.messages[1:]) if isinstance(line, Told) and len(line.messages) > 3 else line


def _refused(line: Any) -> Any:
    return replace(line, refusal="no") if isinstance(line, Told) else line


def _added(line: Any) -> Change:
    return lambda evidence: replace(evidence, diary=(*evidence.diary, line))


FAULTS: dict[str, tuple[Change, str]] = {
    "an acknowledged turn is gone": (turns(_lose), "acknowledged turn lost"),
    "an answer is another one": (_change_acked(output=(("assistant", "x"),)), "acknowledged turn changed"),
    "an answer lacks its end": (_change_acked(output=(("assistant", "[w1-1] to"),)), "half turn"),
    "a hash does not match": (_change_acked(sound=False), "damaged turn"),
    "a turn is on another branch": (_change_acked(parent=None), "request does not fit"),
    "a turn is another thread's": (_change_acked(thread="elsewhere"), "foreign turn"),
    "an acknowledged turn is cancelled": (_change_acked(status="cancelled"), "acknowledged turn changed"),
    "a turn stands twice": (turns(_double), "doubled turn"),
    "a model was told another history": (_lines(_other_history), "request does not fit"),
    "a request was refused": (_lines(_refused), "request refused"),
    "a follower was told less": (_misled, "follower misled"),
    "something was refused": (_lines(_refuse), "refused"),
    "something never ended": (_lines(_forget_the_end), "never ended"),
    "something hung": (_added(Hung(1, 1.0, 1, "stacks")), "hung"),
    "a run is left open": (_one_thread(open_run="turn_x"), "run left open"),
    "the library reads fewer turns": (_one_thread(told=()), "thread cannot be read"),
    "a ticket is left": (_contents(tickets=("turn_x",)), "ticket left over"),
    "a journal is left": (_contents(journal=2), "journal left over"),
    "the file is damaged": (_contents(integrity="row 7 missing from index"), "damaged store"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_evidence_is_found(fault: str, evidence: Evidence) -> None:
    change, kind = FAULTS[fault]
    assert kind in {violation.kind for violation in judge(change(evidence)).violations}


def test_evidence_that_nobody_touched_is_clean(evidence: Evidence) -> None:
    assert judge(evidence).violations == []
