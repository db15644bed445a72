"""An agent offered to MCP clients: what a client is told, whatever the agent is and does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from holdfast import SQLiteStore, ThreadStore, tool
from holdfast.testing.scripted import ScriptedChatClient, calling
from holdfast.tools.mcp_serving import make_server


def text(result: Any) -> str:
    return str(result.content[0].text)


async def test_an_agent_without_a_store_has_no_conversations_to_go_on_with() -> None:
    agent = ScriptedChatClient("One.", "Two.").create_agent(name="Ann", description="Counts.")
    async with Client(make_server(agent)) as client:
        (offered,) = (await client.list_tools()).tools
        assert (offered.name, offered.description) == ("Ann", "Counts.")
        assert set(offered.input_schema["properties"]) == {"message"}
        first, second = [await client.call_tool("Ann", {"message": "Count."}) for _ in range(2)]
        assert [text(first), text(second)] == ["One.", "Two."]
        assert len(first.content) == 1
        assert first.structured_content["thread_id"] != second.structured_content["thread_id"]
        assert (await client.call_tool("Ann", {"message": "Count.", "thread_id": "t"})).is_error


async def test_the_tool_may_have_another_name(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(name="Frau Müller", thread_store=store)
    assert make_server(agent).name == "Frau_M_ller"
    async with Client(make_server(agent, name="ask")) as client:
        assert text(await client.call_tool("ask", {"message": "Hi."})) == "You said: Hi."
        with pytest.raises(MCPError, match="There is no tool"):
            await client.call_tool("Frau_M_ller", {"message": "Hi."})


async def test_what_waits_for_approval_is_told(store: ThreadStore) -> None:
    paid = []

    @tool(approval=True)
    def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    model = ScriptedChatClient(calling(("pay", {"amount": 5})), "Paid.")
    agent = model.create_agent(name="bank", thread_store=store, tools=[pay])
    async with Client(make_server(agent)) as client:
        waits = await client.call_tool("bank", {"message": "Pay."})
        assert waits.is_error
        assert "allows these calls: pay" in text(waits)
        assert not paid
        assert text(await client.call_tool("bank", {"message": "Then not."})) != ""


async def test_a_call_that_is_cancelled_ends_as_cancelled(store: ThreadStore) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def for_ever() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    agent = ScriptedChatClient(["Once ", for_ever]).create_agent(name="teller", thread_store=store)
    async with Client(make_server(agent)) as client:
        call = asyncio.create_task(client.call_tool("teller", {"message": "Tell."}))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await ended.wait()
        (row,) = (await store.list()).threads
        thread = agent.get_thread(row.id)
        while not (turns := await thread.turns()):
            await asyncio.sleep(0.01)
    (turn,) = turns
    assert turn.status == "cancelled"
    assert [message.text for message in turn.output] == ["Once "]


async def test_an_agent_uses_an_agent_through_the_protocol(tmp_path: Any) -> None:
    """The same store on both sides, each with its own threads."""
    store = SQLiteStore(tmp_path / "threads.db")
    inner = ScriptedChatClient("Forty-two.").create_agent(name="oracle", thread_store=store)
    async with Client(make_server(inner)) as client:

        @tool
        async def oracle(message: str) -> str:
            return text(await client.call_tool("oracle", {"message": message}))

        model = ScriptedChatClient(calling(("oracle", {"message": "?"})), "It is forty-two.")
        outer = model.create_agent(thread_store=store, tools=[oracle])
        assert (await outer.run("Ask.", thread=outer.get_new_thread())).text == "It is forty-two."
    assert len((await store.list()).threads) == 2
    store.close()
