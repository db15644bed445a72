"""Conversations by chance: any answers, sound and odd, any faults, and callers who do as they like.

Each turn is streamed or not, with an idempotency key or without; about a third of the answers go wrong, once or again
and again. Callers say the same again, ask to go on, have the last answer made anew, go back, leave a stream in its
middle, or just say the next thing.

Rule of this file: everything follows from the chance that is passed in; nothing is judged here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from holdfast import AgentThread, ChatAgent, Turn
from rigs.faults_kinds import KINDS, SILENCE, Kind, Spot, spots
from rigs.faults_play import RETRIES, Booth, Played, Spoken, left_in, nothing_was_said, speak, writes_of
from rigs.faults_talks import GO_ON, ODD_ANSWERS, TALKS, Exchange, Talk

_EXCHANGES = [exchange for talk in (*TALKS, *ODD_ANSWERS) for exchange in talk.exchanges]
_LIGHT = [kind for kind in KINDS if not kind.heavy and kind.name != SILENCE]
_TURNS = (2, 7)
_GOES_WRONG, _KEYED, _LEFT = 0.35, 0.3, 0.1


async def lead(booth: Booth, chance: random.Random) -> Played:
    """One conversation."""
    talk = Talk("by chance", (), chance.choice((None, "Be brief.")))
    agent = booth.agent(talk)
    thread = agent.get_new_thread()
    spoken: list[Spoken] = []
    said: set[str] = set()
    for _ in range(chance.randint(*_TURNS)):
        exchange = chance.choice([one for one in _EXCHANGES if one.said not in said])
        said.add(exchange.said)
        spoken += await _turn(booth, agent, thread, exchange, chance)
        await booth.gate.heal()
        spoken += await _move(booth, agent, thread, chance, said)
    spoken.append(await speak(booth, agent, thread, "Are you there?", streamed=chance.random() < 0.5))
    turns = await thread.turns()
    await thread.delete()
    return Played(None, spoken, turns, talk.instructions, left_in(booth))


async def _turn(
    booth: Booth, agent: ChatAgent, thread: AgentThread, exchange: Exchange, chance: random.Random
) -> list[Spoken]:
    """One thing that is said, until it is answered or given up."""
    options: dict[str, Any] = {"streamed": chance.random() < 0.5}
    if chance.random() < _KEYED:
        options["idempotency_key"] = f"key {chance.getrandbits(64)}"
    if chance.random() < _GOES_WRONG:
        await _go_wrong(booth, exchange, chance, streamed=options["streamed"])
    if options["streamed"] and chance.random() < _LEFT:
        options["leave_after"] = chance.randrange(4)
    found = [await speak(booth, agent, thread, exchange.said, **options)]
    booth.service.forgive()
    await booth.gate.heal()
    options.pop("leave_after", None)
    if found[0].error is None or chance.random() < 0.3:
        return found
    if nothing_was_said(found[0]):
        found.append(await speak(booth, agent, thread, exchange.said, **options))
    else:
        found.append(await speak(booth, agent, thread, f"{GO_ON} ({exchange.said})"))
    return found


async def _go_wrong(booth: Booth, exchange: Exchange, chance: random.Random, *, streamed: bool) -> None:
    number = chance.randrange(len(exchange.answers))
    writes = writes_of(exchange.answers[number], streamed=streamed)
    faults: list[tuple[Kind, Spot]] = []
    for _ in range(chance.choice((1, 1, 2, RETRIES + 1, RETRIES + 2))):
        kind = chance.choice(_LIGHT)
        where: Sequence[Spot] = spots(kind, writes, streamed=streamed) or (None,)
        faults.append((kind, chance.choice(where)))
    booth.service.spoil(exchange.said, number, faults)
    first = faults[0][0]
    if first.gate not in (None, "shut"):
        await booth.gate.become(first.gate, len(faults))  # type: ignore[arg-type]


async def _move(
    booth: Booth, agent: ChatAgent, thread: AgentThread, chance: random.Random, said: set[str]
) -> list[Spoken]:
    """Now and then the last answer is made anew, or taken back."""
    what = chance.random()
    turns = await thread.turns()
    if what < 0.06 and turns:
        await thread.rewind()
        said.discard(_said_in(turns[-1]))
    elif what < 0.12 and turns and turns[-1].status == "completed":
        return [await speak(booth, agent, thread, _said_in(turns[-1]), anew=True)]
    return []


def _said_in(turn: Turn) -> str:
    return "".join(message.text for message in turn.input)
