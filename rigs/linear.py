"""Linear: whether appends and reads by several processes look as if one had come after the other.

One list for each thread and a token for each append: so the reads themselves give the order, and a check in linear
time is enough. The log that is left is the order; everything that was seen must fit it:

    what was acknowledged is there, once, whole, at the place that was acknowledged
    places are dense, and what the library reads is what the tables hold
    an append that was acknowledged before another was begun stands before it
    every read is a beginning of the log, so any two of them fit each other
    a read holds what was acknowledged before it began, and nothing that was begun after it ended
    no read is shorter than one that ended before it began

Rule of this file: data and pure functions. Times are the machine's monotonic clock, the same in all processes.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias, TypeVar

from msgspec import Struct, field

from rigs.evidence import Contents, Standing, TurnSeen
from rigs.marks import FACE_OF
from rigs.oracle import ABSENT, MAY_BE, Violation, token_of_turn

# --- what is written down ------------------------------------------------------------------------------------------


class _Line(Struct, frozen=True, tag_field="is"):
    worker: int
    at: float


class Invoked(_Line, frozen=True, tag="invoked"):
    """An append is begun."""

    thread: str
    token: str


class Done(_Line, frozen=True, tag="done"):
    """An append is acknowledged; `seq` is the place that was told, 0 if none was. `agent`: it was a whole run."""

    thread: str
    token: str
    turn: str
    seq: int = 0
    agent: bool = False


class Read(_Line, frozen=True, tag="read"):
    """A thread was read: how many turns it had, and the digest of their tokens. `at` is when it was done."""

    began: float
    thread: str
    turns: int
    digest: str
    whole: bool = False


class Killed(_Line, frozen=True, tag="killed"):
    """A process is dead: killed on purpose, or (`hung`) because it did not end by itself. Where its appends stood."""

    standing: tuple[Standing, ...] = ()
    hung: bool = False


class Refused(_Line, frozen=True, tag="refused"):
    """Something that should have worked did not."""

    what: str
    error: str


Line: TypeAlias = Invoked | Done | Read | Killed | Refused


def digest_after(before: str, token: str) -> str:
    """The digest of a list with one more token at its end; that of the empty list is ""."""
    return hashlib.blake2b(f"{before}\0{token}".encode(), digest_size=8).hexdigest()


# --- the verdict ---------------------------------------------------------------------------------------------------


class Linearity(Struct):
    """What a round came to."""

    violations: list[Violation] = field(default_factory=list)
    begun: int = 0
    acked: int = 0
    by_agents: int = 0
    interrupted: int = 0
    unacknowledged: int = 0
    kills: int = 0
    reads: int = 0
    whole_reads: int = 0
    slowest: float = 0.0
    # At which moments the appends of the killed stood.
    moments: dict[str, int] = field(default_factory=dict)


def check(lines: Sequence[Line], contents: Contents) -> Linearity:
    """All that does not fit, and the figures."""
    facts = _Facts(lines, contents)
    done = facts.done.values()
    found = Linearity(
        begun=len(facts.invoked),
        acked=len(facts.done),
        by_agents=sum(ack.agent for ack in done),
        interrupted=sum(turn.status == "interrupted" for turn in contents.turns),
        unacknowledged=sum(
            turn.status == "completed" and token_of_turn(turn) not in facts.done for turn in contents.turns
        ),
        kills=sum(not one.hung for one in _of(lines, Killed)),
        reads=len(facts.reads),
        whole_reads=sum(read.whole for read in facts.reads),
        moments=dict(Counter(FACE_OF[one.moment] for one in facts.standing if one.token)),
        slowest=max((ack.at - facts.invoked[ack.token].at for ack in done if ack.token in facts.invoked), default=0.0),
    )
    for part in (_acknowledged, _fate, _once, _dense, _in_time_order, _reads, _reads_in_time, _going_on):
        found.violations.extend(part(facts))
    return found


LineT = TypeVar("LineT")


def _of(lines: Iterable[object], kind: type[LineT]) -> list[LineT]:
    return [line for line in lines if isinstance(line, kind)]


class _Facts:
    """What was written down, looked up by token and by thread. `logs` holds each thread's turns in their order."""

    def __init__(self, lines: Sequence[Line], contents: Contents) -> None:
        self.contents = contents
        self.invoked = {line.token: line for line in _of(lines, Invoked)}
        self.done = {line.token: line for line in _of(lines, Done)}
        self.reads = _of(lines, Read)
        self.hung = [line for line in _of(lines, Killed) if line.hung]
        # What was being appended when its process died: where it stood.
        self.standing = [one for line in _of(lines, Killed) if not line.hung for one in line.standing]
        self.cut = {one.token: one for one in self.standing}
        self.refused = _of(lines, Refused)
        turns = {turn.id: turn for turn in contents.turns}
        self.logs: dict[str, list[TurnSeen]] = {
            thread.id: [turns[turn] for turn in thread.told if turn in turns] for thread in contents.threads
        }
        # Where each token stands: thread and place, counted from 1.
        self.places: dict[str, tuple[str, int]] = {}
        for thread, log in self.logs.items():
            for place, turn in enumerate(log, 1):
                self.places[token_of_turn(turn)] = (thread, place)

    def begun_at(self, turn: TurnSeen) -> float:
        """When it was begun; the beginning of time if nobody says so (which is reported elsewhere)."""
        invoked = self.invoked.get(token_of_turn(turn))
        return invoked.at if invoked is not None else 0.0


# --- checks --------------------------------------------------------------------------------------------------------


def _acknowledged(facts: _Facts) -> Iterator[Violation]:
    """What was acknowledged is there, at the place that was told."""
    turns = {turn.id: turn for turn in facts.contents.turns}
    for ack in facts.done.values():
        turn, place = turns.get(ack.turn), facts.places.get(ack.token)
        if turn is None or place is None:
            yield Violation("acknowledged turn lost", f"{ack.token}, turn {ack.turn} of thread {ack.thread}")
        elif turn.status != "completed" or token_of_turn(turn) != ack.token or place[0] != ack.thread:
            yield Violation("acknowledged turn changed", f"{ack.token}, turn {ack.turn}: {turn.status} on {place[0]}")
        elif ack.seq not in (0, place[1]):
            yield Violation("acknowledged turn moved", f"{ack.token} was turn {ack.seq}, and is turn {place[1]}")


def _fate(facts: _Facts) -> Iterator[Violation]:
    """What was not acknowledged became what it may, given where it stood when its process died."""
    refused = {line.what for line in facts.refused}
    became = {token_of_turn(turn): turn.status for turn in facts.contents.turns}
    for invoked in facts.invoked.values():
        if invoked.token in facts.done or invoked.token in refused:
            continue
        status, standing = became.get(invoked.token, ABSENT), facts.cut.get(invoked.token)
        name = f"{invoked.token} on thread {invoked.thread}"
        if standing is None:
            yield Violation("append never ended", f"{name}: {status}, and nobody was killed in it")
        elif status not in MAY_BE.get(standing.moment, {ABSENT}):
            yield Violation("status that does not fit", f"{name}: killed in {standing.moment!r}, is {status}")


def _once(facts: _Facts) -> Iterator[Violation]:
    """Every turn is whole and was asked for on its thread, and no token stands twice."""
    seen: set[str] = set()
    for turn in facts.contents.turns:
        token = token_of_turn(turn)
        invoked = facts.invoked.get(token)
        name = f"turn {turn.id} of thread {turn.thread}"
        if turn.flaw is not None or not turn.sound:
            yield Violation("damaged turn", f"{name}: {turn.flaw or 'its hash does not match'}")
        elif invoked is None or invoked.thread != turn.thread:
            yield Violation("turn nobody asked for", f"{name} says {token!r}")
        elif turn.status != "completed" and (turn.status != "interrupted" or token not in facts.cut):
            yield Violation("status that does not fit", f"{name}: {turn.status}, and nobody was killed in it")
        if token in seen:
            yield Violation("doubled turn", f"{token} stands twice, the second time as {name}")
        seen.add(token)


def _dense(facts: _Facts) -> Iterator[Violation]:
    """What the library reads of a thread is all that was ever sealed on it, one after the other."""
    made: dict[str, list[TurnSeen]] = defaultdict(list)
    for turn in sorted(facts.contents.turns, key=lambda turn: turn.order):
        made[turn.thread].append(turn)
    for thread in facts.contents.threads:
        log = facts.logs[thread.id]
        if thread.flaw is not None:
            yield Violation("thread cannot be read", f"{thread.id}: {thread.flaw}")
        elif [turn.id for turn in log] != [turn.id for turn in made[thread.id]]:
            told = f"{len(thread.told)} turns are read, {len(made[thread.id])} were sealed"
            yield Violation("gap", f"thread {thread.id}: {told}, or in another order")
        before: str | None = None
        for turn in log:
            if turn.parent != before:
                yield Violation("gap", f"thread {thread.id}: turn {turn.id} follows {turn.parent}, not {before}")
            before = turn.id
        if thread.open_run is not None:
            yield Violation("run left open", f"turn {thread.open_run} on thread {thread.id}")
    if facts.contents.integrity != "ok":
        yield Violation("file damaged", facts.contents.integrity)


def _in_time_order(facts: _Facts) -> Iterator[Violation]:
    """Nothing stands behind something that was begun only after it was acknowledged."""
    for thread, log in facts.logs.items():
        latest, latest_token = 0.0, ""
        for turn in log:
            token = token_of_turn(turn)
            ack = facts.done.get(token)
            if ack is not None and ack.at < latest:
                yield Violation("order", f"thread {thread}: {token} stands behind {latest_token}, begun later")
            if facts.begun_at(turn) > latest:
                latest, latest_token = facts.begun_at(turn), token


def _reads(facts: _Facts) -> Iterator[Violation]:
    """Every read is a beginning of the log."""
    digests: dict[str, list[str]] = {
        thread: list(accumulate(map(token_of_turn, log), digest_after, initial=""))
        for thread, log in facts.logs.items()
    }
    for read in facts.reads:
        of_log = digests.get(read.thread, [""])
        if read.turns >= len(of_log) or of_log[read.turns] != read.digest:
            told = f"{read.turns} turns that are not the first {read.turns} of its log"
            yield Violation("read of another history", f"thread {read.thread} was read with {told}")


def _reads_in_time(facts: _Facts) -> Iterator[Violation]:
    """A read sees what was acknowledged before it, nothing that was begun after it, and never less than before."""
    by_thread: dict[str, list[Read]] = defaultdict(list)
    for read in facts.reads:
        by_thread[read.thread].append(read)
    for thread, reads in by_thread.items():
        log = facts.logs.get(thread, [])
        begun = list(accumulate((facts.begun_at(turn) for turn in log), max, initial=0.0))
        acks = _running_most((ack.at, facts.places[ack.token][1]) for ack in _acks_of(facts, thread))
        ended = _running_most((read.at, read.turns) for read in reads)
        for read in reads:
            if (least := _most_before(acks, read.began)) > read.turns:
                yield Violation("read too old", f"{thread}: {read.turns} turns; number {least} was acknowledged before")
            if (least := _most_before(ended, read.began)) > read.turns:
                yield Violation("rewound read", f"{thread}: {read.turns} turns, after a read that had {least}")
            if read.turns < len(begun) and begun[read.turns] > read.at:
                yield Violation("read of what is to come", f"{thread}: one of {read.turns} turns was begun afterwards")


def _acks_of(facts: _Facts, thread: str) -> Iterator[Done]:
    return (ack for ack in facts.done.values() if facts.places.get(ack.token, ("", 0))[0] == thread)


def _running_most(points: Iterable[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Moments in their order, and the largest number up to each."""
    ordered = sorted(points)
    return [at for at, _ in ordered], list(accumulate((number for _, number in ordered), max))


def _most_before(points: tuple[list[float], list[int]], moment: float) -> int:
    before = bisect_left(points[0], moment)
    return points[1][before - 1] if before else 0


def _going_on(facts: _Facts) -> Iterator[Violation]:
    """Nothing that should work is refused, and nothing waits for ever."""
    for line in facts.refused:
        yield Violation("refused", f"{line.what} (worker {line.worker}): {line.error}")
    for hung in facts.hung:
        yield Violation("stuck", f"worker {hung.worker} did not come to an end by itself")
