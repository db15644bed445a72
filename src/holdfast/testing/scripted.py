"""ScriptedChatClient: a model whose answers are written down beforehand, for tests of code that uses agents.

It goes through the same codec as a Chat Completions service and refuses what such a service refuses: a tool call
without its result, a result without its call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from holdfast.clients.base import AgentMaker
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.errors import BadRequestError
from holdfast.conversation.updates import AgentRunResponseUpdate, FinishUpdate, ToolCallUpdate
from holdfast.ports.clients import ChatRequest

# One step of an answer: some text, an update, several that come together, an error to raise, something to wait for.
Step: TypeAlias = (
    str | AgentRunResponseUpdate | Sequence[AgentRunResponseUpdate] | BaseException | Callable[[], Awaitable[object]]
)
Script: TypeAlias = str | Sequence[Step]


class ScriptedChatClient(AgentMaker):
    """Gives the answers it was made with, one a request; afterwards it repeats the last thing it was told.

        client = ScriptedChatClient("Hello.", ["Good", "bye."], [BadRequestError("no")])
        agent = client.create_agent()

    An answer is a string or a list of steps; each step is handed on by itself; `calling` makes one that calls for
    tools. `requests` holds the bodies it was
    sent, decoded, in order; `open` counts the answers that were begun and are not closed.
    """

    def __init__(self, *answers: Script, service: str = "scripted") -> None:
        self._answers = list(answers)
        self._service = service
        self._codec = ChatCompletionsCodec("scripted-model")
        self.requests: list[dict[str, Any]] = []
        self.open = 0

    @property
    def service(self) -> str:
        return self._service

    @property
    def keeps_history(self) -> bool:
        return False

    @property
    def codec(self) -> ChatCompletionsCodec:
        return self._codec

    @property
    def unused(self) -> int:
        """Answers that nobody has asked for."""
        return len(self._answers)

    def said(self, request: int = -1) -> list[tuple[str, str]]:
        """The messages of a request as (role, text)."""
        return [(told["role"], told.get("content") or "") for told in self.requests[request]["messages"]]

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        told = msgspec.json.decode(bytes(request.body))
        self.requests.append(told)
        _refuse_unpaired(told["messages"], self._service)
        script = self._answers.pop(0) if self._answers else f"You said: {told['messages'][-1].get('content')}"
        self.open += 1
        try:
            for step in [script] if isinstance(script, str) else script:
                updates = await _taken(step)
                if updates:
                    yield updates
            yield [FinishUpdate(finish_reason="stop", model="scripted-model", response_id=f"r{len(self.requests)}")]
        finally:
            self.open -= 1


def calling(*asked: tuple[str, Mapping[str, Any] | str], text: str = "") -> list[Step]:
    """An answer that calls for tools: calling(("get_weather", {"city": "Paris"})).

    Arguments that are a string go as they are.
    """
    calls: list[AgentRunResponseUpdate] = [
        ToolCallUpdate(
            index=index,
            call_id=f"c{index}",
            name=name,
            arguments=arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode(),
        )
        for index, (name, arguments) in enumerate(asked)
    ]
    return [*([text] if text else []), calls, FinishUpdate(finish_reason="tool_calls")]


async def _taken(step: Step) -> Sequence[AgentRunResponseUpdate]:
    if isinstance(step, str):
        return [AgentRunResponseUpdate(step)]
    if isinstance(step, AgentRunResponseUpdate):
        return [step]
    if isinstance(step, BaseException):
        raise step
    if callable(step):
        await step()
        return []
    return list(step)


def _refuse_unpaired(messages: Sequence[dict[str, Any]], service: str) -> None:
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise BadRequestError(f"result {message['tool_call_id']} answers no call", service=service, status=400)
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            raise BadRequestError(f"calls {sorted(waiting)} have no result", service=service, status=400)
        waiting = {call["id"] for call in message.get("tool_calls") or ()}
    if waiting:
        raise BadRequestError(f"calls {sorted(waiting)} have no result", service=service, status=400)
