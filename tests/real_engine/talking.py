"""What the tests say to a model that knows nothing, and how its random answers are steered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tiny_model import CALL_BEGINS, TURN_ENDS, WHITESPACE_TOKENS, WORD_TOKENS

from holdfast import (
    AgentRunResponse,
    AgentThread,
    ChatAgent,
    ChatMessage,
    ChatOptions,
    OpenAIChatClient,
    ToolCallContent,
    ToolResultContent,
)
from holdfast.conversation.updates import Answer
from holdfast.ports.clients import ChatRequest

# --- options for `extra=`: llama.cpp adds a bias to what the weights say of a token --------------------------------

# Any bytes, most of them no UTF-8; it goes on until something else ends it.
BYTES_WITHOUT_END: dict[str, Any] = {"ignore_eos": True}
# Whole words alone, which become the same tokens when they come back as part of the next question.
WORDS_WITHOUT_END: dict[str, Any] = {"ignore_eos": True, "logit_bias": [[token, 100] for token in WORD_TOKENS]}
SILENCE: dict[str, Any] = {"logit_bias": [[TURN_ENDS, 100]]}

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
            "required": ["city"],
        },
    },
}


def calling(*, without_end: bool = False) -> dict[str, Any]:
    """The model calls a tool, and when it has called answers no more; or else calls on and on.

    A grammar makes it so, but would allow any text before the call: so there is a bias towards its first token, and
    one against whitespace.
    """
    bias = [[CALL_BEGINS, 60], [TURN_ENDS, -100 if without_end else 90], *[[t, -60] for t in WHITESPACE_TOKENS]]
    return {"tools": [_WEATHER], "tool_choice": "required", "parallel_tool_calls": without_end, "logit_bias": bias}


def words(count: int) -> str:
    """A text of so many tokens."""
    return " the" * count


# --- talking -------------------------------------------------------------------------------------------------------


async def said(
    agent: ChatAgent, text: str, thread: AgentThread, *, stream: bool = False, **options: Any
) -> AgentRunResponse:
    """One turn to its end. Streamed, what its reader saw must be what the response says."""
    if not stream:
        return await agent.run(text, thread=thread, **options)
    async with agent.run_stream(text, thread=thread, **options) as updates:
        seen = [update.text async for update in updates]
        response = await updates.response()
    assert "".join(seen) == response.text
    return response


async def answered(client: OpenAIChatClient, text: str, *, stream: bool, **options: Any) -> Answer:
    """One answer, without an agent and its loop."""
    chosen = ChatOptions(**options)
    body = bytearray(client.codec.head(None) + client.codec.message(ChatMessage("user", text=text)))
    body[-1:] = client.codec.tail(chosen, stream=stream)
    folded = Answer()
    async for updates in client.ask(ChatRequest(body, chosen, stream)):
        folded.add(updates)
    return folded


def roles(messages: Sequence[ChatMessage]) -> list[str]:
    return [message.role for message in messages]


def pairs(messages: Sequence[ChatMessage]) -> list[tuple[ToolCallContent, ToolResultContent]]:
    """Every call with its result. Fails unless each has one, in the messages right after it, and none stands alone."""
    found: list[tuple[ToolCallContent, ToolResultContent]] = []
    pending: dict[str, ToolCallContent] = {}
    for message in messages:
        if message.role == "tool":
            for result in message.contents:
                assert isinstance(result, ToolResultContent)
                found.append((pending.pop(result.call_id), result))
            continue
        assert not pending
        pending = {call.call_id: call for call in message.tool_calls}
        assert len(pending) == len(message.tool_calls)
    assert not pending
    return found
