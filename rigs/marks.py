"""Marks: where every talker is, in memory that outlives its process.

A worker writes a byte whenever one of its turns passes a boundary: into memory that it shares with the campaign,
without a system call, so that being watched changes nothing. The campaign watches the byte to strike at a moment,
and reads it once more when the process is dead: that is the truth, whatever was aimed at.

Rule of this file: one talker writes a slot, others only read. The byte of the moment is written last.
"""

from __future__ import annotations

import mmap
import struct
import time

# In this order a turn passes them. "takeover": it is closing what a dead process has left. "sealed": the store has
# acknowledged, the caller does not know yet. "move": a fork or a rewind. "start": nothing was asked of the store yet.
MOMENTS = ("start", "open", "takeover", "ask", "seal", "sealed", "idle", "move")
START, OPEN, TAKEOVER, ASK, SEAL, SEALED, IDLE, MOVE = range(len(MOMENTS))

# What is counted and aimed at: the four of every turn, and the two beside them.
FACES = ("open", "ask", "seal", "idle", "move", "start")
FACE_OF = dict(zip(MOMENTS, ("start", "open", "open", "ask", "seal", "seal", "idle", "move"), strict=True))
FACE_OF_MARK = tuple(FACE_OF[name] for name in MOMENTS)

_HEAD = struct.Struct("<Id")  # turns begun, time of the last mark; from byte 4 on
_LASTED = struct.Struct("<8d")  # how long each moment lasted the last time
_AT_LASTED, _AT_TOKEN, _AT_THREAD, SLOT = 24, 96, 192, 256


class Slot:
    """The marks of one talker."""

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory = memory
        self._start = start
        self._turns = 0
        self._since = 0.0
        # Of the talker's own turn; a store is asked for other runs too.
        self.turn_id = ""
        self.in_turn = False

    # --- written by the talker -------------------------------------------------------------------------------------

    def begin(self, moment: int, token: str, thread: str) -> None:
        """A turn begins, or a move (which has no token)."""
        self.turn_id, self.in_turn = "", moment == OPEN
        self._turns += 1
        self._put(_AT_TOKEN, token)
        self._put(_AT_THREAD, thread)
        self.mark(moment)

    def mark(self, moment: int) -> None:
        """From now on the talker is in this moment."""
        memory, start, now = self._memory, self._start, time.monotonic()
        struct.pack_into("<d", memory, start + _AT_LASTED + 8 * memory[start], now - self._since)
        self._since = now
        _HEAD.pack_into(memory, start + 4, self._turns, now)
        memory[start] = moment

    def _put(self, at: int, text: str) -> None:
        encoded = text.encode()[: (_AT_THREAD if at == _AT_TOKEN else SLOT) - at - 1]
        self._memory[self._start + at] = 0  # whoever is killed in the middle of it has written nothing
        self._memory[self._start + at + 1 : self._start + at + 1 + len(encoded)] = encoded
        self._memory[self._start + at] = len(encoded)

    # --- read by the campaign --------------------------------------------------------------------------------------

    def clear(self) -> None:
        self._memory[self._start : self._start + SLOT] = bytes(SLOT)

    @property
    def moment(self) -> int:
        return self._memory[self._start]

    @property
    def turns(self) -> int:
        """How many turns and moves were begun."""
        return int(_HEAD.unpack_from(self._memory, self._start + 4)[0])

    @property
    def since(self) -> float:
        """When the moment began."""
        return float(_HEAD.unpack_from(self._memory, self._start + 4)[1])

    @property
    def token(self) -> str:
        return self._text(_AT_TOKEN)

    @property
    def thread(self) -> str:
        return self._text(_AT_THREAD)

    def lasted(self) -> dict[str, float]:
        """Seconds that each face lasted the last time."""
        found: dict[str, float] = {}
        for name, seconds in zip(MOMENTS, _LASTED.unpack_from(self._memory, self._start + _AT_LASTED), strict=True):
            found[FACE_OF[name]] = found.get(FACE_OF[name], 0.0) + seconds
        return found

    def _text(self, at: int) -> str:
        length = self._memory[self._start + at]
        return bytes(self._memory[self._start + at + 1 : self._start + at + 1 + length]).decode(errors="replace")


class Board:
    """The slots of all talkers: so many seats for processes, each with so many talkers. Made before the forks."""

    def __init__(self, seats: int, talkers: int) -> None:
        self._talkers = talkers
        self._memory = mmap.mmap(-1, SLOT * (1 + seats * talkers))

    def slot(self, seat: int, talker: int) -> Slot:
        return Slot(self._memory, SLOT * (1 + seat * self._talkers + talker))

    def clear(self, seat: int) -> None:
        """Make a seat ready for the next process."""
        for talker in range(self._talkers):
            self.slot(seat, talker).clear()

    @property
    def over(self) -> bool:
        """Workers are to end when they are next idle."""
        return bool(self._memory[0])

    @over.setter
    def over(self, over: bool) -> None:
        self._memory[0] = over
