"""The codec of Anthropic's Messages: what is said of each message and option, byte for byte, and what is refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clients.anthropic_codec import AnthropicCodec
from holdfast.clients.anthropic_endpoints import NEWEST, SAMPLING
from holdfast.clients.anthropic_parts import UNREADABLE
from holdfast.conversation.errors import ConfigurationError, InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    Role,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
)
from holdfast.ports.clients import AnswerFormat, ChatOptions
from holdfast.ports.tools import ToolSpec
from holdfast.testing.anthropic_checks import Field
from holdfast.testing.anthropic_rules import STRICT

PNG = base64.b64encode(b"\x89PNG nothing more").decode()


def codec_of(**settings: Any) -> AnthropicCodec:
    return AnthropicCodec("claude-test", **{"max_tokens": 100, "cache": None, "version": NEWEST, **settings})


def body_of(
    messages: Sequence[ChatMessage],
    options: ChatOptions | None = None,
    *,
    instructions: str | None = None,
    tools: Sequence[ToolSpec] = (),
    codec: AnthropicCodec | None = None,
) -> Any:
    codec = codec or codec_of()
    body = bytearray(codec.head(instructions) + b"".join(map(codec.message, messages)))
    body[-1:] = codec.tail(options or ChatOptions(), stream=False, tools=codec.tools(tools) if tools else b"")
    return json.loads(body)


def told(message: ChatMessage) -> Any:
    """The one message that is made of a message, None if there is none."""
    body = body_of([message])
    assert len(body["messages"]) <= 1
    return body["messages"][0] if body["messages"] else None


def asking(*parts: Any) -> Any:
    return told(ChatMessage("user", parts))["content"]


def checked(body: Any) -> None:
    """Raises what the service would refuse."""
    for rule in STRICT:
        rule(Field(body))


class TestMessages:
    def test_the_bytes_of_a_request(self) -> None:
        codec = codec_of(cache="5m")
        body = codec.head("Be kind.") + codec.message(ChatMessage("user", text="Hello"))
        assert body[:-1] + codec.tail(ChatOptions(), stream=True) == (
            b'{"system":"Be kind.","messages":[ {"role":"user","content":"Hello"}],'
            b'"model":"claude-test","max_tokens":100,"stream":true,"cache_control":{"type":"ephemeral"}}'
        )

    @pytest.mark.parametrize("instructions", [None, "", "  \n", "Be kind."])
    def test_a_request_without_messages_is_json_all_the_same(self, instructions: str | None) -> None:
        body = body_of([], instructions=instructions)
        assert body["messages"] == []
        assert body.get("system") == (instructions if instructions and instructions.strip() else None)

    @pytest.mark.parametrize("role", ["user", "assistant"])
    def test_one_text_is_a_string(self, role: Role) -> None:
        assert told(ChatMessage(role, text="Ahoy")) == {"role": role, "content": "Ahoy"}

    @pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
    def test_what_says_nothing_is_no_message(self, role: Role) -> None:
        parts: list[Any] = [UnknownContent("hologram", b'{"type":"hologram"}'), ReasoningContent("Hm.")]
        parts += [] if role == "tool" else [TextContent(""), TextContent(" \n\t")]
        assert told(ChatMessage(role, parts)) is None

    def test_blank_texts_are_left_out(self) -> None:
        assert asking(TextContent(" "), TextContent("one"), TextContent(""), TextContent("two ")) == [
            {"type": "text", "text": "one"},
            {"type": "text", "text": "two "},
        ]

    def test_instructions_in_the_middle_are_marked_and_said_by_the_user(self) -> None:
        message = ChatMessage("system", [TextContent("Be brief."), TextContent("Be kind.")])
        assert told(message) == {"role": "user", "content": "<system>\nBe brief.\nBe kind.\n</system>"}

    def test_names_of_authors_are_not_told(self) -> None:
        assert told(ChatMessage("user", text="Hi", author_name="anna")) == {"role": "user", "content": "Hi"}

    def test_refusals_are_told_as_text_and_thoughts_not_at_all(self) -> None:
        message = ChatMessage("assistant", [ReasoningContent("Hm."), TextContent("Well. "), RefusalContent("No.")])
        assert told(message)["content"] == [{"type": "text", "text": "Well. "}, {"type": "text", "text": "No."}]

    def test_images(self) -> None:
        assert asking(ImageContent(f"data:image/png;base64,{PNG}", "high")) == [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
        ]
        assert asking(ImageContent("https://example.org/a.png")) == [
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
        ]

    def test_files(self) -> None:
        pdf = base64.b64encode(b"%PDF-1.7").decode()
        assert asking(FileContent(f"data:application/pdf;base64,{pdf}", "a.pdf")) == [
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": pdf},
                "title": "a.pdf",
            }
        ]
        assert asking(FileContent("data:text/csv,a%2Cb%0A1%2C2"))[0]["source"] == {
            "type": "text",
            "media_type": "text/plain",
            "data": "a,b\n1,2",
        }
        assert asking(FileContent("https://example.org/a.pdf"))[0]["source"]["type"] == "url"
        assert asking(FileContent(f"data:image/png;base64,{PNG}"))[0]["type"] == "image"

    @pytest.mark.parametrize(
        ("part", "words"),
        [
            (ImageContent("data:image/tiff;base64,AAAA"), "image/jpeg"),
            (ImageContent("http://example.org/a.png"), "https://"),
            (ImageContent("data:image/png;base64,A%%"), "base64"),
            (ImageContent("data:image/png;base64,"), "no content"),
            (FileContent("data:audio/wav;base64,AAAA"), "PDF or text"),
            (FileContent("data:text/plain;base64,/w=="), "UTF-8"),
            (FileContent("data:text/plain,%20"), "no text"),
            (FileContent("http://example.org/a.pdf", "a.pdf"), "https://"),
        ],
    )
    def test_what_the_service_cannot_take_is_refused_in_words(self, part: Any, words: str) -> None:
        with pytest.raises(InvalidInputError, match=words):
            told(ChatMessage("user", [part]))

    @pytest.mark.parametrize(
        ("role", "part"),
        [
            ("user", ToolCallContent("c", "f")),
            ("user", ToolResultContent("c", "r")),
            ("system", ImageContent("https://example.org/a.png")),
            ("assistant", ImageContent("https://example.org/a.png")),
            ("tool", TextContent("Hi")),
        ],
    )
    def test_what_stands_in_the_wrong_place_is_refused(self, role: Role, part: Any) -> None:
        with pytest.raises(InvalidInputError, match=f"role {role}"):
            told(ChatMessage(role, [part]))


class TestTools:
    def test_a_call_and_its_result(self) -> None:
        parts = [ToolCallContent("c1", "weather", '{"city": "Oslo"}'), TextContent("Let me see.")]
        assert told(ChatMessage("assistant", parts))["content"] == [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
        ]
        results = [ToolResultContent("c1", "rain"), ToolResultContent("c2", "boom", is_error=True)]
        assert told(ChatMessage("tool", results)) == {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "boom", "is_error": True},
            ],
        }

    def test_the_text_of_arguments_stays_as_the_model_wrote_it(self) -> None:
        call = ChatMessage("assistant", [ToolCallContent("c1", "f", '{ "a":1.0, "a" : 1e2}')])
        assert b'"input":{ "a":1.0, "a" : 1e2}' in codec_of().message(call)

    @pytest.mark.parametrize("arguments", ["", " ", "{}"])
    def test_no_arguments_are_an_empty_object(self, arguments: str) -> None:
        assert told(ChatMessage("assistant", [ToolCallContent("c", "f", arguments)]))["content"][0]["input"] == {}

    @pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "null", '{"a": NaN}', "rm -rf", "[" * 5000])
    def test_arguments_that_are_no_object_are_told_as_their_text(self, arguments: str) -> None:
        found = told(ChatMessage("assistant", [ToolCallContent("c", "f", arguments)]))["content"][0]["input"]
        assert found == {UNREADABLE: arguments}

    @pytest.mark.parametrize("call_id", ["functions.f:0", "ü", "", "call 1", "a" * 300])
    def test_ids_that_the_service_does_not_take_are_mapped_alike(self, call_id: str) -> None:
        call = told(ChatMessage("assistant", [ToolCallContent(call_id, "f")]))["content"][0]["id"]
        result = told(ChatMessage("tool", [ToolResultContent(call_id, "r")]))["content"][0]["tool_use_id"]
        assert call == result
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", call)
        assert (call == call_id) == (call_id == "a" * 300)

    def test_a_name_that_no_tool_bears(self) -> None:
        assert told(ChatMessage("assistant", [ToolCallContent("c", "a tool!")]))["content"][0]["name"] == "a_tool_"

    @pytest.mark.parametrize("result", ["", " \n"])
    def test_a_result_without_words(self, result: str) -> None:
        assert told(ChatMessage("tool", [ToolResultContent("c", result)]))["content"] == [
            {"type": "tool_result", "tool_use_id": "c"}
        ]
        failed = told(ChatMessage("tool", [ToolResultContent("c", result, is_error=True)]))["content"][0]
        assert failed["content"].strip()

    def test_tools_are_told(self) -> None:
        specs = [ToolSpec("f", "Does it.", {"type": "object", "properties": {}}, True), ToolSpec("g", "", {})]
        assert body_of([ChatMessage("user", text="Hi")], tools=specs)["tools"] == [
            {
                "name": "f",
                "description": "Does it.",
                "input_schema": {"type": "object", "properties": {}},
                "strict": True,
            },
            {"name": "g", "input_schema": {"type": "object"}},
        ]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (ChatOptions(), None),
            (ChatOptions(tool_choice="auto"), {"type": "auto"}),
            (ChatOptions(tool_choice="required"), {"type": "any"}),
            (ChatOptions(tool_choice="none", parallel_tool_calls=False), {"type": "none"}),
            (ChatOptions(tool_choice="f"), {"type": "tool", "name": "f"}),
            (ChatOptions(parallel_tool_calls=False), {"type": "auto", "disable_parallel_tool_use": True}),
            (
                ChatOptions(tool_choice="required", parallel_tool_calls=True),
                {"type": "any", "disable_parallel_tool_use": False},
            ),
        ],
    )
    def test_choices(self, options: ChatOptions, expected: Any) -> None:
        body = body_of([ChatMessage("user", text="Hi")], options, tools=[ToolSpec("f", "", {})])
        assert body.get("tool_choice") == expected
        checked(body)
        assert "tool_choice" not in body_of([ChatMessage("user", text="Hi")], options)


class TestOptions:
    def test_all_that_the_service_knows(self) -> None:
        options = ChatOptions(
            model="claude-other",
            max_tokens=7,
            stop="END",
            user="u-1",
            reasoning_effort="high",
            extra={"service_tier": "auto", "output_config": {"effort": "low"}},
            answer_format=AnswerFormat("a", {"type": "object", "properties": {"n": {"type": "integer"}}}),
        )
        body = body_of([ChatMessage("user", text="Hi")], options, codec=codec_of(cache="1h"))
        del body["messages"]
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
        assert body == {
            "model": "claude-other",
            "max_tokens": 7,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u-1"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
            "service_tier": "auto",
        }

    @pytest.mark.parametrize("name", ["seed", "presence_penalty", "frequency_penalty", "temperature", "top_p"])
    def test_what_the_service_does_not_know_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidInputError, match=name):
            codec_of().tail(ChatOptions(**{name: 1}), stream=False)

    def test_the_older_version_samples(self) -> None:
        options = ChatOptions(temperature=0.5, top_p=0.9)
        body = body_of([ChatMessage("user", text="Hi")], options, codec=codec_of(version=SAMPLING))
        assert (body["temperature"], body["top_p"]) == (0.5, 0.9)

    @pytest.mark.parametrize("name", ["messages", "stream", "system"])
    def test_what_is_said_in_every_request_is_not_extra(self, name: str) -> None:
        with pytest.raises(InvalidInputError, match=name):
            codec_of().tail(ChatOptions(extra={name: 1}), stream=False)

    @pytest.mark.parametrize("extra", [{"a": float("nan")}, {"a": [{"b": float("inf")}]}])
    def test_numbers_that_are_none(self, extra: Any) -> None:
        with pytest.raises(InvalidInputError, match="'a'"):
            codec_of().tail(ChatOptions(extra=extra), stream=False)

    def test_no_model(self) -> None:
        codec = AnthropicCodec(None, max_tokens=1, cache=None, version=NEWEST)
        with pytest.raises(ConfigurationError, match="ANTHROPIC_CHAT_MODEL_ID"):
            codec.tail(ChatOptions(), stream=False)

    @pytest.mark.parametrize("wrong", [{"cache": "2h"}, {"max_tokens": 0}, {"max_tokens": True}])
    def test_settings_that_are_none(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError):
            codec_of(**wrong)


class TestForms:
    def form(self, schema: Any) -> Any:
        options = ChatOptions(answer_format=AnswerFormat("a", schema))
        body = body_of([ChatMessage("user", text="Hi")], options)
        checked(body)
        return body["output_config"]["format"]["schema"]

    def test_what_the_service_cannot_hold_to_is_said_in_words(self) -> None:
        number = {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."}
        made = self.form({"type": "object", "properties": {"n": number}, "required": ["n"]})
        assert made["properties"]["n"] == {"type": "integer", "description": "How many. (minimum: 1, maximum: 9)"}
        assert made["required"] == ["n"]

    def test_definitions_lists_and_choices(self) -> None:
        made = self.form(
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/A"}, "maxItems": 3}},
                "$defs": {"A": {"oneOf": [{"type": "null"}, {"type": "object", "properties": {"s": {"const": 1}}}]}},
            }
        )
        assert made["properties"]["a"] == {
            "type": "array",
            "items": {"$ref": "#/$defs/A"},
            "description": "maxItems: 3",
        }
        assert made["$defs"]["A"]["anyOf"][1]["additionalProperties"] is False

    @pytest.mark.parametrize(
        "field",
        [{"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object"}, {}, True],
        ids=["a dict", "any object", "anything", "anything at all"],
    )
    def test_a_form_that_would_become_another_one(self, field: Any) -> None:
        with pytest.raises(InvalidInputError, match="form of the answer"):
            self.form({"type": "object", "properties": {"a": field}})

    def test_a_form_without_end(self) -> None:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(200):
            schema = {"type": "array", "items": schema}
        with pytest.raises(InvalidInputError, match="nested"):
            self.form({"type": "object", "properties": {"a": schema}})


# --- any conversation ------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_arguments = st.one_of(texts, st.dictionaries(texts, st.integers(), max_size=2).map(json.dumps))


@st.composite
def conversations(draw: st.DrawFn) -> list[ChatMessage]:
    """What the engine may send: calls have results, the last word is the user's, and ids occur once."""
    found: list[ChatMessage] = []
    ids = draw(st.lists(texts, unique=True, min_size=6, max_size=6))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "refusal", "thought", "calls"]))
        text = draw(texts)
        if kind in ("user", "system", "assistant"):
            role: Any = kind
            found.append(ChatMessage(role, text=text))
        elif kind == "refusal":
            found.append(ChatMessage("assistant", [RefusalContent(text), ReasoningContent(text)]))
        elif kind == "thought":
            found.append(ChatMessage("assistant", [ReasoningContent(text)]))
        elif ids:
            now, ids = ids[:2], ids[2:]
            calls = [ToolCallContent(each, draw(texts), draw(_arguments)) for each in now]
            found.append(ChatMessage("assistant", [TextContent(text), *calls]))
            found += [ChatMessage("tool", [ToolResultContent(each, draw(texts), draw(st.booleans()))]) for each in now]
    last = ImageContent(f"data:image/png;base64,{PNG}") if draw(st.booleans()) else TextContent("And now?")
    return [*found, ChatMessage("user", [last])]


@settings(deadline=None, max_examples=300)
@given(conversations(), st.none() | texts)
def test_no_conversation_is_refused(messages: list[ChatMessage], instructions: str | None) -> None:
    codec = codec_of(cache="5m")
    checked(body_of(messages, instructions=instructions, codec=codec))
    pieces = [codec.message(message) for message in messages]
    assert all(piece == b"" or piece.endswith(b"},") for piece in pieces)
    assert pieces == [codec_of(max_tokens=9).message(message) for message in messages]
    grown = codec.head(instructions)
    for piece in pieces:  # what was sent is the beginning of what is sent next
        assert (grown + piece).startswith(grown)
        grown += piece
        assert msgspec.json.decode(grown[:-1] + codec.tail(ChatOptions(), stream=True))


def test_every_role_is_known() -> None:
    for role in get_args(Role):
        parts = [ToolResultContent("c", "r")] if role == "tool" else [TextContent("Hi")]
        assert told(ChatMessage(role, parts)) is not None
