"""Stage: one repeat of one probe: a fresh database, its chance, the processes, what is said.

Rule of this file: chance comes from the seed, the probe and the repeat, never from the subject, so that every subject
gets the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rigs.peers.callers import Caller, Event, Subject
from rigs.peers.judge import Message, Turn

PIECES = 20


class Stage:
    """What a probe works with."""

    def __init__(self, subject: Subject, settings: Mapping[str, str], path: Path, chance: random.Random) -> None:
        self.reads = subject.reads
        self.path = path
        self.chance = chance
        self._subject = subject
        self._settings = dict(settings)
        self._callers: list[Caller] = []
        self._said = 0

    async def caller(self, at: Path | None = None) -> Caller:
        """A new process on the database (or on another one)."""
        caller = await self._subject.caller(at or self.path, self._settings)
        self._callers.append(caller)
        return caller

    def use(self, way: str) -> None:
        """From now on processes use their library in another way, one of those that it is able to."""
        self._settings[way] = "yes"

    def turn(self) -> Turn:
        """Something to say that nobody has said before, and its answer."""
        name = f"{self.chance.getrandbits(32):08x}"
        return Turn(f"Question {name}: what is the news?", "".join(self.pieces(name)), f"Answer {name}")

    def pieces(self, name: str) -> list[str]:
        return [f"Answer {name} "] + [f"with word {n:02} " for n in range(1, PIECES)]

    def say(self, caller: Caller, turn: Turn, **more: Any) -> int:
        """Have it said; the number by which its events are known."""
        self._said += 1
        pieces = self.pieces(turn.mark.split()[1])
        caller.send("say", n=self._said, text=turn.text, pieces=pieces, **more)
        return self._said

    async def done(self, caller: Caller, turn: Turn, **more: Any) -> Event:
        """Have it said, and wait for its end."""
        return await caller.end_of(self.say(caller, turn, **more))

    async def first(self, caller: Caller) -> Turn:
        """A turn to begin with, which nothing happens to."""
        turn = self.turn()
        end = await self.done(caller, turn)
        assert end["event"] == "done", end
        return turn

    async def sent_next(self) -> Sequence[Message] | None:
        """What the model is sent with the next message; None if that fails. Said in a new process, which ends well."""
        caller = await self.caller()
        n = self.say(caller, self.turn())
        end = await caller.end_of(n)
        asked = caller.seen("asked", n=n)
        await caller.end()
        return asked[0]["messages"] if asked and end["event"] == "done" else None

    def evidence(self) -> list[list[Event]]:
        """All events, by process."""
        return [caller.events for caller in self._callers]

    async def clear(self) -> None:
        """Nothing is left running."""
        for caller in self._callers:
            await caller.kill()


def heard(caller: Caller, n: int) -> str:
    """What the caller has seen of an answer."""
    return "".join(event["piece"] for event in caller.seen("heard", n=n))
