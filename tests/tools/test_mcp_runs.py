"""MCP servers as sources of tools: whole runs of agents, with what clashes, waits, changes and dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mcp_calling import child, until

from holdfast import SQLiteStore, ThreadStore, ToolResultContent, tool
from holdfast.conversation.errors import InvalidInputError, ServiceUnavailableError
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.toolkits import toolkit
from holdfast.ports.tools import Tool
from holdfast.testing.scripted import ScriptedChatClient, calling
from holdfast.tools.mcp import MCPServer


def results(response: AgentRunResponse) -> list[tuple[str, bool]]:
    """What the model was told of its calls, and whether as an error."""
    parts = [part for message in response.messages for part in message.contents]
    return [(part.result, part.is_error) for part in parts if isinstance(part, ToolResultContent)]


def offered(client: ScriptedChatClient, request: int = -1) -> list[str]:
    return [each["function"]["name"] for each in client.requests[request].get("tools", ())]


async def test_an_agent_calls_tools_of_a_server() -> None:
    client = ScriptedChatClient(calling(("add", {"a": 2, "b": 3}), ("fail", {"why": "no"})), "Five.")
    async with child() as server:
        response = await client.create_agent(tools=[server]).run("What is 2 + 3?")
    assert response.text == "Five."
    assert results(response) == [("5", False), ("no", True)]
    assert "add" in offered(client)


async def test_the_list_of_a_server_may_be_given_as_tools() -> None:
    client = ScriptedChatClient(calling(("add", {"a": 2, "b": 3})), "Five.")
    async with child(allowed=["add"]) as server:
        agent = client.create_agent(tools=[*await server.tools()])
        assert results(await agent.run("What is 2 + 3?")) == [("5", False)]


def add(a: int, b: int) -> str:
    """A function of the same name."""
    return f"mine: {a + b}"


async def test_names_that_clash_are_told_by_the_servers_name() -> None:
    client = ScriptedChatClient(
        calling(*((name, {"a": 2, "b": 3}) for name in ("add", "one__add", "two__add"))), "Done."
    )
    one, two = child(name="one", allowed=["add", "pid"]), child(name="two", allowed=["add"])
    async with one, two:
        agent = client.create_agent(tools=[add, one])
        response = await agent.run("Add.", tools=[two, one])
    assert offered(client) == ["add", "one__add", "pid", "two__add"]
    assert results(response) == [("mine: 5", False), ("5", False), ("5", False)]


async def test_a_server_that_is_killed_in_the_middle_of_a_run_is_a_result(tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    @tool
    async def kill() -> str:
        await until(lambda: marks.exists() and marks.read_text().startswith("began"))
        os.kill(int(marks.read_text().split()[1]), signal.SIGKILL)
        return "killed"

    client = ScriptedChatClient(
        calling(("slow", {"marks": str(marks)}), ("kill", {})), calling(("add", {"a": 2, "b": 3})), "Fine."
    )
    async with child() as server:
        response = await client.create_agent(tools=[server, kill]).run("Go.")
    (lost, is_error), *rest = results(response)
    assert is_error
    assert "unknown" in lost
    assert rest == [("killed", False), ("5", False)]
    assert response.text == "Fine."


async def test_a_list_that_changes_in_a_run_is_another_in_the_next() -> None:
    client = ScriptedChatClient(calling(("change", {})), calling(("change", {})), "So.", calling(("changed_tool", {})))
    async with child(allowed=["change", "changed.tool"]) as server:
        agent = client.create_agent(tools=[server])
        response = await agent.run("Change.")
        assert [error for _, error in results(response)] == [False, True]
        assert all(offered(client, request) == ["change"] for request in range(3))
        while [tool.spec.name for tool in await server.tools()] == ["change"]:
            await asyncio.sleep(0.02)
        assert results(await agent.run("And now?")) == [("I am new.", False)]


async def test_a_call_that_needs_approval_waits_and_is_answered_by_another_server_object(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"

    def rule(name: str, arguments: dict[str, Any]) -> bool:
        return name == "add" and arguments["a"] > 1

    calls = calling(("things__add", {"a": 2, "b": 3}), ("things__add", {"a": 1, "b": 1}))
    store = SQLiteStore(path)
    async with child(approval=rule, prefix="things") as server:
        agent = ScriptedChatClient(calls).create_agent(thread_store=store, tools=[server])
        response = await agent.run("Add.", thread=agent.get_new_thread("money"))
    assert [request.tool for request in response.approvals] == ["things__add"]
    store.close()

    store = SQLiteStore(path)
    async with child(approval=rule, prefix="things") as server:
        other = ScriptedChatClient("Five.").create_agent(thread_store=store, tools=[server])
        ended = await other.run([each.approve() for each in response.approvals], thread=other.get_thread("money"))
    assert ended.text == "Five."
    assert results(ended) == [("5", False), ("2", False)]
    store.close()


async def test_a_server_that_is_not_there_fails_the_run_and_not_the_thread(store: ThreadStore) -> None:
    client = ScriptedChatClient("Hello.")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("Hi.", thread=thread, tools=[MCPServer.stdio("false")])
    assert (await agent.run("Hi.", thread=thread)).text == "Hello."


# --- sources ---------------------------------------------------------------------------------------------------


class Shelf:
    """A source of functions."""

    def __init__(self, name: str, *functions: Any) -> None:
        self.name = name
        self.offered: Sequence[Tool] = tuple(tool(function) for function in functions)

    async def tools(self) -> Sequence[Tool]:
        return self.offered


def one() -> str:
    return "one"


def two() -> str:
    return "two"


async def test_what_is_resolved_is_the_same_as_long_as_the_sources_offer_the_same() -> None:
    shelf, other = Shelf("shelf", one), Shelf("other", two)
    kit = toolkit([add, shelf, other, shelf])
    found = await kit.resolved()
    assert list(found.by_name) == ["add", "one", "two"]
    assert await kit.resolved() is found
    shelf.offered = (*shelf.offered, tool(add))
    changed = await kit.resolved()
    assert changed is not found
    assert list(changed.by_name) == ["add", "one", "shelf__add", "two"]
    assert changed.by_name["shelf__add"].spec.name == "shelf__add"
    assert await changed.resolved() is changed
    assert await toolkit([add]).resolved() is not None


async def test_all_names_are_apart_and_fit() -> None:
    def x__add(a: int) -> str:
        return "another"

    long = Shelf("a server with a name as long as this one is, and then some more of it", add)
    twins = [Shelf("x", add), Shelf("x", add), Shelf("y.z", add)]
    found = (await toolkit([x__add, *twins, long]).resolved()).by_name
    assert list(found)[:4] == ["x__add", "x__add_2", "x__add_3", "y_z__add"]
    assert len(found) == 5
    assert all(len(name) <= 64 and found[name].spec.name == name for name in found)


def test_a_source_alone_is_taken_and_other_things_are_refused() -> None:
    shelf = Shelf("shelf", one)
    assert toolkit(shelf).sources == (shelf,)
    assert toolkit([shelf]).joined(toolkit([shelf, add])).sources == (shelf,)
    with pytest.raises(InvalidInputError):
        toolkit([Shelf])
    with pytest.raises(InvalidInputError):
        toolkit([object()])
