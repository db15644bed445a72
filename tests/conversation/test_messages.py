"""Messages: what can be said is said, what cannot is refused before anything was sent or stored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from any_messages import any_message, roles, texts
from hypothesis import given

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import (
    ROLES,
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
    is_blank,
    normalized_input,
)

# --- making one ------------------------------------------------------------------------------------------------


@given(roles, texts)
def test_text_is_a_message_of_one_part(role: Any, text: str) -> None:
    message = ChatMessage(role, text=text)
    assert message.contents == (TextContent(text),)
    assert (message.role, message.text, message.tool_calls) == (role, text, ())
    assert message == ChatMessage(role, [text]) == ChatMessage(role, (part for part in [TextContent(text)]))


def test_the_text_of_a_message_is_that_of_its_text_parts() -> None:
    call = ToolCallContent("c", "f", "{}")
    message = ChatMessage("assistant", ["a", ReasoningContent("hm"), call, RefusalContent("no"), TextContent(" b")])
    assert message.text == "a b"
    assert message.tool_calls == (call,)


@pytest.mark.parametrize("role", ["", "User", "developer", "function", None, 1, "user "])
def test_a_role_that_no_service_has_is_refused(role: Any) -> None:
    with pytest.raises(InvalidInputError, match="role is one of assistant, system, tool, user"):
        ChatMessage(role, text="Hi")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"contents": None},
        {"contents": "Hi"},
        {"contents": b"Hi"},
        {"text": "Hi", "contents": ["Hi"]},
        {"text": "", "contents": []},
        {"text": 5},
        {"text": b"Hi"},
    ],
    ids=str,
)
def test_a_message_is_given_either_text_or_parts(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"text"):
        ChatMessage("user", **arguments)


@pytest.mark.parametrize(
    "part", [None, 5, {"type": "text", "text": "Hi"}, b"Hi", ["Hi"], ChatMessage("user", text="Hi")]
)
def test_what_is_no_kind_of_content_is_refused(part: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{type(part).__name__} is no kind of content"):
        ChatMessage("user", ["Hi", part])


@pytest.mark.parametrize(
    "part",
    [
        "\ud83d",
        TextContent("a\ud800b"),
        ReasoningContent("\udfff"),
        RefusalContent("\udfff"),
        ImageContent("https://example.org/\ud800"),
        ImageContent("data:,", detail="\ud800"),
        FileContent("data:,", name="\ud800"),
        ToolCallContent("\ud800", "f"),
        ToolCallContent("c", "\ud800"),
        ToolCallContent("c", "f", "\ud800"),
        ToolResultContent("c", "\ud800"),
    ],
    ids=ascii,
)
def test_half_of_a_surrogate_pair_is_refused(part: Any) -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        ChatMessage("user", [part])


@pytest.mark.parametrize(
    "part", [TextContent(5), ToolCallContent("c", None), ToolResultContent("c", {"k": 1})], ids=str
)  # type: ignore[arg-type]
def test_a_part_with_a_field_of_another_type_is_refused(part: Any) -> None:
    with pytest.raises(InvalidInputError):
        ChatMessage("user", [part])


@pytest.mark.parametrize("make", [ImageContent, FileContent])
@pytest.mark.parametrize(
    "uri", ["", "a.png", "/etc/passwd", "file:///etc/passwd", "ftp://x/y", "javascript:1", "DATA:,"]
)
def test_a_path_is_no_address(make: Any, uri: str) -> None:
    with pytest.raises(InvalidInputError, match="data: URI"):
        ChatMessage("user", [make(uri)])


# --- having one ------------------------------------------------------------------------------------------------


@given(any_message)
def test_a_message_can_be_copied_and_compared(message: ChatMessage) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.copy(message) == copy.deepcopy(message) == message
    assert hash(copy.deepcopy(message)) == hash(message)
    assert message != ChatMessage(message.role, [*message.contents, "and more"])
    assert repr(message).startswith("ChatMessage(role=")


@given(any_message, any_message)
def test_messages_are_equal_if_everything_in_them_is(one: ChatMessage, other: ChatMessage) -> None:
    assert (one == other) == all(getattr(one, name) == getattr(other, name) for name in ChatMessage.__slots__)


def test_a_message_is_equal_to_nothing_else() -> None:
    message = ChatMessage("user", text="Hi")
    assert message != "Hi"
    assert message != ("user", "Hi")
    assert message != ChatMessage("assistant", text="Hi")
    assert message != ChatMessage("user", text="Hi", additional_properties={})


@pytest.mark.parametrize("name", ["role", "contents", "text", "author_name", "additional_properties", "mood"])
def test_a_message_cannot_be_changed(name: str) -> None:
    message = ChatMessage("user", text="Hi")
    with pytest.raises(AttributeError, match="build a new one"):
        setattr(message, name, "x")
    with pytest.raises(AttributeError, match="build a new one"):
        delattr(message, name)
    assert message == ChatMessage("user", text="Hi")


def test_the_parts_of_a_message_are_its_own() -> None:
    parts = [TextContent("Hi")]
    message = ChatMessage("user", parts)
    parts.append(TextContent("Ho"))
    assert message.text == "Hi"


# --- saying one ------------------------------------------------------------------------------------------------


def test_a_string_is_a_users_message() -> None:
    hi = ChatMessage("user", text="Hi")
    for said in ("Hi", hi, ["Hi"], (hi,), iter(["Hi"])):
        assert normalized_input(said) == (hi,)
    assert normalized_input(["Hi", ChatMessage("system", text="Be brief.")]) == (
        hi,
        ChatMessage("system", text="Be brief."),
    )


@pytest.mark.parametrize(
    "said", [None, 5, 1.5, [None], [5], [["Hi"]], [b"Hi"], b"Hi", [{"role": "user"}], {"Hi": 1}], ids=repr
)
def test_what_is_no_message_is_refused(said: object) -> None:
    with pytest.raises(InvalidInputError, match=r"A run takes"):
        normalized_input(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        " \n\t\u00a0",
        [],
        (),
        [""],
        ["Hi", " "],
        ChatMessage("user", []),
        ChatMessage("user", ["", " "]),
        ChatMessage("user", [RefusalContent("")]),
    ],
    ids=repr,
)
def test_nothing_is_not_said(said: object) -> None:
    with pytest.raises(InvalidInputError, match="nothing to say"):
        normalized_input(said)


def test_a_string_with_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="position 3") as caught:
        normalized_input("Hi \ud83d!")
    assert str(caught.value).encode()  # the message itself can be printed


@pytest.mark.parametrize(
    "part",
    [
        TextContent("."),
        RefusalContent("no"),
        ImageContent("data:,"),
        FileContent("data:,"),
        ToolCallContent("c", "f"),
        ToolResultContent("c"),
        UnknownContent("future", b'{"type":"future"}'),
    ],
    ids=repr,
)
def test_a_message_with_something_in_it_is_not_blank(part: Any) -> None:
    assert not is_blank(ChatMessage("user", [" ", part]))


def test_there_are_four_roles() -> None:
    assert frozenset(("system", "user", "assistant", "tool")) == ROLES
