"""The subject OpenAI Agents SDK: Runner with a custom Model, and a SQLiteSession on a file.

The session sets WAL by itself; `synchronous` stays at SQLite's FULL.

Rule of this file: it knows the OpenAI Agents SDK and no other library that keeps conversations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agents import (  # type: ignore[import-not-found]
    Agent,
    Model,
    ModelResponse,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
)
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

from rigs.peers.worker import THREAD, TOOL, Saying, Worker, serve


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _told(item: Any) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item["role"], "text": _text(item["content"]), "calls": [], "result": ""}
    calls = [item["call_id"]] if kind == "function_call" else []
    result = item["call_id"] if kind == "function_call_output" else ""
    return {"role": "tool" if result else "assistant", "text": "", "calls": calls, "result": result}


def _message(saying: Saying, text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(
        id=f"msg-{saying.n}", content=[content], role="assistant", status="completed", type="message"
    )


def _delta(saying: Saying, number: int, piece: str) -> ResponseTextDeltaEvent:
    return ResponseTextDeltaEvent(
        type="response.output_text.delta",
        item_id=f"msg-{saying.n}",
        output_index=0,
        content_index=0,
        sequence_number=number,
        delta=piece,
        logprobs=[],
    )


def _completed(saying: Saying, number: int) -> ResponseCompletedEvent:
    response = Response(
        id=f"resp-{saying.n}",
        created_at=0,
        model="fake",
        object="response",
        output=[_message(saying, saying.answer)],
        tool_choice="auto",
        tools=[],
        parallel_tool_calls=False,
    )
    return ResponseCompletedEvent(type="response.completed", response=response, sequence_number=number)


class _FakeModel(Model):  # type: ignore[misc]
    """Says what its saying is to be answered with."""

    def __init__(self, saying: Saying) -> None:
        self._saying = saying

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> Any:
        saying = self._saying
        items = [{"role": "user", "content": input}] if isinstance(input, str) else input
        saying.asked(items, _told)
        await saying.think()
        output: Any = _message(saying, saying.answer)
        if saying.calls_tool and items[-1].get("type") != "function_call_output":
            call = f"call-{saying.n}"
            output = ResponseFunctionToolCall(arguments="{}", call_id=call, name=TOOL, type="function_call", id=call)
        return ModelResponse(output=[output], usage=Usage(), response_id=f"resp-{saying.n}")

    async def stream_response(
        self, system_instructions: Any, input: Any, *rest: Any, **more: Any
    ) -> AsyncIterator[Any]:
        saying = self._saying
        saying.asked([{"role": "user", "content": input}] if isinstance(input, str) else input, _told)
        number = 0
        async for piece in saying.said():
            yield _delta(saying, number, piece)
            number += 1
        yield _completed(saying, number)


class OpenAIAgentsWorker(Worker):
    """One agent for each saying, one session."""

    packages = ("openai-agents", "openai")
    able = frozenset({"stop", "tools"})
    reads = "SELECT message_data FROM agent_messages ORDER BY id"

    async def open(self) -> None:
        self._session = SQLiteSession(THREAD, self.path)

    async def close(self) -> None:
        self._session.close()

    async def run(self, saying: Saying) -> str:
        return str((await Runner.run(_agent(saying), saying.text, session=self._session)).final_output)

    async def stream(self, saying: Saying) -> None:
        result = Runner.run_streamed(_agent(saying), saying.text, session=self._session)
        async for event in result.stream_events():
            if event.type != "raw_response_event" or not isinstance(event.data, ResponseTextDeltaEvent):
                continue
            leaves = saying.hear(event.data.delta)
            if leaves == "break":
                break
            if leaves == "stop":
                result.cancel()  # and read on, as its documents say

    async def seed(self, turns: list[tuple[str, str]]) -> None:
        items: list[Any] = []
        for n, (said, answered) in enumerate(turns):
            answer = ResponseOutputText(text=answered, type="output_text", annotations=[])
            message = ResponseOutputMessage(
                id=f"seed-{n}", content=[answer], role="assistant", status="completed", type="message"
            )
            items += [{"role": "user", "content": said}, message.model_dump(exclude_unset=True)]
        await self._session.add_items(items)


def _agent(saying: Saying) -> Any:
    if saying.quiet:  # making a tool costs more than a turn
        return Agent(name="Rig", model=_FakeModel(saying))

    @function_tool(name_override=TOOL)  # type: ignore[untyped-decorator]
    async def send_letter() -> str:
        """Send the letter."""
        return await saying.in_tool()

    return Agent(name="Rig", model=_FakeModel(saying), tools=[send_letter])


if __name__ == "__main__":
    serve(OpenAIAgentsWorker)
