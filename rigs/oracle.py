"""The oracle: from what happened and what is left to what is wrong. One for all campaigns.

It judges from four things: what was acknowledged, what the store holds (read by a fresh process), what the service
was asked, and how long turns took. It knows no internals: a correct store passes whatever it is made of.

Rules of this file: pure; it reports all it finds, in words that say which turn of which thread. It is not told what
was planted or aimed at. What it asks of a turn that was not acknowledged follows from where its talker stood:

    died before the run was open       the turn is not there, or interrupted
    died while the service was asked   interrupted: what was opened is not forgotten
    died while the turn was sealed     interrupted or completed (nobody was told: ambiguous)
    the store had acknowledged         completed
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec import Struct, field

from rigs.evidence import Acked, Asks, Died, Evidence, Failed, Moved, Moves, Stalled, TurnSeen
from rigs.talk import answer_to, fingerprint, text_of, token_in

# "A thread takes its next turn within a second."
PATIENCE = 1.0

# What may have become of a turn that nobody was told of, by the moment at which its process died.
ABSENT = "absent"
MAY_BE = {
    "open": {ABSENT, "interrupted"},
    "takeover": {ABSENT, "interrupted"},
    "ask": {"interrupted"},
    "seal": {"interrupted", "completed"},
    "sealed": {"completed"},
}


class Violation(Struct, frozen=True):
    """Something that must not be. `kind` is a word to count by."""

    kind: str
    what: str


class Verdict(Struct):
    """What a round came to. `recoveries` are the seconds that the first turn on a thread took after a death there."""

    violations: list[Violation] = field(default_factory=list)
    asked: int = 0
    acked: int = 0
    completed: int = 0
    interrupted: int = 0
    unacknowledged: int = 0
    moved: int = 0
    refused_moves: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    cut_streamed: int = 0
    requests: int = 0
    stalled: float = 0.0
    recoveries: list[float] = field(default_factory=list)


def judge(evidence: Evidence, *, patience: float = PATIENCE) -> Verdict:
    """All that is wrong, and the figures."""
    facts = _Facts(evidence)
    cut = [ask for ask in facts.asks.values() if ask.token in facts.standing and ask.token not in facts.acks]
    verdict = Verdict(
        asked=len(facts.asks),
        acked=len(facts.acks),
        completed=sum(turn.status == "completed" for turn in facts.turns.values()),
        interrupted=sum(turn.status == "interrupted" for turn in facts.turns.values()),
        unacknowledged=sum(
            turn.status == "completed" and turn.id not in facts.acked_turns for turn in facts.turns.values()
        ),
        moved=sum(moved.refused is None for moved in facts.moved.values()),
        refused_moves=dict(Counter(moved.refused for moved in facts.moved.values() if moved.refused)),
        cut=len(cut),
        cut_streamed=sum(ask.streamed for ask in cut),
        requests=len(evidence.requests),
        stalled=sum(line.seconds for line in _of(evidence.diary, Stalled)),
        recoveries=[seconds for _, seconds, after_death in facts.waits() if after_death],
    )
    for check in (_whole, _acknowledged, _fate, _order, _heads, _requests, _going_on, _refusals, _left_over):
        verdict.violations.extend(check(facts))
    verdict.violations.extend(_in_time(facts, patience))
    return verdict


LineT = TypeVar("LineT")


def _of(lines: Sequence[object], kind: type[LineT]) -> list[LineT]:
    return [line for line in lines if isinstance(line, kind)]


class _Facts:
    """The evidence, looked up by name."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        diary, contents = evidence.diary, evidence.contents
        self.asks = {ask.token: ask for ask in _of(diary, Asks)}
        self.acks = {ack.token: ack for ack in _of(diary, Acked)}
        self.acked_turns = {ack.turn for ack in self.acks.values()}
        self.moves = _of(diary, Moves)
        self.moved = {(moved.worker, moved.move): moved for moved in _of(diary, Moved)}
        self.deaths = _of(diary, Died)
        self.failures = _of(diary, Failed)
        self.stalls = _of(diary, Stalled)
        self.standing = {standing.token: standing for death in self.deaths for standing in death.talkers}
        self.turns = {turn.id: turn for turn in contents.turns}
        self.by_token: dict[str, list[TurnSeen]] = defaultdict(list)
        for turn in contents.turns:
            self.by_token[token_of_turn(turn)].append(turn)
        self.told: dict[str | None, tuple[tuple[str, str], ...]] = {None: ()}
        for turn in sorted(contents.turns, key=lambda turn: turn.order):  # parents first
            before = self.told.get(turn.parent, ())
            self.told[turn.id] = (*before, *turn.input, *turn.output)

    def history(self, turn_id: str | None) -> list[str]:
        """The ids of the turns up to one, from the first; cut off where one is missing."""
        found: list[str] = []
        while turn_id is not None and turn_id in self.turns and len(found) <= len(self.turns):
            found.append(turn_id)
            turn_id = self.turns[turn_id].parent
        return found[::-1]

    def on_thread(self) -> dict[str, list[TurnSeen]]:
        """The turns that were made on each thread, in the order of sealing."""
        found: dict[str, list[TurnSeen]] = defaultdict(list)
        for turn in sorted(self.turns.values(), key=lambda turn: turn.order):
            found[turn.thread].append(turn)
        return found

    def over(self, ask: Asks) -> float:
        """When nobody was at work on a turn any more: acknowledged, or its process dead."""
        ack, standing = self.acks.get(ask.token), self.standing.get(ask.token)
        if ack is not None:
            return ack.at
        deaths = [death.at for death in self.deaths if standing in death.talkers]
        return deaths[0] if deaths else float("inf")

    def waits(self) -> Iterator[tuple[Acked, float, bool]]:
        """For each acknowledged turn, how long it took once nothing else was being made on its thread.

        From when it was asked, or from what came last on the thread: an acknowledgement, or a death. And whether it
        was the first after a death there. Time in which the whole machine stood still is left out.
        """
        events: dict[str, list[tuple[float, Acked | None]]] = defaultdict(list)
        for ack in self.acks.values():
            events[ack.thread].append((ack.at, ack))
        for death in self.deaths:
            for name in {standing.thread for standing in death.talkers if standing.thread}:
                events[name].append((death.at, None))
        for on_thread in events.values():
            before, dead = 0.0, False
            for at, event in sorted(on_thread, key=lambda event: event[0]):
                if event is not None and event.token in self.asks:
                    start = max(before, self.asks[event.token].at)
                    yield event, at - start - self._stalled(start, at), dead
                before, dead = at, event is None

    def _stalled(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, stall.at) - max(start, stall.at - stall.seconds)) for stall in self.stalls)


def token_of_turn(turn: TurnSeen) -> str:
    """The token under which a turn was asked for; "" if it has none."""
    return token_in(turn.input[0][1]) if turn.input else ""


# --- checks --------------------------------------------------------------------------------------------------------


def _whole(facts: _Facts) -> Iterator[Violation]:
    """Every turn is whole, and somebody asked for it, once."""
    for turn in facts.turns.values():
        name = f"turn {turn.id} ({turn.status}) of thread {turn.thread}"
        if turn.flaw is not None:
            yield Violation("half turn", f"{name}: {turn.flaw}")
            continue
        if not turn.sound:
            yield Violation("damaged turn", f"{name}: its hash does not match")
        token = token_of_turn(turn)
        ask = facts.asks.get(token)
        if ask is None or turn.input != (("user", text_of(token)),):
            yield Violation("turn nobody asked for", f"{name} says {str(turn.input)[:80]}")
            continue
        if ask.thread != turn.thread:
            yield Violation("turn on another thread", f"{name} was asked for on {ask.thread}")
        whole = answer_to(text_of(token), len(facts.told.get(turn.parent, ())) + 1)
        said = "".join(text for _, text in turn.output)
        roles = [role for role, _ in turn.output]
        if turn.status == "completed" and (roles != ["assistant"] or said != whole):
            yield Violation("half turn", f"{name} holds the answer {said[:60]!r}; it was {whole[:60]!r}")
        elif turn.status == "interrupted" and not (whole.startswith(said) and roles in ([], ["assistant"])):
            yield Violation("half turn", f"{name} holds {said[:60]!r}, which nobody said")
        elif turn.status not in ("completed", "interrupted"):
            yield Violation("status that does not fit", f"{name}: nobody cancelled it, and nothing failed")
    for token, turns in facts.by_token.items():
        if len(turns) > 1 and token:
            yield Violation("doubled turn", f"{token} is turns {', '.join(turn.id for turn in turns)}")


def _acknowledged(facts: _Facts) -> Iterator[Violation]:
    """What was acknowledged is there, as it was told."""
    for ack in facts.acks.values():
        turn = facts.turns.get(ack.turn)
        if turn is None:
            yield Violation("acknowledged turn lost", f"{ack.token}, turn {ack.turn} of thread {ack.thread}")
        elif turn.status != "completed":
            yield Violation("acknowledged turn changed", f"{ack.token}, turn {ack.turn}, is {turn.status}")
        elif token_of_turn(turn) != ack.token or turn.output != (("assistant", ack.answer),):
            yield Violation("acknowledged turn changed", f"{ack.token}, turn {ack.turn}: another text is stored")


def _fate(facts: _Facts) -> Iterator[Violation]:
    """What was not acknowledged became what it may, given where its talker stood when its process died."""
    failed = {failure.what for failure in facts.failures}
    for ask in facts.asks.values():
        if ask.token in facts.acks or ask.token in failed:
            continue
        turns = facts.by_token.get(ask.token, [])
        became = turns[0].status if turns else ABSENT
        standing = facts.standing.get(ask.token)
        if standing is None:
            yield Violation("turn never ended", f"{ask.token} on thread {ask.thread}: {became}, and nobody was killed")
        elif became not in MAY_BE.get(standing.moment, {ABSENT}):
            kind = "opened turn lost" if became == ABSENT else "status that does not fit"
            yield Violation(kind, f"{ask.token} on thread {ask.thread}: killed in {standing.moment!r}, is {became}")


def _order(facts: _Facts) -> Iterator[Violation]:
    """One order on each thread: that of the clock, each turn after the one before, but for rewinds."""
    for thread, turns in facts.on_thread().items():
        asks = [facts.asks.get(token_of_turn(turn)) for turn in turns]
        latest, latest_token = 0.0, ""
        before: TurnSeen | None = None
        asked_before = 0.0
        for turn, ask in zip(turns, asks, strict=True):
            if ask is None:
                continue
            if _end(facts, ask) < latest:
                yield Violation("order", f"thread {thread}: {ask.token} stands after {latest_token}, asked for later")
            if ask.at > latest:
                latest, latest_token = ask.at, ask.token
            gap = _gap(facts, thread, before, asked_before, ask)
            if turn.parent not in gap:
                follows = f"follows {turn.parent}, not {' or '.join(map(str, gap))}"
                yield Violation("order", f"thread {thread}: turn {turn.id} ({ask.token}) {follows}")
            before, asked_before = turn, ask.at


def _heads(facts: _Facts) -> Iterator[Violation]:
    """Every thread stands at its last turn, but for rewinds, and the library reads all turns up to there."""
    on_thread = facts.on_thread()
    for thread in facts.evidence.contents.threads:
        if thread.flaw is not None:
            yield Violation("thread cannot be read", f"{thread.id}: {thread.flaw}")
            continue
        made = on_thread.get(thread.id, [])
        last = made[-1] if made else None
        ask = facts.asks.get(token_of_turn(last)) if last is not None else None
        gap = _gap(facts, thread.id, last, ask.at if ask is not None else 0.0, None)
        if thread.head not in gap:
            places = " or ".join(map(str, gap))
            yield Violation("head out of place", f"thread {thread.id} stands at {thread.head}, not at {places}")
        if list(thread.told) != facts.history(thread.head):
            yield Violation("thread cannot be read", f"{thread.id}: the library's turns are not those in the tables")
    known = {thread.id for thread in facts.evidence.contents.threads}
    for name in sorted(set(_acked_threads(facts)) - known):
        yield Violation("thread lost", f"thread {name}, which was acknowledged")


def _acked_threads(facts: _Facts) -> Iterator[str]:
    yield from (ack.thread for ack in facts.acks.values())
    for move in facts.moves:
        moved = facts.moved.get((move.worker, move.move))
        if move.new is not None and moved is not None and moved.refused is None:
            yield move.new


def _end(facts: _Facts, ask: Asks) -> float:
    """When a turn was surely over; the end of time for one that was not acknowledged."""
    ack = facts.acks.get(ask.token)
    return ack.at if ack is not None else float("inf")


def _gap(
    facts: _Facts, thread: str, before: TurnSeen | None, asked_before: float, after: Asks | None
) -> list[str | None]:
    """Where a thread may have stood between two of its turns (since its making, or until now, if there is none)."""
    never = float("inf")
    ended = 0.0
    first: list[str | None] = [None]
    if before is not None:
        first = [before.id]
        ask_before = facts.asks.get(token_of_turn(before))
        ended = _end(facts, ask_before) if ask_before is not None else never
    elif forked := [move.to for move in facts.moves if move.new == thread]:
        first = list(forked)
    asked, over = (after.at, _end(facts, after)) if after is not None else (never, never)
    possible: list[tuple[Moves, float]] = []
    for move in facts.moves:
        moved = facts.moved.get((move.worker, move.move))
        done = moved.at if moved is not None else never
        if move.thread != thread or move.new is not None or (moved is not None and moved.refused is not None):
            continue
        if move.at < over and done > asked_before:
            possible.append((move, done))
    # What was surely done in between leaves nothing of what was surely before it.
    sure = max((move.at for move, done in possible if move.at > ended and done < asked), default=None)
    if sure is None:
        return first + [move.to for move, _ in possible]
    return [move.to for move, done in possible if done >= sure]


def _requests(facts: _Facts) -> Iterator[Violation]:
    """The service was asked what is on the thread, once for each turn, and refused nothing."""
    times = Counter(request.token for request in facts.evidence.requests if request.refusal is None)
    for request in facts.evidence.requests:
        if request.refusal is not None:
            yield Violation("request refused", f"{request.token}: {request.refusal}")
            continue
        turns = facts.by_token.get(request.token, [])
        if not turns:
            yield Violation("request without a turn", f"{request.token} was put to the service, and is in no log")
            continue
        told = (*facts.told.get(turns[0].parent, ()), ("user", text_of(request.token)))
        if request.messages != tuple(fingerprint(role, text) for role, text in told):
            what = f"{request.token}: {len(request.messages)} messages were sent, {len(told)} are on the thread"
            yield Violation("request does not fit", f"{what}, or others")
    for token, count in times.items():
        if count > 1:
            yield Violation("asked twice", f"{token} was put to the service {count} times")
    for ack in facts.acks.values():
        if not times[ack.token]:
            yield Violation("answer of nobody", f"{ack.token} was acknowledged, and the service never asked")


def _going_on(facts: _Facts) -> Iterator[Violation]:
    """Nothing that should work is refused, and nothing waits for ever."""
    for failure in facts.failures:
        yield Violation("refused", f"{failure.what} (worker {failure.worker}): {failure.error}")
    for death in facts.deaths:
        if death.stuck:
            stood = ", ".join(f"{one.token} in {one.moment!r}" for one in death.talkers)
            yield Violation("stuck", f"worker {death.worker} did not come to an end by itself: {stood}")


def _refusals(facts: _Facts) -> Iterator[Violation]:
    """A fork or rewind is refused as busy only while a living process does something on that thread."""
    for move in facts.moves:
        moved = facts.moved.get((move.worker, move.move))
        if moved is None or moved.refused != "ThreadBusy":
            continue
        at_work = [(ask.at, facts.over(ask)) for ask in facts.asks.values() if ask.thread == move.thread]
        for other in facts.moves:
            if other is not move and other.thread == move.thread:
                ended = facts.moved.get((other.worker, other.move))
                at_work.append((other.at, ended.at if ended is not None else float("inf")))
        if not any(began < moved.at and over > move.at for began, over in at_work):
            what = "fork" if move.new is not None else "rewind"
            yield Violation("refused for the dead", f"{what} of {move.thread}: nobody was at work on it")


def _in_time(facts: _Facts, patience: float) -> Iterator[Violation]:
    """Every turn was taken within a second of being asked for and its thread being free."""
    for ack, seconds, after_death in facts.waits():
        if seconds > patience:
            after = "after a death on it" if after_death else "while nothing else was made on it"
            yield Violation("slow thread", f"{ack.thread}: {ack.token} took {seconds:.2f} s {after}")


def _left_over(facts: _Facts) -> Iterator[Violation]:
    """Nothing of the dead is left after the next use of every thread."""
    contents = facts.evidence.contents
    for thread in contents.threads:
        if thread.open_run is not None:
            yield Violation("run left open", f"turn {thread.open_run} on thread {thread.id}")
    for turn_id in contents.tickets:
        yield Violation("ticket left over", f"turn {turn_id}")
    if contents.journal:
        yield Violation("journal left over", f"{contents.journal} records")
    if contents.integrity != "ok":
        yield Violation("file damaged", contents.integrity)
