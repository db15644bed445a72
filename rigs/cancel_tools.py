"""Situations: tools, cancelled: functions, servers, calls that wait for approvals, and agents that others ask.

Rule of this file: the tools are such as users write: they wait for a moment, and know nothing of the rig.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from holdfast import (
    ApprovalError,
    ApprovalUpdate,
    Limits,
    MCPServer,
    ToolContext,
    tool,
)
from rigs.cancel_model import ASKS, ASKS_TO_PAY, BEFORE, LOOKS, PAYS, moment
from rigs.cancel_stage import Stage, situation

RUN = "ChatAgent.run"
CALL, LOOK_BACK, APPROVALS = "FunctionTool.call", "ToolContext.look_back", "AgentThread.approvals"


@tool
async def soon() -> str:
    """Waits for a moment."""
    await moment()
    return "soon it is"


@tool
def aside() -> str:
    """Works in a thread."""
    time.sleep(0.001)
    return "aside it is"


@tool
async def find(ctx: ToolContext[None]) -> str:
    """Looks for what was said long ago."""
    return "nothing" if await ctx.look_back(lambda _: False) is None else "something"


@tool(approval=True)
async def pay(amount: int) -> str:
    """Pays, if it may."""
    await moment()
    return f"{amount} paid"


TOOLS = (soon, aside, find)


# --- tools ---------------------------------------------------------------------------------------------------------


@situation(RUN, CALL, LOOK_BACK)
async def a_run_whose_tools_work_at_once(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, LOOKS))
    return stage.run(LOOKS, tools=TOOLS)


@situation(RUN, CALL)
async def a_run_whose_tools_wait_for_each_other(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (LOOKS,))
    return stage.run(LOOKS, tools=TOOLS, limits=Limits(parallel_calls=1))


@situation("ChatAgent.run_stream", "AgentRunStream.__anext__", CALL)
async def a_stream_whose_tools_work_at_once(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, LOOKS))
    return stage.read_all(stage.stream(LOOKS, tools=TOOLS), LOOKS, lazy=True)


@situation(RUN, on=("memory", "distant"))
async def a_run_whose_tools_take_too_long(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (LOOKS,))

    @tool(name="soon")
    async def never() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await moment()
        return "never"

    return stage.run(LOOKS, tools=[never, aside, find], limits=Limits(tool_seconds=0.01))


@situation(RUN)
async def a_run_with_tools_that_a_source_offers(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (LOOKS,))
    return stage.run(LOOKS, tools=[Source()])


class Source:
    """A source of tools that has to be asked."""

    name = "source"

    async def tools(self) -> Sequence[Any]:
        await moment()
        return TOOLS


@situation(CALL, LOOK_BACK, on=("memory",))
async def calling_tools_by_hand(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    context: ToolContext[None] = ToolContext("soon", "call_1", "turn", "thread", None)

    async def call() -> None:
        for one in TOOLS:
            await one.call("{}", context)
        await context.look_back(lambda _: True)

    return call()


# --- a server of tools ---------------------------------------------------------------------------------------------

# A child process for each point: by hand, since one that imports the official package begins a hundred times slower.
_SERVER = """
import json, sys
ANSWERS = {
    "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                   "serverInfo": {"name": "small", "version": "1"}},
    "tools/list": {"tools": [{"name": "soon", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "soon it is"}]},
}
for line in sys.stdin:
    asked = json.loads(line)
    method = asked["method"]
    told = {"result": ANSWERS[method]} if method in ANSWERS else {"error": {"code": -32601, "message": method}}
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}), flush=True)
"""


def _server(stage: Stage) -> MCPServer:
    """A server that is not connected to yet. Whatever becomes of who uses it, it is closed in the end."""
    server = MCPServer.stdio(sys.executable, ["-S", "-E", "-c", _SERVER], name="small")
    stage.afterwards.append(server.close)
    return server


@situation("MCPServer.__aenter__", "MCPServer.__aexit__", on=("memory",))
async def a_server_in_a_with_block(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (LOOKS,))
    server = _server(stage)

    async def use() -> None:
        async with server:
            await stage.run(LOOKS, tools=[server])

    return use()


@situation("MCPServer.tools", on=("memory",))
async def asking_a_server_for_its_tools(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    return _server(stage).tools()


@situation("MCPServer.close", on=("memory",))
async def closing_a_server(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    server = _server(stage)
    await server.tools()
    return server.close()


# --- approvals -----------------------------------------------------------------------------------------------------


@situation(RUN)
async def a_run_that_asks_for_an_approval(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.left_open = True
    stage.may_become((BEFORE,), (BEFORE, PAYS))
    return stage.agent.run(PAYS, thread=stage.thread, tools=[pay])


async def _waiting(stage: Stage) -> list[Any]:
    """A run that waits for an approval; the answers that allow it."""
    await stage.before()
    response = await stage.agent.run(PAYS, thread=stage.thread, tools=[pay])
    assert response.status == "waiting"
    stage.left_open = True
    stage.may_become((BEFORE, PAYS))
    return [request.approve() for request in response.approvals]


@situation(APPROVALS)
async def looking_what_waits(stage: Stage) -> Awaitable[Any]:
    await _waiting(stage)
    return stage.other_handle().approvals()


@situation(RUN)
async def a_run_with_an_approval(stage: Stage) -> Awaitable[Any]:
    return stage.agent.run(await _waiting(stage), thread=stage.thread, tools=[pay])


@situation(RUN)
async def a_run_with_an_approval_and_a_slow_source(stage: Stage) -> Awaitable[Any]:
    """Cancelled while the source is asked, it waits for the same answer as before."""
    answers = await _waiting(stage)
    return stage.agent.run(answers, thread=stage.thread, tools=[pay, Source()])


@situation(RUN)
async def a_run_with_an_approval_that_comes_too_late(stage: Stage) -> Awaitable[Any]:
    answers = await _waiting(stage)
    await stage.agent.run(answers, thread=stage.thread, tools=[pay])
    return _refused(stage.agent.run(answers, thread=stage.thread, tools=[pay]))


async def _refused(run: Awaitable[Any]) -> None:
    with contextlib.suppress(ApprovalError):
        await run


@situation("AgentThread.cancel")
async def stopping_a_run_that_waits_for_an_approval(stage: Stage) -> Awaitable[Any]:
    await _waiting(stage)
    return stage.other_handle().cancel()


@situation("AgentThread.follow", "TurnFollower.__anext__")
async def following_a_run_that_waits_for_an_approval(stage: Stage) -> Awaitable[Any]:
    turn_id = (await _waiting(stage))[0].turn_id

    async def follow() -> None:
        async for update in stage.other_handle().follow(turn_id):
            if isinstance(update, ApprovalUpdate):
                break

    return follow()


# --- agents as tools -----------------------------------------------------------------------------------------------


def _helper(stage: Stage, conversation: Any, **options: Any) -> Any:
    helper = stage.model.create_agent(name="helper", runtime=stage.world.runtime, **options)
    return helper.as_tool(conversation=conversation)


@situation(RUN)
async def a_run_that_asks_another_agent(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (ASKS,))
    return stage.run(ASKS, tools=[_helper(stage, "new")])


@situation(RUN, LOOK_BACK)
async def a_run_that_goes_on_with_another_agent(stage: Stage) -> Awaitable[Any]:
    helper = _helper(stage, "lasting")
    await stage.agent.run(ASKS, thread=stage.thread, tools=[helper])
    stage.times[ASKS] = 2
    stage.may_become((ASKS,), (ASKS, ASKS))
    return stage.agent.run(ASKS, thread=stage.thread, tools=[helper])


@situation(RUN, LOOK_BACK)
async def a_run_that_goes_back_to_where_another_agent_stood(stage: Stage) -> Awaitable[Any]:
    helper = _helper(stage, "lasting")
    for _ in range(2):
        await stage.agent.run(ASKS, thread=stage.thread, tools=[helper])
    await stage.thread.rewind()
    stage.times[ASKS] = 3
    stage.may_become((ASKS,), (ASKS, ASKS))
    return stage.agent.run(ASKS, thread=stage.thread, tools=[helper])


@situation(RUN)
async def a_run_that_asks_an_agent_that_may_not_go_on(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (ASKS_TO_PAY,))

    async def give_up() -> None:
        """The called agent may wait on its own thread, if it was cancelled before it was told not to."""
        for info in (await stage.store.list(waiting=True)).threads:
            await stage.agent.get_thread(info.id).cancel()

    stage.afterwards.append(give_up)
    return stage.run(ASKS_TO_PAY, tools=[_helper(stage, "lasting", tools=[pay])])
