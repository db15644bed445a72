"""Marks of the rig of tools: where every talker is, and where its process is to die.

The moments around a tool last microseconds: nobody could strike them from outside. So a kill that is aimed is armed
in the shared memory, and the process sends SIGKILL to itself when one of its talkers passes that moment for the n-th
time. What is counted is where the talker stood.

Rule of this file: one process writes its slots and reads what is armed for it; the campaign arms, and reads the rest
when the process is dead.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from rigs.marks import SLOT, Board, Slot

# In the order of a turn. "begin": the start of calls is being written; "begun": it is written, no function is entered
# yet. "inside": entered, before the effect; "several": so are others; "done": after the effect; "left": right after the
# function. "record", "recorded": its result is being written, and is. "taken": somebody has another's run, or one that
# waits, to go on with it; "closing": to close it. "ask", "told": the service is asked, and has begun to answer.
PLACES = (
    *(
        "start",
        "idle",
        "open",
        "closing",
        "taken",
        "ask",
        "told",
        "begin",
        "begun",
        "inside",
        "several",
        "done",
        "left",
    ),
    *("record", "recorded", "park", "parked", "seal", "sealed"),
)
NUMBER = {name: number for number, name in enumerate(PLACES)}
# The moments at which something is aimed at, and how often.
AIMS = {
    "begin": 3,
    "begun": 5,
    "inside": 5,
    "several": 4,
    "done": 6,
    "left": 4,
    "record": 4,
    "recorded": 3,
    "park": 3,
    "parked": 2,
    "taken": 5,
    "closing": 2,
    "seal": 3,
    "sealed": 1,
    "ask": 2,
    "told": 3,
}

_ARMED, _COUNT, _TURNS = 0, 1, 2  # bytes of a seat


class ToolSlot(Slot):
    """The marks of one talker."""

    def __init__(self, board: ToolBoard, seat: int, start: int) -> None:
        super().__init__(board.memory, start)
        self._seat = SLOT * (1 + seat)
        self.by = ""  # what the talker is at: the name of what it says, or answers
        self.mode = ""  # "says", "answers", "resumes"; "" if nothing

    def at_work(self, mode: str, by: str, thread: str) -> None:
        """The talker begins something."""
        self.mode, self.by = mode, by
        self.begin(NUMBER["open"], by, thread)
        self._memory[self._seat + _TURNS] = min(255, self._memory[self._seat + _TURNS] + 1)

    def done(self) -> None:
        """It has ended."""
        self.mode = ""
        self.passes("idle")

    def passes(self, place: str) -> None:
        """The talker is there; if this is where its process is to die, it does."""
        memory, seat, number = self._memory, self._seat, NUMBER[place]
        memory[self._start] = number
        if memory[seat + _ARMED] != number:
            return
        if memory[seat + _COUNT] > 1:
            memory[seat + _COUNT] -= 1
            return
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # no thread of a process that was killed comes back from there

    @property
    def place(self) -> str:
        """Where it is."""
        return PLACES[self._memory[self._start]]


class ToolBoard(Board):
    """The slots of all talkers, and what is armed for each seat."""

    def __init__(self, seats: int, talkers: int) -> None:
        super().__init__(seats * (1 + talkers), 1)
        self._seats, self._each = seats, talkers

    @property
    def memory(self) -> Any:
        return self._memory

    def slot(self, seat: int, talker: int) -> ToolSlot:
        return ToolSlot(self, seat, SLOT * (1 + self._seats + seat * self._each + talker))

    def clear(self, seat: int) -> None:
        for talker in range(self._each):
            self.slot(seat, talker).clear()
        self._memory[SLOT * (1 + seat) : SLOT * (2 + seat)] = bytes(SLOT)

    def arm(self, seat: int, place: str, count: int) -> None:
        """Have the process in a seat die there, at the n-th time."""
        start = SLOT * (1 + seat)
        self._memory[start + _COUNT] = count
        self._memory[start + _ARMED] = NUMBER[place]

    def armed(self, seat: int) -> str:
        """Where the process in a seat was to die."""
        return PLACES[self._memory[SLOT * (1 + seat) + _ARMED]]

    def turns(self, seat: int) -> int:
        """How many things the process in a seat has begun; 255 stands for more."""
        return self._memory[SLOT * (1 + seat) + _TURNS]
