"""Approvals: a call that somebody must allow waits on the disk, for any process, and is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast import (
    AgentRunResponse,
    AgentThread,
    ApprovalError,
    ApprovalUpdate,
    ChatAgent,
    InvalidInputError,
    SQLiteStore,
    ThreadBusyError,
    ThreadStore,
    ToolContext,
    ToolResultContent,
    Usage,
    UsageUpdate,
    tool,
)
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient, calling

MADE: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    MADE.clear()


@tool(approval=True)
def pay(amount: int, ctx: ToolContext[Any]) -> str:
    """Pay somebody."""
    MADE.append(f"paid {amount}")
    return f"paid {amount}"


@tool(approval=lambda arguments: arguments["amount"] > 100)
def maybe_pay(amount: int) -> str:
    MADE.append(f"maybe paid {amount}")
    return f"maybe paid {amount}"


@tool(approval=True, approval_seconds=60)
def soon(what: str) -> str:
    MADE.append(f"soon {what}")
    return f"soon {what}"


def look() -> str:
    MADE.append("looked")
    return "looked"


TOOLS = [pay, maybe_pay, soon, look]


def an_agent(store: ThreadStore, *answers: Any, **options: Any) -> tuple[ChatAgent, ScriptedChatClient]:
    client = ScriptedChatClient(*answers)
    return client.create_agent(tools=TOOLS, name="Till", thread_store=store, **options), client


def results(response: AgentRunResponse | Any) -> list[str]:
    messages = response.messages if isinstance(response, AgentRunResponse) else response.output
    return [part.result for message in messages for part in message.contents if isinstance(part, ToolResultContent)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_waits_and_is_made_when_it_is_allowed(store: ThreadStore, streamed: bool) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5}), ("look", {})), "Paid.")
    thread = agent.get_new_thread()
    if streamed:
        stream = agent.run_stream("Pay 5.", thread=thread)
        told = [update async for update in stream]
        response = await stream.response()
        assert [update.request for update in told if isinstance(update, ApprovalUpdate)] == list(response.approvals)
        assert stream.status == "waiting"
    else:
        response = await agent.run("Pay 5.", thread=thread)
    assert (response.status, MADE) == ("waiting", ["looked"])
    (request,) = response.approvals
    assert (request.tool, request.arguments, request.agent) == ("pay", '{"amount":5}', "Till")
    assert (request.thread_id, request.turn_id, request.call_id) == (thread.id, response.turn_id, "c0")
    assert await thread.turns() == []

    if streamed:
        stream = agent.run_stream([request.approve(by="ada")], thread=thread)
        assert [update.text async for update in stream if update.text] == ["Paid."]
        done = await stream.response()
    else:
        done = await agent.run([request.approve(by="ada")], thread=thread)
    assert (done.turn_id, done.status, done.text) == (response.turn_id, "completed", "Paid.")
    assert (results(done), MADE) == (["paid 5", "looked"], ["looked", "paid 5"])
    (turn,) = await thread.turns()
    assert turn.output == done.messages
    allowed = turn.output[1].additional_properties
    assert allowed == {"approval": {"approved": True, "by": "ada", "why": ""}}


async def test_a_rejected_call_is_not_made_and_the_model_is_told_why(store: ThreadStore) -> None:
    agent, client = an_agent(store, calling(("pay", {"amount": 5})), "I will not.")
    thread = agent.get_new_thread()
    response = await agent.run("Pay.", thread=thread)
    done = await agent.run(response.approvals[0].reject("Too much."), thread=thread)
    assert (done.text, MADE) == ("I will not.", [])
    assert results(done) == ["This call was not allowed, and not made. Too much."]
    assert client.said()[-1] == ("tool", results(done)[0])


async def test_some_are_answered_now_and_the_rest_later(store: ThreadStore) -> None:
    agent, client = an_agent(store, calling(*[("pay", {"amount": n}) for n in (1, 2, 3)]), "Done.")
    thread = agent.get_new_thread()
    first = await agent.run("Pay.", thread=thread)
    second = await agent.run([first.approvals[1].approve()], thread=thread)
    assert (second.status, MADE) == ("waiting", ["paid 2"])
    assert [request.call_id for request in second.approvals] == ["c0", "c2"]
    assert await thread.approvals() == list(second.approvals) == [first.approvals[0], first.approvals[2]]
    third = await agent.run([first.approvals[0].approve(), first.approvals[2].reject()], thread=thread)
    assert (third.status, third.text, MADE) == ("completed", "Done.", ["paid 2", "paid 1"])
    assert results(third) == ["paid 1", "paid 2", "This call was not allowed, and not made."]
    assert len(client.requests) == 2


async def test_only_calls_that_need_it_wait(store: ThreadStore) -> None:
    asked = calling(("maybe_pay", {"amount": 7}), ("maybe_pay", {"amount": 700}), ("maybe_pay", "{broken"))
    agent, _ = an_agent(store, asked, "Ok.")
    thread = agent.get_new_thread()
    response = await agent.run("Pay.", thread=thread)
    assert [request.arguments for request in response.approvals] == ['{"amount":700}']
    assert MADE == ["maybe paid 7"]
    assert (await agent.run([response.approvals[0].approve()], thread=thread)).status == "completed"
    assert MADE == ["maybe paid 7", "maybe paid 700"]


# --- once, and nothing else -----------------------------------------------------------------------------------------


async def test_an_answer_is_used_once(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})), "Paid.", calling(("pay", {"amount": 5})))
    thread = agent.get_new_thread()
    answer = (await agent.run("Pay.", thread=thread)).approvals[0].approve()
    await agent.run([answer], thread=thread)
    with pytest.raises(ApprovalError, match="no longer waits"):
        await agent.run([answer], thread=thread)
    # The same call again, in another turn: the old answer is none.
    waiting = await agent.run("Pay again.", thread=thread)
    with pytest.raises(ApprovalError, match="nothing was done"):
        await agent.run([answer], thread=thread)
    assert (MADE, await thread.approvals()) == (["paid 5"], list(waiting.approvals))


async def test_an_answer_to_one_of_several_is_used_once_too(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 1}), ("pay", {"amount": 2})))
    thread = agent.get_new_thread()
    first, _second = (await agent.run("Pay.", thread=thread)).approvals
    await agent.run([first.approve()], thread=thread)
    with pytest.raises(ApprovalError, match="answered already"):
        await agent.run([first.approve()], thread=thread)
    with pytest.raises(ApprovalError, match="answered already"):
        await agent.run([first.reject()], thread=thread)
    assert MADE == ["paid 1"]


async def test_of_two_who_answer_at_once_one_is_used(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})), "Paid.")
    thread = agent.get_new_thread()
    request = (await agent.run("Pay.", thread=thread)).approvals[0]
    answers = [agent.run([request.approve()], thread=thread) for _ in range(5)]
    told = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(one).__name__ for one in told].count("AgentRunResponse") == 1
    assert all(isinstance(one, (AgentRunResponse, ApprovalError)) for one in told)
    assert MADE == ["paid 5"]


async def test_an_answer_holds_for_these_arguments_alone(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})))
    thread = agent.get_new_thread()
    request = (await agent.run("Pay.", thread=thread)).approvals[0]
    with pytest.raises(ApprovalError, match="other arguments"):
        await agent.run([replace(request, arguments='{"amount":5000}').approve()], thread=thread)
    with pytest.raises(ApprovalError, match="no open call"):
        await agent.run([replace(request, call_id="c9").approve()], thread=thread)
    assert (MADE, await thread.approvals()) == ([], [request])


async def test_an_approval_can_come_too_late(store: ThreadStore) -> None:
    runtime = SeededRuntime(seed=1)
    agent, _ = an_agent(store, calling(("soon", {"what": "x"}), ("pay", {"amount": 1})), "Well.", runtime=runtime)
    thread = agent.get_new_thread()
    response = await agent.run("Do.", thread=thread)
    late, other = response.approvals
    assert late.expires_us == late.asked_us + 60_000_000
    assert other.expires_at is None
    runtime.advance(61)
    with pytest.raises(ApprovalError, match="not later"):
        await agent.run([late.approve()], thread=thread)
    done = await agent.run([other.approve()], thread=thread)
    assert results(done) == ["Nobody allowed this call in time; it was not made.", "paid 1"]
    assert (done.status, MADE) == ("completed", ["paid 1"])


async def test_answers_and_words_are_not_mixed(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 1}), ("pay", {"amount": 2})))
    thread = agent.get_new_thread()
    first, second = (await agent.run("Pay.", thread=thread)).approvals
    for given in ([first.approve(), "and hurry"], [first.approve(), first.reject()]):
        with pytest.raises(InvalidInputError):
            await agent.run(given, thread=thread)  # type: ignore[arg-type]
    assert await thread.approvals() == [first, second]


async def test_answers_without_a_run_that_waits(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})))
    answer = (await agent.run("Pay.", thread=agent.get_new_thread())).approvals[0].approve()
    for thread in (agent.get_new_thread(), None):
        with pytest.raises(ApprovalError):
            await agent.run([answer], thread=thread)
    assert MADE == []


# --- what else may happen to the thread meanwhile -------------------------------------------------------------------


async def test_something_else_that_is_said_closes_the_open_calls(store: ThreadStore) -> None:
    agent, client = an_agent(store, calling(("pay", {"amount": 5})), "Never mind.")
    thread = agent.get_new_thread()
    answer = (await agent.run("Pay.", thread=thread)).approvals[0].approve()
    assert (await agent.run("Forget it.", thread=thread)).text == "Never mind."
    first, _ = await thread.turns()
    assert first.status == "cancelled"
    assert "went on without it" in results(first)[0]
    assert [role for role, _ in client.said()] == ["user", "assistant", "tool", "user"]
    with pytest.raises(ApprovalError):
        await agent.run([answer], thread=thread)
    assert (MADE, await thread.approvals()) == ([], [])


async def test_a_run_that_is_not_to_wait_leaves_it_waiting(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})), "Paid.")
    thread = agent.get_new_thread()
    request = (await agent.run("Pay.", thread=thread)).approvals[0]
    with pytest.raises(ThreadBusyError, match="waits for an approval"):
        await agent.run("Hello?", thread=thread, on_conflict="reject")
    assert (await agent.run([request.approve()], thread=thread)).text == "Paid."


async def test_a_run_that_rolls_back_leaves_the_turn_behind(store: ThreadStore) -> None:
    agent, client = an_agent(store, calling(("pay", {"amount": 5})), "Hello.")
    thread = agent.get_new_thread()
    await agent.run("Pay.", thread=thread)
    await agent.run("Hello?", thread=thread, on_conflict="rollback")
    assert client.said() == [("user", "Hello?")]
    assert [turn.status for turn in await thread.turns()] == ["completed"]


@pytest.mark.parametrize("how", ["cancel", "rewind", "delete"])
async def test_a_thread_that_waits_can_be_cancelled_moved_and_deleted(store: ThreadStore, how: str) -> None:
    agent, _ = an_agent(store, "Hi.", calling(("pay", {"amount": 5})), "Next.")
    thread = agent.get_new_thread()
    await agent.run("Hello.", thread=thread)
    await agent.run("Pay.", thread=thread)
    if how == "cancel":
        assert await thread.cancel()
        assert [turn.status for turn in await thread.turns()] == ["completed", "cancelled"]
    elif how == "rewind":
        with pytest.raises(ThreadBusyError):
            await thread.rewind()
        await thread.rewind(interrupt=True)
        assert [turn.status for turn in await thread.turns()] == ["completed"]
    else:
        with pytest.raises(ThreadBusyError):
            await thread.delete()
        await thread.delete(interrupt=True)
        return
    assert await thread.approvals() == []
    assert (await agent.run("And now?", thread=thread)).text == "Next."


async def test_the_same_key_is_told_that_the_run_waits(store: ThreadStore) -> None:
    agent, client = an_agent(store, calling(("pay", {"amount": 5})), "Paid.")
    thread = agent.get_new_thread()
    first = await agent.run("Pay.", thread=thread, idempotency_key="k")
    again = await agent.run("Pay.", thread=thread, idempotency_key="k")
    assert (again.status, again.turn_id, again.approvals) == ("waiting", first.turn_id, first.approvals)
    assert again.messages == first.messages
    await agent.run([first.approvals[0].approve()], thread=thread)
    assert (await agent.run("Pay.", thread=thread, idempotency_key="k")).text == "Paid."
    assert (len(client.requests), MADE) == (2, ["paid 5"])


async def test_resume_leaves_a_run_that_waits_alone(store: ThreadStore) -> None:
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})))
    thread = agent.get_new_thread()
    waiting = await agent.run("Pay.", thread=thread)
    assert await agent.resume(thread) is None
    assert await thread.approvals() == list(waiting.approvals)


async def test_runs_in_line_behind_one_that_comes_to_wait_go_on(store: ThreadStore) -> None:
    go = asyncio.Event()
    agent, _ = an_agent(store, [go.wait, *calling(("pay", {"amount": 5}))], "Second.", "Third.")
    thread = agent.get_new_thread()
    runs = [asyncio.create_task(agent.run(text, thread=thread)) for text in ("first", "second", "third")]
    await asyncio.sleep(0.05)
    go.set()
    first, second, third = await asyncio.gather(*runs)
    assert (first.status, second.text, third.text) == ("waiting", "Second.", "Third.")


async def test_usage_counts_what_was_said_before_the_wait(store: ThreadStore) -> None:
    used = UsageUpdate(usage=Usage(10, 5, 15))
    agent, _ = an_agent(store, [used, *calling(("pay", {"amount": 5}))], [used, "Paid."])
    thread = agent.get_new_thread()
    waiting = await agent.run("Pay.", thread=thread)
    done = await agent.run([waiting.approvals[0].approve()], thread=thread)
    assert done.usage == Usage(20, 10, 30)


# --- days later, in another process ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "threads.db"


@pytest.fixture
def later(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


async def test_any_process_finds_what_waits_and_answers_it(path: Path, later: SQLiteStore) -> None:
    store = SQLiteStore(path)
    agent, _ = an_agent(store, "Hi.", calling(("pay", {"amount": 5})))
    await agent.run("Hello.", thread=agent.get_thread("other", create=True))
    await agent.run("Pay.", thread=agent.get_thread("t", create=True))
    store.close()
    store._shared.die()

    (info,) = (await later.list(waiting=True)).threads
    assert (info.id, info.waiting) == ("t", True)
    agent, _ = an_agent(later, "Paid.")
    thread = agent.get_thread("t")
    requests = await thread.approvals()
    assert [(request.tool, request.agent) for request in requests] == [("pay", "Till")]
    assert (await agent.run([request.approve() for request in requests], thread=thread)).text == "Paid."
    assert MADE == ["paid 5"]
    assert (await later.list(waiting=True)).threads == ()


async def test_whoever_follows_is_told_of_the_request_and_of_what_comes_after_it(
    path: Path, later: SQLiteStore
) -> None:
    store = SQLiteStore(path)
    agent, _ = an_agent(store, calling(("pay", {"amount": 5})), "Paid.")
    thread = agent.get_thread("t", create=True)
    waiting = await agent.run("Pay.", thread=thread)
    told, answered = [], None
    async for update in AgentThread(later, "t", intent="existing").follow(waiting.turn_id):
        told.append(update)
        if isinstance(update, ApprovalUpdate):
            answered = asyncio.create_task(agent.run([update.request.approve()], thread=thread))
    assert answered is not None
    assert "".join(update.text for update in told) == (await answered).text == "Paid."
    assert [type(update).__name__ for update in told] == [
        *("ToolCallUpdate", "ApprovalUpdate", "ToolResultUpdate", "AgentRunResponseUpdate", "EndUpdate"),
    ]
    store.close()


async def test_a_death_in_the_middle_of_an_allowed_call(path: Path, later: SQLiteStore) -> None:
    inside = asyncio.Event()

    @tool(name="pay", approval=True)
    async def stays(amount: int) -> str:
        inside.set()
        await asyncio.Event().wait()
        return "never"

    store = SQLiteStore(path)
    client = ScriptedChatClient(calling(("pay", {"amount": 5}), ("pay", {"amount": 6})))
    agent = client.create_agent(tools=[stays], thread_store=store)
    thread = agent.get_thread("t", create=True)
    first, second = (await agent.run("Pay.", thread=thread)).approvals
    task = asyncio.create_task(agent.run([first.approve()], thread=thread))
    await inside.wait()
    store._shared.die()

    agent, _ = an_agent(later, "Well.")
    thread = agent.get_thread("t")
    with pytest.raises(ApprovalError, match="answered already"):
        await agent.run([first.approve()], thread=thread)
    done = await agent.run([second.approve()], thread=thread)
    assert ["unknown" in text for text in results(done)] == [True, False]
    assert MADE == ["paid 6"]
    task.cancel()
