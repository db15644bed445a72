"""Middleware and context providers: what callers put around a turn, and what they add to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast import (
    AgentRunResponse,
    BadRequestError,
    ChatMessage,
    InvalidInputError,
    Limits,
    ModelCallContext,
    RunContext,
    RunTimeoutError,
    ServiceUnavailableError,
    ThreadStore,
    ToolCallContext,
    ToolError,
    ToolResultContent,
    TurnContext,
    tool,
)
from holdfast.testing.scripted import ScriptedChatClient, calling

both = pytest.mark.parametrize("streamed", [False, True])


def get_weather(city: str) -> str:
    return f"sunny in {city}"


async def said(agent: Any, text: str, thread: Any, *, streamed: bool = False, **options: Any) -> AgentRunResponse:
    if not streamed:
        response: AgentRunResponse = await agent.run(text, thread=thread, **options)
        return response
    stream = agent.run_stream(text, thread=thread, **options)
    told = [update.text async for update in stream]
    response = await stream.response()
    assert "".join(told) == response.text
    return response


@both
async def test_it_stands_around_runs_questions_and_calls(store: ThreadStore, streamed: bool) -> None:
    seen: list[str] = []

    async def everything(context: Any, call_next: Any) -> Any:
        seen.append(f"> {type(context).__name__}")
        result = await call_next(context)
        seen.append(f"< {type(context).__name__} {type(result).__name__}")
        return result

    async def calls_only(context: ToolCallContext, call_next: Any) -> Any:
        seen.append(f"{context.tool} {context.arguments} {context.call_id}")
        return await call_next(context)

    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"})), ["It is ", "sunny."])
    agent = client.create_agent(tools=[get_weather], middleware=[everything], thread_store=store)
    thread = agent.get_new_thread()
    response = await said(agent, "x", thread, streamed=streamed, middleware=[calls_only])
    assert response.text == "It is sunny."
    assert seen == [
        *("> RunContext", "> ModelCallContext", "< ModelCallContext ChatMessage", "> ToolCallContext"),
        'get_weather {"city":"Rome"} c0',
        *("< ToolCallContext str", "> ModelCallContext", "< ModelCallContext ChatMessage"),
        "< RunContext AgentRunResponse",
    ]
    assert (await thread.turns())[0].output == response.messages


@both
async def test_it_changes_what_is_sent_and_the_log_keeps_what_was_said(store: ThreadStore, streamed: bool) -> None:
    async def polite(context: RunContext, call_next: Any) -> Any:
        context.messages = [ChatMessage("user", text=f"Please: {context.messages[0].text}")]
        context.instructions = "Be kind."
        return await call_next(context)

    async def hotter(context: ModelCallContext, call_next: Any) -> Any:
        context.options = replace(context.options, temperature=1.5)
        context.messages = [*context.messages, ChatMessage("system", text=f"question {context.number}")]
        return await call_next(context)

    client = ScriptedChatClient("one", "two", "three")
    agent = client.create_agent("Be brief.", middleware=[polite, hotter], thread_store=store)
    thread = agent.get_new_thread()
    await said(agent, "tell", thread, streamed=streamed)
    await said(agent, "more", thread, streamed=streamed)
    assert client.said() == [
        *(("system", "Be kind."), ("user", "tell"), ("assistant", "one")),
        *(("user", "Please: more"), ("system", "question 1")),
    ]
    assert client.requests[-1]["temperature"] == 1.5
    plain = client.create_agent("Be brief.", thread_store=store)
    await plain.run("again", thread=thread)
    assert client.said()[0] == ("system", "Be brief.")
    assert [text for role, text in client.said() if role == "user"] == ["tell", "more", "again"]


@both
@pytest.mark.parametrize("where", [RunContext, ModelCallContext])
async def test_it_answers_itself(store: ThreadStore, streamed: bool, where: type) -> None:
    async def answers(context: Any, call_next: Any) -> Any:
        return "From the cache."

    answers.__annotations__["context"] = where
    client = ScriptedChatClient("real")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await said(agent, "x", thread, streamed=streamed, middleware=[answers])
    assert (response.text, response.status, client.requests) == ("From the cache.", "completed", [])
    await said(agent, "y", thread, streamed=streamed)
    assert client.said() == [("user", "x"), ("assistant", "From the cache."), ("user", "y")]


@both
@pytest.mark.parametrize("where", [RunContext, ModelCallContext])
async def test_it_refuses(store: ThreadStore, streamed: bool, where: type) -> None:
    async def refuses(context: Any, call_next: Any) -> Any:
        raise PermissionError("not today")

    refuses.__annotations__["context"] = where
    client = ScriptedChatClient("real")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(PermissionError):
        await said(agent, "x", thread, streamed=streamed, middleware=[refuses])
    assert [turn.status for turn in await thread.turns()] == ["failed"]
    await agent.run("y", thread=thread)
    assert client.said() == [("user", "y")]


async def test_what_it_makes_of_an_answer_is_recorded(store: ThreadStore) -> None:
    async def redacts(context: ModelCallContext, call_next: Any) -> Any:
        answer = await call_next(context)
        assert context.finish_reason == "stop"
        return ChatMessage("assistant", text=answer.text.replace("1234", "****"))

    client = ScriptedChatClient("The code is 1234.")
    agent = client.create_agent(middleware=redacts, thread_store=store)
    thread = agent.get_new_thread()
    assert (await agent.run("x", thread=thread)).text == "The code is ****."
    await agent.run("y", thread=thread)
    assert client.said()[1] == ("assistant", "The code is ****.")


async def test_it_is_told_how_the_run_ended(store: ThreadStore) -> None:
    seen = []

    async def watches(context: RunContext, call_next: Any) -> Any:
        try:
            response = await call_next(context)
        except Exception as error:
            seen.append(type(error).__name__)
            raise
        seen.append(response.status)
        return response

    @tool(approval=True)
    def pay(amount: int) -> str:
        return "paid"

    client = ScriptedChatClient("one", calling(("pay", {"amount": 1})), ["half", asyncio.Event().wait])
    agent = client.create_agent(middleware=[watches], tools=[pay], thread_store=store)
    await agent.run("x")
    await agent.run("x", thread=agent.get_new_thread())
    with pytest.raises(RunTimeoutError):
        await agent.run("x", timeout=0.05)
    assert seen == ["completed", "waiting", "RunTimeoutError"]


async def test_the_limit_of_calls_holds_within_it(store: ThreadStore) -> None:
    async def watches(context: ModelCallContext, call_next: Any) -> Any:
        return await call_next(context)

    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"})), "enough")
    agent = client.create_agent(tools=[get_weather], middleware=[watches], limits=Limits(tool_calls=1))
    await agent.run("x")
    assert [request.get("tool_choice") for request in client.requests] == [None, "none"]


async def test_another_question_after_one_that_failed(store: ThreadStore) -> None:
    async def again(context: ModelCallContext, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except ServiceUnavailableError:
            return await call_next(context)

    client = ScriptedChatClient([ServiceUnavailableError("down")], "fine", ["half", ServiceUnavailableError("cut")])
    agent = client.create_agent(middleware=[again], thread_store=store)
    thread = agent.get_new_thread()
    assert (await agent.run("x", thread=thread)).text == "fine"
    with pytest.raises(RuntimeError, match="handed on already"):
        await agent.run("y", thread=thread)
    turns = await thread.turns()
    assert [(turn.status, turn.output[0].text) for turn in turns] == [("completed", "fine"), ("failed", "half")]


async def test_it_answers_changes_and_refuses_tool_calls(store: ThreadStore) -> None:
    async def guards(context: ToolCallContext, call_next: Any) -> Any:
        if "Rome" in context.arguments:
            return "from the cache"
        if "Paris" in context.arguments:
            raise ToolError("Not Paris.")
        context.arguments = context.arguments.replace("Oslo", "Bergen")
        return await call_next(context)

    asked = calling(*[("get_weather", {"city": city}) for city in ("Rome", "Paris", "Oslo")])
    agent = ScriptedChatClient(asked, "ok").create_agent(tools=[get_weather], middleware=[guards], thread_store=store)
    response = await agent.run("x", thread=agent.get_new_thread())
    told = [part for message in response.messages for part in message.contents if isinstance(part, ToolResultContent)]
    assert [part.result for part in told] == ["from the cache", "Not Paris.", "sunny in Bergen"]


async def test_what_somebody_has_allowed_is_not_changed_afterwards(store: ThreadStore) -> None:
    made = []

    @tool(approval=True)
    def pay(amount: int) -> str:
        made.append(amount)
        return "paid"

    async def more(context: ToolCallContext, call_next: Any) -> Any:
        context.arguments = '{"amount": 1000000}'
        return await call_next(context)

    agent = ScriptedChatClient(calling(("pay", {"amount": 1})), "ok").create_agent(
        tools=[pay], middleware=[more], thread_store=store
    )
    thread = agent.get_new_thread()
    waiting = await agent.run("x", thread=thread)
    await agent.run([waiting.approvals[0].approve()], thread=thread)
    assert made == []


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_reader_who_leaves_is_noticed_within_it(store: ThreadStore, how: str) -> None:
    ended = asyncio.Event()

    async def watches(context: RunContext, call_next: Any) -> Any:
        try:
            return await call_next(context)
        finally:
            await asyncio.sleep(0.001)
            ended.set()

    client = ScriptedChatClient(["one ", "two ", asyncio.Event().wait], "next")
    agent = client.create_agent(middleware=[watches], thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    if how == "close":
        async with stream:
            async for update in stream:
                if update.text == "two ":
                    break
    else:
        task = asyncio.create_task(stream.response())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()
    (turn,) = await thread.turns()
    assert (turn.status, turn.output[0].text) == ("cancelled", "one two ")
    assert (await agent.run("y", thread=thread)).text == "next"
    assert client.open == 0


async def test_what_is_no_middleware_is_refused_at_once() -> None:
    for wrong in (lambda context, call_next: None, "log", [1]):
        with pytest.raises(InvalidInputError):
            ScriptedChatClient().create_agent(middleware=wrong)  # type: ignore[arg-type]

    async def returns_nothing(context: RunContext, call_next: Any) -> None:
        await asyncio.sleep(0)

    agent = ScriptedChatClient().create_agent(middleware=[returns_nothing])
    with pytest.raises(InvalidInputError, match="returned NoneType"):
        await agent.run("x")


# --- context providers ----------------------------------------------------------------------------------------------


class Memory:
    def __init__(self, **given: Any) -> None:
        self.given = given
        self.seen: list[RunContext] = []

    async def provide(self, context: RunContext) -> TurnContext:
        self.seen.append(context)
        return TurnContext(**self.given)


@both
async def test_what_is_told_for_one_turn_is_gone_in_the_next(store: ThreadStore, streamed: bool) -> None:
    memory = Memory(instructions="The user is Ada.", messages=[ChatMessage("system", text="A document.")])
    client = ScriptedChatClient("one", "two", "three")
    agent = client.create_agent("Be brief.", context_providers=[memory], thread_store=store)
    thread = agent.get_new_thread()
    await said(agent, "x", thread, streamed=streamed)
    told = [("system", "The user is Ada."), ("user", "x"), ("system", "A document.")]
    assert client.said() == [("system", "Be brief."), *told]
    await said(agent, "y", thread, streamed=streamed)
    assert client.said() == [
        *(("system", "Be brief."), ("user", "x"), ("assistant", "one")),
        *(("system", "The user is Ada."), ("user", "y"), ("system", "A document.")),
    ]
    assert [context.thread_id for context in memory.seen] == [thread.id] * 2
    assert [[message.text for message in await context.history()] for context in memory.seen] == [[], ["x", "one"]]
    assert [message.text for message in await thread.messages()] == ["x", "one", "y", "two"]


async def test_what_is_recorded_is_told_again(store: ThreadStore) -> None:
    memory = Memory(messages=[ChatMessage("system", text="A document.")], recorded=True)
    client = ScriptedChatClient("one", "two")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("x", thread=thread, context_providers=[memory])
    await agent.run("y", thread=thread)
    assert client.said() == [("user", "x"), ("system", "A document."), ("assistant", "one"), ("user", "y")]


async def test_tools_for_one_turn(store: ThreadStore) -> None:
    memory = Memory(tools=[get_weather])
    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"})), "ok", "two")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread, context_providers=[memory])
    assert response.messages[1].contents[0] == ToolResultContent("c0", "sunny in Rome")
    await agent.run("y", thread=thread)
    assert "tools" not in client.requests[-1]


async def test_a_provider_that_fails_fails_the_run_and_not_the_thread(store: ThreadStore) -> None:
    class Broken:
        async def provide(self, context: RunContext) -> TurnContext:
            raise BadRequestError("no index", service="search", status=400)

    client = ScriptedChatClient("fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(BadRequestError):
        await agent.run("x", thread=thread, context_providers=[Broken()])
    assert (await agent.run("y", thread=thread)).text == "fine"
    assert client.said() == [("user", "y")]
