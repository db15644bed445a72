"""Evidence of the rig of tools: the forms in which it is written down what was done, told and recorded.

    ledger.jsonl     what the tools did: entered, the effect, left
    diary.jsonl      what callers were about to do and were told, what the store acknowledged, who was killed when
    requests.jsonl   what the service was asked
    contents.json    what the store held afterwards

Rule of this file: data only; each line is one write to a file opened for appending (see `evidence`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from rigs.evidence import CONTENTS, DIARY, REQUESTS, Died, Entry, Failed, Stalled, read_lines

LEDGER = "ledger.jsonl"


# --- the ledger ----------------------------------------------------------------------------------------------------


class Step(Entry, frozen=True):
    """A step of a call, under its idempotency key. `tool` and `what` as the function saw them."""

    turn: str
    call: str
    tool: str
    what: str
    key: str


class Entered(Step, frozen=True, tag="entered"):
    """The function was entered."""


class Did(Step, frozen=True, tag="did"):
    """The effect: what must not happen twice."""


class Left(Step, frozen=True, tag="left"):
    """The function is about to return, or to raise."""


LedgerLine: TypeAlias = Entered | Did | Left


# --- the diary -----------------------------------------------------------------------------------------------------


class Says(Entry, frozen=True, tag="says"):
    """Somebody is about to say something."""

    talker: int
    thread: str
    by: str
    text: str


class Answers(Entry, frozen=True, tag="answers"):
    """Somebody is about to answer requests of a turn. `forged`: with other arguments than those that were asked."""

    talker: int
    thread: str
    by: str
    turn: str
    approved: tuple[str, ...]
    rejected: tuple[str, ...]
    forged: bool = False


class Resumes(Entry, frozen=True, tag="resumes"):
    """Somebody is about to go on with what was left on a thread."""

    talker: int
    thread: str
    by: str


class Told(Entry, frozen=True, tag="told"):
    """A call of the library has returned: the turn, how it ended, results (call, text), and what it waits for."""

    thread: str
    by: str
    turn: str
    status: str
    results: tuple[tuple[str, str], ...]
    requests: tuple[str, ...]


class Turned(Entry, frozen=True, tag="turned"):
    """Nothing came of it, as may be: an answer came too late, nothing was left to resume, the caller was cancelled."""

    thread: str
    by: str
    why: str


class Opened(Entry, frozen=True, tag="opened"):
    """The store has given somebody a thread for a turn of its own."""

    thread: str
    turn: str
    by: str


class Taken(Entry, frozen=True, tag="taken"):
    """The store has given somebody another's turn: to go on with it, or to close it and say something else."""

    thread: str
    turn: str
    by: str
    closes: bool


class Closed(Entry, frozen=True, tag="closed"):
    """The store has acknowledged the end of a turn, or that it waits. `closes`: it was another's."""

    thread: str
    turn: str
    parked: bool
    closes: bool


class Begun(Entry, frozen=True, tag="begun"):
    """The store has acknowledged that calls are begun, and who was said to have allowed them."""

    turn: str
    calls: tuple[str, ...]


class Noted(Entry, frozen=True, tag="noted"):
    """The store has acknowledged results, out of a run's journal."""

    turn: str
    results: tuple[tuple[str, str], ...]


DiaryLine: TypeAlias = (
    Says | Answers | Resumes | Told | Turned | Opened | Taken | Closed | Begun | Noted | Died | Failed | Stalled
)


# --- requests ------------------------------------------------------------------------------------------------------


class Exchanged(Struct, frozen=True):
    """A request: the names of the calls in it and of the results, in order, what the results say, and a refusal."""

    at: float
    calls: tuple[str, ...]
    answered: tuple[str, ...]
    results: tuple[str, ...]
    refusal: str | None = None


# --- contents ------------------------------------------------------------------------------------------------------


class CallSeen(Struct, frozen=True):
    """A call in a turn, and its result. `approved` and `by` stand beside the result: who allowed or forbade it."""

    call: str
    tool: str
    arguments: str
    result: str | None = None
    approved: bool | None = None
    by: str = ""


class TurnKept(Struct, frozen=True):
    """A turn, or (`waiting`, `open`) what the journal holds of a run. `flaw`: its calls and results are no pairs."""

    id: str
    thread: str
    status: str
    text: str
    calls: tuple[CallSeen, ...]
    requests: tuple[str, ...] = ()
    flaw: str | None = None


class Kept(Struct, frozen=True):
    """What a store holds. `wrong`: what is wrong with it by itself."""

    turns: tuple[TurnKept, ...] = ()
    wrong: tuple[str, ...] = ()


class Evidence(Struct, frozen=True):
    """All that is judged."""

    ledger: tuple[LedgerLine, ...]
    diary: tuple[DiaryLine, ...]
    requests: tuple[Exchanged, ...]
    kept: Kept


def read_evidence(folder: Path) -> Evidence:
    """The evidence of a round, from its folder."""
    ledger: tuple[LedgerLine, ...] = read_lines(folder / LEDGER, LedgerLine)  # type: ignore[arg-type]
    diary: tuple[DiaryLine, ...] = read_lines(folder / DIARY, DiaryLine)  # type: ignore[arg-type]
    kept = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Kept)
    return Evidence(ledger, diary, read_lines(folder / REQUESTS, Exchanged), kept)
