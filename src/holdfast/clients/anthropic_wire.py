"""The JSON of Anthropic's Messages as it comes: events of a stream, and a whole answer.

Rule of this file: whatever a server sends, an `Event` or None comes out. A whole answer has the members of the
`message` in a stream's first event.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from holdfast.clients.openai_chat_wire import loose_json


class Block(Struct, gc=False):
    """A block of content, or its beginning."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")


class StopDetails(Struct, gc=False):
    explanation: str | None = None


class Delta(Struct, gc=False):
    """What is new in a block, or in the message as a whole."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class Tokens(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class Message(Struct, gc=False):
    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: Tokens | None = None
    error: Any = None


class Event(Struct, gc=False):
    type: str = ""
    index: int | None = None
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Tokens | None = None
    error: Any = None


decode_event = msgspec.json.Decoder(Event).decode
decode_message = msgspec.json.Decoder(Message).decode


def loose_event(payload: bytes) -> Event | None:
    """An event that is not as documented; None if it is JSON, but nothing of the kind. ValueError if it is no JSON."""
    found = loose_json(payload)
    if not isinstance(found, dict):
        return None
    try:
        return decode_event(msgspec.json.encode(found))
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return Event(type=str(found.get("type") or ""), error=found.get("error"))


def loose_message(payload: bytes) -> Message | None:
    """A whole answer that is not as documented; None and ValueError as above."""
    found = loose_json(payload)
    if not isinstance(found, dict):
        return None
    try:
        return decode_message(msgspec.json.encode(found))
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return Message(error=found.get("error"))
