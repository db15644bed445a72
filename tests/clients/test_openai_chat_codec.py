"""The codec of Chat Completions: messages to bytes, and the JSON that servers send to updates."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clients.openai_chat_codec import ChatCompletionsCodec, ChatCompletionsDecoder
from holdfast.conversation.errors import ConfigurationError, InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
    assembled,
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
from holdfast.ports.clients import ChatOptions

CODEC = ChatCompletionsCodec("gpt-test")
PNG = "data:image/png;base64,iVBORw0KGgo="
WAV = "data:audio/wav;base64,UklGRg=="


def body(
    *messages: ChatMessage,
    codec: ChatCompletionsCodec = CODEC,
    instructions: str | None = None,
    options: ChatOptions | None = None,
    stream: bool = False,
) -> Any:
    """A whole request, put together as the engine does: the tail takes the place of the last separator."""
    told = codec.head(instructions) + b"".join(codec.message(message) for message in messages)
    return json.loads(told[:-1] + codec.tail(options or ChatOptions(), stream=stream))


def told(message: ChatMessage) -> list[Any]:
    found = body(ChatMessage("user", text="first"), message)["messages"]
    assert found.pop(0) == {"role": "user", "content": "first"}
    return list(found)


class TestMessages:
    def test_a_conversation(self) -> None:
        assert body(
            ChatMessage("user", text='Say "hi" 🦜\n'),
            ChatMessage("assistant", text="hi"),
            instructions="Be brief.",
            options=ChatOptions(temperature=0.5, max_tokens=7, stop=["a", "b"]),
            stream=True,
        ) == {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": 'Say "hi" 🦜\n'},
                {"role": "assistant", "content": "hi"},
            ],
            "model": "gpt-test",
            "temperature": 0.5,
            "max_completion_tokens": 7,
            "stop": ["a", "b"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_every_message_ends_with_a_separator_of_one_byte(self) -> None:
        assert CODEC.head(None) == CODEC.head("") == b'{"messages":['
        assert CODEC.head("x").endswith(b"},")
        assert CODEC.message(ChatMessage("user", text="x")) == b'{"role":"user","content":"x"},'

    def test_several_texts_and_an_image(self) -> None:
        parts = [TextContent("look"), ImageContent(PNG, detail="low"), ImageContent("https://example.org/a.png")]
        assert told(ChatMessage("user", contents=parts)) == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                ],
            }
        ]
        assert told(ChatMessage("user", contents=["a", "b"]))[0]["content"] == [
            {"type": "text", "text": "a"},
            {"type": "text", "text": "b"},
        ]

    @pytest.mark.parametrize("kind", ["audio/wav", "audio/x-wav", "audio/mpeg", "audio/mp3", "AUDIO/WAV"])
    def test_recordings(self, kind: str) -> None:
        (message,) = told(ChatMessage("user", contents=[FileContent(f"data:{kind};base64,UklGRg==")]))
        assert message["content"] == [
            {
                "type": "input_audio",
                "input_audio": {"data": "UklGRg==", "format": "wav" if "wav" in kind.lower() else "mp3"},
            }
        ]

    def test_a_recording_that_is_not_in_base64(self) -> None:
        (message,) = told(ChatMessage("user", contents=[FileContent("data:audio/wav,RIFF%00")]))
        assert base64.b64decode(message["content"][0]["input_audio"]["data"]) == b"RIFF\0"

    def test_files(self) -> None:
        uri = "data:application/pdf;base64,JVBERi0="
        for name, shown in ((None, "file.pdf"), ("paper.pdf", "paper.pdf")):
            (message,) = told(ChatMessage("user", contents=[FileContent(uri, name)]))
            assert message["content"] == [{"type": "file", "file": {"filename": shown, "file_data": uri}}]

    def test_an_image_that_is_given_as_a_file(self) -> None:
        (message,) = told(ChatMessage("user", contents=[FileContent(PNG)]))
        assert message["content"] == [{"type": "image_url", "image_url": {"url": PNG}}]

    @pytest.mark.parametrize(
        ("part", "words"),
        [
            (FileContent("https://example.org/a.pdf", "a.pdf"), "data URIs only, and a.pdf"),
            (FileContent("data:audio/ogg;base64,AA=="), "audio/wav or audio/mpeg"),
            (FileContent("data:text/plain"), "no comma"),
            (ToolCallContent("c1", "f"), "an assistant's message"),
            (ToolResultContent("c1", "x"), "the role tool"),
            (RefusalContent("no"), "an assistant's message"),
        ],
    )
    def test_what_a_user_cannot_say(self, part: Any, words: str) -> None:
        with pytest.raises(InvalidInputError, match=words):
            CODEC.message(ChatMessage("user", contents=[part]))

    @pytest.mark.parametrize("role", ["assistant", "system", "tool"])
    @pytest.mark.parametrize("part", [ImageContent(PNG), FileContent(WAV)])
    def test_images_and_files_belong_to_users(self, role: Any, part: Any) -> None:
        with pytest.raises(InvalidInputError, match=f"role {role}.*user's message"):
            CODEC.message(ChatMessage(role, contents=[part]))

    def test_a_tool_message_holds_results_only(self) -> None:
        with pytest.raises(InvalidInputError, match="holds ToolResultContent only"):
            CODEC.message(ChatMessage("tool", text="42"))

    def test_calls_and_results(self) -> None:
        asked = ChatMessage("assistant", contents=[ToolCallContent("c1", "f", '{"a":1}'), ToolCallContent("c2", "g")])
        given = ChatMessage("tool", contents=[ToolResultContent("c1", "1"), ToolResultContent("c2", "bad", True)])
        assert told(asked) == [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            }
        ]
        assert told(given) == [
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "bad"},
        ]

    @pytest.mark.parametrize("call_id", ["x" * 41, ""])
    def test_an_id_that_the_service_gave_and_would_not_take_is_told_in_other_words(self, call_id: str) -> None:
        (asked,) = told(ChatMessage("assistant", contents=[ToolCallContent(call_id, "f")]))
        (given,) = told(ChatMessage("tool", contents=[ToolResultContent(call_id, "1")]))
        (other,) = told(ChatMessage("tool", contents=[ToolResultContent(call_id + "y" * 50, "1")]))
        assert asked["tool_calls"][0]["id"] == given["tool_call_id"] != other["tool_call_id"]
        assert 0 < len(given["tool_call_id"]) <= 40

    @pytest.mark.parametrize(
        ("name", "as_told"),
        [("fly to the moon!", "fly_to_the_moon_"), ("f" * 300, "f" * 64), ("fliegü", "flieg_"), ("", "_")],
    )
    def test_a_name_that_the_model_made_up_and_the_service_would_not_take(self, name: str, as_told: str) -> None:
        (asked,) = told(ChatMessage("assistant", contents=[ToolCallContent("c1", name)]))
        assert asked["tool_calls"][0]["function"]["name"] == as_told

    def test_an_answer_with_thoughts_texts_and_a_call(self) -> None:
        parts = [ReasoningContent("hm"), TextContent("one "), ReasoningContent("hm"), TextContent("two")]
        (message,) = told(ChatMessage("assistant", contents=[*parts, ToolCallContent("c1", "f")]))
        assert message["content"] == "one two"
        assert len(message["tool_calls"]) == 1

    def test_a_refusal(self) -> None:
        assert told(ChatMessage("assistant", contents=[RefusalContent("no")])) == [
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
        ]

    @pytest.mark.parametrize(
        "message",
        [
            ChatMessage("assistant", contents=[ReasoningContent("hm")]),
            ChatMessage("assistant", contents=[UnknownContent("hologram", b'{"type":"hologram"}')]),
            ChatMessage("user", contents=[UnknownContent("hologram", b'{"type":"hologram"}')]),
            ChatMessage("tool", contents=[UnknownContent("hologram", b'{"type":"hologram"}')]),
            ChatMessage("user", contents=[TextContent("")]),
            ChatMessage("user", contents=[TextContent(""), TextContent("")]),
            ChatMessage("assistant", contents=[]),
            ChatMessage("tool", contents=[]),
        ],
    )
    def test_what_has_nothing_to_tell_is_left_out(self, message: ChatMessage) -> None:
        assert CODEC.message(message) == b""

    def test_names_of_authors(self) -> None:
        for name, sent in (("Ann-1_b", True), ("Ann Smith", False), ("", False), ("a" * 65, False), ("é", False)):
            (message,) = told(ChatMessage("user", text="x", author_name=name))
            assert message.get("name") == (name if sent else None)
            assert message["content"] == "x"
        assert "name" not in told(ChatMessage("assistant", text="x", author_name="bot"))[0]

    def test_instructions_for_developers(self) -> None:
        codec = ChatCompletionsCodec("o", instruction_role="developer")
        found = body(ChatMessage("system", text="b"), ChatMessage("user", text="c"), codec=codec, instructions="a")
        assert [message["role"] for message in found["messages"]] == ["developer", "developer", "user"]
        assert codec.name == "openai-chat/1/developer" != CODEC.name
        with pytest.raises(ConfigurationError, match="instruction_role"):
            ChatCompletionsCodec(instruction_role="boss")

    def test_half_a_surrogate_pair_is_refused_in_words(self) -> None:
        with pytest.raises(InvalidInputError, match="cannot be sent as JSON"):
            CODEC.head("\ud83d")

    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from(["user", "assistant", "system"]))
    def test_any_text_arrives(self, text: str, role: Any) -> None:
        assert told(ChatMessage(role, text=text)) == [{"role": role, "content": text}]


class TestOptions:
    def test_all_of_them(self) -> None:
        options = ChatOptions(
            model="m",
            temperature=1,
            top_p=0.9,
            max_tokens=5,
            stop="x",
            seed=1,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            reasoning_effort="low",
            user="u",
            extra={"logprobs": True, "temperature": 0, "nested": {"a": [1.5, None]}},
        )
        found = body(ChatMessage("user", text="x"), options=options)
        del found["messages"]
        assert found == {
            "model": "m",
            "temperature": 0,
            "top_p": 0.9,
            "max_completion_tokens": 5,
            "stop": "x",
            "seed": 1,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "reasoning_effort": "low",
            "user": "u",
            "logprobs": True,
            "nested": {"a": [1.5, None]},
        }

    def test_how_the_length_is_called(self) -> None:
        codec = ChatCompletionsCodec("m", max_tokens_field="max_tokens", include_usage=False)
        found = body(ChatMessage("user", text="x"), codec=codec, options=ChatOptions(max_tokens=5), stream=True)
        assert found["max_tokens"] == 5
        assert "stream_options" not in found

    def test_the_model_of_a_run_wins(self) -> None:
        assert body(ChatMessage("user", text="x"), options=ChatOptions(model="other"))["model"] == "other"

    def test_without_a_model(self) -> None:
        with pytest.raises(ConfigurationError, match="OPENAI_CHAT_MODEL_ID"):
            ChatCompletionsCodec().tail(ChatOptions(), stream=False)

    @pytest.mark.parametrize("name", ["messages", "stream"])
    def test_what_extra_cannot_hold(self, name: str) -> None:
        with pytest.raises(InvalidInputError, match=name):
            CODEC.tail(ChatOptions(extra={name: []}), stream=True)

    @pytest.mark.parametrize(
        "options",
        [
            ChatOptions(temperature=float("nan")),
            ChatOptions(top_p=float("inf")),
            ChatOptions(extra={"logit_bias": {"1": float("-inf")}}),
            ChatOptions(extra={"a": [[{"b": (float("nan"),)}]]}),
        ],
    )
    def test_numbers_that_json_cannot_say(self, options: ChatOptions) -> None:
        with pytest.raises(InvalidInputError, match="finite"):
            CODEC.tail(options, stream=False)

    def test_objects_that_json_cannot_say(self) -> None:
        with pytest.raises(InvalidInputError, match="JSON"):
            CODEC.tail(ChatOptions(extra={"a": object()}), stream=False)


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return json.dumps(
        {"id": "r1", "model": "m1", "object": "chat.completion.chunk", "choices": [choice], **more}
    ).encode()


def call(index: int | None = 0, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    found = {"index": index, "id": id, "type": "function", "function": function}
    return {key: value for key, value in found.items() if value is not None}


def streamed(*payloads: bytes) -> tuple[list[AgentRunResponseUpdate], ChatCompletionsDecoder]:
    """Decoded at once and one by one; both must be the same."""
    together, decoder = ChatCompletionsDecoder(), ChatCompletionsDecoder()
    updates = together.chunks(payloads)
    one_by_one: list[AgentRunResponseUpdate] = []
    for payload in payloads:
        if not (decoder.done or decoder.error is not None or decoder.broken is not None):
            one_by_one += decoder.chunks([payload])
    assert updates == one_by_one
    assert (together.finished, together.error, together.broken) == (decoder.finished, decoder.error, decoder.broken)
    return updates, together


def said(updates: list[AgentRunResponseUpdate]) -> Answer:
    answer = Answer()
    answer.add(updates)
    return answer


def calls(updates: list[AgentRunResponseUpdate]) -> list[tuple[str, str, str]]:
    message = said(updates).message(lambda n: f"made-up-{n}")
    return [(part.call_id, part.name, part.arguments) for part in message.tool_calls] if message else []


DONE = b"[DONE]"
WHO = FinishUpdate(model="m1", response_id="r1")
STOP = FinishUpdate(finish_reason="stop")


def odd(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = "choices delta message content tool_calls function arguments name id index usage error prompt_tokens"
    return st.lists(inner) | st.dictionaries(st.sampled_from(names.split()), inner, max_size=6)


class TestStreams:
    def test_as_documented(self) -> None:
        updates, decoder = streamed(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Ahoy"}),
            chunk({"content": "!"}),
            chunk({}, "stop"),
            chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
            DONE,
        )
        assert updates == [
            WHO,
            AgentRunResponseUpdate("Ahoy"),
            AgentRunResponseUpdate("!"),
            STOP,
            UsageUpdate(usage=Usage(3, 2, 5)),
        ]
        assert decoder.finished
        assert decoder.done

    def test_azures_first_chunk_and_its_filter_notes(self) -> None:
        first = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
        notes = {"index": 0, "finish_reason": None, "content_filter_results": {}, "content_filter_offsets": {}}
        updates, _ = streamed(
            json.dumps(first).encode(),
            chunk({"content": "a"}),
            json.dumps({"id": "", "model": "", "choices": [notes]}).encode(),
            chunk({}, "content_filter"),
            DONE,
        )
        assert updates == [WHO, AgentRunResponseUpdate("a"), FinishUpdate(finish_reason="content_filter")]

    def test_usage_in_all_detail_and_on_the_last_chunk(self) -> None:
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
        updates, _ = streamed(chunk({"content": "a"}, "stop", usage=usage), DONE)
        assert updates == [WHO, AgentRunResponseUpdate("a"), STOP, UsageUpdate(usage=Usage(10, 5, 15, 8, 2, 4))]

    @pytest.mark.parametrize(
        ("usage", "found"),
        [
            ({"prompt_tokens": 3.0, "completion_tokens": "2"}, Usage(3, 2, 5)),
            ({"prompt_tokens": None, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(0, 2, 2)),
            ({"prompt_tokens": 1, "prompt_tokens_details": [], "completion_tokens_details": 7}, Usage(1, 0, 1)),
            ({"prompt_tokens": float("nan"), "completion_tokens": True}, Usage(0, 0, 0)),
            ({}, Usage(0, 0, 0)),
        ],
    )
    def test_odd_usage(self, usage: Any, found: Usage) -> None:
        updates, _ = streamed(chunk({"content": "a"}, "stop"), chunk(choices=[], usage=usage))
        assert updates[-1] == UsageUpdate(usage=found)

    @pytest.mark.parametrize(
        "delta",
        [
            {"content": "a"},
            {"role": "assistant", "content": "a", "obfuscation": "xyz", "tool_calls": None, "refusal": None},
            {"content": "a", "tool_calls": [], "reasoning_content": "", "refusal": ""},
            {"content": [{"type": "text", "text": "a"}]},
            {"content": ["a"]},
            {"content": "a", "role": 7, "refusal": {}, "reasoning": {"x": 1}},
            {"content": "a", "audio": {"id": float("nan")}},
        ],
    )
    @pytest.mark.parametrize("before", [chunk({"content": None}), chunk({"content": "b"})])
    def test_text_in_all_its_forms(self, delta: Any, before: bytes) -> None:
        updates, decoder = streamed(before, chunk(delta))
        assert updates[-1] == AgentRunResponseUpdate("a")
        assert decoder.broken is None

    def test_chunks_without_this_and_that(self) -> None:
        updates, decoder = streamed(
            b'{"choices":[]}',
            b'{"choices":[{"delta":{"content":"a"}}]}',
            b'{"choices":[{"index":0}]}',
            b'{"choices":[{"index":0,"delta":null}]}',
            b'{"usage":null,"choices":[{"delta":{"content":"b"}}]}',
            b'{"choices":null,"usage":{"prompt_tokens":1}}',
            b'{"choices":[{"delta":{},"finish_reason":""}]}',
            b'{"type":"ping"}',
            b"{}",
            b"[]",
            b"null",
            b'{"choices":[{"delta":{"content":"c"},"finish_reason":"eos"}]}',
        )
        assert said(updates).message(str) == ChatMessage("assistant", text="abc")
        assert updates[-1] == STOP
        assert decoder.broken is None

    def test_other_choices_are_not_ours(self) -> None:
        two = {"choices": [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": {"content": "a"}}]}
        only_other = {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}]}
        updates, decoder = streamed(json.dumps(two).encode(), json.dumps(only_other).encode())
        assert updates == [AgentRunResponseUpdate("a")]
        assert not decoder.finished

    def test_thoughts_and_refusals(self) -> None:
        updates, _ = streamed(
            chunk({"reasoning_content": "hm"}),
            chunk({"reasoning": "hm", "reasoning_content": "hm"}),
            chunk({"reasoning": "so"}),
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "mistral"}]}]}),
            chunk({"refusal": "no"}),
            chunk({"content": "a", "refusal": "b", "reasoning": "c"}),
        )
        assert updates[1:] == [
            ReasoningUpdate(reasoning="hm"),
            ReasoningUpdate(reasoning="hm"),
            ReasoningUpdate(reasoning="so"),
            ReasoningUpdate(reasoning="mistral"),
            RefusalUpdate(refusal="no"),
            ReasoningUpdate(reasoning="c"),
            AgentRunResponseUpdate("a"),
            RefusalUpdate(refusal="b"),
        ]

    @pytest.mark.parametrize(
        ("escaped", "text"),
        [(r"\ud83e\udd9c", "🦜"), (r"a\ud83d", "a\ufffd"), (r"\udd9cb\ud83e\udd9c", "\ufffdb🦜")],
    )
    def test_surrogates(self, escaped: str, text: str) -> None:
        payload = chunk({"content": "HERE"}).replace(b"HERE", escaped.encode())
        updates, _ = streamed(chunk({"content": "x"}), payload)
        assert updates[-1] == AgentRunResponseUpdate(text)

    def test_broken_utf_8_and_raw_control_characters(self) -> None:
        updates, _ = streamed(chunk({"content": "HERE"}).replace(b"HERE", b"a\xff\tb"))
        assert updates[-1] == AgentRunResponseUpdate("a\ufffd\tb")

    @pytest.mark.parametrize(
        ("word", "meaning"),
        [("function_call", "tool_calls"), ("end_turn", "stop"), ("max_tokens", "length"), ("whatever", "whatever")],
    )
    def test_reasons(self, word: str, meaning: str) -> None:
        updates, _ = streamed(chunk({"content": "a"}, word))
        assert updates[-1] == FinishUpdate(finish_reason=meaning)

    def test_done_without_a_reason(self) -> None:
        updates, decoder = streamed(chunk({"content": "a"}), DONE)
        assert updates[-1] == STOP
        assert decoder.finished
        updates, _ = streamed(chunk({"tool_calls": [call(0, "c1", "f", "{}")]}), DONE)
        assert updates[-1] == FinishUpdate(finish_reason="tool_calls")
        _, decoder = streamed(chunk(choices=[]), DONE)
        assert decoder.broken == "an answer without a message"

    def test_nothing_is_read_after_done(self) -> None:
        updates, _ = streamed(chunk({"content": "a"}, "stop"), b" [DONE] ", chunk({"content": "b"}))
        assert said(updates).message(str) == ChatMessage("assistant", text="a")

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"error":{"message":"boom","code":500}}',
            b'[{"error":{"message":"boom","code":500}}]',
            b'{"object":"error","message":"boom","code":500}',
            b'{"id":"r1","error":{"message":"boom","x":NaN},"choices":[]}',
            b'{"id":"r1","error":{"message":"boom"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}',
            b'{"error":"boom"}',
        ],
    )
    def test_an_error_inside(self, payload: bytes) -> None:
        updates, decoder = streamed(chunk({"content": "a"}), payload, chunk({"content": "b"}))
        assert updates == [WHO, AgentRunResponseUpdate("a")]
        assert "boom" in str(decoder.error)

    @pytest.mark.parametrize("payload", [b"oh no", b'{"choices":[{"del', b"<html>", b"[" * 100_000])
    def test_no_json(self, payload: bytes) -> None:
        updates, decoder = streamed(chunk({"content": "a"}), payload, chunk({"content": "b"}))
        assert updates == [WHO, AgentRunResponseUpdate("a")]
        assert decoder.broken == "something that is no JSON"

    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), odd))
    def test_any_json_is_survived(self, found: Any) -> None:
        for payload in (json.dumps(found).encode(), json.dumps({"choices": [found], "usage": found}).encode()):
            streamed(payload)
            ChatCompletionsDecoder().whole(payload)


class TestToolCalls:
    def test_as_documented(self) -> None:
        updates, _ = streamed(
            chunk({"role": "assistant", "content": None, "tool_calls": [call(0, "c1", "f", "")]}),
            chunk({"tool_calls": [call(0, arguments='{"a"')]}),
            chunk({"tool_calls": [call(0, arguments=":1}")]}),
            chunk({"tool_calls": [call(1, "c2", "g", "")]}),
            chunk({"tool_calls": [call(1, arguments="{}")]}),
            chunk({}, "tool_calls"),
        )
        assert updates[1:] == [
            ToolCallUpdate(index=0, call_id="c1", name="f"),
            ToolCallUpdate(index=0, arguments='{"a"'),
            ToolCallUpdate(index=0, arguments=":1}"),
            ToolCallUpdate(index=1, call_id="c2", name="g"),
            ToolCallUpdate(index=1, arguments="{}"),
            FinishUpdate(finish_reason="tool_calls"),
        ]

    TWO = [("c1", "f", '{"a":1}'), ("c2", "f", '{"b":2}')]  # noqa: RUF012

    @pytest.mark.parametrize(
        "deltas",
        [
            # two at once, interleaved, the second index first
            [
                [call(1, "c1", "f", '{"a"'), call(0, "c2", "f", '{"b"')],
                [call(0, arguments=":2}"), call(1, arguments=":1}")],
            ],
            # each whole, all at index 0
            [[call(0, "c1", "f", '{"a":1}')], [call(0, "c2", "f", '{"b":2}')]],
            [[call(0, "c1", "f", '{"a":1}'), call(0, "c2", "f", '{"b":2}')]],
            # all at index 0, but in pieces
            [
                [call(0, "c1", "f", "")],
                [call(0, arguments='{"a":1}')],
                [call(0, "c2", "f")],
                [call(0, arguments='{"b":2}')],
            ],
            # no index: whole, or in pieces
            [[call(None, "c1", "f", '{"a":1}')], [call(None, "c2", "f", '{"b":2}')]],
            [[call(None, "c1", "f", '{"a":1}'), call(None, "c2", "f", '{"b":2}')]],
            [[call(None, "c1", "f", '{"a"')], [call(None, arguments=":1}")], [call(None, "c2", "f", '{"b":2}')]],
            # id and name in every piece
            [
                [call(0, "c1", "f", '{"a"')],
                [call(0, "c1", "f", ":1}")],
                [call(1, "c2", "f", '{"b"')],
                [call(1, "c2", "f", ":2}")],
            ],
            # the id comes late
            [[call(0, None, "f", '{"a"')], [call(0, "c1", None, ":1}")], [call(1, "c2", "f", '{"b":2}')]],
            # arguments as objects
            [[call(0, "c1", "f", {"a": 1})], [call(1, "c2", "f", {"b": 2})]],
        ],
    )
    def test_pieces_in_all_their_forms(self, deltas: list[Any]) -> None:
        updates, _ = streamed(*[chunk({"tool_calls": delta}) for delta in deltas], chunk({}, "tool_calls"))
        found = [(id, name, json.loads(arguments)) for id, name, arguments in calls(updates)]
        assert found == [(id, name, json.loads(arguments)) for id, name, arguments in self.TWO]

    @pytest.mark.parametrize("index", [0, None])
    def test_whole_calls_without_ids(self, index: int | None) -> None:
        whole = [call(index, None, "f", '{"a":1}'), call(index, "", "f", '{"b":2}'), call(index, None, "g", "{}")]
        updates, _ = streamed(*[chunk({"tool_calls": [one]}) for one in whole], chunk({}, "stop"))
        assert [(name, arguments) for _, name, arguments in calls(updates)] == [
            ("f", '{"a":1}'),
            ("f", '{"b":2}'),
            ("g", "{}"),
        ]
        assert len({id for id, _, _ in calls(updates)}) == 3

    def test_a_name_in_every_piece_but_no_id(self) -> None:
        pieces = ['{"a":{', '"b":1', "}}"]
        updates, _ = streamed(*[chunk({"tool_calls": [call(0, None, "f", piece)]}) for piece in pieces])
        assert [call[1:] for call in calls(updates)] == [("f", '{"a":{"b":1}}')]

    def test_the_form_of_old(self) -> None:
        updates, _ = streamed(
            chunk({"function_call": {"name": "f", "arguments": ""}}),
            chunk({"function_call": {"arguments": '{"a":1}'}}),
            chunk({}, "function_call"),
        )
        assert [call[1:] for call in calls(updates)] == [("f", '{"a":1}')]
        assert updates[-1] == FinishUpdate(finish_reason="tool_calls")

    def test_nonsense_in_place_of_calls(self) -> None:
        updates, decoder = streamed(chunk({"content": "a", "tool_calls": [None, 7, {"id": 5, "function": "f"}, {}]}))
        assert calls(updates) == []
        assert decoder.broken is None


class TestWholeAnswers:
    def whole(self, message: Any, finish: Any = "stop", **more: Any) -> tuple[list[AgentRunResponseUpdate], Any]:
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        decoder = ChatCompletionsDecoder()
        answer = {"id": "r1", "model": "m1", "object": "chat.completion", "choices": [choice], **more}
        return decoder.whole(json.dumps(answer).encode()), decoder

    def test_the_same_updates_as_a_stream(self) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        updates, decoder = self.whole({"role": "assistant", "content": "Ahoy!", "refusal": None}, usage=usage)
        from_stream, _ = streamed(chunk({"content": "Ahoy!"}), chunk({}, "stop"), chunk(choices=[], usage=usage), DONE)
        assert updates == from_stream
        assert decoder.finished

    def test_calls(self) -> None:
        items = [call(None, "c1", "f", '{"a":1}'), call(None, "c1", "f", {"b": 2}), call(None, None, "g", None)]
        updates, _ = self.whole({"content": None, "tool_calls": items}, "tool_calls")
        assert [call[1:] for call in calls(updates)] == [("f", '{"a":1}'), ("f", '{"b": 2}'), ("g", "")]
        assert len({id for id, _, _ in calls(updates)}) == 3

    def test_odd_ones(self) -> None:
        updates, decoder = self.whole({"content": [{"type": "text", "text": "a"}]}, None)
        assert updates == [WHO, AgentRunResponseUpdate("a"), STOP]
        assert decoder.finished
        updates, _ = self.whole({"content": "a", "score": float("nan")})
        assert updates[1] == AgentRunResponseUpdate("a")
        updates, _ = self.whole({"role": "assistant", "content": None, "refusal": "no"})
        assert updates[1] == RefusalUpdate(refusal="no")

    @pytest.mark.parametrize(
        ("answer", "broken"),
        [
            (b"<!doctype html><title>Welcome</title>", "something that is no JSON"),
            (b"{}", "an answer without a message"),
            (b'{"choices":[]}', "an answer without a message"),
            (b'{"detail":"nope"}', "an answer without a message"),
            (b'"hello"', "an answer without a message"),
        ],
    )
    def test_what_is_no_answer(self, answer: bytes, broken: str) -> None:
        decoder = ChatCompletionsDecoder()
        assert decoder.whole(answer) == []
        assert decoder.broken == broken

    def test_an_error_in_place_of_an_answer(self) -> None:
        decoder = ChatCompletionsDecoder()
        assert decoder.whole(b'{"error":{"message":"boom","code":429}}') == []
        assert decoder.error == {"message": "boom", "code": 429}


def test_a_message_that_was_decoded_can_be_told_again() -> None:
    updates, _ = streamed(
        chunk({"reasoning": "hm", "content": "a"}), chunk({"tool_calls": [call(0, "c1", "f", '{"a":1}')]}, "tool_calls")
    )
    message = said(updates).message(str)
    assert message is not None
    again = assembled(message.role, message.contents)
    assert told(again)[0]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
