"""The judge of the disk rigs: a fault that is written into a clean story is found, and a clean story is clean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from disk_commands import ROOT
from msgspec.structs import replace
from rigs.disk_judge import judge, outcomes, possible, remains, to_retry
from rigs.disk_turns import Answered, AnyLine, Began, Heard, Kept, Refused, Told
from rigs.evidence import Contents, ThreadSeen, TurnSeen
from rigs.talk import answer_to, text_of, token_of

assert (ROOT / "rigs").is_dir()  # the rigs are found from there


def token(number: int) -> str:
    return token_of(round_=0, worker=1, talker=0, number=number, size=0)


def told(number: int, thread: str, messages: int, at: float | None = None) -> list[AnyLine]:
    """The lines of a turn that went well, as the last of so many messages."""
    name, start = token(number), float(number) if at is None else at
    answer = answer_to(text_of(name), messages)
    lines: list[AnyLine] = [Began(name, start, "say", thread), Heard(name, start + 0.1), Answered(name, start + 0.2)]
    return [*lines, Told(name, start + 0.3, f"turn-{number}", answer)]


def turn(number: int, thread: str, parent: int | None, messages: int, **changes: Any) -> TurnSeen:
    """The turn as the tables hold it."""
    text = text_of(token(number))
    before = None if parent is None else f"turn-{parent}"
    output = (("assistant", answer_to(text, messages)),)
    seen = TurnSeen(f"turn-{number}", number, thread, before, "completed", (("user", text),), output)
    return replace(seen, **changes) if changes else seen


# Two turns on a; a fork of it at the first, with a turn of its own; a turn on c that was cut off, and went on.
LINES: tuple[AnyLine, ...] = (
    *told(1, "a", 1),
    *told(2, "a", 3),
    Began(token(3), 3.0, "fork", "a", token(1), "b"),
    Told(token(3), 3.1),
    *told(4, "b", 3),
    Began(token(5), 5.0, "say", "c"),
    Heard(token(5), 5.1),
    *told(6, "c", 2),
)
TURNS = (
    turn(1, "a", None, 1),
    turn(2, "a", 1, 3),
    turn(4, "b", 1, 3),
    turn(5, "c", None, 1, status="interrupted", output=()),
    turn(6, "c", 5, 2),
)
THREADS = (
    ThreadSeen("a", "turn-2", ("turn-1", "turn-2")),
    ThreadSeen("b", "turn-4", ("turn-1", "turn-4")),
    ThreadSeen("c", "turn-6", ("turn-5", "turn-6")),
)
CONTENTS = Contents(TURNS, THREADS)
PROBES = (token(6),)


def kinds(contents: Contents = CONTENTS, lines: tuple[AnyLine, ...] = LINES, **how: Any) -> set[str]:
    return {violation.kind for violation in judge(lines, contents, probes=PROBES, **how).violations}


def test_a_clean_story_is_clean() -> None:
    verdict = judge(LINES, CONTENTS, probes=PROBES)
    assert verdict.violations == []
    assert (verdict.told, verdict.cut, verdict.interrupted, verdict.unacknowledged) == (4, 1, 1, 0)
    assert kinds(power_cut=True) == set()


Change = Callable[[], Contents]


def one_turn(number: int, **changes: Any) -> Change:
    return lambda: replace(
        CONTENTS, turns=tuple(replace(seen, **changes) if seen.id == f"turn-{number}" else seen for seen in TURNS)
    )


def one_thread(name: str, **changes: Any) -> Change:
    return lambda: replace(
        CONTENTS, threads=tuple(replace(seen, **changes) if seen.id == name else seen for seen in THREADS)
    )


def without(name: str) -> Change:
    return lambda: replace(CONTENTS, threads=tuple(seen for seen in THREADS if seen.id != name))


def lost() -> Contents:
    left = one_thread("a", head="turn-1", told=("turn-1",))()
    return replace(left, turns=tuple(seen for seen in TURNS if seen.id != "turn-2"))


def doubled() -> Contents:
    again = turn(2, "a", 2, 5, id="turn-9")
    told = ("turn-1", "turn-2", "turn-9")
    return replace(one_thread("a", head="turn-9", told=told)(), turns=(*TURNS, again))


def changed_places() -> Contents:
    return one_thread("c", head="turn-5", told=("turn-6", "turn-5"))()


FAULTS: dict[str, tuple[Change, str]] = {
    "an acknowledged turn is gone": (lost, "acknowledged turn lost"),
    "a thread is gone": (without("b"), "acknowledged turn lost"),
    "an answer is another one": (one_turn(4, output=(("assistant", "No."),)), "acknowledged turn changed"),
    "an answer is cut": (one_turn(4, output=(("assistant", "Heard"),)), "half turn"),
    "a record cannot be read": (one_turn(2, flaw="DamagedError: ..."), "half turn"),
    "a hash does not match": (one_turn(2, sound=False), "damaged turn"),
    "an interrupted turn says what nobody said": (one_turn(5, output=(("assistant", "x"),)), "half turn"),
    "a cut turn became complete unasked": (one_turn(5, status="completed"), "history out of place"),
    "a turn stands twice": (doubled, "doubled turn"),
    "turns change places": (changed_places, "history out of place"),
    "a turn follows another one": (one_turn(6, parent="turn-1"), "head out of place"),
    "a head stands elsewhere": (one_thread("a", head="turn-1"), "head out of place"),
    "a fork sees what its parent said later": (
        one_thread("b", told=("turn-1", "turn-2", "turn-4")),
        "history out of place",
    ),
    "nobody asked for a turn": (one_turn(6, input=(("user", "r9.w9.k9.n9.s0"),)), "turn nobody asked for"),
    "the library does not read a thread": (one_thread("a", flaw="DamagedError: ..."), "thread cannot be read"),
    "a run is left open": (one_thread("c", open_run="turn-7"), "run left open"),
    "a ticket is left": (lambda: replace(CONTENTS, tickets=("turn-7",)), "ticket left over"),
    "a journal is left": (lambda: replace(CONTENTS, journal=2), "journal left over"),
    "the file is damaged": (lambda: replace(CONTENTS, integrity="row 7 missing from index"), "file damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_contents_is_found(fault: str) -> None:
    change, kind = FAULTS[fault]
    assert kind in kinds(change())


def refused(number: int, *kinds: str, words: str) -> tuple[AnyLine, ...]:
    began = Began(token(number), float(number), "rewind", "a", token(2))
    return *LINES, began, Refused(token(number), number + 0.1, kinds[0], kinds, words)


CLEAR = "There is no room left to write /x. Free some space; nothing stored is lost."


def test_only_clear_words_of_a_typed_error_are_let_pass_where_disks_fail() -> None:
    typed = ("StoreFullError", "StoreError", "HoldfastError")
    assert kinds(lines=refused(7, *typed, words=CLEAR), hushed=True) == set()
    assert kinds(lines=refused(7, *typed, words=CLEAR)) == {"refused"}
    assert kinds(lines=refused(7, *typed, words="Full.")) == {"refused"}
    assert kinds(lines=refused(7, *typed, words="Full."), hushed=True) == {"unclear error"}
    assert kinds(lines=refused(7, "OSError", words=CLEAR), hushed=True) == {"raw error"}
    assert kinds(lines=refused(7, "TimeoutError", words=""), hushed=True) == {"call hangs"}


def test_a_next_turn_that_is_refused_or_slow_is_found() -> None:
    *before, _ = LINES
    stuck = Refused(token(6), 6.3, "StoreFullError", ("StoreFullError", "HoldfastError"), CLEAR)
    assert "thread stuck" in kinds(lines=(*before, stuck))
    late = Told(token(6), 7.5, "turn-6", answer_to(text_of(token(6)), 2))
    assert kinds(lines=(*before, late)) == {"slow thread"}


def retried(number: int, of: int, turn_id: str) -> tuple[AnyLine, ...]:
    answer = answer_to(text_of(token(of)), 3)
    again = Began(token(number), float(number), "retry", "a", token(of))
    return *LINES, again, Told(token(number), number + 0.1, turn_id, answer)


def test_a_retry_is_answered_with_the_turn_that_was_told() -> None:
    assert kinds(lines=retried(7, 2, "turn-2")) == set()
    assert "retry not safe" in kinds(lines=retried(7, 2, "turn-8"))


def test_nothing_is_said_once_more_on_a_later_life_of_its_thread() -> None:
    assert set(to_retry(LINES)) == {("c", token(5)), ("c", token(6))}
    deleted = (*LINES, Began(token(7), 7.0, "delete", "c"), Told(token(7), 7.1))
    assert to_retry(deleted) == [("b", token(4))]


def test_what_was_said_and_written_down_is_in_the_turn_that_was_made_of_it() -> None:
    lines = (*LINES[: LINES.index(Heard(token(5), 5.1)) + 1], Kept(token(5), 5.2, 9), *told(6, "c", 3))
    said = answer_to(text_of(token(5)), 1)
    third = turn(6, "c", 5, 3)

    def found(characters: int) -> set[str]:
        kept = turn(5, "c", None, 1, status="interrupted", output=(("assistant", said[:characters]),))
        return kinds(replace(CONTENTS, turns=(*TURNS[:3], kept, third)), lines)

    assert found(9) == set()
    assert found(8) == {"what was said is lost"}


def test_bytes_of_a_deleted_thread_are_found() -> None:
    lines = (*LINES, Began(token(7), 7.0, "delete", "a"), Told(token(7), 7.1))
    left = replace(without("a")(), turns=tuple(seen for seen in TURNS if seen.id != "turn-2"))
    assert {violation.kind for violation in judge(lines, left).violations} == set()
    # What a fork still reaches stays.
    assert list(remains(lines, left, token(1).encode())) == []
    assert [violation.kind for violation in remains(lines, left, b"..." + token(2).encode())] == ["deleted bytes left"]


def test_what_becomes_of_a_turn_that_is_gone_on_with() -> None:
    left, on = (Began(token(1), 1.0, "say", "a"), Heard(token(1), 1.1)), Began(token(2), 2.0, "resume", "a")

    def found(*lines: AnyLine) -> set[str]:
        return {history[-1][1] for history in possible(outcomes((*left, *lines)))["a"] if history}

    assert found(on) == {"interrupted", "completed"}
    assert found(on, Told(token(2), 2.1, "turn-1")) == {"interrupted", "completed"}
    refused = Refused(token(2), 2.1, "StoreUnavailableError", ("HoldfastError",), "The disk failed.")
    assert found(on, refused) == {"interrupted", "completed", "failed", "cancelled"}


def test_what_may_have_become_of_a_turn_depends_on_how_far_it_came() -> None:
    name = token(1)
    began, heard, answered = Began(name, 1.0, "say", "a"), Heard(name, 1.1), Answered(name, 1.2)

    def found(*lines: AnyLine, power_cut: bool = False) -> set[str]:
        histories = possible(outcomes(lines), power_cut=power_cut)["a"]
        return {history[-1][1] if history else "absent" for history in histories}

    assert found(began) == {"absent", "interrupted"}
    assert found(began, heard) == {"interrupted"}
    assert found(began, heard, answered) == {"interrupted", "completed"}
    assert found(began, heard, answered, Told(name, 1.3, "turn-1")) == {"completed"}
    assert found(began, heard, power_cut=True) == {"absent", "interrupted"}
