"""The judge of tools: from what the tools did, what callers were told and what is left, to what is wrong.

Rules of this file: pure; it reports all it finds. It knows what each call was to do (`rigs.tools_talk`) and no
internals. A call that somebody began and whose end nobody saw may say that its outcome is unknown; nothing else may
say anything but what happened.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from msgspec import Struct, field

from rigs.evidence import Died, Failed, Stalled
from rigs.oracle import Violation
from rigs.tools_evidence import (
    Answers,
    Begun,
    CallSeen,
    Closed,
    Did,
    Entered,
    Evidence,
    LedgerLine,
    Noted,
    Opened,
    Says,
    Taken,
    Told,
    Turned,
    TurnKept,
)
from rigs.tools_talk import BY_NAME, Kind, broke, outcome_in, token_in, told_of, what_in

# "A thread takes its next turn within a second."
PATIENCE = 1.0
# What a caller writes down who was cancelled: then it is not known what became of it.
CANCELLED = "cancelled"
_MOMENT = 0.1  # seconds between what the store acknowledges and what the caller writes down of it

# A call: its turn's id and its own.
Key = tuple[str, str]


class Verdict(Struct):
    """What a round came to. `recoveries` are the seconds until a thread was free again after a death there."""

    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)


def judge(evidence: Evidence, *, patience: float = PATIENCE) -> Verdict:
    """All that is wrong, and the figures."""
    facts = _Facts(evidence)
    verdict = Verdict(figures=dict(_figures(facts)))
    checks = (_whole, _requests, _effects, _keys, _results, _as_recorded, _leave, _answers, _told, _waiting, _fates)
    for check in checks:
        verdict.violations.extend(check(facts))
    for opened, seconds, after_death in facts.waits():
        if after_death:
            verdict.recoveries.append(seconds)
        if seconds > patience:
            what = f"thread {opened.thread} was free, and {opened.by} got it after {seconds:.2f} s"
            verdict.violations.append(Violation("thread stuck", what))
    return verdict


class _Facts:
    """The evidence, looked up by name."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.steps: dict[Key, list[LedgerLine]] = defaultdict(list)
        for step in sorted(evidence.ledger, key=lambda step: step.at):
            self.steps[step.turn, step.call].append(step)
        self.turns = {turn.id: turn for turn in evidence.kept.turns}
        self.calls: dict[Key, CallSeen] = {
            (turn.id, one.call): one for turn in self.turns.values() for one in turn.calls
        }
        diary = evidence.diary
        self.says = {line.by: line for line in diary if isinstance(line, Says)}
        self.answers = [line for line in diary if isinstance(line, Answers)]
        self.told = {line.by: line for line in diary if isinstance(line, Told)}
        self.deaths = [line for line in diary if isinstance(line, Died)]
        self.died = {line.worker for line in self.deaths}
        self.opened = [line for line in diary if isinstance(line, Opened)]
        self.noted = [line for line in diary if isinstance(line, Noted)]
        self.refused = {line.by for line in diary if isinstance(line, Turned) and line.why != CANCELLED}
        self.cut = {line.by for line in diary if isinstance(line, Turned) and line.why == CANCELLED}
        # Turns whose writer has died: what the store had acknowledged it may not have had the time to write down.
        self.bereft = {line.turn for line in diary if isinstance(line, Opened | Taken) and line.worker in self.died}
        self.heard: dict[str, float] = {}  # what the service was told, since when
        for request in evidence.requests:
            for result in request.results:
                self.heard.setdefault(result, request.at)
        self.begun: dict[Key, float] = {}
        for line in diary:
            if isinstance(line, Begun):
                for call in line.calls:
                    self.begun.setdefault((line.turn, call), line.at)

    def known_since(self) -> dict[Key, float]:
        """Since when a call's result stands in the journal, or was told to a caller or to the service."""
        found = {key: self.heard[text] for key, text in self.told_to_service()}
        for line in self.evidence.diary:
            if isinstance(line, Noted | Told):
                for call, _ in line.results:
                    found[line.turn, call] = min(found.get((line.turn, call), line.at), line.at)
        return found

    def told_to_service(self) -> Iterator[tuple[Key, str]]:
        """The results that the service was told and that name their call."""
        for key, call in self.calls.items():
            what = what_in(call.arguments)
            yield from ((key, text) for text in (told_of(what), broke(what)) if text in self.heard)

    def attempts(self, key: Key) -> list[Answers]:
        """The answers to a call that may have counted."""
        turn, call = key
        return [
            one
            for one in self.answers
            if one.turn == turn and call in (*one.approved, *one.rejected) and one.by not in self.refused
        ]

    def parked_at(self, turn: TurnKept, before: float) -> float:
        """When a turn came to wait for the last time before somebody was told so."""
        lines = [line for line in self.evidence.diary if isinstance(line, Closed) and line.turn == turn.id]
        return max((line.at for line in lines if line.parked and line.at <= before), default=before)

    def touched_by_death(self, turn: TurnKept, since: float) -> bool:
        """Whether somebody who was at work on its thread died between then and the turn's end."""
        ends = [line for line in self.evidence.diary if isinstance(line, Closed) and line.turn == turn.id]
        closed = [line.at for line in ends if not line.parked]
        return any(
            # The campaign notes a death a moment after others have seen it.
            since - _MOMENT <= death.at <= max(closed, default=death.at) + _MOMENT
            and any(one.thread == turn.thread for one in death.talkers)
            for death in self.deaths
        )

    def waits(self) -> Iterator[tuple[Opened, float, bool]]:
        """How long a thread was free before it was given to somebody who wanted it; and whether somebody had died."""
        free: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for line in self.evidence.diary:
            if isinstance(line, Closed) and not line.closes:
                free[line.thread].append((line.at, False))
            elif isinstance(line, Died):
                for name in {one.thread for one in line.talkers}:
                    free[name].append((line.at, True))
        for opened in self.opened:
            says = self.says.get(opened.by)
            if says is None:
                continue
            since, dead = max(((at, dead) for at, dead in free[opened.thread] if at < opened.at), default=(0.0, False))
            start = max(since, says.at)
            yield opened, opened.at - start - self._stalled(start, opened.at), dead

    def _stalled(self, start: float, end: float) -> float:
        """Time in which the whole machine stood still."""
        stalls = [line for line in self.evidence.diary if isinstance(line, Stalled)]
        return sum(max(0.0, min(end, one.at) - max(start, one.at - one.seconds)) for one in stalls)


def _figures(facts: _Facts) -> Counter[str]:
    found: Counter[str] = Counter()
    for steps in facts.steps.values():
        enters = sum(isinstance(step, Entered) for step in steps)
        found["calls made"] += enters
        found["effects"] += sum(isinstance(step, Did) for step in steps)
        found["made again"] += enters - 1 if enters else 0
    for turn in facts.turns.values():
        found[f"turns {turn.status}"] += 1
        for call in turn.calls:
            found["results unknown"] += outcome_in(call.result or "", what_in(call.arguments)) == "unknown"
            found["calls allowed"] += call.approved is True
    found["resumed"] = sum(isinstance(line, Taken) and not line.closes for line in facts.evidence.diary)
    found["answers"] = len(facts.answers)
    found["answers refused"] = sum(one.by in facts.refused for one in facts.answers)
    found["requests"] = len(facts.evidence.requests)
    return found


def _kind(call: CallSeen) -> Kind | None:
    return BY_NAME.get(call.tool)


def _name(key: Key) -> str:
    return f"call {key[1]} of turn {key[0]}"


# --- checks --------------------------------------------------------------------------------------------------------


def _whole(facts: _Facts) -> Iterator[Violation]:
    """Nothing is broken by itself, nobody hung, nothing was refused that should have worked."""
    for wrong in facts.evidence.kept.wrong:
        yield Violation("store not sound", wrong)
    for turn in facts.turns.values():
        if turn.flaw is not None:
            yield Violation("unpaired", f"turn {turn.id} ({turn.status}): {turn.flaw}")
        if turn.status == "open":
            yield Violation("run left open", f"turn {turn.id} of thread {turn.thread}")
        if turn.status == "failed":
            yield Violation("failed turn", f"turn {turn.id} of thread {turn.thread}")
    for line in facts.evidence.diary:
        if isinstance(line, Failed):
            yield Violation("refused", f"{line.what}: {line.error}")
        elif isinstance(line, Died) and line.stuck:
            yield Violation("hung", f"worker {line.worker} did not end by itself: {line.talkers}")


def _requests(facts: _Facts) -> Iterator[Violation]:
    """The service took every request, and was told the results in the order of the calls."""
    for request in facts.evidence.requests:
        if request.refusal is not None:
            yield Violation("request refused", request.refusal)
        elif request.calls != request.answered:
            yield Violation("results out of order", f"calls {request.calls}, results {request.answered}")


def _effects(facts: _Facts) -> Iterator[Violation]:
    """What was done stands in the log, and was done once; what may be done again is, until its result is known."""
    known = facts.known_since()
    for key, steps in facts.steps.items():
        enters = [step for step in steps if isinstance(step, Entered)]
        effects = [step for step in steps if isinstance(step, Did)]
        name = f"{_name(key)} ({steps[0].tool})"
        if key not in facts.calls:
            yield Violation("effect without a record", f"{name} stands in no turn; {len(effects)} effects")
        kind = BY_NAME[steps[0].tool]
        if not kind.idempotent and max(len(enters), len(effects)) > 1:
            what = f"{name} was entered {len(enters)} times, with {len(effects)} effects"
            yield Violation("effect repeated" if len(effects) > 1 else "call made again", what)
        late = [step for step in enters if step.at > known.get(key, step.at)]
        if late:
            yield Violation("effect repeated", f"{name} was made again {len(late)} times though its result was known")
        for step in enters:
            if facts.begun.get(key, step.at + 1) > step.at:
                yield Violation("start not recorded", f"{name} was entered before its start was on disk")


def _keys(facts: _Facts) -> Iterator[Violation]:
    """What was asked for once has one key."""
    keys: dict[str, set[str]] = defaultdict(set)
    for steps in facts.steps.values():
        for step in steps:
            keys[step.what].add(step.key)
    for what, found in keys.items():
        if len(found) > 1:
            yield Violation("another key", f"{what} was done under {sorted(found)}")


def _results(facts: _Facts) -> Iterator[Violation]:
    """Each result says what happened."""
    for key, call in facts.calls.items():
        if call.result is None:
            continue
        outcome = outcome_in(call.result, what_in(call.arguments))
        steps = facts.steps.get(key, [])
        did, entered = any(isinstance(one, Did) for one in steps), any(isinstance(one, Entered) for one in steps)
        name = f"{_name(key)} ({call.tool}): {call.result[:60]!r}"
        if (outcome in ("done", "broke") and not did) or (outcome == "late" and not entered):
            yield Violation("result without its effect", name)
        elif outcome in ("not made", "not allowed", "refused") and entered:
            yield Violation("made, and said not to be", f"{name}; effects: {did}")
        elif outcome == "unknown" and key not in facts.begun and key[0] not in facts.bereft:
            yield Violation("unknown without a start", name)
        elif outcome == "strange":
            yield Violation("strange result", name)


def _as_recorded(facts: _Facts) -> Iterator[Violation]:
    """A result that was written down, or told, is the one that stands in the turn."""
    lines: list[Noted | Told] = [*facts.noted, *facts.told.values()]
    written = {(line.turn, *result) for line in lines for result in line.results}
    for turn, call, text in written | {(*key, text) for key, text in facts.told_to_service()}:
        kept = facts.calls.get((turn, call))
        if kept is not None and kept.result is not None and kept.result != text:
            what = f"{_name((turn, call))} was {text[:50]!r}, and is {kept.result[:50]!r}"
            yield Violation("recorded result lost", what)


def _leave(facts: _Facts) -> Iterator[Violation]:
    """What needs to be allowed was, by an answer that counted, before it was made."""
    for key, steps in facts.steps.items():
        enters = [step for step in steps if isinstance(step, Entered) and BY_NAME[step.tool].approval]
        allowed = [one.at for one in facts.attempts(key) if key[1] in one.approved and not one.forged]
        for step in enters:
            if min(allowed, default=step.at + 1) > step.at:
                yield Violation("made without leave", f"{_name(key)} ({step.tool})")
    for key, call in facts.calls.items():
        outcome = outcome_in(call.result or "", what_in(call.arguments))
        kind = _kind(call)
        wanted = {"done": True, "broke": True, "not allowed": False}.get(outcome)
        if kind is None or not kind.approval or wanted is None:
            continue
        names = {one.by for one in facts.attempts(key) if key[1] in (one.approved if wanted else one.rejected)}
        if call.approved is not wanted or call.by not in names:
            who = f"by {call.by!r} (approved: {call.approved}), not by one of {sorted(names)}"
            yield Violation("nobody's word", f"{_name(key)} ({call.tool}): {outcome} {who}")


def _answers(facts: _Facts) -> Iterator[Violation]:
    """An answer counts once, and for the arguments that were asked."""
    used: Counter[Key] = Counter()
    for one in facts.answers:
        if one.by not in facts.told:
            continue
        if one.forged:
            yield Violation("forged answer used", f"{one.by} to turn {one.turn}, which was for other arguments")
        used.update((one.turn, call) for call in (*one.approved, *one.rejected))
    for key, count in used.items():
        if count > 1:
            yield Violation("approval used twice", f"{_name(key)}: {count} answers were taken")


def _told(facts: _Facts) -> Iterator[Violation]:
    """What a caller was told is there."""
    for line in facts.told.values():
        turn = facts.turns.get(line.turn)
        if turn is None:
            yield Violation("told turn lost", f"{line.by}: turn {line.turn} ({line.status}) of thread {line.thread}")
        elif line.status == "completed" and turn.status != "completed":
            yield Violation("told turn changed", f"{line.by}: turn {line.turn} was completed, and is {turn.status}")
        elif line.status not in ("completed", "waiting"):
            yield Violation("strange status", f"{line.by}: turn {line.turn} is {line.status}")


def _waiting(facts: _Facts) -> Iterator[Violation]:
    """What waits goes on waiting until somebody answers it or says something else."""
    for line in facts.told.values():
        turn = facts.turns.get(line.turn)
        if line.status != "waiting" or turn is None:
            continue
        answers = [one for one in facts.answers if one.turn == turn.id and one.by not in facts.refused]
        # An answer to one call may end the others' waiting, too: at a limit they are not made.
        parked = facts.parked_at(turn, line.at)
        later = [one for one in answers if one.at > parked or {*one.approved, *one.rejected} & {*line.requests}]
        cut = any(one.by in facts.cut for one in answers)
        others = any(one.thread == turn.thread and one.text != turn.text for one in facts.says.values())
        may_be = {
            "waiting": bool(later) or set(line.requests) == set(turn.requests),
            "completed": bool(later),
            "interrupted": facts.touched_by_death(turn, line.at),
            "cancelled": others or cut,
        }
        if not may_be.get(turn.status, True):
            what = f"turn {turn.id} of thread {turn.thread} waited for {line.requests}, and is {turn.status}"
            yield Violation("waiting run lost", f"{what}, waiting for {turn.requests}")


def _fates(facts: _Facts) -> Iterator[Violation]:
    """What was said is a turn, once; in any case if the thread was given for it."""
    by_token: dict[str, list[TurnKept]] = defaultdict(list)
    for turn in facts.turns.values():
        by_token[token_in(turn.text)].append(turn)
    for by, turns in by_token.items():
        says = facts.says.get(by)
        if says is None or says.text != turns[0].text or says.thread != turns[0].thread:
            yield Violation("turn nobody asked for", f"turn {turns[0].id} of thread {turns[0].thread}: {turns[0].text}")
        if len(turns) > 1:
            yield Violation("doubled turn", f"{by} is turns {', '.join(turn.id for turn in turns)}")
    for opened in facts.opened:
        # Whoever was cancelled while it was given the thread has given it back.
        if opened.turn not in facts.turns and opened.by not in facts.cut:
            yield Violation("opened turn lost", f"{opened.by}: turn {opened.turn} of thread {opened.thread}")
