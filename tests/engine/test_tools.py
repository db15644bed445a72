"""Tools: what becomes of calls, whatever the functions do; and of what they have done, whatever becomes of the run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AgentThread,
    InvalidInputError,
    Limits,
    RunCancelledError,
    RunTimeoutError,
    SQLiteStore,
    StoreFullError,
    ThreadStore,
    ToolContext,
    ToolError,
    ToolResultContent,
    ToolResultUpdate,
    tool,
)
from holdfast.conversation.journal import recorded
from holdfast.engine import acting
from holdfast.testing.scripted import ScriptedChatClient, calling


def results(messages: Any) -> list[tuple[str, str, bool]]:
    parts = [part for message in messages for part in message.contents if isinstance(part, ToolResultContent)]
    return [(part.call_id, part.result, part.is_error) for part in parts]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


# --- calls and their results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_plain_function_is_a_tool(store: ThreadStore, streamed: bool) -> None:
    client = ScriptedChatClient(calling(("get_weather", {"city": "Paris"}), text="Let me see. "), "It is sunny.")
    agent = client.create_agent(tools=[get_weather], thread_store=store)
    thread = agent.get_new_thread()
    if streamed:
        stream = agent.run_stream("And in Paris?", thread=thread)
        told = [update async for update in stream]
        assert [update.result for update in told if isinstance(update, ToolResultUpdate)] == ["sunny in Paris"]
        response = await stream.response()
    else:
        response = await agent.run("And in Paris?", thread=thread)
    assert (response.text, response.status) == ("Let me see. It is sunny.", "completed")
    assert results(response.messages) == [("c0", "sunny in Paris", False)]
    assert [told["function"]["name"] for told in client.requests[0]["tools"]] == ["get_weather"]
    assert client.requests[1]["messages"][-1] == {"role": "tool", "tool_call_id": "c0", "content": "sunny in Paris"}
    assert (await thread.turns())[-1].output == response.messages


async def test_calls_run_at_once_and_results_go_back_in_the_order_of_the_calls(store: ThreadStore) -> None:
    running, most = 0, 0

    async def wait(seconds: float) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(seconds)
        running -= 1
        return f"waited {seconds}"

    asked = [("wait", {"seconds": seconds}) for seconds in (0.05, 0.03, 0.01)]
    client = ScriptedChatClient(calling(*asked), "done")
    agent = client.create_agent(tools=[wait], thread_store=store)
    stream = agent.run_stream("x", thread=agent.get_new_thread())
    told = [update.result async for update in stream if isinstance(update, ToolResultUpdate)]
    assert told == ["waited 0.05", "waited 0.03", "waited 0.01"]
    assert most == 3


async def test_no_more_calls_run_at_a_time_than_the_limit_says(store: ThreadStore) -> None:
    running, most = 0, 0

    def work() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return "ok"

    client = ScriptedChatClient(calling(*[("work", {})] * 7), "done")
    agent = client.create_agent(tools=[work], thread_store=store, limits=Limits(parallel_calls=2))
    response = await agent.run("x", thread=agent.get_new_thread())
    assert [text for _, text, _ in results(response.messages)] == ["ok"] * 7
    assert most == 2


async def test_whatever_goes_wrong_is_a_result_and_the_thread_goes_on(store: ThreadStore) -> None:
    def breaks() -> str:
        raise ValueError("no luck")

    def says_why() -> str:
        raise ToolError("Ask again tomorrow.")

    @tool(timeout=0.02)
    async def slow() -> str:
        await asyncio.sleep(60)
        return "never"

    def long() -> str:
        return "x" * 50_001

    def odd() -> Any:
        return object()

    async def cancels() -> str:
        raise asyncio.CancelledError

    def surrogate() -> str:
        return "half \ud800 of a pair"

    asked = [
        *[("breaks", {}), ("says_why", {}), ("slow", {}), ("long", {}), ("odd", {}), ("cancels", {})],
        *[("surrogate", {}), ("nobody", {}), ("get_weather", {"town": 1}), ("get_weather", "{no json")],
    ]
    client = ScriptedChatClient(calling(*asked), "Well.")
    tools = [breaks, says_why, slow, long, odd, cancels, surrogate, get_weather]
    agent = client.create_agent(tools=tools, thread_store=store, limits=Limits(result_chars=50_000))
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    told = [text for _, text, _ in results(response.messages)]
    wanted = [
        *[
            "ValueError: no luck",
            "Ask again tomorrow.",
            "longer than 0.02 s",
            "50,001 characters",
            "object",
            "CancelledError",
        ],
        *["half \ufffd of a pair", "no tool named 'nobody'", "city", "JSON"],
    ]
    for text, part in zip(told, wanted, strict=True):
        assert part in text
    assert [is_error for *_, is_error in results(response.messages)] == [True] * 6 + [False] + [True] * 3
    assert response.text == "Well."
    assert (await agent.run("and now?", thread=thread)).text == "You said: and now?"


async def test_a_run_on_its_own_thread_from_within_a_tool_is_refused_at_once(store: ThreadStore) -> None:
    client = ScriptedChatClient(calling(("again", {})), "I see.")

    async def again() -> str:
        return (await agent.run("from within", thread=thread)).text

    agent = client.create_agent(tools=[again], thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    assert "ThreadBusyError" in results(response.messages)[0][1]


async def test_a_tool_is_told_where_it_was_called_and_gets_the_callers_things(store: ThreadStore) -> None:
    seen: list[ToolContext[dict[str, str]]] = []

    def look(ctx: ToolContext[dict[str, str]]) -> str:
        seen.append(ctx)
        return ctx.deps["user"]

    client = ScriptedChatClient(calling(("look", {}), ("look", {})), "ok", calling(("look", {})), "ok")
    agent = client.create_agent(tools=[look], thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("x", thread=thread, deps={"user": "ada"})
    await agent.run("y", thread=thread, deps={"user": "bob"})
    assert results(first.messages) == [("c0", "ada", False), ("c1", "ada", False)]
    assert [(ctx.thread_id, ctx.tool, ctx.cancelled) for ctx in seen] == [(thread.id, "look", False)] * 3
    assert len({ctx.idempotency_key for ctx in seen}) == 3  # though the service has used "c0" twice
    assert (seen[0].turn_id, seen[0].call_id) == (first.turn_id, "c0")
    assert client.requests[0]["tools"][0]["function"]["parameters"]["properties"] == {}


async def test_a_runs_tools_come_on_top_of_its_agents(store: ThreadStore) -> None:
    @tool(name="get_weather")
    def other(city: str) -> str:
        return "rain"

    def more() -> str:
        return "more"

    client = ScriptedChatClient(calling(("get_weather", {"city": "x"}), ("more", {})), "ok")
    agent = client.create_agent(tools=[get_weather], thread_store=store)
    response = await agent.run("x", thread=agent.get_new_thread(), tools=[other, more])
    assert [text for _, text, _ in results(response.messages)] == ["rain", "more"]
    await agent.run("y", thread=agent.get_new_thread())
    assert [[told["function"]["name"] for told in request["tools"]] for request in client.requests] == [
        ["get_weather", "more"],
        ["get_weather", "more"],
        ["get_weather"],
    ]


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="the name 'get_weather'"):
        ScriptedChatClient().create_agent(tools=[get_weather, tool(name="get_weather")(results)])


async def test_the_schemas_of_an_agent_are_encoded_once(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    encoded = 0
    made = client.codec.tools

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(client_codec, name)

        def tools(self, specs: Any) -> bytes:
            nonlocal encoded
            encoded += 1
            return made(specs)

    client_codec = client.codec
    client._codec = Counting()  # type: ignore[assignment]
    agent = client.create_agent(tools=[get_weather], thread_store=store)
    for _ in range(3):
        await agent.run("x", thread=agent.get_new_thread())
    assert encoded == 1


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "made"), [(Limits(rounds=2), 1), (Limits(tool_calls=1), 1), (Limits(tool_seconds=0.03), 1)]
)
async def test_at_a_limit_the_model_is_asked_once_more_without_tools(
    store: ThreadStore, limits: Limits, made: int
) -> None:
    begun = 0

    async def work() -> str:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0.06 if limits.tool_seconds else 0)
        return "ok"

    client = ScriptedChatClient(*[calling(("work", {}))] * (2 if limits.rounds == 2 else 1), "Then not.")
    agent = client.create_agent(tools=[work], thread_store=store, limits=limits)
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    assert (response.text, response.status, begun) == ("Then not.", "completed", made)
    assert [request.get("tool_choice") for request in client.requests][-1] == "none"
    assert "tool_choice" not in client.requests[0]
    assert (await agent.run("y", thread=thread)).status == "completed"
    assert "tool_choice" not in client.requests[-1]


async def test_a_model_that_calls_although_it_may_not_comes_to_an_end(store: ThreadStore) -> None:
    client = ScriptedChatClient(*[calling(("get_weather", {"city": "x"}))] * 9)
    agent = client.create_agent(tools=[get_weather], thread_store=store, limits=Limits(rounds=3))
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    assert (response.status, len(results(response.messages)), client.unused) == ("completed", 4, 5)
    assert ["limit" in text for _, text, _ in results(response.messages)] == [False, False, True, True]


async def test_a_call_that_is_forced_is_forced_once(store: ThreadStore) -> None:
    for choice in ("required", "get_weather"):
        client = ScriptedChatClient(calling(("get_weather", {"city": "x"})), "ok")
        agent = client.create_agent(tools=[get_weather], tool_choice=choice, thread_store=store)
        await agent.run("x", thread=agent.get_new_thread())
        forced = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
        assert [request["tool_choice"] for request in client.requests] == [forced, "auto"]


# --- what is on disk, and when -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "threads.db"


@pytest.fixture
def other(path: Path) -> Iterator[SQLiteStore]:
    """The same file, as another process has it open."""
    made = SQLiteStore(path)
    yield made
    made.close()


async def test_that_a_call_is_begun_is_written_down_before_and_its_result_right_after(
    path: Path, other: SQLiteStore
) -> None:
    seen: list[tuple[set[str], list[str]]] = []

    async def look(ctx: ToolContext[None]) -> str:
        if ctx.call_id == "c1":
            await asyncio.sleep(0.05)  # until the first has its result
        progress = await other.progress(ctx.thread_id, ctx.turn_id)
        assert progress is not None
        journal = recorded(progress.records)
        seen.append((set(journal.started), [text for _, text, _ in results(journal.messages)]))
        return f"seen {ctx.call_id}"

    with_store = SQLiteStore(path)
    agent = ScriptedChatClient(calling(("look", {}), ("look", {})), "ok").create_agent(
        tools=[look], thread_store=with_store
    )
    await agent.run("x", thread=agent.get_new_thread())
    assert seen == [({"c0", "c1"}, []), ({"c0", "c1"}, ["seen c0"])]
    with_store.close()


async def test_a_result_that_comes_before_its_turn_is_written_down_too(path: Path, other: SQLiteStore) -> None:
    seen: list[set[str]] = []

    async def first(ctx: ToolContext[None]) -> str:
        await asyncio.sleep(0.05)
        progress = await other.progress(ctx.thread_id, ctx.turn_id)
        assert progress is not None
        seen.append(set(recorded(progress.records).results))
        return "first"

    async def second() -> str:
        return "second"

    store = SQLiteStore(path)
    agent = ScriptedChatClient(calling(("first", {}), ("second", {})), "ok").create_agent(
        tools=[first, second], thread_store=store
    )
    response = await agent.run("x", thread=agent.get_new_thread())
    assert seen == [{"c1"}]
    assert results(response.messages) == [("c0", "first", False), ("c1", "second", False)]
    store.close()


async def test_a_tool_whose_beginning_cannot_be_written_down_is_not_entered(sqlite: SQLiteStore) -> None:
    begun = False

    def work() -> str:
        nonlocal begun
        begun = True
        return "ok"

    class Full(SQLiteStore):
        def journal(self, run: Any, records: Any, *, durable: bool = False) -> Any:
            if durable:
                raise StoreFullError("no room")
            return super().journal(run, records, durable=durable)

    store = Full(sqlite.location)
    agent = ScriptedChatClient(calling(("work", {})), "ok").create_agent(tools=[work], thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(StoreFullError):
        await agent.run("x", thread=thread)
    assert not begun
    (turn,) = await thread.turns()
    assert (turn.status, results(turn.output)[0][1]) == ("failed", "The run failed; this call was not made.")
    store.close()


class Dying:
    """A run whose process dies in the middle of its calls, as the file has it; and how others go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[str] = []
        self.inside = asyncio.Event()

    async def die(self, *asked: tuple[str, dict[str, str]]) -> str:
        """Run until a tool waits for ever, then be gone; the turn's id."""
        store = SQLiteStore(self.path)
        agent = ScriptedChatClient(calling(*asked)).create_agent(tools=self.tools(for_ever=True), thread_store=store)
        stream = agent.run_stream("do it", thread=agent.get_thread("t", create=True))
        task = asyncio.create_task(stream.response())
        await self.inside.wait()
        await asyncio.sleep(0.02)
        store._shared.die()
        self.left = (task, store, stream)
        return stream.turn_id

    def tools(self, *, for_ever: bool = False) -> list[Any]:
        async def act(what: str, ctx: ToolContext[None]) -> str:
            self.made.append(f"{what} {ctx.idempotency_key.partition('.')[2]}")
            if for_ever and what == "stays":
                self.inside.set()
                await asyncio.Event().wait()
            return f"did {what}"

        return [tool(name="once")(act), tool(name="again", idempotent=True)(act)]

    def end(self) -> None:
        task, _, _ = self.left
        task.cancel()


async def test_after_a_death_what_has_a_result_is_not_made_again(path: Path, other: SQLiteStore) -> None:
    dying = Dying(path)
    turn_id = await dying.die(("once", {"what": "quick"}), ("once", {"what": "stays"}), ("again", {"what": "stays"}))
    client = ScriptedChatClient("All right.")
    agent = client.create_agent(tools=dying.tools(), thread_store=other)
    response = await agent.resume(agent.get_thread("t"))
    assert response is not None
    assert (response.turn_id, response.text) == (turn_id, "All right.")
    told = results(response.messages)
    assert told[0] == ("c0", "did quick", False)
    assert "outcome is unknown" in told[1][1]
    assert told[2] == ("c2", "did stays", False)
    # The one that may be made again was, under the same key; the other one was not.
    assert dying.made == ["quick c0", "stays c1", "stays c2", "stays c2"]
    dying.end()


async def test_the_next_run_tells_what_is_known_of_the_dead_ones_calls(path: Path, other: SQLiteStore) -> None:
    dying = Dying(path)
    await dying.die(("once", {"what": "quick"}), ("once", {"what": "stays"}))
    client = ScriptedChatClient("Next.")
    agent = client.create_agent(tools=dying.tools(), thread_store=other)
    await agent.run("go on", thread=agent.get_thread("t"))
    first, _ = await agent.get_thread("t").turns()
    assert (first.status, results(first.output)[0]) == ("interrupted", ("c0", "did quick", False))
    assert "outcome is unknown" in results(first.output)[1][1]
    assert dying.made == ["quick c0", "stays c1"]
    dying.end()


async def test_calls_that_were_not_begun_are_made_when_the_turn_goes_on(path: Path, other: SQLiteStore) -> None:
    dying = Dying(path)
    store = SQLiteStore(path)
    agent = ScriptedChatClient(calling(("once", {"what": "stays"}), ("once", {"what": "late"}))).create_agent(
        tools=dying.tools(for_ever=True), thread_store=store, limits=Limits(parallel_calls=1)
    )
    task = asyncio.create_task(agent.run("x", thread=agent.get_thread("t", create=True)))
    await dying.inside.wait()
    store._shared.die()
    agent = ScriptedChatClient("ok").create_agent(tools=dying.tools(), thread_store=other)
    response = await agent.resume(agent.get_thread("t"))
    assert response is not None
    assert ["unknown" in text for _, text, _ in results(response.messages)] == [True, False]
    assert dying.made == ["stays c0", "late c1"]
    task.cancel()


# --- a run that ends while tools run -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task", "stream", "thread", "timeout"])
async def test_ending_a_run_reaches_its_tools(store: ThreadStore, how: str) -> None:
    inside, ended = asyncio.Event(), asyncio.Event()

    async def stays(ctx: ToolContext[None]) -> str:
        inside.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert ctx.cancelled
            ended.set()
        return "never"

    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"}), ("stays", {})))
    agent = client.create_agent(tools=[get_weather, stays], thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread, timeout=0.2 if how == "timeout" else None)
    task = asyncio.create_task(stream.response())
    await inside.wait()
    expected: type[BaseException] = asyncio.CancelledError
    if how == "task":
        task.cancel()
    elif how == "stream":
        await stream.cancel()
        expected = RunCancelledError
    elif how == "thread":
        assert await AgentThread(store, thread.id, intent="existing").cancel()
        expected = RunCancelledError
    else:
        expected = RunTimeoutError
    with pytest.raises(expected):
        await task
    assert ended.is_set()
    (turn,) = await thread.turns()
    assert turn.status == ("failed" if how == "timeout" else "cancelled")
    told = results(turn.output)
    assert told[0] == ("c0", "sunny in Rome", False)
    assert "outcome is unknown" in told[1][1]
    assert (await agent.run("y", thread=thread)).status == "completed"


async def test_a_function_that_cannot_be_cancelled_is_waited_for(store: ThreadStore) -> None:
    inside, seen = threading.Event(), []

    def works(ctx: ToolContext[None]) -> str:
        inside.set()
        while not ctx.cancelled:
            time.sleep(0.002)
        seen.append("told")
        return "just done"

    agent = ScriptedChatClient(calling(("works", {}))).create_agent(tools=[works], thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread))
    await asyncio.to_thread(inside.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (turn,) = await thread.turns()
    assert (turn.status, results(turn.output), seen) == ("cancelled", [("c0", "just done", False)], ["told"])


async def test_a_function_that_does_not_come_back_is_left_with_its_outcome_unknown(
    store: ThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "GRACE_SECONDS", 0.05)
    inside, free = threading.Event(), threading.Event()

    def hangs() -> str:
        inside.set()
        free.wait(20)
        return "late"

    agent = ScriptedChatClient(calling(("hangs", {}))).create_agent(tools=[hangs], thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread))
    await asyncio.to_thread(inside.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()
    (turn,) = await thread.turns()
    assert "outcome is unknown" in results(turn.output)[0][1]


async def test_cancelled_once_more_while_it_waits_the_run_is_sealed_at_once(store: ThreadStore) -> None:
    inside, free = threading.Event(), threading.Event()

    def hangs() -> str:
        inside.set()
        free.wait(20)
        return "late"

    agent = ScriptedChatClient(calling(("hangs", {}))).create_agent(tools=[hangs], thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread))
    await asyncio.to_thread(inside.wait)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()
    await agent.run("y", thread=thread)  # the seal was on its way, and comes first
    assert [turn.status for turn in await thread.turns()] == ["cancelled", "completed"]


async def test_whoever_follows_a_turn_reads_its_results(path: Path, other: SQLiteStore) -> None:
    go = asyncio.Event()

    async def waits() -> str:
        await go.wait()
        return "waited"

    store = SQLiteStore(path)
    agent = ScriptedChatClient(calling(("get_weather", {"city": "Bern"}), ("waits", {})), "Done.").create_agent(
        tools=[get_weather, waits], thread_store=store
    )
    stream = agent.run_stream("x", thread=agent.get_thread("t", create=True))
    task = asyncio.create_task(stream.response())
    await asyncio.sleep(0.05)
    follower = AgentThread(other, "t", intent="existing").follow(stream.turn_id)
    told = []
    async for update in follower:
        told.append(update)
        if isinstance(update, ToolResultUpdate):
            go.set()
    assert [update.result for update in told if isinstance(update, ToolResultUpdate)] == ["sunny in Bern", "waited"]
    assert "".join(update.text for update in told) == (await task).text == "Done."
    store.close()
