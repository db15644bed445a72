"""The subject holdfast: a ChatAgent on an SQLiteStore, with the scripted client that holdfast ships.

Rule of this file: it knows holdfast and no other library.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from holdfast import AgentThread, ChatAgent, ChatMessage, SQLiteStore, ToolCallUpdate, tool
from holdfast.conversation.errors import ServiceUnavailableError
from holdfast.conversation.updates import AgentRunResponseUpdate, FinishUpdate
from holdfast.engine.options import RunOptions
from holdfast.ports.clients import ChatRequest
from holdfast.testing.scripted import ScriptedChatClient, Step
from rigs.peers.worker import THREAD, TOOL, Saying, Worker, serve

_KEYED = "idempotency_key" in get_type_hints(RunOptions)


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "role": message["role"],
        "text": message.get("content") or "",
        "calls": [call["id"] for call in message.get("tool_calls") or ()],
        "result": message.get("tool_call_id", ""),
    }


def _client(saying: Saying) -> ScriptedChatClient:
    """A model that says what the saying is to be answered with, and tells the campaign what it was sent."""

    async def asked() -> None:
        saying.asked(client.requests[-1]["messages"], _told)
        await asyncio.sleep(saying.thinks)

    if saying.calls_tool:
        call = ToolCallUpdate(index=0, call_id=f"call-{saying.n}", name=TOOL, arguments="{}")
        client = ScriptedChatClient([asked, call, FinishUpdate(finish_reason="tool_calls")], [asked, *saying.pieces])
        return client
    steps: list[Step] = [asked]
    if saying.fails:
        steps.append(ServiceUnavailableError("The service is unavailable.", service="scripted"))
    for number, piece in enumerate(saying.pieces):
        if number and saying.streamed:
            steps.append(partial(asyncio.sleep, saying.every))
        steps.append(piece)
    client = ScriptedChatClient(steps)
    return client


class _Deaf(ScriptedChatClient):
    """Answers without a look at what it was sent, so that only the library is measured."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self._answer = answer

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        yield [AgentRunResponseUpdate(self._answer), FinishUpdate(finish_reason="stop")]


class HoldfastWorker(Worker):
    """One agent for each saying (agents hold nothing), one thread."""

    packages = ("holdfast", "apsw")
    able = frozenset({"stop", "tools"} | ({"key"} if _KEYED else set()))
    reads = "SELECT record FROM turns ORDER BY n"

    async def open(self) -> None:
        self._store = SQLiteStore(self.path)

    async def close(self) -> None:
        self._store.close()

    async def run(self, saying: Saying) -> str:
        agent, thread = self._made(_Deaf(saying.answer) if saying.quiet else _client(saying), saying)
        return (await agent.run(saying.text, thread=thread, **self._options(saying))).text

    async def stream(self, saying: Saying) -> None:
        agent, thread = self._made(_client(saying))
        if saying.leaves_how != "stop":
            async for update in agent.run_stream(saying.text, thread=thread, **self._options(saying)):
                if saying.hear(update.text):
                    break
            return
        async with agent.run_stream(saying.text, thread=thread) as stream:
            async for update in stream:
                if saying.hear(update.text):
                    break

    async def seed(self, turns: list[tuple[str, str]]) -> None:
        _, thread = self._made(ScriptedChatClient())
        messages = []
        for said, answered in turns:
            messages += [ChatMessage("user", text=said), ChatMessage("assistant", text=answered)]
        await thread.add_messages(messages)

    def _made(self, client: ScriptedChatClient, saying: Saying | None = None) -> tuple[ChatAgent, AgentThread]:
        tools = [tool(name=TOOL)(saying.in_tool)] if saying is not None and saying.calls_tool else []
        agent = client.create_agent(thread_store=self._store, tools=tools)
        return agent, agent.get_thread(THREAD, create=True)

    def _options(self, saying: Saying) -> Any:
        return {"idempotency_key": saying.key} if saying.key is not None and _KEYED else {}


if __name__ == "__main__":
    serve(HoldfastWorker)
