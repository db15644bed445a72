"""Updates: however an answer was cut into pieces, the same message comes of it."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from any_messages import names, texts
from hypothesis import given

from holdfast.conversation.messages import (
    ChatMessage,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
)
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    Answer,
    FinishUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
    Usage,
    UsageUpdate,
)

Updates = Sequence[AgentRunResponseUpdate]

pieces = st.text(min_size=1, max_size=12)
reasons = st.sampled_from((None, "stop", "length", "tool_calls", "content_filter"))
tokens = st.integers(0, 10**9)
usages = st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens)

any_update: st.SearchStrategy[AgentRunResponseUpdate] = st.one_of(
    st.builds(AgentRunResponseUpdate, pieces),
    st.builds(ReasoningUpdate, reasoning=pieces),
    st.builds(RefusalUpdate, refusal=pieces),
    st.builds(
        ToolCallUpdate,
        index=st.integers(0, 2),
        call_id=st.sampled_from(("", "a", "b")),
        name=st.sampled_from(("", "f", "g")),
        arguments=st.sampled_from(("", "{", "}", '{"a":', "1}", '"é"')) | texts,
    ),
    st.builds(UsageUpdate, usage=usages),
    st.builds(FinishUpdate, finish_reason=reasons, model=st.none() | names, response_id=st.none() | names),
)
answers = st.lists(any_update, max_size=12)


def new_id(index: int) -> str:
    return f"made {index}"


def folded(*batches: Updates) -> Answer:
    answer = Answer()
    for batch in batches:
        answer.add(batch)
    return answer


def what_came(answer: Answer) -> tuple[object, ...]:
    return (answer.message(new_id), answer.usage, answer.finish_reason, answer.model, answer.response_id)


def message_of(*updates: AgentRunResponseUpdate) -> ChatMessage | None:
    return folded(updates).message(new_id)


def text(piece: str) -> AgentRunResponseUpdate:
    return AgentRunResponseUpdate(piece)


def call(index: int, call_id: str = "", name: str = "", arguments: str = "") -> ToolCallUpdate:
    return ToolCallUpdate(index=index, call_id=call_id, name=name, arguments=arguments)


STOP = FinishUpdate(finish_reason="stop")


# --- however it was cut ----------------------------------------------------------------------------------------


@given(answers, st.data())
def test_updates_may_come_in_any_batches(updates: list[AgentRunResponseUpdate], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(updates)), max_size=6)))
    batches = [updates[start:end] for start, end in zip([0, *cuts], [*cuts, len(updates)], strict=True)]
    assert what_came(folded(*batches)) == what_came(folded(updates))


@given(answers, st.data())
def test_pieces_may_be_cut_anywhere(updates: list[AgentRunResponseUpdate], data: st.DataObject) -> None:
    smaller = [piece for update in updates for piece in cut(update, data)]
    assert what_came(folded(smaller)) == what_came(folded(updates))


def cut(update: AgentRunResponseUpdate, data: st.DataObject) -> Updates:
    """The update in two, somewhere; in the middle of a surrogate pair as well, as some services do."""
    if isinstance(update, ReasoningUpdate):
        return [ReasoningUpdate(reasoning=half) for half in halves(update.reasoning, data)]
    if isinstance(update, RefusalUpdate):
        return [RefusalUpdate(refusal=half) for half in halves(update.refusal, data)]
    if isinstance(update, ToolCallUpdate):
        first, second = halves(update.arguments, data)
        return [call(update.index, update.call_id, update.name, first), call(update.index, arguments=second)]
    if type(update) is AgentRunResponseUpdate:
        return [text(half) for half in halves(update.text, data)]
    return [update]


def halves(whole: str, data: st.DataObject) -> tuple[str, str]:
    units = whole.encode("utf-16-le")
    at = 2 * data.draw(st.integers(0, len(units) // 2))
    return units[:at].decode("utf-16-le", "surrogatepass"), units[at:].decode("utf-16-le", "surrogatepass")


@given(answers)
def test_looking_at_an_answer_does_not_change_it(updates: list[AgentRunResponseUpdate]) -> None:
    answer = Answer()
    for update in updates:
        answer.add([update])
        assert what_came(answer) == what_came(answer)
    assert what_came(answer) == what_came(folded(updates))


@given(answers)
def test_the_text_of_all_updates_is_the_text_of_the_message(updates: list[AgentRunResponseUpdate]) -> None:
    message = message_of(*updates)
    assert "".join(update.text for update in updates) == (message.text if message is not None else "")


@given(answers)
def test_an_answer_has_no_empty_part_and_can_be_written(updates: list[AgentRunResponseUpdate]) -> None:
    message = message_of(*updates)
    if message is not None:
        assert message.contents
        assert (message.role, message == ChatMessage("assistant", message.contents)) == ("assistant", True)
        assert all(part.text for part in message.contents if not isinstance(part, ToolCallContent))  # type: ignore[union-attr]


# --- what comes of it ------------------------------------------------------------------------------------------


def test_nothing_is_no_message() -> None:
    assert message_of() is None
    assert message_of(text(""), ReasoningUpdate(reasoning=""), STOP, UsageUpdate(usage=Usage(1))) is None


def test_a_message_has_its_parts_in_the_order_in_which_they_began() -> None:
    message = message_of(
        ReasoningUpdate(reasoning="h"),
        ReasoningUpdate(reasoning="m"),
        text("I "),
        text("look."),
        call(0, "a", "f", '{"k":'),
        call(1, "b", "g", "{}"),
        call(0, arguments="1}"),
        text("Done."),
        RefusalUpdate(refusal="But no."),
        STOP,
    )
    assert message is not None
    assert message.contents == (
        ReasoningContent("hm"),
        TextContent("I look."),
        ToolCallContent("a", "f", '{"k":1}'),
        ToolCallContent("b", "g", "{}"),
        TextContent("Done."),
        RefusalContent("But no."),
    )


@pytest.mark.parametrize("nothing", [text(""), RefusalUpdate(refusal="")], ids=repr)
def test_a_piece_of_nothing_cuts_nothing(nothing: AgentRunResponseUpdate) -> None:
    """As services send it that put an empty `content` beside each piece of reasoning."""
    message = message_of(ReasoningUpdate(reasoning="h"), nothing, ReasoningUpdate(reasoning="m"), STOP)
    assert message is not None
    assert message.contents == (ReasoningContent("hm"),)


def test_the_author_is_the_agents_name() -> None:
    message = folded([text("Hi")]).message(new_id, author_name="Joker")
    assert message == ChatMessage("assistant", text="Hi", author_name="Joker")


def test_facts_stand_until_others_come() -> None:
    answer = folded(
        [
            FinishUpdate(model="m", response_id="r"),
            UsageUpdate(usage=Usage(1, 1, 2)),
            FinishUpdate(finish_reason="stop"),
        ],
        [FinishUpdate(), UsageUpdate(usage=Usage(1, 5, 6)), FinishUpdate(model="m2")],
    )
    assert (answer.finish_reason, answer.model, answer.response_id) == ("stop", "m2", "r")
    assert answer.usage == Usage(1, 5, 6)


@given(usages, usages, usages)
def test_usages_are_added(one: Usage, two: Usage, three: Usage) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + Usage() == one
    assert (one + two).cached_tokens == one.cached_tokens + two.cached_tokens


def test_halves_of_a_character_that_came_apart_are_joined() -> None:
    assert message_of(text("\ud83d"), text("\ude00 é")) == ChatMessage("assistant", text="😀 é")
    assert message_of(text("lost \ud83d"), text("half")) == ChatMessage("assistant", text="lost \ufffdhalf")
    found = message_of(call(0, "a", "f", '"\ud83d'), call(0, arguments='\ude00"'), STOP)
    assert found is not None
    assert found.tool_calls[0].arguments == '"😀"'


# --- calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [None, "length", "content_filter"])
@pytest.mark.parametrize("arguments", ["", "{", '{"k":', '{"k":1', "nul", '"text"', "[1]", "1"])
def test_a_call_that_was_cut_off_was_never_made(reason: str | None, arguments: str) -> None:
    updates = [text("I look."), call(0, "a", "f", arguments), FinishUpdate(finish_reason=reason)]
    assert message_of(*updates) == ChatMessage("assistant", text="I look.")


@pytest.mark.parametrize("reason", [None, "length", "content_filter", "stop", "tool_calls"])
def test_a_call_that_is_whole_was_made(reason: str | None) -> None:
    message = message_of(call(0, "a", "f", '{"k": [1]}'), FinishUpdate(finish_reason=reason))
    assert message == ChatMessage("assistant", [ToolCallContent("a", "f", '{"k": [1]}')])


@pytest.mark.parametrize("arguments", ["", "{", "not JSON"])
def test_the_arguments_of_an_answer_that_ended_are_what_the_model_wrote(arguments: str) -> None:
    message = message_of(call(0, "a", "f", arguments), STOP)
    assert message == ChatMessage("assistant", [ToolCallContent("a", "f", arguments)])


def test_a_call_of_nothing_was_never_made() -> None:
    assert message_of(call(0, "a", "", "{}"), STOP) is None


def test_a_call_is_named_once() -> None:
    message = message_of(call(0, "a", "f", "{"), call(0, "b", "g", "}"), STOP)
    assert message == ChatMessage("assistant", [ToolCallContent("a", "f", "{}")])


def test_calls_without_an_id_get_one_each() -> None:
    message = message_of(call(0, "", "f", "{}"), call(1, "", "f", "{}"), call(2, "a", "f", "{}"), STOP)
    assert message is not None
    ids = [part.call_id for part in message.tool_calls]
    assert len({*ids}) == 3
    assert ids[2] == "a"
    assert all(ids)


def test_a_call_id_that_is_taken_is_given_to_nobody_else() -> None:
    answer = folded([call(0, "a", "f", "{}"), call(1, "a", "g", "{}"), call(2, "b", "h", "{}"), STOP])
    message = answer.message(new_id, taken=["b"])
    assert message is not None
    ids = [part.call_id for part in message.tool_calls]
    assert ids[0] == "a"
    assert len({*ids, "b"}) == 4


def test_a_made_up_id_that_is_taken_is_not_asked_for_for_ever() -> None:
    asked: list[int] = []

    def from_index(index: int) -> str:
        asked.append(index)
        if len(asked) > 100:
            raise RuntimeError("asked for ever")
        return f"made {index}"

    message = folded([call(0, "", "f", "{}"), STOP]).message(from_index, taken=["made 1"])
    assert message is not None
    assert message.tool_calls[0].call_id not in ("", "made 1")
