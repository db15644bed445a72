"""What is said, in the words of OpenTelemetry's conventions for generative AI.

Rule of this file: nobody comes here unless content was asked for by the environment. The bytes of images and files
are left out all the same; their kind is told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.conversation.messages import (
    ChatMessage,
    Content,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
)

# Says whether what users and models say may be told: "true", or one of the words of later conventions.
VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_YES = frozenset(("true", "span_only", "span_and_event"))

_MODALITIES = frozenset(("image", "video", "audio"))


def is_content_told() -> bool:
    """Whether the environment asks for content on spans."""
    return os.environ.get(VARIABLE, "").strip().lower() in _YES


def instructions_told(instructions: str) -> str:
    return _json([{"type": "text", "content": instructions}])


def input_told(messages: Sequence[ChatMessage]) -> str:
    return _json([_message(message) for message in messages])


def output_told(messages: Sequence[ChatMessage], finish_reason: str | None) -> str:
    """What an agent or a model has answered; the last message has ended for the reason that is given."""
    told = [_message(message) for message in messages]
    for message in told[:-1]:
        message["finish_reason"] = "tool_call" if message["role"] == "assistant" else "stop"
    if told:
        told[-1]["finish_reason"] = "tool_call" if finish_reason == "tool_calls" else finish_reason or "stop"
    return _json(told)


def _message(message: ChatMessage) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "parts": [_part(part) for part in message.contents]}
    if message.author_name is not None:
        told["name"] = message.author_name
    return told


def _part(part: Content) -> dict[str, Any]:
    match part:
        case TextContent(text=text):
            return {"type": "text", "content": text}
        case ReasoningContent(text=text):
            return {"type": "reasoning", "content": text}
        case RefusalContent(text=text):
            return {"type": "refusal", "content": text}
        case ImageContent(uri=uri):
            return _file(uri, "image")
        case FileContent(uri=uri):
            return _file(uri, "document")
        case ToolCallContent(call_id=call_id, name=name, arguments=arguments):
            return {"type": "tool_call", "id": call_id, "name": name, "arguments": _decoded(arguments)}
        case ToolResultContent(call_id=call_id, result=result):
            return {"type": "tool_call_response", "id": call_id, "response": result}
    return {"type": part.kind}


def _file(uri: str, modality: str) -> dict[str, Any]:
    if not uri.startswith("data:"):
        return {"type": "uri", "modality": modality, "uri": uri}
    kind = uri[len("data:") : uri.find(",")].partition(";")[0]
    said = kind.partition("/")[0]
    return {"type": "blob", "mime_type": kind, "modality": said if said in _MODALITIES else modality, "content": ""}


def _decoded(arguments: str) -> Any:
    """The JSON that a model wrote; its text if it is none."""
    try:
        return msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        return arguments


def _json(told: Any) -> str:
    return msgspec.json.encode(told).decode()
