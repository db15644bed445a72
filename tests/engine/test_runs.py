"""How turns end, and what is sent afterwards."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from holdfast import (
    AgentRunResponse,
    AgentThread,
    BadRequestError,
    HoldfastError,
    Limits,
    RunTimeoutError,
    ServiceUnavailableError,
    StoreUnavailableError,
    ThreadBusyError,
    ThreadStore,
    ToolCallUpdate,
    ToolResultContent,
    Usage,
    UsageUpdate,
)
from holdfast.conversation.updates import FinishUpdate, ReasoningUpdate, RefusalUpdate
from holdfast.testing.scripted import ScriptedChatClient


async def ends(thread: AgentThread) -> list[tuple[str, str]]:
    return [(turn.status, "".join(message.text for message in turn.output)) for turn in await thread.turns()]


async def test_the_second_turn_tells_the_service_the_first(store: ThreadStore) -> None:
    client = ScriptedChatClient("ahoy", "squawk")
    agent = client.create_agent("Joke.", thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("pirate?", thread=thread)
    second = await agent.run("parrot?", thread=thread)
    assert (first.text, second.text) == ("ahoy", "squawk")
    assert client.said() == [("system", "Joke."), ("user", "pirate?"), ("assistant", "ahoy"), ("user", "parrot?")]
    assert [turn.id for turn in await thread.turns()] == [first.turn_id, second.turn_id]


async def test_a_response_says_all_that_is_known() -> None:
    usage = Usage(input_tokens=3, output_tokens=2, total_tokens=5)
    client = ScriptedChatClient([ReasoningUpdate(reasoning="hm"), "hel", "lo", UsageUpdate(usage=usage)])
    response = await client.create_agent(name="Joker").run("hi")
    assert isinstance(response, AgentRunResponse)
    assert (response.text, str(response), response.status, response.usage) == ("hello", "hello", "completed", usage)
    assert (response.finish_reason, response.model, response.response_id) == ("stop", "scripted-model", "r1")
    assert response.messages[0].author_name == "Joker"


async def test_reasoning_is_kept_and_not_sent(store: ThreadStore) -> None:
    client = ScriptedChatClient([ReasoningUpdate(reasoning="secret"), "4"], [ReasoningUpdate(reasoning="only")], "x")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    for text in ("2+2", "and?", "so"):
        await agent.run(text, thread=thread)
    assert client.said() == [("user", "2+2"), ("assistant", "4"), ("user", "and?"), ("user", "so")]
    assert "secret" in repr(await thread.messages())


async def test_streamed_and_not_leave_the_same_log(store: ThreadStore) -> None:
    script = [ReasoningUpdate(reasoning="a"), "b", RefusalUpdate(refusal="c"), [ReasoningUpdate(reasoning="d")]]
    client = ScriptedChatClient(script, script)
    agent = client.create_agent(thread_store=store)
    one, two = agent.get_new_thread(), agent.get_new_thread()
    async for _ in agent.run_stream("x", thread=one):
        pass
    await agent.run("x", thread=two)
    assert await one.messages() == await two.messages()


async def test_a_failed_run_raises_with_its_turn(store: ThreadStore) -> None:
    client = ScriptedChatClient([BadRequestError("no", service="scripted", status=400)], "fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(BadRequestError) as caught:
        await agent.run("bad", thread=thread)
    turn = (await thread.turns())[0]
    assert (caught.value.turn_id, caught.value.thread_id, caught.value.response.text) == (turn.id, thread.id, "")
    assert turn.status == "failed"
    assert turn.error is not None
    assert turn.error.code == "BadRequest"
    # Nothing happened in it: a retry does not say the user's message twice.
    await agent.run("bad", thread=thread)
    assert client.said() == [("user", "bad")]
    assert [message.text for message in await thread.messages()] == ["bad", "fine"]


async def test_a_failed_run_in_which_something_was_said_is_told(store: ThreadStore) -> None:
    client = ScriptedChatClient(["half an ", ServiceUnavailableError("cut off")], "whole")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError) as caught:
        await agent.run("long", thread=thread)
    assert caught.value.response.text == "half an "
    assert caught.value.response.status == "failed"
    await agent.run("again", thread=thread)
    assert client.said() == [("user", "long"), ("assistant", "half an "), ("user", "again")]


async def test_an_error_of_the_clients_own_is_raised_as_it_is_and_its_words_are_not_stored(store: ThreadStore) -> None:
    client = ScriptedChatClient([KeyError("sk-secret")])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(KeyError):
        await agent.run("x", thread=thread)
    turn = (await thread.turns())[0]
    assert (turn.status, turn.error and turn.error.code) == ("failed", "KeyError")
    assert "sk-secret" not in repr(turn)


async def test_a_stream_that_is_left_keeps_what_was_read(store: ThreadStore) -> None:
    client = ScriptedChatClient(["one ", "two ", "three"], "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    async for update in agent.run_stream("count", thread=thread):
        if update.text == "two ":
            break
    await agent.run("go on", thread=thread)
    assert await ends(thread) == [("cancelled", "one two "), ("completed", "next")]
    assert client.said() == [("user", "count"), ("assistant", "one two "), ("user", "go on")]
    assert client.open == 0


async def test_what_came_together_counts_only_as_far_as_it_was_read(store: ThreadStore) -> None:
    from holdfast import AgentRunResponseUpdate as Text

    client = ScriptedChatClient([[Text("one "), Text("two "), Text("three")]])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    async with agent.run_stream("count", thread=thread) as stream:
        async for update in stream:
            if update.text == "two ":
                break
    assert await ends(thread) == [("cancelled", "one two ")]


async def test_a_task_that_is_cancelled_seals_its_turn(store: ThreadStore) -> None:
    started = asyncio.Event()

    async def stall() -> None:
        started.set()
        await asyncio.sleep(60)

    client = ScriptedChatClient(["begun", stall])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ends(thread) == [("cancelled", "begun")]
    assert client.open == 0


async def test_cancel_from_another_task_ends_the_readers_loop(store: ThreadStore) -> None:
    stalled = asyncio.Event()

    async def stall() -> None:
        stalled.set()
        await asyncio.sleep(60)

    client = ScriptedChatClient(["begun", stall])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    read: list[str] = []

    async def reader() -> str:
        async for update in stream:
            read.append(update.text)
        return "went on"

    task = asyncio.create_task(reader())
    await stalled.wait()
    await stream.cancel()
    assert await task == "went on"
    assert read == ["begun"]
    assert await ends(thread) == [("cancelled", "begun")]
    with pytest.raises(HoldfastError) as caught:
        await stream.response()
    assert caught.value.response.text == "begun"


async def test_a_response_can_be_had_without_reading(store: ThreadStore) -> None:
    client = ScriptedChatClient(["a", "b"], ["a", "b"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    assert (await stream.response()).text == "ab"
    assert (await stream.response()).text == "ab"
    half = agent.run_stream("x", thread=thread)
    assert (await anext(aiter(half))).text == "a"
    assert (await half.response()).text == "ab"
    assert (await thread.turns())[-1].id == half.turn_id


async def test_a_stream_that_failed_says_so_again() -> None:
    stream = ScriptedChatClient([BadRequestError("no")]).create_agent().run_stream("x")
    with pytest.raises(BadRequestError):
        async for _ in stream:
            pass
    with pytest.raises(BadRequestError):
        await stream.response()


async def test_a_stream_nobody_reads_opens_nothing(store: ThreadStore) -> None:
    client = ScriptedChatClient("x")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    await asyncio.sleep(0.01)
    assert stream.turn_id.startswith("turn_")
    del stream
    gc.collect()
    assert client.requests == []
    assert await thread.turns() == []


async def test_a_run_that_takes_too_long_fails_and_keeps_what_came(store: ThreadStore) -> None:
    client = ScriptedChatClient(["slow ", lambda: asyncio.sleep(60)], "quick")
    agent = client.create_agent(thread_store=store, timeout=0.05)
    thread = agent.get_new_thread()
    with pytest.raises(RunTimeoutError, match=r"0\.05 s") as caught:
        await agent.run("x", thread=thread)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.response.text == "slow "
    assert (await agent.run("y", thread=thread)).text == "quick"
    assert [status for status, _ in await ends(thread)] == ["failed", "completed"]


async def test_a_run_waits_for_the_one_before_it(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "one"], "two", "three")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    runs = []
    for text in ("a", "b", "c"):
        runs.append(asyncio.create_task(agent.run(text, thread=thread)))
        await asyncio.sleep(0.01)
    assert len(client.requests) == 1
    go.set()
    assert [run.text for run in await asyncio.gather(*runs)] == ["one", "two", "three"]
    assert client.said() == [("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"), ("user", "c")]


async def test_reject_raises_at_once_and_changes_nothing(store: ThreadStore) -> None:
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "one"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.01)
    with pytest.raises(ThreadBusyError, match="reject"):
        await agent.run("b", thread=thread, on_conflict="reject")
    go.set()
    await first
    assert await ends(thread) == [("completed", "one")]


async def test_a_waiting_run_that_is_cancelled_leaves_the_queue(store: ThreadStore) -> None:
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "one"], "three").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(agent.run("b", thread=thread))
    third = asyncio.create_task(agent.run("c", thread=thread))
    await asyncio.sleep(0.01)
    second.cancel()
    go.set()
    assert (await first).text == "one"
    assert (await third).text == "three"
    assert len(await thread.turns()) == 2


async def test_a_stream_that_nobody_reads_gives_way(store: ThreadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.engine.sealing.STALLED_SECONDS", 0.05)
    monkeypatch.setattr("holdfast.engine.leases.LOOK_SECONDS", 0.02)
    agent = ScriptedChatClient(["one", "two"], "second").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("a", thread=thread)
    assert (await anext(aiter(stream))).text == "one"
    assert (await agent.run("b", thread=thread)).text == "second"
    assert await ends(thread) == [("cancelled", "one"), ("completed", "second")]
    with pytest.raises(HoldfastError, match="another run waited"):
        await anext(stream)


async def test_calls_for_tools_that_are_not_there_are_answered(store: ThreadStore) -> None:
    call = ToolCallUpdate(index=0, call_id="c1", name="fly", arguments="{}")
    client = ScriptedChatClient([call, FinishUpdate(finish_reason="tool_calls")], "I cannot fly.", "ok")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("fly!", thread=thread)
    assert response.text == "I cannot fly."
    result = response.messages[1].contents[0]
    assert isinstance(result, ToolResultContent)
    assert (result.call_id, result.is_error) == ("c1", True)
    await agent.run("well", thread=thread)
    assert [role for role, _ in client.said()] == ["user", "assistant", "tool", "assistant", "user"]


async def test_a_model_that_calls_for_ever_is_stopped_and_the_thread_stays_good(store: ThreadStore) -> None:
    call = [ToolCallUpdate(index=0, call_id="same", name="again", arguments="{}")]
    client = ScriptedChatClient(*[[call, FinishUpdate(finish_reason="tool_calls")]] * 10, "fine")
    agent = client.create_agent(thread_store=store, limits=Limits(rounds=9))
    thread = agent.get_new_thread()
    await agent.run("loop", thread=thread)
    assert client.unused == 1
    assert (await agent.run("and now?", thread=thread)).text == "fine"
    ids = [part.call_id for message in await thread.messages() for part in message.tool_calls]
    assert len(ids) == len(set(ids)) == 10


async def test_a_call_that_was_cut_off_is_not_part_of_the_turn(store: ThreadStore) -> None:
    call = ToolCallUpdate(index=0, call_id="c1", name="fly", arguments='{"to": "mo')
    client = ScriptedChatClient(["I will ", call, ServiceUnavailableError("cut off")], "ok")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("fly!", thread=thread)
    await agent.run("well?", thread=thread)
    assert client.said() == [("user", "fly!"), ("assistant", "I will "), ("user", "well?")]


async def test_two_threads_of_one_agent_know_nothing_of_each_other(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    threads = [agent.get_new_thread() for _ in range(20)]
    for n in range(3):
        await asyncio.gather(*(agent.run(f"{i}-{n}", thread=thread) for i, thread in enumerate(threads)))
    for i, thread in enumerate(threads):
        assert [turn.input[0].text for turn in await thread.turns()] == [f"{i}-{n}" for n in range(3)]


class _Suspensions:
    """Drives a coroutine and cancels it the k-th time that it waits for something."""

    def __init__(self, k: int) -> None:
        self.left = k

    async def drive(self, work: Any) -> bool:
        """True if it was cancelled, False if it ended before."""
        task = asyncio.ensure_future(work)
        while not task.done():
            if self.left == 0:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                return True
            self.left -= 1
            await asyncio.sleep(0)
            if not task.done() and task._fut_waiter is not None:  # type: ignore[attr-defined]
                await asyncio.wait({task}, timeout=0.0005)
        await task
        return False


@pytest.mark.parametrize("busy", [False, True])
async def test_cancelled_at_any_moment_the_thread_takes_the_next_turn(store: ThreadStore, busy: bool) -> None:
    """The turn is absent, whole, or cancelled; the next run works; nothing is left open."""
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    if busy and hasattr(store, "_shared") and hasattr(store._shared, "database"):
        store._shared.database._commit_seconds = 1.0  # every write takes the way through the writer's thread
    for k in range(200):
        thread = agent.get_new_thread()
        await agent.run("before", thread=thread)
        client._answers = [["one ", lambda: asyncio.sleep(0), "two ", lambda: asyncio.sleep(0.0001), "three"]]
        cancelled = await _Suspensions(k).drive(agent.run("interrupted", thread=thread))
        client._answers = []
        assert (await agent.run("after", thread=thread)).text == "You said: after"
        turns = await thread.turns()
        assert turns[0].status == turns[-1].status == "completed"
        assert [turn.status for turn in turns[1:-1]] in ([], ["cancelled"], ["completed"])
        assert client.open == 0
        assert dict(store.cache.holders) == {}
        if not cancelled:
            return
    pytest.fail("the run never ended")


async def test_a_store_that_fails_at_the_seal_gives_the_answer_with_the_error(store: ThreadStore) -> None:
    client = ScriptedChatClient("precious", "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("first", thread=thread)
    client._answers = [["pre", lambda: asyncio.sleep(0), "cious"]]

    async def close() -> None:
        store.close()

    client._answers[0].insert(1, close)  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailableError, match="closed") as caught:
        await agent.run("second", thread=thread)
    assert caught.value.response.text == "precious"


async def test_an_event_loop_that_is_closed_in_the_middle_of_a_stream_does_not_hold_the_thread(
    store: ThreadStore,
) -> None:
    client = ScriptedChatClient(["one", "two"], "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()

    def in_a_loop_of_its_own() -> None:
        loop = asyncio.new_event_loop()
        stream = agent.run_stream("x", thread=thread)
        assert loop.run_until_complete(anext(aiter(stream))).text == "one"
        loop.close()
        del stream

    await asyncio.to_thread(in_a_loop_of_its_own)
    gc.collect()
    assert (await agent.run("y", thread=thread, timeout=5)).text == "next"
    assert await ends(thread) == [("cancelled", "one"), ("completed", "next")]
