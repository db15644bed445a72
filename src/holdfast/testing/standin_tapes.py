"""What a stand-in sends, as a list of steps; and the faults that can befall any answer.

Rule of this file: a tape is plain data. A dialect renders an answer into a tape, a fault changes the tape, the
server plays it. Nothing here knows a dialect or a socket.

    Head(200, {...})  Send(b"data: ...")  Pause(0.1)  Send(b"data: ...")  Cut()

A tape whose Head tells a length is a whole body in one piece; without a length it is a stream, one HTTP write for
each Send.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and the headers. `length` is the length of a whole body, None for a stream."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """One write of the body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so many seconds; None: until the client goes away or the service stops."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Drop the connection. What was written before still arrives, unless `reset` throws it away (TCP RST)."""

    reset: bool = False


Step: TypeAlias = Head | Send | Pause | Cut
Tape: TypeAlias = tuple[Step, ...]


def whole_body(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Tape:
    """A tape that sends one body with its length, as JSON unless the headers say otherwise."""
    return (
        Head(status, {"content-type": "application/json", **(headers or {})}, len(body)),
        Send(body),
    )


class Answer:
    """What a stand-in can be told to answer. A dialect has its own kinds; faults fit all dialects."""


@dataclass(frozen=True)
class Fault(Answer, ABC):
    """An answer that goes wrong on its way. What is underneath is the field `answer`; None: the default reply."""

    @property
    @abstractmethod
    def underneath(self) -> Answer | str | None:
        """The answer that goes wrong."""

    @abstractmethod
    def apply(self, tape: Tape) -> Tape:
        """The tape of the answer underneath, spoilt."""


@dataclass(frozen=True)
class CutStream(Fault):
    """The connection drops after n writes of the body (of a Chat Completions stream the first has only the role).

    `after=0` drops it after the headers, `after=None` before them. `mid_frame` sends half of the next write too.
    A body in one piece is cut in its middle. `how` is "close" (what was written arrives, then the connection ends),
    "reset" (TCP RST; the client may lose what it has not read) or "clean" (HTTP ends properly, the answer does not:
    what some proxies make of a cut).
    """

    after: int | None = 1
    mid_frame: bool = False
    how: Literal["close", "reset", "clean"] = "close"
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        before, rest = _parted(tape, self.after)
        if self.mid_frame and self.after is not None:
            following = next((step for step in rest if isinstance(step, Send)), Send(b""))
            before = (*before, Send(following.data[: len(following.data) // 2]))
        if self.how == "clean" and before:
            return _with_true_length(before)
        return (*before, Cut(reset=self.how == "reset"))


@dataclass(frozen=True)
class BrokenJSON(Fault):
    """After n good writes one comes whose JSON ends in its middle; HTTP and the framing of the stream stay sound.

    A body in one piece is broken whatever `after` says.
    """

    after: int = 1
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        spoilt: list[Step] = []
        good = 0 if _is_whole(tape) else self.after
        for step in tape:
            if isinstance(step, Send):
                step = _torn_json(step) if good == 0 else step
                good -= 1
            spoilt.append(step)
        return _with_true_length(tuple(spoilt))


@dataclass(frozen=True)
class Hang(Fault):
    """Nothing comes for so many seconds, then the answer goes on; None: nothing ever comes.

    `after=None` stalls before the headers, `after=0` after them, `after=n` after n writes (of a body in one piece:
    in its middle).
    """

    seconds: float | None = None
    after: int | None = None
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        before, rest = _parted(tape, self.after)
        return (*before, Pause(self.seconds), *rest)


def _is_whole(tape: Tape) -> bool:
    return any(isinstance(step, Head) and step.length is not None for step in tape)


def _parted(tape: Tape, after: int | None) -> tuple[Tape, Tape]:
    """The tape up to its n-th write and the rest; a whole body is parted in its middle."""
    if after is None:
        return (), tape
    if _is_whole(tape):
        tape, after = _halved(tape), min(after, 1)
    sent = 0
    for index, step in enumerate(tape):
        sent += isinstance(step, Send)
        if sent == after and isinstance(step, Head if after == 0 else Send):
            return tape[: index + 1], tape[index + 1 :]
    return tape, ()


def _halved(tape: Tape) -> Tape:
    halves: list[Step] = []
    for step in tape:
        if isinstance(step, Send):
            middle = len(step.data) // 2
            halves += [Send(step.data[:middle]), Send(step.data[middle:])]
        else:
            halves.append(step)
    return tuple(halves)


def _torn_json(step: Send) -> Send:
    """The same line without its last third, cut between two characters."""
    line = step.data.rstrip(b"\r\n")
    ending = step.data[len(line) :]
    return Send(line[: max(1, len(line) * 2 // 3)].decode(errors="ignore").encode() + ending)


def _with_true_length(tape: Tape) -> Tape:
    """The tape with a Head that tells the length of what is really sent, if it tells one."""
    length = sum(len(step.data) for step in tape if isinstance(step, Send))
    return tuple(
        replace(step, length=length) if isinstance(step, Head) and step.length is not None else step for step in tape
    )
