"""The kill rig, short: a hundred kills, and the proof that its oracle is not blind.

The campaign runs as its users run it, as a process of its own: it forks, and a test framework has threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.evidence import Acked, Died, Evidence, Failed, TurnSeen, read_evidence  # noqa: E402
from rigs.oracle import judge  # noqa: E402
from rigs.talk import token_in  # noqa: E402

SEED = "20261122"


def campaign(*options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, figures, and all that was printed."""
    command = [sys.executable, "-m", "rigs.kill", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    told = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    print(told)
    figures = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    assert figures is not None, told
    return done.returncode, figures, told


def test_a_hundred_kills_at_all_moments_of_a_turn(tmp_path: Path) -> None:
    code, figures, told = campaign("--kills", "100", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["kills"] == 100
    assert min(figures["moments"][moment] for moment in ("open", "ask", "seal", "idle")) >= 10
    assert figures["acked"] > 100
    assert figures["interrupted"] > 10
    assert "100/100 kills" in told  # progress, as plain lines


# --- faults that are put in --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "kills", "kinds"),
    [
        ("ack-before-seal", 10, {"acknowledged turn changed", "acknowledged turn lost"}),
        ("seal-in-two", 8, {"half turn", "opened turn lost", "thread cannot be read"}),
        ("slow-takeover", 4, {"slow thread"}),
        ("said-twice", 2, {"doubled turn"}),
        ("deleted-row", 2, {"acknowledged turn lost"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, kills: int, kinds: set[str], tmp_path: Path) -> None:
    for attempt in range(3):  # a few kills may all miss the moment that shows it
        folder = tmp_path / str(attempt)
        folder.mkdir()
        options = ("--kills", str(kills), "--seed", f"{SEED}-{attempt}", "--plant", plant, "--folder", str(folder))
        code, figures, told = campaign(*options)
        if kinds & figures["kinds"].keys():
            assert code == 1
            assert f"python -m rigs.kill --seed {SEED}-{attempt} --round 0 --kills {kills} --plant {plant}" in told
            return
    pytest.fail(f"{plant} was not found: {figures['kinds']}")


# --- faults that are written into the evidence ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    campaign("--kills", "12", "--seed", SEED, "--keep", "--folder", str(folder))
    return read_evidence(folder / "round-0")


Change = Callable[[Evidence], Evidence]


def turns(change: Callable[[list[TurnSeen], Evidence], object]) -> Change:
    """A change of the turns that the store holds."""

    def changed(evidence: Evidence) -> Evidence:
        found = list(evidence.contents.turns)
        change(found, evidence)
        return replace(evidence, contents=replace(evidence.contents, turns=tuple(found)))

    return changed


def one_turn(of: str = "completed", **changes: Any) -> Change:
    """One turn that is not what it was."""

    def change(found: list[TurnSeen], _: Evidence) -> None:
        place = place_of(found, of)
        found[place] = replace(found[place], **changes)

    return turns(change)


def place_of(found: list[TurnSeen], status: str) -> int:
    return next(place for place, turn in enumerate(found) if turn.status == status and turn.parent is not None)


def lose(status: str) -> Change:
    def change(found: list[TurnSeen], evidence: Evidence) -> None:
        # Of the interrupted ones, one that was surely open.
        stood = {one.token: one.moment for line in evidence.diary if isinstance(line, Died) for one in line.talkers}
        wanted = {"interrupted": ("ask",), "completed": ("idle", None)}[status]
        tokens = [token_in(turn.input[0][1]) for turn in found]
        acked = {line.token for line in evidence.diary if isinstance(line, Acked)}
        places = [place for place, turn in enumerate(found) if turn.status == status]
        if status == "completed":
            places = [place for place in places if tokens[place] in acked]
        del found[next(place for place in places if stood.get(tokens[place]) in wanted)]

    return turns(change)


def double(found: list[TurnSeen], _: Evidence) -> None:
    turn = found[place_of(found, "completed")]
    found.append(replace(turn, id="turn_again", order=10**6, parent=turn.id))


def swap(found: list[TurnSeen], evidence: Evidence) -> None:
    """The first two turns of a conversation change places."""
    turn = next(turn for turn in found if turn.parent is not None and turn.status == "completed")
    before = next(other for other in found if other.id == turn.parent)
    a, b = found.index(before), found.index(turn)
    found[a] = replace(turn, order=before.order, parent=before.parent)
    found[b] = replace(before, order=turn.order, parent=turn.id)


def contents(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, contents=replace(evidence.contents, **changes))


def one_thread(**changes: Any) -> Change:
    def changed(evidence: Evidence) -> Evidence:
        first, *rest = evidence.contents.threads
        return replace(evidence, contents=replace(evidence.contents, threads=(replace(first, **changes), *rest)))

    return changed


def no_thread(evidence: Evidence) -> Evidence:
    return replace(evidence, contents=replace(evidence.contents, threads=evidence.contents.threads[1:]))


def one_request(change: Callable[[Any], list[Any]]) -> Change:
    def changed(evidence: Evidence) -> Evidence:
        acked = {line.token for line in evidence.diary if isinstance(line, Acked)}
        place = next(n for n, request in enumerate(evidence.requests) if request.token in acked)
        requests = list(evidence.requests)
        requests[place : place + 1] = change(requests[place])
        return replace(evidence, requests=tuple(requests))

    return changed


def later(evidence: Evidence) -> Evidence:
    """The last acknowledgement came a second and a half later."""
    last = max(line.at for line in evidence.diary if isinstance(line, Acked))
    diary = [
        replace(line, at=line.at + 1.5) if isinstance(line, Acked) and line.at == last else line
        for line in evidence.diary
    ]
    return replace(evidence, diary=tuple(diary))


def unacked(evidence: Evidence) -> Evidence:
    """Nobody was told of a turn, and nobody died of it."""
    acked = next(line for line in evidence.diary if isinstance(line, Acked))
    return replace(evidence, diary=tuple(line for line in evidence.diary if line is not acked))


def added(line: Any) -> Change:
    return lambda evidence: replace(evidence, diary=(*evidence.diary, line))


FAULTS: dict[str, tuple[Change, str]] = {
    "an acknowledged turn is gone": (lose("completed"), "acknowledged turn lost"),
    "an opened turn is gone": (lose("interrupted"), "opened turn lost"),
    "an answer is another one": (one_turn(output=(("assistant", "Something else."),)), "acknowledged turn changed"),
    "an answer is cut": (one_turn(output=(("assistant", "Heard as"),)), "half turn"),
    "an answer is missing": (one_turn(output=()), "half turn"),
    "an interrupted turn says what nobody said": (one_turn("interrupted", output=(("assistant", "x"),)), "half turn"),
    "a record cannot be read": (one_turn(flaw="DamagedError: ..."), "half turn"),
    "a hash does not match": (one_turn(sound=False), "damaged turn"),
    "an acknowledged turn is interrupted": (one_turn(status="interrupted"), "acknowledged turn changed"),
    "a turn is cancelled": (one_turn("interrupted", status="cancelled"), "status that does not fit"),
    "a turn stands twice": (turns(double), "doubled turn"),
    "two turns change places": (turns(swap), "order"),
    "a turn follows another one": (one_turn(parent=None), "order"),
    "a turn is on another thread": (one_turn(thread="elsewhere"), "turn on another thread"),
    "a turn that nobody asked for": (one_turn(input=(("user", "r0.w9.k9.n9.s0"),)), "turn nobody asked for"),
    "a head stands elsewhere": (one_thread(head=None, told=()), "head out of place"),
    "the library reads fewer turns": (one_thread(told=()), "thread cannot be read"),
    "the library reads nothing": (one_thread(flaw="DamagedError: ..."), "thread cannot be read"),
    "a thread is gone": (no_thread, "thread lost"),
    "a run is left open": (one_thread(open_run="turn_x"), "run left open"),
    "a ticket is left": (contents(tickets=("turn_x",)), "ticket left over"),
    "a journal is left": (contents(journal=2), "journal left over"),
    "the file is damaged": (contents(integrity="row 7 missing from index"), "file damaged"),
    "a request was refused": (one_request(lambda seen: [replace(seen, refusal="no")]), "request refused"),
    "a message was not sent": (
        one_request(lambda seen: [replace(seen, messages=seen.messages[1:])]),
        "request does not fit",
    ),
    "a request for nothing": (one_request(lambda seen: [seen, replace(seen, token="x")]), "request without a turn"),
    "a request came twice": (one_request(lambda seen: [seen, seen]), "asked twice"),
    "a request never came": (one_request(lambda _: []), "answer of nobody"),
    "a turn took too long": (later, "slow thread"),
    "an acknowledgement never came": (unacked, "turn never ended"),
    "something was refused": (added(Failed(1, 1.0, "x", "StoreBusyError: ...")), "refused"),
    "a worker hung": (added(Died(1, 1.0, (), stuck=True)), "stuck"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_evidence_is_found(fault: str, evidence: Evidence) -> None:
    change, kind = FAULTS[fault]
    before = Counter(violation.kind for violation in judge(evidence).violations)
    after = Counter(violation.kind for violation in judge(change(evidence)).violations)
    assert after[kind] > before[kind], after


def test_evidence_that_nobody_touched_is_clean(evidence: Evidence) -> None:
    assert judge(evidence).violations == []
