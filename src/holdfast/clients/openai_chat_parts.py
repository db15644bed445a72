"""What messages hold besides a single text, in the JSON of Chat Completions.

Rule of this file: what the service cannot be told is refused in words, never left out in silence. Two kinds are
left out on purpose: thoughts, which belong to the model that had them, and what a newer holdfast wrote. What a model
said itself is never refused: its thread could not go on.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from holdfast.conversation.errors import InvalidInputError
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
    UnknownContent,
)

_SILENT = (ReasoningContent, UnknownContent)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_OF_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
# The longest that the service takes back, of ids and of names. It does not hold its own models to it.
_LONGEST_ID, _LONGEST_NAME = 40, 64
_SOUNDS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/vnd.wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def asked(role: str, message: ChatMessage) -> dict[str, Any] | None:
    """A user's message, or instructions in the middle of a conversation. None if nothing in it can be told."""
    parts = [_asked_part(role, part) for part in message.contents if not isinstance(part, _SILENT)]
    told = [part for part in parts if part is not None]
    if not told:
        return None
    only_text = len(told) == 1 and told[0]["type"] == "text"
    found: dict[str, Any] = {"role": role, "content": told[0]["text"] if only_text else told}
    if role == "user" and message.author_name is not None and _NAME.fullmatch(message.author_name):
        found["name"] = message.author_name
    return found


def answered(parts: Sequence[Content]) -> dict[str, Any] | None:
    """An assistant's message: text, refusals and tool calls. None if nothing in it can be told."""
    spoken: list[dict[str, str]] = []
    calls: list[dict[str, Any]] = []
    refused = False
    for part in parts:
        if isinstance(part, TextContent):
            if part.text:
                spoken.append({"type": "text", "text": part.text})
        elif isinstance(part, RefusalContent):
            refused = True
            spoken.append({"type": "refusal", "refusal": part.text})
        elif isinstance(part, ToolCallContent):
            function = {"name": _name_of(part.name), "arguments": part.arguments or "{}"}
            calls.append({"id": _id_of(part.call_id), "type": "function", "function": function})
        elif not isinstance(part, _SILENT):
            raise _out_of_place("assistant", part)
    if not spoken and not calls:
        return None
    # One string wherever it is all text: more servers understand that than a list.
    content: object = spoken if refused else "".join([part["text"] for part in spoken])
    told: dict[str, Any] = {"role": "assistant", "content": content or None}
    if calls:
        told["tool_calls"] = calls
    return told


def results(parts: Sequence[Content]) -> Iterable[dict[str, str]]:
    """Tool results: a message for each. The text of an error tells the model that it is one."""
    for part in parts:
        if isinstance(part, ToolResultContent):
            yield {"role": "tool", "tool_call_id": _id_of(part.call_id), "content": part.result}
        elif not isinstance(part, _SILENT):
            raise _out_of_place("tool", part)


def _id_of(call_id: str) -> str:
    """A call's id as the service takes it, the same in the call and in its result."""
    if 0 < len(call_id) <= _LONGEST_ID:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def _name_of(tool: str) -> str:
    """The name that a model called, as the service takes it: no tool bears one like that, but the model said it."""
    return tool if _NAME.fullmatch(tool) else _NOT_OF_NAMES.sub("_", tool)[:_LONGEST_NAME] or "_"


def _asked_part(role: str, part: Content) -> dict[str, Any] | None:
    if isinstance(part, TextContent):
        return {"type": "text", "text": part.text} if part.text else None
    if role == "user" and isinstance(part, ImageContent):
        return {"type": "image_url", "image_url": _image(part)}
    if role == "user" and isinstance(part, FileContent):
        return _file(part)
    raise _out_of_place(role, part)


def _out_of_place(role: str, part: Content) -> InvalidInputError:
    places = {
        ImageContent: "Images go into a user's message.",
        FileContent: "Files go into a user's message.",
        ToolCallContent: "Tool calls go into an assistant's message.",
        ToolResultContent: "Tool results go into a message of the role tool.",
        RefusalContent: "Refusals go into an assistant's message.",
        TextContent: "A message of the role tool holds ToolResultContent only.",
    }
    where = places.get(type(part), "")
    return InvalidInputError(
        f"Chat Completions takes no {type(part).__name__} in a message of the role {role}. {where}"
    )


def _image(part: ImageContent) -> dict[str, str]:
    return {"url": part.uri} if part.detail is None else {"url": part.uri, "detail": part.detail}


def _file(part: FileContent) -> dict[str, Any]:
    if not part.uri.startswith("data:"):
        raise InvalidInputError(
            f"Chat Completions takes files as data URIs only, and {part.name or 'this file'} is given as a URL. "
            "Read it yourself and pass it as data:<media type>;base64,<content>."
        )
    described, comma, content = part.uri[5:].partition(",")
    kind, *parameters = described.lower().split(";")
    if not comma:
        raise InvalidInputError(f"The data URI of {part.name or 'a file'} has no comma, and so no content.")
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": part.uri}}
    if kind in _SOUNDS:
        if "base64" not in parameters:
            content = base64.b64encode(unquote_to_bytes(content)).decode()
        return {"type": "input_audio", "input_audio": {"data": content, "format": _SOUNDS[kind]}}
    if kind.startswith("audio/"):
        raise InvalidInputError(f"Chat Completions takes recordings as audio/wav or audio/mpeg; got {kind!r}.")
    name = part.name or f"file.{re.sub('[^a-z0-9]', '', kind.partition('/')[2]) or 'bin'}"
    return {"type": "file", "file": {"filename": name, "file_data": part.uri}}
