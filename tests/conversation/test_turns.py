"""Turns: whatever went wrong in a conversation, what is sent of it is a conversation that services accept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from any_messages import calls, messages_of, output_message, plain_message, results, spoken, tangled_message
from hypothesis import example, given

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    ReasoningContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    is_blank,
)
from holdfast.conversation.turns import (
    Turn,
    TurnStatus,
    checked_pairs,
    counts,
    results_for,
    split_into_turns,
    unanswered_calls,
    what_is_sent,
)

STATUSES: tuple[TurnStatus, ...] = ("completed", "failed", "cancelled", "interrupted")

USER = ChatMessage("user", text="Hi")
ANSWER = ChatMessage("assistant", text="Ho")


def call(*call_ids: str) -> ChatMessage:
    return ChatMessage("assistant", [ToolCallContent(call_id, "f", "{}") for call_id in call_ids])


def result(*call_ids: str) -> ChatMessage:
    return ChatMessage("tool", [ToolResultContent(call_id, f"of {call_id}") for call_id in call_ids])


def turn(
    output: Sequence[ChatMessage], *, said: Sequence[ChatMessage] = (USER,), status: TurnStatus = "completed"
) -> Turn:
    return Turn("turn_1", 1, status, tuple(said), tuple(output))


def breaches(messages: Sequence[ChatMessage], *, roles: bool = False) -> list[str]:
    """What a strict service would find. Written from the services' rules, not from our code.

    After a message that calls come results and nothing else, until each call has exactly one; a result anywhere
    else, or a second one, is an orphan. With `roles`: assistants call and tools answer, nobody else.
    """
    found: list[str] = []
    open_calls: list[str] = []
    for place, message in enumerate(messages):
        made = [part.call_id for part in message.contents if isinstance(part, ToolCallContent)]
        given_back = [part.call_id for part in message.contents if isinstance(part, ToolResultContent)]
        if open_calls and (made or len(given_back) < len(message.contents) or not given_back):
            found.append(f"{place}: {open_calls} have no result yet")
            open_calls = []
        if made and given_back:
            found.append(f"{place}: calls and results in one message")
        for call_id in given_back:
            if call_id in open_calls:
                open_calls.remove(call_id)
            else:
                found.append(f"{place}: {call_id} answers nothing")
        if len(set(made)) < len(made):
            found.append(f"{place}: {made} are not told apart")
        open_calls += made
        if roles and ((made and message.role != "assistant") or (given_back and message.role != "tool")):
            found.append(f"{place}: {message.role} calls or answers")
    return [*found, f"end: {open_calls} have no result"] if open_calls else found


@pytest.mark.parametrize(
    ("messages", "sound"),
    [
        ([USER, ANSWER], True),
        ([call("a"), result("a"), ANSWER], True),
        ([call("a", "b"), result("b"), result("a")], True),
        ([call("a", "b"), result("a", "b")], True),
        ([call("a"), result("a"), call("a"), result("a")], True),
        ([call("a")], False),
        ([call("a"), USER, result("a")], False),
        ([call("a", "b"), result("a"), ANSWER], False),
        ([result("a")], False),
        ([call("a"), result("a"), result("a")], False),
        ([call("a", "a"), result("a"), result("a")], False),
        ([call("a"), call("b"), result("a"), result("b")], False),
        ([call("a"), ChatMessage("tool", [ToolResultContent("a"), TextContent("and")])], False),
    ],
)
def test_the_checker_of_these_tests_sees_what_it_should(messages: list[ChatMessage], sound: bool) -> None:
    assert (breaches(messages, roles=True) == []) == sound


# --- what is sent ----------------------------------------------------------------------------------------------

transcripts = st.lists(plain_message, max_size=8)
tangles = st.lists(
    st.one_of(
        messages_of(st.just("assistant"), calls | spoken),
        messages_of(st.just("tool"), results),
        messages_of(st.just("tool"), results | calls | spoken),
        st.just(USER),
    ),
    max_size=8,
)


@given(st.lists(output_message, max_size=6), st.sampled_from(STATUSES))
def test_what_is_sent_is_always_paired(output: list[ChatMessage], status: TurnStatus) -> None:
    assert breaches(what_is_sent(turn(output, status=status))) == []


@given(tangles, st.sampled_from(STATUSES))
def test_what_is_sent_of_tangled_calls_is_paired(output: list[ChatMessage], status: TurnStatus) -> None:
    assert breaches(what_is_sent(turn(output, status=status))) == []


@given(st.lists(tangled_message, max_size=3), st.lists(tangled_message, max_size=3))
@example([call("a")], [])
@example([result("a")], [ANSWER])
def test_what_is_sent_is_paired_whatever_was_said(said: list[ChatMessage], output: list[ChatMessage]) -> None:
    assert breaches(what_is_sent(turn(output, said=said))) == []


@given(st.lists(tangled_message, max_size=6))
@example([call("a"), ChatMessage("user", [ToolResultContent("a")])])
@example([ChatMessage("user", [ToolCallContent("a", "f")]), result("a")])
def test_assistants_call_and_tools_answer(output: list[ChatMessage]) -> None:
    assert breaches(what_is_sent(turn(output)), roles=True) == []


@given(st.lists(output_message, max_size=6))
def test_no_reasoning_and_nothing_blank_is_sent(output: list[ChatMessage]) -> None:
    told = what_is_sent(turn([*output, call("z")]))[1:]
    assert not any(isinstance(part, ReasoningContent) for message in told for part in message.contents)
    assert not any(is_blank(message) for message in told)


@pytest.mark.parametrize(
    "blank",
    [
        ChatMessage("assistant", text=""),
        ChatMessage("assistant", text=" \n"),
        ChatMessage("assistant", [ReasoningContent("hm")]),
        ChatMessage("assistant", []),
    ],
    ids=repr,
)
def test_an_answer_of_nothing_is_not_sent(blank: ChatMessage) -> None:
    assert what_is_sent(turn([blank])) == (USER,)
    assert what_is_sent(turn([blank, ANSWER])) == (USER, ANSWER)


@given(tangles)
def test_what_was_sound_is_sent_as_it_was(output: list[ChatMessage]) -> None:
    kept, _ = checked_pairs(output, repair=True)
    without = [message for message in kept if not is_blank(message)]
    if not any(isinstance(part, ReasoningContent) for message in without for part in message.contents):
        assert what_is_sent(turn(without)) == (USER, *without)


@given(st.lists(output_message, max_size=6))
def test_what_is_sent_does_not_depend_on_how_often_it_was_asked_for(output: list[ChatMessage]) -> None:
    once = what_is_sent(turn(output))
    assert what_is_sent(turn(once[1:])) == once


def test_a_call_without_a_result_is_closed_as_interrupted() -> None:
    told = what_is_sent(turn([call("a", "b"), result("b")], status="interrupted"))
    assert told[:3] == (USER, call("a", "b"), result("b"))
    (part,) = told[3].contents
    assert isinstance(part, ToolResultContent)
    assert (told[3].role, part.call_id, part.is_error) == ("tool", "a", True)
    assert "interrupted" in part.result
    assert len(told) == 4


def test_a_result_without_a_call_is_not_sent() -> None:
    assert what_is_sent(turn([result("a"), ANSWER])) == (USER, ANSWER)
    assert what_is_sent(turn([call("a"), result("a"), result("a"), ANSWER])) == (USER, call("a"), result("a"), ANSWER)


def test_a_call_is_kept_when_the_reasoning_before_it_goes() -> None:
    thought = ChatMessage("assistant", [ReasoningContent("hm"), ToolCallContent("a", "f", "{}")], message_id="m")
    _, told, _ = what_is_sent(turn([thought, result("a")]))
    assert (told.contents, told.message_id) == ((ToolCallContent("a", "f", "{}"),), "m")


@pytest.mark.parametrize("status", STATUSES)
def test_a_failed_turn_counts_if_something_happened_in_it(status: TurnStatus) -> None:
    assert counts(turn([ANSWER], status=status))
    assert what_is_sent(turn([ANSWER], status=status)) == (USER, ANSWER)
    assert counts(turn([], status=status)) == (status != "failed")
    assert what_is_sent(turn([], status=status)) == (() if status == "failed" else (USER,))


# --- calls that wait for their results -------------------------------------------------------------------------


@given(tangles)
def test_closing_what_is_unanswered_makes_a_turn_whole(output: list[ChatMessage]) -> None:
    """A run that kept its pairs so far has at most its last calls open, and closes them at its end."""
    kept, _ = checked_pairs(output, repair=True)
    whole = [*kept, call("y", "z"), result("z")]
    waiting = unanswered_calls(whole)
    assert [part.call_id for part in waiting] == ["y"]
    assert breaches([*whole, *results_for(waiting, "The run was cancelled.")], roles=False) == []
    assert unanswered_calls([*whole, *results_for(waiting, "why")]) == []


def test_nothing_waits_where_nobody_called() -> None:
    assert unanswered_calls([]) == []
    assert unanswered_calls([USER, ANSWER]) == []
    assert results_for([], "why") == []


def test_a_result_that_was_made_up_says_why() -> None:
    (message,) = results_for([ToolCallContent("a", "f")], "The limit was reached.")
    assert message == ChatMessage("tool", [ToolResultContent("a", "The limit was reached.", is_error=True)])


# --- transcripts that come in from elsewhere -------------------------------------------------------------------


@given(st.lists(tangled_message, max_size=8))
def test_a_mended_transcript_is_always_accepted(messages: list[ChatMessage]) -> None:
    kept, _ = checked_pairs(messages, repair=True)
    assert breaches(kept) == []
    assert checked_pairs(kept) == (kept, [])


@given(tangles)
def test_a_mended_transcript_of_tangled_calls_is_accepted(messages: list[ChatMessage]) -> None:
    kept, mended = checked_pairs(messages, repair=True)
    assert breaches(kept) == []
    assert bool(mended) == bool(breaches(messages))


@given(transcripts | tangles)
def test_what_needs_no_mending_is_taken_as_it_is(messages: list[ChatMessage]) -> None:
    """Results that came together in one message are told apart; nothing else changes."""
    if breaches(messages):
        return
    kept, mended = checked_pairs(messages)
    assert mended == []
    assert [part for message in kept for part in message.contents] == [
        part for message in messages for part in message.contents
    ]


def test_a_breach_is_refused_unless_mending_was_asked_for() -> None:
    messages = [USER, call("a", "a", "b"), result("b", "c"), ANSWER, result("a")]
    with pytest.raises(InvalidInputError, match="repair=True") as caught:
        checked_pairs(messages)
    kept, mended = checked_pairs(messages, repair=True)
    assert len(mended) == 4
    assert all(line in str(caught.value) for line in mended)
    assert breaches(kept, roles=True) == []
    assert [part.call_id for message in kept for part in message.tool_calls] == ["a", "b"]


def test_a_refusal_is_not_as_long_as_the_transcript() -> None:
    with pytest.raises(InvalidInputError, match="and 95 more"):
        checked_pairs([result(f"call {n}") for n in range(100)])


@given(st.lists(tangled_message, max_size=10))
def test_splitting_into_turns_loses_nothing(messages: list[ChatMessage]) -> None:
    turns = split_into_turns(messages)
    assert [message for said, output in turns for message in (*said, *output)] == messages
    assert all(said or output for said, output in turns)


@given(st.lists(tangled_message, max_size=10))
def test_a_turn_begins_at_each_user_message(messages: list[ChatMessage]) -> None:
    turns = split_into_turns(messages)
    for said, output in turns:
        assert all(message.role == "system" for message in said[:-1])
        assert not any(message.role == "user" for message in output)
        assert not output or output[-1].role in ("assistant", "tool")
    for said, _ in turns[1:-1]:
        assert said[-1].role == "user"


@given(transcripts)
def test_a_mended_transcript_is_paired_turn_by_turn(messages: list[ChatMessage]) -> None:
    """Where roles are kept: windows cut between turns, and may cut at any of them."""
    kept, _ = checked_pairs(messages, repair=True)
    for said, output in split_into_turns(kept):
        assert breaches(what_is_sent(turn(output, said=said)), roles=True) == []


def test_results_that_came_as_a_users_message_stay_with_their_calls() -> None:
    """As one service has it: tool results are told in the user's role."""
    kept, mended = checked_pairs([USER, call("a"), ChatMessage("user", [ToolResultContent("a", "r")]), ANSWER])
    assert mended == []
    told = [what_is_sent(turn(output, said=said)) for said, output in split_into_turns(kept)]
    assert all(breaches(messages) == [] for messages in told)


def test_a_transcript_is_split_where_a_reader_would() -> None:
    system = ChatMessage("system", text="Be brief.")
    assert split_into_turns([]) == []
    assert split_into_turns([system]) == [([system], [])]
    assert split_into_turns([ANSWER]) == [([], [ANSWER])]
    assert split_into_turns([system, USER, ANSWER, USER]) == [([system, USER], [ANSWER]), ([USER], [])]
    assert split_into_turns([USER, ANSWER, system, USER]) == [([USER], [ANSWER]), ([system, USER], [])]
    assert split_into_turns([USER, call("a"), system, result("a"), ANSWER]) == [
        ([USER], [call("a"), system, result("a"), ANSWER])
    ]


# --- times -----------------------------------------------------------------------------------------------------


def test_times_are_aware_and_in_utc() -> None:
    found = Turn("t", 1, "completed", (), (), started_us=0, ended_us=1_795_335_482_123_456)
    assert found.started_at == datetime(1970, 1, 1, tzinfo=UTC)
    assert found.ended_at == datetime(2026, 11, 22, 8, 18, 2, 123456, tzinfo=UTC)
    assert found.ended_at.tzinfo is UTC


@given(st.integers(0, 4_102_444_800_000_000))
def test_times_are_kept_to_the_microsecond(us: int) -> None:
    at = Turn("t", 1, "completed", (), (), started_us=us).started_at
    assert (at - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution) == us
