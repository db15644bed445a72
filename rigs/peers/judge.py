"""The judge: what was said, what the model was sent next, what the file holds -> answers.

A message is found by its words, which are unique; so is an answer, by how it begins.

Rule of this file: pure, and knows no subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Message = Mapping[str, Any]  # role, text, calls (ids of tool calls), result (id of the call that it answers)


class Question(NamedTuple):
    """What is asked of a repeat. `unit` says what its answers are: times (true or false), share, bytes or ratio.

    One that is asked `aside` has a row only if it is true of some subject.
    """

    text: str
    unit: str = "times"
    aside: bool = False


Answers = dict[Question, "float | bool | None"]

ABSENT = Question("an acknowledged turn is absent from what the model is sent next")
INTERLEAVED = Question("the turns interleave")
FAILED = Question("a run ends in an error", aside=True)
GONE = Question("the user's message is gone from the conversation")
NOWHERE = Question("... and its words are nowhere in the file", aside=True)
KEPT = Question("kept of the answer that the reader had seen (median)", "share")
BEYOND = Question("it holds more of the answer than the reader had seen", aside=True)
REFUSED = Question("the next message fails", aside=True)
DOUBLED = Question("the model is sent the message twice")
ANSWERED_TWICE = Question("the conversation holds two answers to it")
WRONG = Question("wrong text is sent to the model, and nobody is told")
LEFT_OUT = Question("the message is left out, and nobody is told")
TOLD = Question("the next message fails with an error")
UNPAIRED = Question("a tool call without its result is sent")
UNKNOWN = Question("the model is told nothing of the call, though the tool has run")


@dataclass(frozen=True)
class Turn:
    """What was said and is to be answered; `heard` is what its caller has seen of the answer."""

    text: str
    answer: str
    mark: str  # the answer begins with it
    heard: str = ""


def _questions(turn: Turn, messages: Sequence[Message]) -> list[int]:
    return [n for n, message in enumerate(messages) if message["role"] == "user" and turn.text in message["text"]]


def _answers(turn: Turn, messages: Sequence[Message]) -> list[int]:
    return [n for n, message in enumerate(messages) if message["role"] == "assistant" and turn.mark in message["text"]]


def _common(one: str, other: str) -> int:
    """For how many characters two texts are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def whole(turn: Turn, messages: Sequence[Message]) -> bool:
    """True if the question and the whole answer stand in what was sent."""
    found = any(messages[n]["text"] == turn.answer for n in _answers(turn, messages))
    return found and bool(_questions(turn, messages))


def interleaved(turns: Sequence[Turn], messages: Sequence[Message]) -> bool:
    """True if a question and its answer are both there, and between them something of another turn."""
    for turn in turns:
        asked, answered = _questions(turn, messages), _answers(turn, messages)
        if asked and answered and answered[0] != asked[-1] + 1:
            return True
    return False


def two_at_once(
    acked: Sequence[Turn], messages: Sequence[Message] | None, *, stored: Sequence[Turn], failed: bool
) -> Answers:
    """Two runs on one thread; `messages` is what the model is sent with the next message, `stored` is in the file."""
    if messages is None:
        return {ABSENT: None, NOWHERE: None, INTERLEAVED: None, FAILED: failed, REFUSED: True}
    absent = [turn for turn in acked if not whole(turn, messages)]
    return {
        ABSENT: bool(absent),
        NOWHERE: any(turn not in stored for turn in absent),
        INTERLEAVED: interleaved(acked, messages),
        FAILED: failed,
        REFUSED: False,
    }


def cut_off(turn: Turn, messages: Sequence[Message] | None, *, stored: bool) -> Answers:
    """A run that was killed or left; `messages` is what the model is sent with the next message."""
    if messages is None:
        return {GONE: None, NOWHERE: None, KEPT: None, BEYOND: None, REFUSED: True}
    gone = not _questions(turn, messages)
    kept = "".join(messages[n]["text"] for n in _answers(turn, messages)[:1])
    answers: Answers = {GONE: gone, NOWHERE: gone and not stored}
    if turn.heard:
        common = _common(kept, turn.answer)
        answers[KEPT] = min(common, len(turn.heard)) / len(turn.heard)
        answers[BEYOND] = common > len(turn.heard)
    answers[REFUSED] = False
    return answers


def said_again(
    turn: Turn, retried: Sequence[Message] | None, afterwards: Sequence[Message] | None, *, failed: bool
) -> Answers:
    """The same message said again. `retried` is what the model was sent (None: it was not asked), `afterwards` what
    it is sent with the next message."""
    requests = [messages for messages in (retried, afterwards) if messages is not None]
    doubled = any(len(_questions(turn, messages)) > 1 for messages in requests)
    twice = len(_answers(turn, afterwards or ())) > 1
    return {DOUBLED: doubled, ANSWERED_TWICE: twice, REFUSED: failed or afterwards is None}


def flipped(text: str, messages: Sequence[Message] | None, stored: int) -> Answers:
    """One bit of the text of one stored message was flipped. So many are stored, and are sent with the next one."""
    if messages is None:
        return {WRONG: False, LEFT_OUT: False, TOLD: True}
    right = any(message["text"] == text for message in messages)
    there = len(messages) > stored
    return {WRONG: not right and there, LEFT_OUT: not right and not there, TOLD: False}


def unpaired(messages: Sequence[Message] | None, call: str) -> Answers:
    """A process was killed inside a tool; the call is the one that it was killed in."""
    if messages is None:
        return {UNPAIRED: None, UNKNOWN: None, REFUSED: True}
    called = [n for n, message in enumerate(messages) if call in message["calls"]]
    open_ = any(n + 1 >= len(messages) or messages[n + 1]["result"] != call for n in called)
    return {UNPAIRED: open_, UNKNOWN: not called, REFUSED: False}
