"""The probes: each injects one fault into a conversation, says the next message, and has the outcome judged.

Rule of this file: a probe knows no subject. What a subject cannot do is asked of its abilities, and left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from rigs.peers import judge
from rigs.peers.files import flip, holds
from rigs.peers.judge import Answers, Question, Turn
from rigs.peers.stage import PIECES, Stage, heard

_ANSWERS_FOR = 0.3  # seconds that the model takes for an answer, where nothing else is said
_SHORT, _LONG = 10, 1000  # turns of history
_MEASURED = 10

Run = Callable[[Stage], Awaitable[Answers]]


@dataclass(frozen=True)
class Probe:
    """A fault. `needs` is what a subject must be able to; `otherwise` is said of those that are not."""

    name: str
    title: str
    run: Run
    needs: str = ""
    otherwise: str = "no such option"


# --- two at once ---------------------------------------------------------------------------------------------------


async def _two_at_once(stage: Stage, *, processes: int) -> Answers:
    callers = [await stage.caller() for _ in range(processes)]
    await stage.first(callers[0])
    turns = [stage.turn(), stage.turn()]
    numbers = []
    for turn, caller in zip(turns, (callers * 2)[:2], strict=True):
        numbers.append((caller, stage.say(caller, turn, thinks=stage.chance.uniform(0.1, _ANSWERS_FOR))))
        await asyncio.sleep(stage.chance.uniform(0, 0.1))  # the second comes while the first is answered
    ends = [await caller.end_of(n) for caller, n in numbers]
    for caller in callers:
        await caller.end()
    acked = [turn for turn, end in zip(turns, ends, strict=True) if end["event"] == "done"]
    stored = [turn for turn in acked if holds(stage.path, turn.text) and holds(stage.path, turn.mark)]
    sent = await stage.sent_next()
    return judge.two_at_once(acked, sent, stored=stored, failed=len(acked) < len(turns))


# --- killed ---------------------------------------------------------------------------------------------------------


async def _killed_before_a_word(stage: Stage, *, within: float) -> Answers:
    """The model has been asked; some time of its thinking later, the process is killed."""
    caller = await stage.caller()
    await stage.first(caller)
    turn = stage.turn()
    n = stage.say(caller, turn, thinks=60)
    await caller.until("asked", n=n)
    await asyncio.sleep(stage.chance.uniform(0, within))
    await caller.kill()
    return await _after_a_cut(stage, turn)


async def _killed_in_the_middle(stage: Stage) -> Answers:
    """Two seconds of streaming; killed around the half."""
    caller = await stage.caller()
    await stage.first(caller)
    turn = stage.turn()
    n = stage.say(caller, turn, streamed=True, thinks=0.05, every=0.1)
    await caller.until("heard", n=n, count=stage.chance.randint(PIECES // 2 - 3, PIECES // 2 + 3))
    await asyncio.sleep(stage.chance.uniform(0, 0.1))
    await caller.kill()
    return await _after_a_cut(stage, replace(turn, heard=heard(caller, n)))


async def _after_a_cut(stage: Stage, turn: Turn) -> Answers:
    stored = holds(stage.path, turn.text)
    return judge.cut_off(turn, await stage.sent_next(), stored=stored)


# --- left -----------------------------------------------------------------------------------------------------------


async def _left(stage: Stage, *, how: str) -> Answers:
    """The reader leaves in the middle; its process lives on, and says the next message at once."""
    caller = await stage.caller()
    await stage.first(caller)
    turn, at_once = stage.turn(), stage.turn()
    after = stage.chance.randint(PIECES // 4, PIECES // 2)
    n = stage.say(caller, turn, streamed=True, thinks=0.02, every=0.02, leaves_after=after, leaves_how=how)
    await caller.end_of(n)
    end = await stage.done(caller, at_once, thinks=0.1)
    await asyncio.sleep(PIECES * 0.02 + 0.2)  # whatever goes on behind the reader's back comes to its end
    await caller.end()
    stored, sent = holds(stage.path, turn.text), await stage.sent_next()
    answers = judge.cut_off(replace(turn, heard=heard(caller, n)), sent, stored=stored)
    answers[judge.INTERLEAVED] = None if sent is None else judge.interleaved([turn, at_once], sent)
    answers[judge.REFUSED] = answers[judge.REFUSED] or end["event"] == "failed"
    return answers


# --- said again -----------------------------------------------------------------------------------------------------


async def _failed_first(stage: Stage, *, key: str | None = None, resume: bool = False) -> Answers:
    caller = await stage.caller()
    await stage.first(caller)
    turn = stage.turn()
    end = await stage.done(caller, turn, fails=True, key=key)
    assert end["event"] == "failed", end
    return await _again(stage, turn, key=key, resume=resume)


async def _acknowledgement_lost(stage: Stage, *, key: str | None = None) -> Answers:
    """The library has returned; the process dies before it can pass that on."""
    caller = await stage.caller()
    await stage.first(caller)
    turn = stage.turn()
    stage.say(caller, turn, thinks=0.05, key=key, dies=True)
    await caller.dead()
    assert holds(stage.path, turn.mark), "the turn was to be stored"
    return await _again(stage, turn, key=key)


async def _again(stage: Stage, turn: Turn, *, key: str | None, resume: bool = False) -> Answers:
    caller = await stage.caller()
    n = stage.say(caller, turn, key=key, resume=resume)
    end = await caller.end_of(n)
    asked = caller.seen("asked", n=n)
    await caller.end()
    retried = asked[0]["messages"] if asked else None
    afterwards = await stage.sent_next()
    return judge.said_again(turn, retried, afterwards, failed=end["event"] == "failed")


# --- damage, tools, cost ------------------------------------------------------------------------------------------


async def _flipped_bit(stage: Stage) -> Answers:
    caller = await stage.caller()
    turns = [await stage.first(caller) for _ in range(3)]
    await caller.end()
    turn = stage.chance.choice(turns)
    text = stage.chance.choice((turn.text, turn.answer.strip()))
    flip(stage.path, text, stage.reads, stage.chance)
    sent = await stage.sent_next()
    if text != turn.text and sent is not None:
        text = turn.answer
    return judge.flipped(text, sent, 2 * len(turns))


async def _killed_in_a_tool(stage: Stage) -> Answers:
    caller = await stage.caller()
    await stage.first(caller)
    n = stage.say(caller, stage.turn(), calls_tool=True)
    await caller.until("in tool", n=n)
    await asyncio.sleep(stage.chance.uniform(0, _ANSWERS_FOR))
    await caller.kill()
    return judge.unpaired(await stage.sent_next(), f"call-{n}")


async def _cost(stage: Stage) -> Answers:
    found = {}
    for turns in (_SHORT, _LONG):
        caller = await stage.caller(stage.path.with_name(f"{turns}.db"))
        history = [stage.turn() for _ in range(turns)]
        caller.send("seed", turns=[(turn.text, turn.answer) for turn in history])
        await caller.until("seeded")
        turn = stage.turn()
        caller.send("measure", turns=_MEASURED, text=turn.text, answer=turn.answer)
        found[turns] = await caller.until("measured")
        await caller.end()
    short, long = found[_SHORT], found[_LONG]
    return {
        Question(f"bytes written per turn at {_SHORT} turns of history", "bytes"): short["bytes"],
        Question(f"bytes written per turn at {_LONG:,} turns of history", "bytes"): long["bytes"],
        Question(f"bytes, {_LONG:,} turns to {_SHORT}", "ratio"): long["bytes"] / short["bytes"],
        Question(f"CPU time, {_LONG:,} turns to {_SHORT}", "ratio"): long["cpu"] / short["cpu"],
    }


async def _with(stage: Stage, *, way: str, run: Run) -> Answers:
    stage.use(way)
    return await run(stage)


PROBES = (
    Probe("two-tasks", "two runs at once on one thread, two tasks", partial(_two_at_once, processes=1)),
    Probe("two-processes", "two runs at once on one thread, two processes", partial(_two_at_once, processes=2)),
    Probe("killed-asking", "SIGKILL the moment that the model is asked", partial(_killed_before_a_word, within=0.0)),
    Probe(
        "killed-thinking",
        "SIGKILL within the first 0.3 s of the model's thinking",
        partial(_killed_before_a_word, within=_ANSWERS_FOR),
    ),
    Probe("killed-streaming", "SIGKILL around the half of a streamed answer", _killed_in_the_middle),
    Probe("left-by-break", "the reader breaks out of a stream", partial(_left, how="break")),
    Probe("left-by-cancel", "the reader's task is cancelled", partial(_left, how="cancel")),
    Probe("left-by-stop", "the reader closes the stream", partial(_left, how="stop"), "stop"),
    Probe("retry", "the model fails; the caller says the same again", _failed_first),
    Probe("retry-keyed", "the same, and the message has a key of its own", partial(_failed_first, key="key-1"), "key"),
    Probe(
        "retry-resumed", "the model fails; the caller resumes the run", partial(_failed_first, resume=True), "resume"
    ),
    Probe("lost-ack", "killed after the turn was stored; the caller says the same again", _acknowledgement_lost),
    Probe(
        "lost-ack-keyed",
        "the same, and the message has a key of its own",
        partial(_acknowledgement_lost, key="key-1"),
        "key",
    ),
    Probe("flipped-bit", "one bit of a stored text flips", _flipped_bit),
    Probe("killed-in-tool", "SIGKILL inside a tool, after its effect", _killed_in_a_tool, "tools"),
    Probe(
        "killed-in-ready-made",
        "the same, with the ready-made agent (create_agent)",
        partial(_with, way="ready-made", run=_killed_in_a_tool),
        "ready-made",
        "–",
    ),
    Probe("cost", "what a turn costs", _cost),
    Probe(
        "cost-lean", "the same, with messages stored as deltas (in beta)", partial(_with, way="lean", run=_cost), "lean"
    ),
)
