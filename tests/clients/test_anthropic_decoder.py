"""The decoder of Anthropic's Messages: however a stream is cut, and whatever a server sends, it raises nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clients.anthropic_decoder import AnthropicDecoder
from holdfast.clients.sse import EventParser
from holdfast.conversation.messages import TextContent
from holdfast.conversation.updates import Answer
from holdfast.testing.anthropic_rendering import render
from holdfast.testing.openai_chat_answers import CallTools, ParsedRequest, Say
from holdfast.testing.standin_tapes import Send

EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "error",
    "hologram",
)
MEMBERS = (
    "type", "index", "message", "content_block", "delta", "usage", "error", "text", "thinking", "partial_json", "id",
    "name", "input", "content", "stop_reason", "stop_details", "input_tokens", "output_tokens", "model",
)  # fmt: skip
words = st.text(max_size=5) | st.sampled_from([*EVENTS, "text", "tool_use", "thinking", "end_turn", "\ud800"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=12,
)
events = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    st.sampled_from(EVENTS),
    st.dictionaries(st.sampled_from(MEMBERS), values, max_size=5),
)
payloads = st.one_of(events, values).map(lambda found: json.dumps(found).encode()) | st.binary(max_size=20)


@settings(deadline=None, max_examples=400)
@given(st.lists(payloads, max_size=6), payloads)
def test_whatever_a_server_sends(stream: list[bytes], whole: bytes) -> None:
    for decoder, updates in (
        ((made := AnthropicDecoder()), made.chunks(stream)),
        ((other := AnthropicDecoder()), other.whole(whole)),
    ):
        folded = Answer()
        folded.add(updates)
        message = folded.message(lambda n: f"made-up-{n}")
        if message is not None:  # and it can be written down
            assert msgspec.json.encode([*message.contents])
        assert isinstance(decoder.finished, bool)


ANSWER = CallTools([("weather", {"city": "Zürich 🦜"}), ("now", {})], text="Let me see. 🦜")


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30), st.sampled_from([ANSWER, Say("Grüße 🦜", reasoning="Hm 🦜")])
)
def test_however_a_stream_is_cut(sizes: list[int], answer: Any) -> None:
    body = {"model": "m", "messages": [], "stream": True}
    wire = b"".join(step.data for step in render(answer, ParsedRequest(body)) if isinstance(step, Send))
    (whole,) = [
        step.data for step in render(answer, ParsedRequest({**body, "stream": False})) if isinstance(step, Send)
    ]
    parser, decoder, folded = EventParser(), AnthropicDecoder(), Answer()
    place = 0
    while place < len(wire):
        size = sizes[place % len(sizes)]
        folded.add(decoder.chunks(parser.feed(wire[place : place + size])))
        place += size
    assert decoder.done
    other = Answer()
    other.add(AnthropicDecoder().whole(whole))
    made = [each.message(lambda n: f"made-up-{n}") for each in (folded, other)]
    assert made[0] == made[1]
    assert (folded.finish_reason, folded.usage, folded.model, folded.response_id) == (
        other.finish_reason,
        other.usage,
        other.model,
        other.response_id,
    )


def test_what_came_before_something_broken_is_handed_on() -> None:
    said = json.dumps({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ahoy"}})
    decoder = AnthropicDecoder()
    folded = Answer()
    folded.add(decoder.chunks([said.encode(), b'{"type": "content_blo', said.encode()]))
    message = folded.message(lambda n: f"made-up-{n}")
    assert message is not None
    assert message.contents == (TextContent("Ahoy"),)
    assert decoder.broken
