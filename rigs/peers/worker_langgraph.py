"""The subject LangGraph: a graph of one model node (and a tool node) over messages, kept by AsyncSqliteSaver.

The saver sets WAL by itself; `synchronous` stays at SQLite's FULL. Settings: `durability` ("async" is LangGraph's own
default), `lean` for a state whose messages are a DeltaChannel (in beta), `ready-made` for LangChain's create_agent in
place of a graph of our own.

Rule of this file: it knows LangGraph and no other library that keeps conversations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent  # type: ignore[import-not-found]
from langchain_core.language_models import BaseChatModel  # type: ignore[import-not-found]
from langchain_core.messages import (  # type: ignore[import-not-found]
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult  # type: ignore[import-not-found]
from langchain_core.tools import tool  # type: ignore[import-not-found]
from langgraph.channels import DeltaChannel  # type: ignore[import-not-found]
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found]
from langgraph.graph import START, MessagesState, StateGraph  # type: ignore[import-not-found]
from langgraph.graph.message import _messages_delta_reducer  # type: ignore[import-not-found]
from langgraph.prebuilt import ToolNode, tools_condition  # type: ignore[import-not-found]

from rigs.peers.worker import THREAD, TOOL, Saying, Worker, serve

_CONFIG = {"configurable": {"thread_id": THREAD}}
_ROLES = {"human": "user", "ai": "assistant"}

_saying: ContextVar[Saying] = ContextVar("saying")


class _LeanState(TypedDict):
    messages: Annotated[list[BaseMessage], DeltaChannel(_messages_delta_reducer)]


def _told(message: Any) -> dict[str, Any]:
    return {
        "role": _ROLES.get(message.type, message.type),
        "text": message.text,
        "calls": [call["id"] for call in getattr(message, "tool_calls", ())],
        "result": message.tool_call_id if isinstance(message, ToolMessage) else "",
    }


class _FakeModel(BaseChatModel):  # type: ignore[misc]
    """Says what the saying of this task is to be answered with."""

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Any, **more: Any) -> Any:
        return self  # the saying knows when to call

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        raise RuntimeError("This model is asked asynchronously only.")

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        saying = _saying.get()
        saying.asked(messages, _told)
        await saying.think()
        message = AIMessage(saying.answer)
        if saying.calls_tool and not isinstance(messages[-1], ToolMessage):
            message = AIMessage("", tool_calls=[{"name": TOOL, "args": {}, "id": f"call-{saying.n}"}])
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any
    ) -> AsyncIterator[Any]:
        saying = _saying.get()
        saying.asked(messages, _told)
        async for piece in saying.said():
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


@tool(TOOL)  # type: ignore[untyped-decorator]
async def _send_letter() -> str:
    """Send the letter."""
    return await _saying.get().in_tool()


async def _model(state: Any) -> dict[str, Any]:
    return {"messages": [await _FakeModel().ainvoke(state["messages"])]}


def _graph_over(state: Any) -> Any:
    graph = StateGraph(state)
    graph.add_node("model", _model)
    graph.add_node("tools", ToolNode([_send_letter]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph


class LangGraphWorker(Worker):
    """One graph, one thread."""

    packages = ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint", "langchain", "langchain-core")
    able = frozenset({"stop", "key", "resume", "tools", "lean", "ready-made"})
    reads = "SELECT checkpoint FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 1"

    async def open(self) -> None:
        self._opened = AsyncSqliteSaver.from_conn_string(str(self.path))
        saver = await self._opened.__aenter__()
        self._durability = self.settings["durability"]
        if "ready-made" in self.settings:
            self._graph = create_agent(_FakeModel(), [_send_letter], checkpointer=saver)
        else:
            state = _LeanState if "lean" in self.settings else MessagesState
            self._graph = _graph_over(state).compile(checkpointer=saver)

    async def close(self) -> None:
        await self._opened.__aexit__(None, None, None)

    async def run(self, saying: Saying) -> str:
        _saying.set(saying)
        state = await self._graph.ainvoke(self._input(saying), _CONFIG, durability=self._durability)
        return str(state["messages"][-1].text)

    async def stream(self, saying: Saying) -> None:
        _saying.set(saying)
        options: Any = {"stream_mode": "messages", "durability": self._durability}
        if saying.leaves_how != "stop":
            async for chunk, _ in self._graph.astream(self._input(saying), _CONFIG, **options):
                if saying.hear(chunk.text):
                    break
            return
        async with aclosing(self._graph.astream(self._input(saying), _CONFIG, **options)) as stream:
            async for chunk, _ in stream:
                if saying.hear(chunk.text):
                    break

    async def seed(self, turns: list[tuple[str, str]]) -> None:
        messages = [message for said, answered in turns for message in (HumanMessage(said), AIMessage(answered))]
        await self._graph.aupdate_state(_CONFIG, {"messages": messages}, as_node="model")

    def _input(self, saying: Saying) -> Any:
        # None means: go on where the thread stands. A message with an id takes the place of the one that has it.
        return None if saying.resume else {"messages": [HumanMessage(saying.text, id=saying.key)]}


if __name__ == "__main__":
    serve(LangGraphWorker)
