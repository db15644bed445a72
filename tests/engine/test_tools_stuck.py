"""What somebody who tried to break tools and approvals found: each was wrong once."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AgentRunResponse,
    AgentThread,
    AnswerFormatError,
    ApprovalError,
    ChatMessage,
    InvalidInputError,
    Limits,
    ModelCallContext,
    RunCancelledError,
    RunContext,
    RunTimeoutError,
    ServiceUnavailableError,
    SQLiteStore,
    ThreadBusyError,
    ThreadStore,
    ToolCallContent,
    ToolCallContext,
    ToolResultContent,
    ToolResultUpdate,
    ToolSpec,
    TurnContext,
    tool,
)
from holdfast.ports.tools import ToolAnswer
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient, calling


def results(messages: Any) -> list[str]:
    return [part.result for message in messages for part in message.contents if isinstance(part, ToolResultContent)]


MADE: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    MADE.clear()


@tool(approval=True, approval_seconds=60)
def pay(to: str) -> str:
    MADE.append(to)
    return f"paid {to}"


def two_waiting(store: ThreadStore, *answers: Any, **options: Any) -> Any:
    client = ScriptedChatClient(calling(("pay", {"to": "A"}), ("pay", {"to": "B"})), *answers)
    return client.create_agent(tools=[pay], thread_store=store, **options)


async def test_a_rejection_is_not_lost_while_another_call_still_waits(store: ThreadStore) -> None:
    agent = two_waiting(store, "Done.")
    thread = agent.get_new_thread()
    first, second = (await agent.run("x", thread=thread)).approvals
    waiting = await agent.run([second.reject("never pay B")], thread=thread)
    assert list(waiting.approvals) == await thread.approvals() == [first]
    done = await agent.run([first.approve()], thread=thread)
    assert results(done.messages) == ["paid A", "This call was not allowed, and not made. never pay B"]
    assert (done.status, MADE) == ("completed", ["A"])


async def test_what_has_expired_is_not_asked_again(store: ThreadStore) -> None:
    runtime = SeededRuntime(seed=1)

    @tool(approval=True)
    def later(what: str) -> str:
        return what

    asked = calling(("later", {"what": "a"}), ("pay", {"to": "B"}), ("later", {"what": "c"}))
    agent = ScriptedChatClient(asked, "Done.").create_agent(tools=[later, pay], thread_store=store, runtime=runtime)
    thread = agent.get_new_thread()
    first, _, third = (await agent.run("x", thread=thread)).approvals
    runtime.advance(61)
    assert (await agent.run([first.approve()], thread=thread)).approvals == (third,)
    done = await agent.run([third.approve()], thread=thread)
    assert (results(done.messages)[1], MADE) == ("Nobody allowed this call in time; it was not made.", [])


async def test_approved_calls_count_once_towards_the_limit(store: ThreadStore) -> None:
    asked = calling(*[("pay", {"to": name}) for name in "ABC"])
    agent = ScriptedChatClient(asked, "Done.").create_agent(
        tools=[pay], thread_store=store, limits=Limits(tool_calls=3)
    )
    thread = agent.get_new_thread()
    first, second, third = (await agent.run("x", thread=thread)).approvals
    await agent.run([second.approve()], thread=thread)
    await agent.run([third.approve(), first.approve()], thread=thread)
    assert sorted(MADE) == ["A", "B", "C"]


async def test_what_somebody_was_asked_is_not_done_because_a_rule_has_changed(store: ThreadStore) -> None:
    strict = True

    @tool(approval=lambda arguments: strict)
    def spend(on: str) -> str:
        MADE.append(on)
        return on

    client = ScriptedChatClient(calling(("spend", {"on": "A"}), ("spend", {"on": "B"})), "Done.")
    agent = client.create_agent(tools=[spend], thread_store=store)
    thread = agent.get_new_thread()
    first, second = (await agent.run("x", thread=thread)).approvals
    strict = False
    assert (await agent.run([first.reject()], thread=thread)).approvals == (second,)
    assert MADE == []


async def test_an_approval_is_not_used_up_by_an_agent_without_the_tool(store: ThreadStore) -> None:
    agent = two_waiting(store, "Done.")
    thread = agent.get_new_thread()
    requests = (await agent.run("x", thread=thread)).approvals
    other = ScriptedChatClient().create_agent(thread_store=store)
    with pytest.raises(ApprovalError, match="no such tool"):
        await other.run([requests[0].approve()], thread=thread)
    assert await thread.approvals() == list(requests)
    assert (await agent.run([request.approve() for request in requests], thread=thread)).text == "Done."


async def test_an_approval_is_not_used_up_by_a_run_that_fails_before_the_call(store: ThreadStore) -> None:
    class Down:
        async def provide(self, context: RunContext) -> TurnContext:
            raise ServiceUnavailableError("no index", service="search")

    agent = two_waiting(store, "Done.")
    thread = agent.get_new_thread()
    requests = (await agent.run("x", thread=thread)).approvals
    answers = [request.approve() for request in requests]
    with pytest.raises(ServiceUnavailableError):
        await agent.run(answers, thread=thread, context_providers=[Down()])
    assert await thread.approvals() == list(requests)
    assert (await agent.run(answers, thread=thread)).text == "Done."
    assert MADE == ["A", "B"]


async def test_after_a_death_before_the_start_the_requests_are_still_there(tmp_path: Path) -> None:
    class Dies(SQLiteStore):
        async def _dies(self) -> None:
            self._shared.die()
            await asyncio.Event().wait()

        def journal(self, run: Any, records: Any, *, durable: bool = False) -> Any:
            return self._dies() if durable else super().journal(run, records, durable=durable)

    path = tmp_path / "threads.db"
    store = Dies(path)
    agent = two_waiting(store)
    thread = agent.get_thread("t", create=True)
    requests = (await agent.run("x", thread=thread)).approvals
    task = asyncio.create_task(agent.run([requests[0].approve()], thread=thread))
    await asyncio.sleep(0.05)
    again = SQLiteStore(path)
    agent = two_waiting(again)
    thread = agent.get_thread("t")
    assert await thread.approvals() == list(requests)
    await agent.run([request.approve() for request in requests], thread=thread)
    assert MADE == ["A", "B"]
    task.cancel()
    again.close()


async def test_a_turn_that_waits_is_not_regenerated(store: ThreadStore) -> None:
    agent = two_waiting(store, "Done.")
    thread = agent.get_new_thread()
    requests = (await agent.run("x", thread=thread)).approvals
    with pytest.raises(ThreadBusyError, match="waits for somebody"):
        await agent.regenerate(thread)
    assert await thread.approvals() == list(requests)


async def test_without_a_thread_nobody_can_be_asked(store: ThreadStore) -> None:
    response = await two_waiting(store, "Then not.").run("x")
    assert (response.status, response.text, MADE) == ("completed", "Then not.", [])
    assert "nobody can be asked" in results(response.messages)[0]


# --- reading along --------------------------------------------------------------------------------------------------


async def test_a_live_follower_reads_results_and_answers_in_their_order(store: ThreadStore) -> None:
    async def slow() -> str:
        await asyncio.sleep(0.1)
        return "RESULT"

    client = ScriptedChatClient(calling(("slow", {}), text="Let me see. "), ["The answer", " is 42."])
    agent = client.create_agent(tools=[slow], thread_store=store, on_disconnect="continue")
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    async for _ in stream:
        break
    told = [update async for update in thread.follow(stream.turn_id)]
    assert "".join(update.text for update in told) == "Let me see. The answer is 42."
    assert [update.result for update in told if isinstance(update, ToolResultUpdate)] == ["RESULT"]


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
async def test_a_cursor_between_two_results(store: ThreadStore, on_disconnect: Any) -> None:
    def look(what: str) -> str:
        return what

    client = ScriptedChatClient(calling(*[("look", {"what": name}) for name in ("", "b", "c")]), "ok")
    agent = client.create_agent(tools=[look], thread_store=store, on_disconnect=on_disconnect)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    read: list[str] = []
    async with stream:
        async for update in stream:
            if isinstance(update, ToolResultUpdate):
                read.append(update.result)
                break
        cursor = stream.cursor
    told = thread.follow(stream.turn_id, after=cursor)
    read += [update.result async for update in told if isinstance(update, ToolResultUpdate)]
    assert read == ["", "b", "c"]


# --- ending ---------------------------------------------------------------------------------------------------------


async def test_a_cancel_between_two_results_begins_no_more_calls(store: ThreadStore) -> None:
    def look(what: str) -> str:
        MADE.append(what)
        return what

    client = ScriptedChatClient(calling(*[("look", {"what": str(n)}) for n in range(9)]))
    agent = client.create_agent(tools=[look], thread_store=store, limits=Limits(parallel_calls=1))
    thread = agent.get_new_thread()

    async def read() -> None:
        async for update in agent.run_stream("x", thread=thread):
            if isinstance(update, ToolResultUpdate):
                cancelling.append(asyncio.create_task(AgentThread(store, thread.id, intent="existing").cancel()))
                await asyncio.sleep(0.02)

    cancelling: list[asyncio.Task[bool]] = []
    with pytest.raises(RunCancelledError):
        await read()
    assert len(MADE) <= 2
    assert (await thread.turns())[0].status == "cancelled"


async def test_a_function_whose_task_somebody_cancels_has_an_unknown_outcome(store: ThreadStore) -> None:
    inside, free = threading.Event(), threading.Event()

    def works() -> str:
        inside.set()
        free.wait(10)
        return "done all the same"

    agent = ScriptedChatClient(calling(("works", {})), "ok").create_agent(tools=[works], thread_store=store)
    task = asyncio.create_task(agent.run("x", thread=agent.get_new_thread()))
    await asyncio.to_thread(inside.wait)
    for other in asyncio.all_tasks():
        if other.get_name().startswith("holdfast works"):
            other.cancel()
    response = await task
    free.set()
    assert "outcome is unknown" in results(response.messages)[0]


async def test_the_time_for_tools_holds_against_one_that_will_not_stop(
    store: ThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.acting.GRACE_SECONDS", 0.05)

    async def stubborn() -> str:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                continue
        return "at last"

    agent = ScriptedChatClient(calling(("stubborn", {})), "ok").create_agent(
        tools=[stubborn], thread_store=store, limits=Limits(tool_seconds=0.05)
    )
    began = time.monotonic()
    response = await agent.run("x", thread=agent.get_new_thread())
    assert time.monotonic() - began < 2.5
    assert "unknown" in results(response.messages)[0]


# --- odd tools, odd middleware --------------------------------------------------------------------------------------


class Odd:
    """A tool of somebody's own making."""

    timeout = approval_seconds = None
    idempotent = in_thread = False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @property
    def spec(self) -> Any:
        return ToolSpec("odd", "", {"type": "object"})

    def needs_approval(self, arguments: str) -> bool:
        return False

    async def call(self, arguments: str, context: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class MyOwn(BaseException):
    pass


@pytest.mark.parametrize(
    "answer", [None, {"a": 1}, 7, ToolAnswer("x", {"y": object()}), MyOwn("mine"), GeneratorExit()]
)
async def test_a_tool_that_answers_oddly_does_not_end_the_run(store: ThreadStore, answer: Any) -> None:
    client = ScriptedChatClient(calling(("odd", {})), "Well.")
    agent = client.create_agent(tools=[Odd(answer)], thread_store=store)
    response = await agent.run("x", thread=agent.get_new_thread())
    assert (response.text, len(results(response.messages))) == ("Well.", 1)


async def test_middleware_does_not_make_a_call_twice(store: ThreadStore) -> None:
    async def twice(context: ToolCallContext, call_next: Any) -> Any:
        await call_next(context)
        return await call_next(context)

    agent = two_waiting(store, "Done.", middleware=[twice])
    thread = agent.get_new_thread()
    requests = (await agent.run("x", thread=thread)).approvals
    response = await agent.run([request.approve() for request in requests], thread=thread)
    assert sorted(MADE) == ["A", "B"]
    assert all("twice" in result for result in results(response.messages))


async def test_middleware_that_answers_with_calls_for_ever_comes_to_an_end(store: ThreadStore) -> None:
    async def calls(context: ModelCallContext, call_next: Any) -> Any:
        return ChatMessage("assistant", contents=[ToolCallContent("same", "nobody"), ToolCallContent("same", "pay")])

    agent = ScriptedChatClient().create_agent(middleware=[calls], thread_store=store, limits=Limits(rounds=4))
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    ids = [call.call_id for message in response.messages for call in message.tool_calls]
    assert response.status == "completed"
    assert len(ids) == len(set(ids)) == len(results(response.messages)) == 10


async def test_middleware_that_never_waits_leaves_others_their_turn(store: ThreadStore) -> None:
    async def calls(context: ModelCallContext, call_next: Any) -> Any:
        return ChatMessage("assistant", contents=[ToolCallContent("same", "nobody")])

    agent = ScriptedChatClient().create_agent(middleware=[calls], thread_store=store, limits=Limits(rounds=10**9))
    with pytest.raises(RunTimeoutError):
        await agent.run("x", thread=agent.get_new_thread(), timeout=0.2)


async def test_middleware_around_a_run_that_has_failed_answers_in_its_place(store: ThreadStore) -> None:
    async def sorry(context: RunContext, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except ServiceUnavailableError:
            return "Sorry."

    client = ScriptedChatClient(["Half ", ServiceUnavailableError("down")], [ServiceUnavailableError("down")], "fine")
    agent = client.create_agent(middleware=[sorry], thread_store=store)
    thread = agent.get_new_thread()
    assert (await agent.run("x", thread=thread)).text == "Half Sorry."
    assert (await agent.run("y", thread=thread)).text == "Sorry."
    assert (await agent.run("z", thread=thread)).text == "fine"
    assert [turn.status for turn in await thread.turns()] == ["completed"] * 3


async def test_middleware_around_a_run_that_is_done_changes_nothing_in_silence(store: ThreadStore) -> None:
    async def redacts(context: RunContext, call_next: Any) -> Any:
        await call_next(context)
        return "REDACTED"

    agent = ScriptedChatClient("secret").create_agent(middleware=[redacts], thread_store=store)
    with pytest.raises(InvalidInputError, match="what was said is said"):
        await agent.run("x", thread=agent.get_new_thread())


async def test_a_cancel_is_not_swallowed_by_middleware(store: ThreadStore) -> None:
    async def slow(context: RunContext, call_next: Any) -> AgentRunResponse:
        response: AgentRunResponse = await call_next(context)
        await asyncio.sleep(0.1)
        return response

    agent = ScriptedChatClient("said").create_agent(middleware=[slow], thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread))
    await asyncio.sleep(0.05)
    assert await AgentThread(store, thread.id, intent="existing").cancel()
    with pytest.raises(RunCancelledError):
        await task


async def test_an_answer_of_middleware_has_its_form_read(store: ThreadStore) -> None:
    async def cached(context: RunContext, call_next: Any) -> str:
        return '{"value": [1, 2]}'

    agent = ScriptedChatClient().create_agent(middleware=[cached], response_format=list[int], thread_store=store)
    assert (await agent.run("x", thread=agent.get_new_thread())).value == [1, 2]


async def test_a_form_that_is_never_given_for_calls_is_an_error(store: ThreadStore) -> None:
    client = ScriptedChatClient(*[calling(("nobody", {}))] * 4)
    agent = client.create_agent(response_format=list[int], limits=Limits(rounds=1), thread_store=store)
    with pytest.raises(AnswerFormatError):
        await agent.run("x", thread=agent.get_new_thread())


async def test_what_a_provider_records_is_not_something_that_has_happened(store: ThreadStore) -> None:
    class Documents:
        async def provide(self, context: RunContext) -> TurnContext:
            return TurnContext(messages=[ChatMessage("system", text="A document.")], recorded=True)

    client = ScriptedChatClient([ServiceUnavailableError("down")], "fine")
    agent = client.create_agent(context_providers=[Documents()], thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("x", thread=thread, idempotency_key="k")
    assert (await agent.run("x", thread=thread, idempotency_key="k")).text == "fine"
    assert client.said() == [("user", "x"), ("system", "A document.")]


# --- lasting conversations ------------------------------------------------------------------------------------------


@pytest.fixture
def helper() -> tuple[Any, ScriptedChatClient]:
    client = ScriptedChatClient()
    return client.create_agent(name="Helper").as_tool(conversation="lasting"), client


async def test_calls_of_one_answer_are_one_lasting_conversation(store: ThreadStore, helper: Any) -> None:
    as_tool, client = helper
    asked = calling(*[("Helper", {"task": text}) for text in ("one", "two", "three")])
    agent = ScriptedChatClient(asked, "ok").create_agent(tools=[as_tool], thread_store=store)
    await agent.run("x", thread=agent.get_new_thread())
    assert [text for role, text in client.said() if role == "user"] == ["one", "two", "three"]


async def test_a_lasting_conversation_that_was_deleted_begins_anew(store: ThreadStore, helper: Any) -> None:
    as_tool, client = helper
    answers = [part for text in ("one", "two") for part in (calling(("Helper", {"task": text})), "ok")]
    agent = ScriptedChatClient(*answers).create_agent(tools=[as_tool], thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("x", thread=thread)
    child = next(info.id for info in (await store.list()).threads if info.id != thread.id)
    await store.delete(child)
    await agent.run("y", thread=thread)
    assert client.said() == [("user", "two")]
