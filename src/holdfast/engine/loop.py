"""THE loop: the story of one turn. Streamed or not, every turn of every agent goes through here.

Each concern has its file below: who may run (leases, recovery), what was said before (history), one question and its
answer (runs), how tool calls are made (acting) and what is known of them (effects), how a turn reaches the log
(sealing), what others have said of the same turn (following), what callers put around it all (middleware).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from holdfast.conversation.approvals import ApprovalUpdate
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.following import catch_up
from holdfast.engine.middleware import driven
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun
from holdfast.engine.surrounding import asked, surrounded


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
        if going and (run.spec.providers or run.kit.sources):
            await run.prepare()
        if going:
            steps = driven(surrounded(run, take_rounds)) if run.spec.around.run else take_rounds(run)
            async with aclosing(steps):
                async for updates in steps:
                    yield updates
        if run.requests:
            yield iter([ApprovalUpdate(request=request) for request in run.requests])
    except BaseException as error:
        failure = run.explained(error)
        await run.close(failure)
        if failure is error:
            raise
        raise failure from None
    await run.close()


async def take_rounds(run: TurnRun) -> AsyncGenerator[Iterator[AgentRunResponseUpdate], None]:
    """Ask, and have the calls of the answer made, until there is nothing more to ask."""
    going = True
    while going:
        if not run.calls:
            if run.spec.around.model:
                async with aclosing(driven(asked(run))) as steps:
                    async for updates in steps:
                        yield updates
            else:
                await run.ask()
                while (new := await run.next_updates()) is not None:
                    yield new
            run.answered()
        while run.calls and (results := await run.next_results()):
            for result in results:
                yield run.tell(result)
        going = await run.has_more()


async def fold(run: TurnRun) -> AgentRunResponse:
    """The same run without a reader: every update counts as read, and the response is the result."""
    async for _ in take_turn(run):
        continue
    return run.response()
