"""The judge of the disk rigs: from what was written down and what a store holds to what is wrong.

It keeps, for every thread, the histories that are possible: one, as long as every step was acknowledged; a few after
a step that was cut off or refused. What a fresh process reads must be one of them.

Rules of this file: pure. It is not told which fault was injected. What may have become of a turn that nobody was told
of is in one table, `_BECOMES`; everything else about it follows from its token (`rigs.talk`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from rigs.disk_turns import Answered, AnyLine, Began, Heard, Kept, Refused, Told
from rigs.evidence import Contents, TurnSeen
from rigs.oracle import PATIENCE, Violation
from rigs.talk import answer_to, text_of, token_in

# A thread's turns as (token, status); None if there is no such thread.
History: TypeAlias = tuple[tuple[str, str], ...] | None
Possible: TypeAlias = dict[str, set[History]]

ABSENT = "absent"
# What may have become of a turn by how far it came: nobody was asked, the service was asked, it had said all.
_BECOMES = {
    "began": {ABSENT, "interrupted"},
    "heard": {"interrupted"},
    "answered": {"interrupted", "completed"},
}
# If it was refused and not cut off, its run has ended in this process: as failed, perhaps.
_REFUSED_TOO = {"began": {"failed"}, "heard": {"failed", "cancelled"}, "answered": {"failed", "cancelled"}}
_TURNS = ("say", "stream")


class Outcome(Struct):
    """What a step came to: how far it came, and its last line (None if the process died)."""

    began: Began
    stage: str = "began"
    kept: int = 0  # characters of its answer that were written down
    last: Told | Refused | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.last is None else self.last.at - self.began.at


class Verdict(Struct):
    """What a run of steps came to."""

    violations: list[Violation] = field(default_factory=list)
    told: int = 0
    refused: int = 0
    cut: int = 0
    unacknowledged: int = 0  # recorded as completed, though nobody was told
    interrupted: int = 0
    next_turn: float = 0.0  # the longest that a next turn took


def outcomes(lines: Sequence[AnyLine]) -> list[Outcome]:
    """The steps in their order."""
    found: dict[str, Outcome] = {}
    saying: dict[str, Outcome] = {}  # by the token of what is said: who said it last
    for line in lines:
        if isinstance(line, Began):
            found[line.token] = saying[line.token] = Outcome(line)
            if line.kind == "retry":
                saying[line.stand] = found[line.token]
        elif isinstance(line, Kept):
            saying[line.token].kept = line.characters
        elif isinstance(line, (Heard, Answered)):
            saying[line.token].stage = "heard" if isinstance(line, Heard) else "answered"
        elif isinstance(line, (Told, Refused)):
            found[line.token].last = line
    return list(found.values())


def possible(steps: Sequence[Outcome], *, power_cut: bool = False) -> Possible:
    """The histories that each thread may have after these steps.

    After a power cut a turn that nobody was told of may be gone, however far it came.
    """
    states: Possible = {}
    for step in steps:
        began, was = step.began, states.get(step.began.thread, {None})
        target = began.new if began.kind == "fork" else began.thread
        if began.kind in _TURNS:
            after = set(_after_turn(step, was, {ABSENT} if power_cut else set()))
        elif began.kind == "resume":
            ends = ("completed", *(_REFUSED_TOO["answered"] if isinstance(step.last, Refused) else ()))
            after = was | {_resumed(history, end) for history in was for end in ends}
        elif began.kind == "retry":
            after = set(_after_retry(step, was))
        elif began.kind in ("fork", "rewind", "delete"):
            moved: set[History] = {None} if began.kind == "delete" else set(_up_to(began.stand, was))
            after = moved if isinstance(step.last, Told) else moved | states.get(target, {None})
        else:
            continue
        states[target] = after or was  # what was told of a step that cannot be is found out by what is there
    return states


def _resumed(history: History, end: str = "completed") -> History:
    """What becomes of a history whose last turn was left open and is gone on with, and ends so."""
    if not history or history[-1][1] != "interrupted":
        return history
    return (*history[:-1], (history[-1][0], end))


def _after_retry(step: Outcome, was: set[History]) -> Iterator[History]:
    """What was said under its key already is not said again; if it is told, it is a whole turn, wherever it hangs."""
    token, told = step.began.stand, isinstance(step.last, Told)
    for history in was:
        status = dict(history or ()).get(token)
        if status in (None, "failed"):  # a turn that failed has given its key back
            said = Outcome(replace(step.began, token=token), step.stage, last=step.last)
            yield from _after_turn(said, {history}, {ABSENT})
        if status in (None, "completed") or not told:
            yield history  # (or it hangs on a branch that the thread has left)
        if history and history[-1] == (token, "interrupted"):
            yield _resumed(history)  # it was still open: it was gone on with


def _after_turn(step: Outcome, was: set[History], also: set[str]) -> Iterator[History]:
    if isinstance(step.last, Told):
        statuses = {"completed"}
    else:
        statuses = _BECOMES[step.stage] | also | (_REFUSED_TOO[step.stage] if step.last is not None else set())
    for history in was:
        for status in statuses:
            yield history if status == ABSENT else (*(history or ()), (step.began.token, status))
        if ABSENT in statuses and history is None:
            yield ()  # the thread was made, the turn is not there


def _up_to(stand: str, was: set[History]) -> Iterator[History]:
    """The histories that end with a turn: it stood on the thread when the step was taken."""
    if not stand:
        yield ()
    for history in was:
        tokens = [token for token, _ in history or ()]
        if stand in tokens:
            yield (history or ())[: tokens.index(stand) + 1]


# --- the verdict -----------------------------------------------------------------------------------------------------


def judge(
    lines: Sequence[AnyLine],
    contents: Contents,
    *,
    probes: Collection[str] = (),
    hushed: bool = False,
    power_cut: bool = False,
    in_part: bool = False,
) -> Verdict:
    """All that is wrong.

    `probes` are the tokens of the turns that must have worked, each within a second. With `hushed` what was refused
    must have been refused in clear words of a typed error, else it must not have been refused at all. `in_part`: the
    contents are only what the library reads, on the threads as they stand.
    """
    steps = outcomes(lines)
    turns = {turn.id: turn for turn in contents.turns}
    asked = [step for step in steps if step.began.kind in _TURNS]
    acked = {step.last.turn for step in steps if isinstance(step.last, Told) and step.last.turn}
    states = possible(steps, power_cut=power_cut)
    verdict = Verdict(
        told=len(acked),
        refused=sum(isinstance(step.last, Refused) for step in steps),
        cut=sum(step.last is None for step in asked),
        unacknowledged=sum(turn.status == "completed" and turn.id not in acked for turn in turns.values()),
        interrupted=sum(turn.status == "interrupted" for turn in turns.values()),
        next_turn=max((step.seconds for step in asked if step.began.token in probes), default=0.0),
    )
    checks = [_whole(contents, {step.began.token for step in asked}), _threads(contents, turns, states)]
    if not in_part:
        deleted = {step.began.thread: step.began.at for step in steps if step.began.kind == "delete"}
        checks += [
            _as_told(turns, asked, deleted),
            _retries(steps, deleted),
            _probes(steps, probes),
            _left_over(contents),
        ]
        checks.append(_words(steps, probes, hushed))
    if not (in_part or power_cut or hushed):
        checks.append(_kept(contents, steps))
    for check in checks:
        verdict.violations.extend(check)
    return verdict


def remains(lines: Sequence[AnyLine], contents: Contents, files: bytes) -> Iterator[Violation]:
    """Nothing that was said on a deleted thread, and that no other thread reaches, is left in the files' bytes."""
    steps = outcomes(lines)
    there = {_token(turn) for turn in contents.turns}
    for delete in steps:
        if delete.began.kind != "delete" or not isinstance(delete.last, Told):
            continue
        for step in steps:
            token, said = step.began.token, step.began.kind in _TURNS and step.began.thread == delete.began.thread
            if said and step.began.at < delete.began.at and token not in there and token.encode() in files:
                yield Violation("deleted bytes left", f"{token}, of the deleted thread {delete.began.thread}")


def _token(turn: TurnSeen) -> str:
    return token_in(turn.input[0][1]) if turn.input else ""


def _whole(contents: Contents, asked: set[str]) -> Iterator[Violation]:
    """Every turn in the tables, wherever it hangs, is whole, and somebody asked for it."""
    seen: set[str] = set()
    for turn in contents.turns:
        name, token = f"turn {turn.id} ({turn.status}) of thread {turn.thread}", _token(turn)
        if turn.flaw is not None:
            yield Violation("half turn", f"{name}: {turn.flaw}")
        elif not turn.sound:
            yield Violation("damaged turn", f"{name}: its hash does not match")
        elif token not in asked or turn.input != (("user", text_of(token)),):
            yield Violation("turn nobody asked for", f"{name} says {str(turn.input)[:80]}")
        elif token in seen:
            yield Violation("doubled turn", f"{token} stands twice")
        if turn.status != "failed":  # what failed may have been said once more
            seen.add(token)


def _threads(contents: Contents, turns: dict[str, TurnSeen], states: Possible) -> Iterator[Violation]:
    """Every thread has one of the histories that it may have, and every turn on it the whole answer."""
    there = {thread.id: thread for thread in contents.threads}
    for thread in contents.threads:
        if thread.flaw is not None:
            yield Violation("thread cannot be read", f"{thread.id}: {thread.flaw}")
            continue
        if any(turn_id not in turns for turn_id in thread.told):
            yield Violation("thread cannot be read", f"{thread.id}: the library's turns are not those in the tables")
            continue
        on_it = [turns[turn_id] for turn_id in thread.told]
        if thread.head != (thread.told[-1] if thread.told else None) or _broken(on_it):
            yield Violation("head out of place", f"{thread.id} stands at {thread.head}, reads to {thread.told[-1:]}")
        history = tuple((_token(turn), turn.status) for turn in on_it)
        if history not in states.get(thread.id, {None}):
            yield _unlike(thread.id, history, states.get(thread.id, {None}))
        yield from _answers(thread.id, on_it)
    for name, histories in states.items():
        if name not in there and not histories & {None, ()}:
            yield _unlike(name, None, histories)


def _broken(on_it: Sequence[TurnSeen]) -> bool:
    return any(after.parent != before.id for before, after in pairwise(on_it))


def _unlike(thread: str, seen: History, histories: set[History]) -> Violation:
    """The violation that a history is: what is missing, or what is too much."""
    closest = max(histories, key=lambda one: len(set(one or ()) & set(seen or ())))
    missing = [pair for pair in closest or () if pair not in (seen or ())]
    added = [pair for pair in seen or () if pair not in (closest or ())]
    kind = "acknowledged turn lost" if any(status == "completed" for _, status in missing) else "history out of place"
    return Violation(kind, f"thread {thread}: {missing} are not there, {added} are; {len(histories)} were possible")


def _answers(thread: str, on_it: Sequence[TurnSeen]) -> Iterator[Violation]:
    messages = 0
    for turn in on_it:
        whole, said = answer_to(text_of(_token(turn)), messages + 1), "".join(text for _, text in turn.output)
        if said != whole if turn.status == "completed" else not whole.startswith(said):
            yield Violation(
                "half turn", f"{_token(turn)} on {thread} ({turn.status}) holds {said[:60]!r} of {whole[:60]!r}"
            )
        if turn.status != "failed" or turn.output:
            messages += len(turn.input) + len(turn.output)


def to_retry(lines: Sequence[AnyLine]) -> list[tuple[str, str]]:
    """What may be said once more, as (thread, token): every turn that nobody was told of, and the last one told.

    Not what was said before its thread was deleted: a key counts for one life of a thread.
    """
    steps = outcomes(lines)
    deleted = {step.began.thread: step.began.at for step in steps if step.began.kind == "delete"}
    said = [step for step in steps if step.began.kind in _TURNS]
    said = [step for step in said if step.began.at > deleted.get(step.began.thread, 0.0)]
    told = [step for step in said if isinstance(step.last, Told)][-1:]
    untold = [step for step in said if not isinstance(step.last, Told)]
    return [(step.began.thread, step.began.token) for step in (*untold, *told)]


def _kept(contents: Contents, steps: Sequence[Outcome]) -> Iterator[Violation]:
    """What a dead process had said and written down is in the turn that was made of it."""
    kept = {step.began.token: step.kept for step in steps if step.began.kind in _TURNS}
    for turn in contents.turns:
        said = sum(len(text) for _, text in turn.output)
        if turn.status == "interrupted" and said < kept.get(_token(turn), 0):
            what = f"turn {turn.id} of thread {turn.thread} holds {said} of {kept[_token(turn)]} characters"
            yield Violation("what was said is lost", what)


def _as_told(turns: dict[str, TurnSeen], asked: Sequence[Outcome], deleted: dict[str, float]) -> Iterator[Violation]:
    """What was acknowledged is there as it was told, wherever it hangs, unless its thread was deleted."""
    for step in asked:
        if not isinstance(step.last, Told):
            continue
        turn = turns.get(step.last.turn)
        if turn is None:
            if step.last.at > deleted.get(step.began.thread, 0.0):
                yield Violation("acknowledged turn lost", f"{step.began.token}, turn {step.last.turn}")
        elif turn.status != "completed" or turn.output != (("assistant", step.last.answer),):
            yield Violation("acknowledged turn changed", f"{step.began.token}, turn {step.last.turn}, is {turn.status}")


def _retries(steps: Sequence[Outcome], deleted: dict[str, float]) -> Iterator[Violation]:
    """What is said once more is answered with the turn that was acknowledged, if it was.

    Unless the thread was deleted since: its next life knows no keys.
    """
    first = {step.began.token: step.last for step in steps if step.began.kind in _TURNS}
    for step in steps:
        before = first.get(step.began.stand)
        if step.began.kind != "retry" or not isinstance(before, Told) or step.last is None:
            continue
        if before.at <= deleted.get(step.began.thread, 0.0):
            continue
        told = step.last
        if not isinstance(told, Told) or (told.turn, told.answer) != (before.turn, before.answer):
            now = f"turn {told.turn}" if isinstance(told, Told) else f"{told.error}: {told.words}"
            yield Violation("retry not safe", f"{step.began.stand} was turn {before.turn}; said once more: {now}")


def _probes(steps: Sequence[Outcome], probes: Collection[str]) -> Iterator[Violation]:
    """The next turn works on every thread, within a second."""
    for step in steps:
        if step.began.token in probes and isinstance(step.last, Refused):
            yield Violation("thread stuck", f"{step.began.thread}: {step.last.error}: {step.last.words}")
        elif step.began.token in probes and step.seconds > PATIENCE:
            yield Violation("slow thread", f"{step.began.thread} took {step.seconds:.2f} s for its next turn")


def _words(steps: Sequence[Outcome], probes: Collection[str], hushed: bool) -> Iterator[Violation]:
    """An error is typed, and says in our words what happened and what to do."""
    for step in steps:
        last = step.last
        if not isinstance(last, Refused) or step.began.token in probes:
            continue
        if step.began.kind == "retry" and last.error == "IdempotencyKeyError":
            continue  # it is in the log, and not whole
        what = f"{step.began.kind} on {step.began.thread}: {last.error}: {last.words[:200]}"
        if "HoldfastError" not in last.kinds:
            yield Violation("call hangs" if last.error == "TimeoutError" else "raw error", what)
        elif not hushed:
            yield Violation("refused", what)
        elif not clear(last):
            yield Violation("unclear error", what)


def clear(refused: Refused) -> bool:
    """Whether an error says what happened in more than SQLite's words."""
    words = refused.words
    return words.endswith(".") and len(words.split()) >= 8 and not words.startswith("SQLite failed")


def _left_over(contents: Contents) -> Iterator[Violation]:
    """Nothing of a fault is left after the next turn on every thread."""
    for thread in contents.threads:
        if thread.open_run is not None:
            yield Violation("run left open", f"turn {thread.open_run} on thread {thread.id}")
    for turn_id in contents.tickets:
        yield Violation("ticket left over", f"turn {turn_id}")
    if contents.journal:
        yield Violation("journal left over", f"{contents.journal} records")
    if contents.integrity != "ok":
        yield Violation("file damaged", contents.integrity)
