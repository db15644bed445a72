"""THE loop: the story of one turn. Streamed or not, every turn of every agent goes through here.

Each concern has its file below: who may run (leases, recovery), what was said before (history), one question and its
answer (runs), how tool calls are made (acting) and what is known of them (effects), how a turn reaches the log
(sealing), what others have said of the same turn (following).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from holdfast.conversation.approvals import ApprovalUpdate
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.following import catch_up
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun


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
            if not run.calls:
                await run.ask()
                while (updates := await run.next_updates()) is not None:
                    yield updates
                run.answered()
            while run.calls and (results := await run.next_results()):
                for result in results:
                    yield iter((result,))
            going = await run.has_more()
        if run.requests:
            yield iter([ApprovalUpdate(request=request) for request in run.requests])
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
