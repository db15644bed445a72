"""The peers' rig: its probes against holdfast alone (nothing is installed here), and the proof that it is not blind.

The campaign runs as its users run it, as a process of its own: its workers fork, and a test framework has threads.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.peers import judge  # noqa: E402
from rigs.peers.environments import PINS, python_for  # noqa: E402
from rigs.peers.files import flip, holds  # noqa: E402
from rigs.peers.judge import Answers, Message, Question, Turn  # noqa: E402
from rigs.peers.probes import PROBES  # noqa: E402
from rigs.peers.table import markdown, rows, unseen  # noqa: E402

SEED = "20261122"

# --- holdfast under every probe ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the campaign says of holdfast: probe -> question -> the answers of the repeats."""
    folder = tmp_path_factory.mktemp("peers")
    options = ("--only", "holdfast", "--times", "1", "--seed", SEED, "--folder", str(folder), "--json")
    command = [sys.executable, "-m", "rigs.peers", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    results = json.loads(done.stdout)["results"]["holdfast"]
    assert isinstance(results, dict)
    return results


# What holdfast promises never to do. A message that is said again without a key is said twice, as it must be.
NEVER = (judge.ABSENT, judge.INTERLEAVED, judge.FAILED, judge.GONE, judge.BEYOND, judge.WRONG, judge.LEFT_OUT)
NEVER_IN_A_RETRY = (judge.DOUBLED, judge.ANSWERED_TWICE, judge.REFUSED)
RUN = {probe.name for probe in PROBES if not probe.needs or probe.needs == "stop"}


def test_every_probe_is_run_that_holdfast_has_the_options_for(told: dict[str, Any]) -> None:
    assert {name for name, found in told.items() if not isinstance(found, str)} >= RUN
    assert set(told) == {probe.name for probe in PROBES}


def test_holdfast_keeps_what_was_said_under_every_probe(told: dict[str, Any]) -> None:
    asked = 0
    for name, found in told.items():
        never = NEVER if name == "lost-ack" else NEVER + NEVER_IN_A_RETRY
        for question in never if isinstance(found, dict) else ():
            asked += question.text in found
            assert not any(found.get(question.text, ())), (name, question.text)
    assert asked > 20


@pytest.mark.parametrize("how", ["break", "cancel", "stop"])
def test_all_that_was_read_of_a_stream_that_was_left_is_kept(how: str, told: dict[str, Any]) -> None:
    assert told[f"left-by-{how}"][judge.KEPT.text] == [1.0]


def test_a_flipped_bit_is_told(told: dict[str, Any]) -> None:
    assert told["flipped-bit"][judge.TOLD.text] == [True]


def test_the_bytes_of_a_turn_do_not_grow_with_the_history(told: dict[str, Any]) -> None:
    (ratio,) = told["cost"]["bytes, 1,000 turns to 10"]
    assert 0.5 < ratio < 1.5


# --- the judge is not blind ----------------------------------------------------------------------------------------


def a_turn(name: str) -> Turn:
    return Turn(f"Question {name}?", f"Answer {name} in words ", f"Answer {name}")


ONE, TWO, NEW = a_turn("one"), a_turn("two"), a_turn("new")


def user(turn: Turn) -> Message:
    return {"role": "user", "text": turn.text, "calls": [], "result": ""}


def answer(turn: Turn, length: int | None = None) -> Message:
    return {"role": "assistant", "text": turn.answer[:length], "calls": [], "result": ""}


def called(call: str) -> Message:
    return {"role": "assistant", "text": "", "calls": [call], "result": ""}


def result(call: str) -> Message:
    return {"role": "tool", "text": "sent", "calls": [], "result": call}


def true(answers: Answers) -> set[Question]:
    return {question for question, value in answers.items() if value is True}


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([user(ONE), answer(ONE), user(TWO), answer(TWO), user(NEW)], set()),
        ([user(TWO), answer(TWO), user(ONE), answer(ONE), user(NEW)], set()),
        ([user(ONE), answer(ONE), user(NEW)], {judge.ABSENT, judge.NOWHERE}),
        ([user(ONE), answer(ONE), user(TWO), user(NEW)], {judge.ABSENT, judge.NOWHERE}),
        ([user(ONE), answer(ONE), user(TWO), answer(TWO, 9), user(NEW)], {judge.ABSENT, judge.NOWHERE}),
        ([user(ONE), user(TWO), answer(ONE), answer(TWO), user(NEW)], {judge.INTERLEAVED}),
        ([user(ONE), user(TWO), answer(TWO), answer(ONE), user(NEW)], {judge.INTERLEAVED}),
        (None, {judge.REFUSED}),
    ],
)
def test_two_runs_that_lost_or_interleaved_a_turn(messages: list[Message] | None, found: set[Question]) -> None:
    assert true(judge.two_at_once([ONE, TWO], messages, stored=[ONE], failed=False)) == found


def test_a_lost_turn_that_still_stands_in_the_file_and_a_run_that_failed() -> None:
    sent = [user(ONE), answer(ONE), user(NEW)]
    assert true(judge.two_at_once([ONE, TWO], sent, stored=[ONE, TWO], failed=True)) == {judge.ABSENT, judge.FAILED}


@pytest.mark.parametrize(
    ("messages", "found", "kept"),
    [
        ([user(ONE), answer(ONE, 10), user(NEW)], set(), 1.0),
        ([user(ONE), answer(ONE, 5), user(NEW)], set(), 0.5),
        ([user(ONE), user(NEW)], set(), 0.0),
        ([user(ONE), answer(ONE), user(NEW)], {judge.BEYOND}, 1.0),
        ([user(NEW)], {judge.GONE, judge.NOWHERE}, 0.0),
        (None, {judge.REFUSED}, None),
    ],
)
def test_a_run_that_was_cut_off(messages: list[Message] | None, found: set[Question], kept: float | None) -> None:
    turn = replace(ONE, mark="Answe", heard=ONE.answer[:10])
    answers = judge.cut_off(turn, messages, stored=False)
    assert (true(answers), answers[judge.KEPT]) == (found, kept)


@pytest.mark.parametrize(
    ("retried", "afterwards", "found"),
    [
        ([user(ONE)], [user(ONE), answer(ONE), user(NEW)], set()),
        (None, [user(ONE), answer(ONE), user(NEW)], set()),  # the model was not asked again
        ([user(ONE), user(ONE)], [user(ONE), user(ONE), answer(ONE), user(NEW)], {judge.DOUBLED}),
        ([user(ONE), answer(ONE)], [user(ONE), answer(ONE), answer(ONE), user(NEW)], {judge.ANSWERED_TWICE}),
        ([user(ONE)], None, {judge.REFUSED}),
    ],
)
def test_a_message_that_was_said_again(
    retried: list[Message] | None, afterwards: list[Message] | None, found: set[Question]
) -> None:
    assert true(judge.said_again(ONE, retried, afterwards, failed=False)) == found


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([user(ONE), answer(ONE), user(NEW)], set()),
        ([{**user(ONE), "text": "Question ooe?"}, answer(ONE), user(NEW)], {judge.WRONG}),
        ([answer(ONE), user(NEW)], {judge.LEFT_OUT}),
        (None, {judge.TOLD}),
    ],
)
def test_a_text_in_which_a_bit_was_flipped(messages: list[Message] | None, found: set[Question]) -> None:
    assert true(judge.flipped(ONE.text, messages, 2)) == found


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([user(ONE), called("c"), result("c"), user(NEW)], set()),
        ([user(ONE), called("c"), user(NEW)], {judge.UNPAIRED}),
        ([user(ONE), called("c"), user(NEW), result("c")], {judge.UNPAIRED}),
        ([user(ONE), user(NEW)], {judge.UNKNOWN}),
        (None, {judge.REFUSED}),
    ],
)
def test_a_process_that_was_killed_in_a_tool(messages: list[Message] | None, found: set[Question]) -> None:
    assert true(judge.unpaired(messages, "c")) == found


# --- files, environments, the table ------------------------------------------------------------------------------


def test_one_bit_is_flipped_where_the_text_is_read_and_nowhere_else(tmp_path: Path) -> None:
    path, reads = tmp_path / "x.db", "SELECT text FROM told ORDER BY n DESC LIMIT 1"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE told (n INTEGER PRIMARY KEY, text BLOB)")
        connection.executemany("INSERT INTO told (text) VALUES (?)", [(b"said before",), (b"said before",)])
        connection.commit()
        assert holds(path, "said before")  # while it stands in the log only
        assert not holds(path, "said after")
    before = path.read_bytes()
    flip(path, "said before", reads, random.Random(SEED))
    changed = [one ^ other for one, other in zip(before, path.read_bytes(), strict=True) if one != other]
    assert [bin(bits).count("1") for bits in changed] == [1]
    with closing(sqlite3.connect(path)) as connection:
        first, last = (text for (text,) in connection.execute("SELECT text FROM told ORDER BY n"))
    assert (first == b"said before", last == b"said before") == (True, False)
    with pytest.raises(ValueError, match="does not stand"):
        flip(path, "said after", reads, random.Random(SEED))


def test_holdfast_runs_in_this_environment_and_every_peer_has_pinned_versions(tmp_path: Path) -> None:
    assert python_for("holdfast", tmp_path) == Path(sys.executable)
    assert all("==" in pin for pins in PINS.values() for pin in pins)


def test_a_cell_counts_and_a_row_that_says_nothing_is_told_in_words() -> None:
    probe = next(probe for probe in PROBES if probe.name == "lost-ack-keyed")
    fine: Answers = {judge.DOUBLED: False, judge.REFUSED: False}
    bad: Answers = {judge.DOUBLED: True, judge.REFUSED: False}
    results: Any = {"a": {probe.name: [fine, bad, bad]}, "b": {probe.name: "no such option"}}
    assert rows(probe, results) == [[judge.DOUBLED.text, "2 of 3", "no such option"]]
    assert "| the model is sent the message twice | 2 of 3 | no such option |" in markdown([probe], results)
    assert "the next message fails (1 fault)" in unseen([probe], results)


def test_a_cell_of_figures_is_their_median() -> None:
    probe = next(probe for probe in PROBES if probe.name == "cost")
    size, ratio, part = Question("size", "bytes"), Question("ratio", "ratio"), Question("part", "share")
    repeats: list[Answers] = [{size: 2e6, ratio: 50.0, part: 0.5}, {size: 1500.0, ratio: 1.04, part: 0.25}] * 2
    results: Any = {"a": {probe.name: [*repeats, {size: 1500.0, ratio: 1.04, part: None}]}}
    assert rows(probe, results) == [["size", "1.5 kB"], ["ratio", "× 1.0"], ["part", "38 %"]]
