"""What a store in memory holds, as `rigs.contents` tells it of a file: every turn on every branch of every thread.

Rule of this file: it asks through the library alone, when nobody else is at work.
"""

from __future__ import annotations

from typing import Any

from holdfast import AgentThread, HoldfastError, MemoryStore, Turn
from rigs.evidence import Contents, ThreadSeen, TurnSeen


async def read_memory(store: MemoryStore) -> Contents:
    """Everything in a store in memory."""
    found: dict[str, TurnSeen] = {}
    threads: list[ThreadSeen] = []
    infos = (await store.list(limit=1000)).threads
    for info in sorted(infos, key=lambda info: info.created_us):  # a fork after its source
        thread = AgentThread(store, info.id, intent="existing")
        try:
            told = await thread.turns()
            threads.append(ThreadSeen(info.id, told[-1].id if told else None, _ids(told), info.busy))
            for branch in await thread.branches():
                await thread.switch(branch.turn_id)
                _take(found, info.id, await thread.turns())
            if told:
                await thread.switch(told[-1].id)
        except HoldfastError as error:
            threads.append(ThreadSeen(info.id, None, flaw=f"{type(error).__name__}: {error}"))
    logs: Any = store._shared.logs.values()
    tickets = tuple(ticket.turn_id for log in logs for row in log.threads.rows.values() for ticket in row.line)
    return Contents(tuple(found.values()), tuple(threads), tickets, sum(len(log.journals.rows) for log in logs))


def _ids(turns: list[Turn]) -> tuple[str, ...]:
    return tuple(turn.id for turn in turns)


def _take(found: dict[str, TurnSeen], thread: str, turns: list[Turn]) -> None:
    before: str | None = None
    for turn in turns:
        if turn.id not in found:
            said, answered = ([(message.role, message.text) for message in part] for part in (turn.input, turn.output))
            found[turn.id] = TurnSeen(turn.id, len(found), thread, before, turn.status, tuple(said), tuple(answered))
        before = turn.id
