"""Cursors: whoever comes back with one gets exactly what was said after it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import (
    AgentRunResponseUpdate,
    ChatMessage,
    EndUpdate,
    FinishUpdate,
    InvalidInputError,
    ReasoningUpdate,
    RefusalUpdate,
    RestartUpdate,
    ThreadStore,
    ToolCallUpdate,
    ToolResultUpdate,
    TurnNotFoundError,
)
from holdfast.conversation import journal
from holdfast.conversation.cursors import Cursor, parsed, rest, restart_for, units, updates_of
from holdfast.conversation.updates import Answer
from holdfast.testing.scripted import ScriptedChatClient

CALL = ToolCallUpdate(index=0, call_id="c1", name="fly", arguments='{"to": "mars"}')
SAID = [ReasoningUpdate(reasoning="Hm. "), "Arr ", "ma", "t😀y", RefusalUpdate(refusal="no")]


def content(updates: list[AgentRunResponseUpdate]) -> list[tuple[str, str]]:
    """What was said, joined by kind."""
    answer: list[tuple[str, str]] = []
    for update in updates:
        if isinstance(update, ReasoningUpdate):
            piece = ("reasoning", update.reasoning)
        elif isinstance(update, RefusalUpdate):
            piece = ("refusal", update.refusal)
        elif isinstance(update, ToolCallUpdate):
            piece = (f"call {update.index}", update.arguments)
        else:
            piece = ("text", update.text)
        if not piece[1]:
            continue
        if answer and answer[-1][0] == piece[0]:
            answer[-1] = (piece[0], answer[-1][1] + piece[1])
        else:
            answer.append(piece)
    return answer


async def test_from_every_cursor_of_a_stream_the_rest_is_exactly_the_rest(store: ThreadStore) -> None:
    client = ScriptedChatClient([*SAID, CALL, FinishUpdate(finish_reason="tool_calls")], ["Never", " mind."])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    read: list[AgentRunResponseUpdate] = []
    cursors = [stream.cursor]
    async for update in stream:
        read.append(update)
        cursors.append(stream.cursor)
    for n, cursor in enumerate(cursors):
        told = [update async for update in thread.follow(stream.turn_id, after=cursor)]
        # A call is told whole, as long as the answer that holds it was not over.
        first = read.index(CALL) if not any(isinstance(update, ToolResultUpdate) for update in read[:n]) else n
        assert content(told) == content(read[min(n, first) :]), (n, cursor)
        assert [type(update) for update in told].count(EndUpdate) == 1
        assert isinstance(told[-1], EndUpdate)


async def test_followers_of_a_living_run_get_all_of_it(store: ThreadStore) -> None:
    steps = [asyncio.Event() for _ in range(3)]
    client = ScriptedChatClient(["a ", steps[0].wait, "b ", steps[1].wait, "c ", steps[2].wait, "d"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)

    async def follow(after: str | None) -> str:
        other = agent.get_thread(thread.id)
        return "".join([update.text async for update in other.follow(stream.turn_id, after=after)])

    async def read() -> str:
        return "".join([update.text async for update in stream])

    reader = asyncio.create_task(read())
    while not client.requests:
        await asyncio.sleep(0.001)
    followers = [asyncio.create_task(follow(None))]
    for step in steps:
        await asyncio.sleep(0.05)
        followers.append(asyncio.create_task(follow(stream.cursor)))
        step.set()
    assert await reader == "a b c d"
    assert await asyncio.gather(*followers) == ["a b c d", "b c d", "c d", "d"]


async def test_a_follower_may_come_before_the_run_is_open(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "first"], "second")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.02)
    stream = agent.run_stream("b", thread=thread)
    reading = asyncio.create_task(stream.response())
    await asyncio.sleep(0.05)

    async def follow() -> str:
        return "".join([update.text async for update in thread.follow(stream.turn_id)])

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.05)
    go.set()
    await first
    await reading
    assert await following == "second"


async def test_a_cursor_beyond_what_was_kept_is_told_so(store: ThreadStore) -> None:
    agent = ScriptedChatClient("short").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    told = [update async for update in thread.follow(response.turn_id, after="1.99")]
    assert isinstance(told[0], RestartUpdate)
    assert told[0].n == 5
    assert isinstance(told[1], EndUpdate)


async def test_a_turn_that_was_rewound_or_stands_on_another_branch_can_be_followed(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", "two", "three").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    left = await agent.run("b", thread=thread)
    await thread.rewind()
    await agent.run("c", thread=thread)
    assert "".join([update.text async for update in thread.follow(left.turn_id)]) == "two"


async def test_unknown_turns_and_strings_that_are_no_cursors(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("a", thread=thread)
    with pytest.raises(TurnNotFoundError):
        await anext(thread.follow("turn_x"))
    for wrong in ("", "1", "1.", "-1.2", "1.2.3", "٣.٤", "1.2\n", "9" * 40 + ".1"):
        with pytest.raises(InvalidInputError, match="cursor"):
            thread.follow(response.turn_id, after=wrong)


async def test_another_tenants_turn_is_not_there(store: ThreadStore) -> None:
    agent = ScriptedChatClient("secret").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("a", thread=thread)
    stranger = ScriptedChatClient("hello").create_agent(thread_store=store.for_tenant("other"))
    own = stranger.get_new_thread()
    await stranger.run("b", thread=own)
    with pytest.raises(TurnNotFoundError):
        await anext(own.follow(response.turn_id))


async def test_a_call_that_was_cut_off_does_not_move_the_cursor(store: ThreadStore) -> None:
    cut = ToolCallUpdate(index=1, call_id="c2", name="swim", arguments='{"to": "the m')
    client = ScriptedChatClient(
        ["Well. ", CALL, cut, FinishUpdate(finish_reason="length")], ["Hello, ", "this is the second answer"]
    )
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    async for update in stream:
        if update.text == "Hello, ":
            break
    cursor = stream.cursor
    await stream.response()
    told = [update.text async for update in thread.follow(stream.turn_id, after=cursor)]
    assert "".join(told) == "this is the second answer"


async def test_a_slow_reader_is_half_a_second_ahead_of_the_journal_at_most(store: ThreadStore) -> None:
    updates = [AgentRunResponseUpdate(f"{n} ") for n in range(50)]
    agent = ScriptedChatClient([updates, "end"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    for n in range(3):
        assert (await anext(stream)).text == f"{n} "
    for _ in range(300):  # the reader takes its time over a batch that came at once
        progress = await store.progress(thread.id, stream.turn_id)
        assert progress is not None
        if "".join(update.text for update in journal.recorded(progress.records).pieces) == "0 1 2 ":
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("it was never written down")
    follower = thread.follow(stream.turn_id)
    assert "".join([(await anext(follower)).text for _ in range(3)]) == "0 1 2 "
    assert (await anext(stream)).text == "3 "
    assert (await anext(follower)).text == "3 "
    await stream.cancel()
    assert (await thread.turns())[0].output[0].text == "0 1 2 3 "


async def test_text_is_written_down_half_a_second_behind_at_most(store: ThreadStore) -> None:
    """Measured on the journal itself: what is in it, at a moment, of what was read half a second before."""

    async def forever() -> None:
        await asyncio.sleep(600)

    agent = ScriptedChatClient(["one ", "two ", forever]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)

    async def read() -> None:
        async for _ in stream:
            pass

    reader = asyncio.create_task(read())
    began = time.monotonic()
    while True:
        progress = await store.progress(thread.id, stream.turn_id)
        if progress is not None and progress.records:
            break
        assert time.monotonic() - began < 30
        await asyncio.sleep(0.01)
    assert "".join(update.text for update in journal.recorded(progress.records).pieces) == "one two "
    await stream.cancel()
    await reader


# --- the arithmetic --------------------------------------------------------------------------------------------

pieces = st.one_of(
    st.text(max_size=5).map(AgentRunResponseUpdate),
    st.text(max_size=5).map(lambda text: ReasoningUpdate(reasoning=text)),
    st.text(max_size=5).map(lambda text: RefusalUpdate(refusal=text)),
)


@given(st.lists(pieces), st.integers(min_value=0, max_value=40))
def test_rest_of_pieces_is_rest_of_their_fold(said: list[AgentRunResponseUpdate], after: int) -> None:
    answer = Answer()
    answer.add(said)
    message = answer.message(lambda index: f"c{index}")
    folded = updates_of([message] if message is not None else [])
    found, end = rest(said, 0, after)
    again, end_again = rest(folded, 0, after)
    assert end == end_again
    assert content(found) == content(again)
    assert sum(map(units, found)) == max(0, end - after)


@given(st.lists(pieces, min_size=1))
def test_a_journal_says_what_was_said(said: list[AgentRunResponseUpdate]) -> None:
    found = journal.recorded([journal.said(1, 0, said)])
    assert content(found.pieces) == content(said)


def test_halves_of_a_character_in_two_records() -> None:
    said = [AgentRunResponseUpdate("\ud83d"), AgentRunResponseUpdate("\ude00!")]
    records = [journal.said(1, 0, said[:1]), journal.said(1, 1, said[1:])]
    assert "".join(update.text for update in journal.recorded(records).pieces) == "\ud83d\ude00!"
    assert [update.text for update in rest(said, 0, 1)[0]] == ["\ude00!"]
    answer = Answer()
    answer.add(said)
    message = answer.message(lambda index: "")
    assert message is not None
    assert rest(updates_of([message]), 0, 2)[0][0].text == "!"


def test_a_whole_answer_takes_the_place_of_its_pieces() -> None:
    message = ChatMessage("assistant", text="one two")
    records = [
        journal.said(1, 0, [AgentRunResponseUpdate("one tw")]),
        journal.done(1, 0, [message]),
        journal.said(1, 7, [AgentRunResponseUpdate("three")]),
    ]
    found = journal.recorded(records)
    assert (found.messages, found.place) == ([message], 7)
    assert content(found.pieces) == [("text", "three")]


def test_records_that_this_version_does_not_know_end_what_is_read() -> None:
    sound = journal.said(1, 0, [AgentRunResponseUpdate("one")])
    for strange in (b"", b"{", b"[]", b'{"e": "x", "at": 0}', b"\xff"):
        assert content(journal.recorded([sound, strange, sound]).pieces) == [("text", "one")]


def test_restarts_are_told_to_those_who_have_read_an_earlier_writer() -> None:
    assert restart_for([(5, 10)], Cursor(4, 20)) == RestartUpdate(n=10, epoch=5)
    assert restart_for([(5, 10)], Cursor(4, 7)) == RestartUpdate(n=7, epoch=5)
    assert restart_for([(5, 10)], Cursor(5, 20)) is None
    assert restart_for([(5, 10)], Cursor()) is None
    assert restart_for([(5, 10), (7, 3)], Cursor(4, 20)) == RestartUpdate(n=3, epoch=7)
    assert restart_for([(5, 10), (7, 3)], Cursor(5, 20)) == RestartUpdate(n=3, epoch=7)
    assert parsed(str(Cursor(3, 14))) == Cursor(3, 14)
