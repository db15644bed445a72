"""The oracle of moves: from what was tried, told and acknowledged, and what the store holds, to what is wrong.

Rules of this file: pure; it knows no internals. What a thread that is deleted has lost, nobody misses. A turn that
ended because its process was killed, its reader went away or somebody stopped it holds the beginning of what was said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from rigs.evidence import Contents, TurnSeen
from rigs.moves_diary import Done, Failed, Hung, Killed, Line, Told, Tries
from rigs.moves_talk import fingerprints, requests_in, whole
from rigs.oracle import Violation

# What may be refused, by what was tried. Everything may be refused on a thread that is deleted meanwhile.
_OF_DELETION = {"ThreadDeleted", "ThreadNotFound", "StaleRun", "TurnNotFound"}
_OF_RUNS = {"RunCancelled", "ServiceUnavailable", "cancelled"}
_MAY_BE = {
    "run": {*_OF_RUNS, "ThreadBusy", "QueueFull", "IdempotencyKey", "TurnNotFound"},
    "regenerate": {*_OF_RUNS, "InvalidInput", "TurnNotFound", "ThreadBusy"},
    "resume": {*_OF_RUNS},
    "fork": {"TurnNotFound"},
    "rewind": {"ThreadBusy", "TurnNotFound", "InvalidInput"},
    "switch": {"ThreadBusy", "TurnNotFound"},
    "stop": set(),
    "delete": {"ThreadBusy"},
    "adopt": set(),
    "follow": {"TurnNotFound"},
    "look": set(),
}


class Evidence(Struct, frozen=True):
    """All that a round is judged by. `sound`: what the store said of itself; None if it was asked for nothing."""

    diary: tuple[Line, ...]
    contents: Contents
    damage: tuple[str, ...] = ()


class Verdict(Struct):
    """What a round came to."""

    violations: list[Violation]
    figures: dict[str, int]
    tried: dict[str, int]
    refused: dict[str, int]


LineT = TypeVar("LineT")


def _of(lines: Sequence[object], kind: type[LineT]) -> list[LineT]:
    return [line for line in lines if isinstance(line, kind)]


class _Facts:
    """The evidence, looked up by name."""

    def __init__(self, evidence: Evidence) -> None:
        diary = evidence.diary
        self.evidence = evidence
        self.tries = {(line.worker, line.op): line for line in _of(diary, Tries)}
        self.done = {(line.worker, line.op): line for line in _of(diary, Done)}
        self.told = {line.request: line for line in _of(diary, Told)}
        self.killed = {line.worker for line in _of(diary, Killed)}
        self.turns = {turn.id: turn for turn in evidence.contents.turns}
        self.by_text: dict[str, list[TurnSeen]] = defaultdict(list)
        for turn in self.turns.values():
            self.by_text[text_of_turn(turn)].append(turn)
        # Until when a thread may have been deleted: what was done there before may be gone.
        self._deleted: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for key, tried in self.tries.items():
            done = self.done.get(key)
            if tried.what == "delete" and (done is None or done.error is None):
                end = done.at if done is not None else float("inf")
                self._deleted[tried.thread].append((tried.at, end))
        self._paths: dict[str | None, tuple[str, ...]] = {None: ()}
        self._messages: dict[str | None, tuple[str, ...]] = {None: ()}
        for turn in sorted(evidence.contents.turns, key=lambda turn: turn.order):  # parents first
            self._paths[turn.id] = (*self._paths.get(turn.parent, ()), turn.id)
            self._messages[turn.id] = (*self._messages.get(turn.parent, ()), *_sent(turn))

    def pairs(self, *kinds: str) -> Iterator[tuple[Tries, Done]]:
        """What was tried, with what came of it."""
        for key, tried in self.tries.items():
            done = self.done.get(key)
            if done is not None and (not kinds or tried.what in kinds):
                yield tried, done

    def may_be_gone(self, thread: str, since: float = 0.0) -> bool:
        """Whether a thread may have been deleted after some moment."""
        return any(end >= since for _, end in self._deleted.get(thread, ()))

    def path(self, turn: str | None) -> tuple[str, ...]:
        """The turns up to one, from the first."""
        return self._paths.get(turn, ())

    def messages(self, turn: str | None) -> tuple[str, ...]:
        """All that a model is told before the turn after that one."""
        return self._messages.get(turn, ())


def text_of_turn(turn: TurnSeen) -> str:
    """What was said in a turn by its user."""
    return turn.input[0][1] if turn.input else ""


def said_in(turn: TurnSeen) -> str:
    """What was answered."""
    return "".join(text for role, text in turn.output if role == "assistant")


def _sent(turn: TurnSeen) -> tuple[str, ...]:
    """What of a turn a model is told in later turns."""
    return () if turn.status == "failed" and not turn.output else fingerprints((*turn.input, *turn.output))


def judge(evidence: Evidence) -> Verdict:
    """All that is wrong, and the figures."""
    facts = _Facts(evidence)
    found = [violation for check in _CHECKS for violation in check(facts)]
    done = list(facts.pairs())
    return Verdict(
        found,
        {
            "turns": len(facts.turns),
            "requests": len(facts.told),
            "acknowledged": sum(tried.what == "run" and end.error is None for tried, end in done),
            "followed": sum(tried.what == "follow" and end.error is None for tried, end in done),
            "forks": sum(tried.what == "fork" and end.error is None for tried, end in done),
            "branches left": len(facts.turns) - len({turn for head in _heads(facts) for turn in facts.path(head)}),
            "resumed": sum(tried.what == "resume" and end.yes for tried, end in done),
            "stopped": sum(tried.what == "stop" and end.yes for tried, end in done),
            **{status: sum(turn.status == status for turn in facts.turns.values()) for status in _STATUSES},
        },
        dict(Counter(tried.what for tried in facts.tries.values())),
        dict(Counter(f"{tried.what}: {end.error}" for tried, end in done if end.error is not None)),
    )


_STATUSES = ("completed", "cancelled", "failed", "interrupted")


def _heads(facts: _Facts) -> list[str | None]:
    return [thread.head for thread in facts.evidence.contents.threads]


# --- checks --------------------------------------------------------------------------------------------------------


def _whole(facts: _Facts) -> Iterator[Violation]:
    """Nothing is half, and every hash is what it must be."""
    for turn in facts.turns.values():
        name = f"turn {turn.id} ({turn.status}) of thread {turn.thread}"
        if turn.flaw is not None or not turn.sound:
            yield Violation("damaged turn", f"{name}: {turn.flaw or 'its hash does not match'}")
            continue
        text, said = text_of_turn(turn), said_in(turn)
        if said == f"adopted {text}":
            continue
        if turn.status == "completed" and (said != whole(said, text) or not said):
            yield Violation("half turn", f"{name} holds {said!r}")
        if turn.status != "completed" and not whole(said, text).startswith(said):
            yield Violation("half turn", f"{name} holds {said!r}, which nobody said")
        if turn.status == "interrupted" and not facts.killed:
            yield Violation("bad status", f"{name}: nobody was killed")
    for what in facts.evidence.damage:
        yield Violation("damaged store", what)


def _acknowledged(facts: _Facts) -> Iterator[Violation]:
    """What was acknowledged is stored, as it was told; and what was read is not forgotten."""
    for tried, done in facts.pairs("run", "regenerate", "resume"):
        if done.turn is None or facts.may_be_gone(tried.thread, tried.at):
            continue
        turn = facts.turns.get(done.turn)
        name = f"{tried.what} of {tried.text!r} on thread {tried.thread}, turn {done.turn}"
        if done.error is None and done.status == "completed":
            if turn is None:
                yield Violation("acknowledged turn lost", name)
            elif turn.status != "completed" or said_in(turn) != done.text:
                yield Violation("acknowledged turn changed", f"{name}: {turn.status}, {said_in(turn)!r}")
        elif turn is not None and turn.status == "interrupted" and tried.worker in facts.killed:
            continue  # what was read in the last half second before a kill may be gone
        elif done.text and (turn is None or not said_in(turn).startswith(done.text)):
            yield Violation("what was read is lost", f"{name}: {done.text!r} was read, {turn} is stored")
    for tried, done in facts.pairs("adopt"):
        if done.error is None and not facts.may_be_gone(tried.thread, tried.at):
            yield from _adopted(facts, tried, done)


def _adopted(facts: _Facts, tried: Tries, done: Done) -> Iterator[Violation]:
    before: str | None = None
    for turn_id in done.turns:
        turn = facts.turns.get(turn_id)
        if turn is None or (before is not None and turn.parent != before):
            yield Violation("acknowledged turn lost", f"{turn_id} of the transcript {tried.text!r} is {turn}")
        before = turn_id


def _requests(facts: _Facts) -> Iterator[Violation]:
    """What a model was told is a path of the tree, and the new input."""
    for told in facts.told.values():
        if told.refusal is not None:
            yield Violation("request refused", f"{told.request}: {told.refusal}")
    for turn in facts.turns.values():
        before, name = facts.messages(turn.parent), f"turn {turn.id} on thread {turn.thread}"
        steps = [(*before, *fingerprints(turn.input))]
        for message in turn.output:
            steps.append((*steps[-1], *fingerprints([message])))
        for number in requests_in(said_in(turn)):
            told = facts.told[number]
            if told.text != text_of_turn(turn):
                yield Violation("answer to something else", f"{name} holds the answer to {told.text!r}")
            elif told.messages not in steps:
                yield Violation("request does not fit", f"{name}: {number} was told something else than its history")
    for told in facts.told.values():
        yield from _has_a_place(facts, told)


def _has_a_place(facts: _Facts, told: Told) -> Iterator[Violation]:
    """Whatever was asked, a turn was open for it, and is recorded at the place where it was asked."""
    turns = facts.by_text.get(told.text, [])
    if any(told.messages[: len(history)] == history for history in (facts.messages(turn.parent) for turn in turns)):
        return
    text = told.text.partition("-a")[0]  # of a transcript only the first text is written down
    threads = {tried.thread for tried in facts.tries.values() if tried.text.partition("-a")[0] == text}
    if not any(facts.may_be_gone(thread) for thread in threads):
        yield Violation("request without a turn", f"{told.request} for {told.text!r} on {sorted(threads)}")


def _forks(facts: _Facts) -> Iterator[Violation]:
    """A fork sees what stood before it, and nothing that its source said later; other threads see only themselves."""
    begins: dict[str, str | None] = {}
    for tried, done in facts.pairs("fork"):
        if done.error is None and tried.new is not None:
            begins[tried.new] = tried.turn or done.turn
    for turn in facts.turns.values():
        foreign = next((one for one in reversed(facts.path(turn.id)) if facts.turns[one].thread != turn.thread), None)
        if foreign is None:
            continue
        if turn.thread not in begins:
            if turn.thread.startswith("f"):
                continue  # its maker was killed before it could tell
            yield Violation("foreign turn", f"turn {turn.id} of thread {turn.thread} comes after {foreign}")
        elif foreign not in facts.path(begins[turn.thread]) and begins[turn.thread] in facts.turns:
            yield Violation("later turn of the source", f"turn {turn.id} of fork {turn.thread} comes after {foreign}")


def _places(facts: _Facts) -> Iterator[Violation]:
    """Who asked for a place begins there: after a turn, or where the last answer began."""
    for tried, done in facts.pairs("run", "regenerate"):
        turn = facts.turns.get(done.turn or "")
        if done.error is not None or turn is None or done.status != "completed":
            continue
        if tried.turn is not None and tried.key is None and turn.parent != tried.turn:
            yield Violation("wrong place", f"turn {turn.id} was to come after {tried.turn}, not {turn.parent}")
        if tried.what == "regenerate":
            others = [one for one in facts.by_text[text_of_turn(turn)] if one.id != turn.id]
            if not any(one.parent == turn.parent for one in others) and not facts.may_be_gone(tried.thread):
                yield Violation("wrong place", f"turn {turn.id} answers {text_of_turn(turn)!r} again, but elsewhere")


def _keys(facts: _Facts) -> Iterator[Violation]:
    """A key gives one turn on a thread; a text that was said once is one turn, but for answers that were made anew."""
    under: dict[tuple[str, str], set[str]] = defaultdict(set)
    for tried, done in facts.pairs("run"):
        counts = done.error is None and done.turn is not None and not facts.may_be_gone(tried.thread)
        if tried.key is not None and done.turn is not None and counts:
            under[tried.thread, tried.key].add(done.turn)
    for (thread, key), turns in under.items():
        if len(turns) > 1:
            yield Violation("key of two turns", f"{key} on thread {thread} gave {sorted(turns)}")
    anew = Counter(done.turn for _, done in facts.pairs("regenerate") if done.turn is not None)
    for text, found in facts.by_text.items():
        first = [turn for turn in found if turn.id not in anew and not _said_nothing(turn)]
        killed = any(tried.text == text and tried.worker in facts.killed for tried in facts.tries.values())
        gone = any(facts.may_be_gone(tried.thread) for tried in facts.tries.values() if tried.text == text)
        if text and len(first) > 1 and not killed and not gone and not _made_anew_by_killed(facts):
            yield Violation("doubled turn", f"{text!r} is turns {[turn.id for turn in first]}")


def _said_nothing(turn: TurnSeen) -> bool:
    """A failed turn without an answer frees its key: a retry makes another one."""
    return turn.status == "failed" and not turn.output


def _made_anew_by_killed(facts: _Facts) -> bool:
    """Whether somebody was killed who may have been making an answer anew: nobody knows under which turn."""
    return any(tried.what == "regenerate" and key not in facts.done for key, tried in facts.tries.items())


def _followed(facts: _Facts) -> Iterator[Violation]:
    """Who followed a turn to its end was told what is stored, and one end."""
    for tried, done in facts.pairs("follow"):
        turn = facts.turns.get(done.turn or "")
        if (
            done.error == "TurnNotFound"
            and tried.how.partition(".")[2] not in ("", "0")
            and not facts.may_be_gone(tried.thread)
        ):
            yield Violation("follower turned away", f"turn {tried.turn} is not known, and {tried.how} was read of it")
        if done.error is not None or turn is None:
            continue
        if done.text != said_in(turn):
            yield Violation("follower misled", f"turn {turn.id}: told {done.text!r}, stored {said_in(turn)!r}")
        if done.status != turn.status:
            yield Violation("follower misled", f"turn {turn.id} is {turn.status}, a follower was told {done.status!r}")


def _refusals(facts: _Facts) -> Iterator[Violation]:
    """Only what may be refused was refused; nobody hung, and everybody who lived came to an end."""
    for tried, done in facts.pairs():
        allowed = set(_MAY_BE[tried.what])
        if any(facts.may_be_gone(thread) for thread in (tried.thread, tried.new or tried.thread)):
            allowed |= _OF_DELETION
        if done.error is not None and done.error not in allowed:
            yield Violation("refused", f"{tried.what} on thread {tried.thread} ({tried.how}): {done.error}")
    for key, tried in facts.tries.items():
        if key not in facts.done and tried.worker not in facts.killed:
            yield Violation("never ended", f"{tried.what} on thread {tried.thread}, op {tried.op}")
    for line in facts.evidence.diary:
        if isinstance(line, Hung):
            yield Violation("hung", f"op {line.op} of worker {line.worker}; {line.stacks}")
        if isinstance(line, Failed):
            yield Violation("a worker failed", line.what)


def _at_rest(facts: _Facts) -> Iterator[Violation]:
    """Nothing is left of runs that have ended, and every thread is read up to its head."""
    contents = facts.evidence.contents
    for thread in contents.threads:
        if thread.flaw is not None:
            yield Violation("thread cannot be read", f"{thread.id}: {thread.flaw}")
        elif thread.told != facts.path(thread.head):
            yield Violation("thread cannot be read", f"{thread.id}: {thread.told} is read of {facts.path(thread.head)}")
        if thread.open_run is not None:
            yield Violation("run left open", f"{thread.open_run} on {thread.id}")
    for ticket in contents.tickets:
        yield Violation("ticket left over", ticket)
    if contents.journal:
        yield Violation("journal left over", f"{contents.journal} records")
    if contents.integrity != "ok":
        yield Violation("damaged store", contents.integrity)


_CHECKS = (
    _whole,
    _acknowledged,
    _requests,
    _forks,
    _places,
    _keys,
    _followed,
    _refusals,
    _at_rest,
)
