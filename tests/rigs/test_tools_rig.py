"""The rig of tools, short: a hundred kills, cancels at every await, and the proof that its judge is not blind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rig_commands import SEED, Plants, campaign
from rigs.evidence import Died, Failed, Standing
from rigs.tools_evidence import (
    Answers,
    Begun,
    CallSeen,
    Closed,
    Did,
    Entered,
    Evidence,
    Exchanged,
    Kept,
    Left,
    Noted,
    Opened,
    Says,
    Taken,
    Told,
    Turned,
    TurnKept,
)
from rigs.tools_judge import judge
from rigs.tools_talk import answered_next, calls_of, outcome_in, plan_of, text_of


def test_a_hundred_kills_around_tools(tmp_path: Path) -> None:
    options = ("--kills", "100", "--seed", SEED, "--patience", "10", "--folder", str(tmp_path))
    code, figures, told = campaign("tools", *options)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["kills"] == 100
    assert {"begun", "inside", "done", "left"} <= figures["places"].keys()
    wanted = ("effects", "made again", "results unknown", "calls allowed", "answers refused", "resumed")
    assert all(figures[name] for name in wanted), told
    assert all(figures[f"turns {status}"] for status in ("completed", "interrupted", "cancelled")), told


def test_cancelled_at_every_other_await() -> None:
    code, figures, told = campaign("tools", "--part", "cancels", "--every", "2", "--seed", SEED)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["points"] > 200
    assert set(figures["ways"]) == {"asked", "answered", "again", "inner"}
    assert figures["effects"] > 300
    assert figures["results unknown"] > 10


# --- faults that are put in ----------------------------------------------------------------------------------------

PLANTS = {
    "starts-forgotten": {"start not recorded"},
    "results-forgotten": {"recorded result lost", "effect repeated"},
    "waiting-lost": {"told turn lost"},
    "done-twice": {"effect repeated"},
    "not-done": {"result without its effect"},
    "unsaid-leave": {"made without leave"},
}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Plants:
    sizes = dict.fromkeys(PLANTS, ("--kills", "8"))
    return Plants("tools", sizes, tmp_path_factory.mktemp("plants"), at_once=3)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, plants: Plants) -> None:
    plants.check(plant, PLANTS[plant])


def test_cancels_find_a_planted_fault_too() -> None:
    code, figures, told = campaign(
        "tools", "--part", "cancels", "--plant", "done-twice", "--scene", "run", "--store", "sqlite", "--every", "9"
    )
    assert code == 1
    assert "effect repeated" in figures["kinds"], told
    assert "--plant done-twice" in told.partition("to repeat")[2]


# --- what is said --------------------------------------------------------------------------------------------------


def test_the_model_calls_round_by_round_and_then_answers() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": text_of("k", "su|b")}]
    first = answered_next(messages)
    assert first == [("send", {"what": "k.0.0"}), ("upload", {"what": "k.0.1"})]
    messages.append({"role": "assistant", "tool_calls": [{}, {}]})
    assert answered_next(messages) == [("buy", {"what": "k.1.0"})]
    assert answered_next(messages, may_call=False) == "Done with k."
    messages.append({"role": "assistant", "tool_calls": [{}]})
    assert answered_next(messages) == "Done with k."


def test_plans_stay_within_three_rounds_of_four_calls() -> None:
    chance = random.Random(1)
    for _ in range(200):
        rounds = calls_of(text_of("k", plan_of(chance)))
        assert len(rounds) <= 3
        assert all(1 <= len(calls) <= 4 for calls in rounds)


# --- faults that are written into the evidence ---------------------------------------------------------------------

# Worker 1 says something that calls for s and b; s is done, b waits; worker 2 allows it, does it, and is told the end.
TEXT = text_of("k", "sb")
S, B = ("T", "1", "send", "k.0.0", "T.1"), ("T", "2", "buy", "k.0.1", "T.2")
DONE_S, DONE_B = ("1", "did k.0.0"), ("2", "did k.0.1")
LEDGER = (
    Entered(1, 1.2, *S),
    Did(1, 1.3, *S),
    Left(1, 1.4, *S),
    Entered(2, 3.2, *B),
    Did(2, 3.3, *B),
    Left(2, 3.4, *B),
)
DIARY: tuple[Any, ...] = (
    Says(1, 1.0, 0, "t", "k", TEXT),
    Opened(1, 1.05, "t", "T", "k"),
    Begun(1, 1.1, "T", ("1",)),
    Noted(1, 1.5, "T", (DONE_S,)),
    Closed(1, 1.6, "t", "T", True, False),
    Told(1, 1.7, "t", "k", "T", "waiting", (DONE_S,), ("2",)),
    Answers(2, 3.0, 0, "t", "a", "T", ("2",), ()),
    Taken(2, 3.05, "t", "T", "a", False),
    Begun(2, 3.1, "T", ("2",)),
    Noted(2, 3.5, "T", (DONE_B,)),
    Closed(2, 3.6, "t", "T", False, False),
    Told(2, 3.7, "t", "a", "T", "completed", (DONE_S, DONE_B), ()),
)
REQUESTS = (Exchanged(1.06, (), (), ()), Exchanged(3.55, ("1", "2"), ("1", "2"), (DONE_S[1], DONE_B[1])))
CALLS = (
    CallSeen("1", "send", '{"what":"k.0.0"}', DONE_S[1]),
    CallSeen("2", "buy", '{"what":"k.0.1"}', DONE_B[1], True, "a"),
)
UNKNOWN = "This call was interrupted after it had begun; its outcome is unknown."
EVIDENCE = Evidence(LEDGER, DIARY, REQUESTS, Kept((TurnKept("T", "t", "completed", TEXT, CALLS),)))

Change = Callable[[Evidence], Evidence]


def ledger(*more: Any) -> Change:
    return lambda evidence: replace(evidence, ledger=(*evidence.ledger, *more))


def diary(*more: Any, without: int | None = None) -> Change:
    return lambda evidence: replace(
        evidence, diary=(*(line for n, line in enumerate(evidence.diary) if n != without), *more)
    )


def kept(**changes: Any) -> Change:
    return lambda evidence: replace(evidence, kept=Kept((replace(evidence.kept.turns[0], **changes),)))


def result(place: int, text: str, **changes: Any) -> Change:
    calls = [*CALLS]
    calls[place] = replace(calls[place], result=text, **changes)
    return kept(calls=tuple(calls))


FAULTS: dict[str, tuple[Change, str]] = {
    "a second effect": (ledger(Did(1, 1.35, *S)), "effect repeated"),
    "entered again": (ledger(Entered(2, 3.15, *S)), "call made again"),
    "an effect that no turn knows": (kept(calls=CALLS[1:]), "effect without a record"),
    "the same deed under another key": (ledger(Did(1, 1.35, *S[:4], "T.1.b")), "another key"),
    "entered before the start was on disk": (diary(without=2), "start not recorded"),
    "a result, and no effect": (lambda one: replace(one, ledger=LEDGER[3:]), "result without its effect"),
    "made, though it says that it was not": (result(0, "The run failed; this call was not made."), "made, and said"),
    "unknown, though it was known": (result(0, UNKNOWN), "recorded result lost"),
    "a result that nobody has given": (result(0, "whatever"), "strange result"),
    "made, and nobody had allowed it": (diary(without=6), "made without leave"),
    "allowed by an answer that was refused": (diary(Turned(2, 3.7, "t", "a", "approval")), "made without leave"),
    "allowed by somebody else": (result(1, DONE_B[1], by="z"), "nobody's word"),
    "forbidden, and made": (result(1, DONE_B[1], approved=False), "nobody's word"),
    "an answer that counted twice": (
        diary(
            Answers(3, 3.8, 0, "t", "c", "T", ("2",), ()),
            Told(3, 3.9, "t", "c", "T", "completed", (DONE_S, DONE_B), ()),
        ),
        "approval used twice",
    ),
    "an answer to other arguments": (
        diary(
            Answers(3, 3.8, 0, "t", "c", "T", ("2",), (), True),
            Told(3, 3.9, "t", "c", "T", "completed", (DONE_S, DONE_B), ()),
        ),
        "forged answer used",
    ),
    "a request that was refused": (
        lambda one: replace(one, requests=(Exchanged(1.0, (), (), (), "no"),)),
        "request refused",
    ),
    "results that came in another order": (
        lambda one: replace(one, requests=(Exchanged(3.6, ("1", "2"), ("2", "1"), ()),)),
        "results out of order",
    ),
    "calls without results": (kept(flaw="there are no results of ['2']"), "unpaired"),
    "a waiting run that was taken for a dead one": (kept(status="interrupted"), "waiting run lost"),
    "a turn that a caller was told of": (lambda one: replace(one, kept=Kept()), "told turn lost"),
    "a run that nobody closes": (kept(status="open"), "run left open"),
    "a turn twice": (
        lambda one: replace(one, kept=Kept((*one.kept.turns, replace(one.kept.turns[0], id="U", calls=())))),
        "doubled turn",
    ),
    "a thread that is not to be had": (
        diary(
            Died(2, 4.0, (Standing(0, "a", "t", "sealed"),)),
            Says(3, 4.1, 0, "t", "m", "m "),
            Opened(3, 5.4, "t", "T", "m"),
        ),
        "thread stuck",
    ),
    "something that should have worked": (diary(Failed(1, 1.0, "k", "why")), "refused"),
    "a worker that hung": (diary(Died(1, 9.0, (), 0, True)), "hung"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_evidence_is_found(fault: str) -> None:
    change, kind = FAULTS[fault]
    found = [one.kind for one in judge(change(EVIDENCE)).violations]
    assert any(one.startswith(kind) for one in found), found


def test_evidence_that_nobody_touched_is_clean() -> None:
    verdict = judge(EVIDENCE)
    assert verdict.violations == []
    assert (verdict.figures["effects"], verdict.figures["calls allowed"], verdict.figures["answers"]) == (2, 1, 1)


def test_what_may_be_made_again_may_be_until_its_result_is_known() -> None:
    name = ("T", "1", "upload", "k.0.0", "T.1")
    steps = (Entered(1, 1.2, *name), Did(1, 1.3, *name), Entered(2, 3.2, *name), Did(2, 3.3, *name))
    calls = (CallSeen("1", "upload", '{"what":"k.0.0"}', "did k.0.0"),)
    lines = (Says(1, 1.0, 0, "t", "k", TEXT), Begun(1, 1.1, "T", ("1",)))
    again = Evidence(steps, lines, (), Kept((TurnKept("T", "t", "completed", TEXT, calls),)))
    assert judge(again).violations == []
    known = replace(again, diary=(*lines, Noted(1, 1.4, "T", (("1", "did k.0.0"),))))
    assert [one.kind for one in judge(known).violations] == ["effect repeated"]
    told = replace(again, requests=(Exchanged(1.5, ("1",), ("1",), ("did k.0.0",)),))
    assert [one.kind for one in judge(told).violations] == ["effect repeated"]


def test_an_outcome_may_be_unknown_if_the_call_was_begun() -> None:
    lines = (Says(1, 1.0, 0, "t", "k", TEXT), Begun(1, 1.1, "T", ("1",)))
    turn = TurnKept("T", "t", "interrupted", TEXT, (replace(CALLS[0], result=UNKNOWN),))
    evidence = Evidence(LEDGER[:2], lines, (), Kept((turn,)))
    assert judge(evidence).violations == []
    assert [one.kind for one in judge(replace(evidence, ledger=(), diary=lines[:1])).violations] == [
        "unknown without a start"
    ]


def test_words_of_the_library_are_known() -> None:
    assert outcome_in(UNKNOWN, "k") == "unknown"
    assert outcome_in("This call was not allowed, and not made. no", "k") == "not allowed"
    assert outcome_in("did k, and broke", "k") == "broke"
    assert outcome_in("did another", "k") == "strange"
