"""THE loop: the story of one turn. Streamed or not, every turn of every agent goes through here.

Each concern has its file below: who may run (leases, recovery), what was said before (history), one question and its
answer (runs), how a turn reaches the log (sealing), what becomes of tool calls (effects), what others have said of
the same turn (following).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.effects import results_of
from holdfast.engine.following import catch_up
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun

# How often the model is asked within one turn, should it go on calling tools.
MAX_ROUNDS = 10


async def take_turn(run: TurnRun) -> AsyncGenerator[Iterator[AgentRunResponseUpdate], None]:
    """Make the turn; yield what comes, in batches that are to be read one by one.

    Closing this generator, or cancelling the task that drives it, ends the turn as cancelled with what was read.
    """
    try:
        going = await run.open()
        while not going and not run.is_done:
            async for earlier in catch_up(run):
                yield earlier
            going = run.is_open or (not run.is_done and await run.open())
        while going:
            await run.ask()
            while (updates := await run.next_updates()) is not None:
                yield updates
            calls = run.answered()
            going = bool(calls) and run.rounds < MAX_ROUNDS
            if going:
                run.add_results(results_of(calls))
    except BaseException as error:
        failure = run.explained(error)
        await run.close(failure)
        if failure is error:
            raise
        raise failure from None
    await run.close()


async def fold(run: TurnRun) -> AgentRunResponse:
    """The same run without a reader: every update counts as read, and the response is the result."""
    async for _ in take_turn(run):
        continue
    return run.response()
