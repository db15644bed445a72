"""What messages hold, in the JSON of Anthropic's Messages: a content of text or of blocks.

Rule of this file: what the service cannot be told is refused in words, never left out in silence. Left out on purpose
are thoughts, which go back with their signature or not at all, what a newer holdfast wrote, and blank texts, which the
service refuses. What a model said itself is never refused: its thread could not go on.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import (
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
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_OF_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME = 128
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TEXTS = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
# What a model is told instead of an empty text of an error, which the service refuses.
_FAILED = "The call failed."
# Where the arguments of a call are no JSON object, the service is told them in one of this name.
UNREADABLE = "unreadable_arguments"


def asked(role: str, parts: Sequence[Content]) -> str | list[dict[str, Any]] | None:
    """A user's message, or instructions in the middle of a conversation. None if nothing in it can be told."""
    told = [_asked_part(role, part) for part in parts if not isinstance(part, _SILENT)]
    blocks = [block for block in told if block is not None]
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return str(blocks[0]["text"])
    return blocks or None


def instructed(parts: Sequence[Content]) -> str | None:
    """Instructions in the middle of a conversation, as the text of a user: not all models take any in their place."""
    told = asked("system", parts)
    if told is None:
        return None
    text = told if isinstance(told, str) else "\n".join([block["text"] for block in told])
    return f"<system>\n{text}\n</system>"


def answered(parts: Sequence[Content]) -> str | list[dict[str, Any]] | None:
    """An assistant's message: texts and refusals, then tool calls. None if nothing in it can be told."""
    spoken: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, (TextContent, RefusalContent)):
            if part.text.strip():
                spoken.append({"type": "text", "text": part.text})
        elif isinstance(part, ToolCallContent):
            call = {"type": "tool_use", "id": _id_of(part.call_id), "name": _name_of(part.name)}
            calls.append({**call, "input": _input(part.arguments)})
        elif not isinstance(part, _SILENT):
            raise _out_of_place("assistant", part)
    if len(spoken) == 1 and not calls:
        return str(spoken[0]["text"])
    return spoken + calls or None


def results(parts: Sequence[Content]) -> list[dict[str, Any]]:
    """Tool results, as blocks of a user's message."""
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, ToolResultContent):
            told: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id_of(part.call_id)}
            if part.result.strip() or part.is_error:
                told["content"] = part.result if part.result.strip() else _FAILED
            if part.is_error:
                told["is_error"] = True
            found.append(told)
        elif not isinstance(part, _SILENT):
            raise _out_of_place("tool", part)
    return found


def _id_of(call_id: str) -> str:
    """A call's id as the service takes it, the same in the call and in its result."""
    if _ID.fullmatch(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def _name_of(tool: str) -> str:
    """The name that a model called, as the service takes it: no tool bears one like that, but the model said it."""
    return _NOT_OF_NAMES.sub("_", tool)[:_LONGEST_NAME] or "_"


def _input(arguments: str) -> msgspec.Raw | dict[str, str]:
    """The arguments as the object that the service wants; what is none is told as the text that it is."""
    if not arguments.strip():
        return {}
    try:
        if isinstance(msgspec.json.decode(arguments), dict):
            return msgspec.Raw(arguments.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    return {UNREADABLE: arguments}


def _asked_part(role: str, part: Content) -> dict[str, Any] | None:
    if isinstance(part, TextContent):
        return {"type": "text", "text": part.text} if part.text.strip() else None
    if role == "user" and isinstance(part, ImageContent):
        return _image(part.uri)
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
        f"Anthropic's Messages take no {type(part).__name__} in a message of the role {role}. {where}"
    )


def _image(uri: str) -> dict[str, Any]:
    if not uri.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": _checked_address(uri, "images")}}
    kind, content = _decoded(uri, "an image")
    if kind not in _IMAGES:
        raise InvalidInputError(f"Anthropic's Messages take images as {', '.join(_IMAGES)}; got {kind or 'no kind'!r}.")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": _base64(content)}}


def _file(part: FileContent) -> dict[str, Any]:
    title = {"title": part.name[:255]} if part.name and part.name.strip() else {}
    if not part.uri.startswith("data:"):
        return {"type": "document", "source": {"type": "url", "url": _checked_address(part.uri, "files")}, **title}
    kind, content = _decoded(part.uri, part.name or "a file")
    if kind.startswith("image/"):
        return _image(part.uri)
    if kind == "application/pdf":
        source = {"type": "base64", "media_type": kind, "data": _base64(content)}
        return {"type": "document", "source": source, **title}
    if kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml")):
        return {"type": "document", "source": _plain(content, part.name or "a file"), **title}
    raise InvalidInputError(
        f"Anthropic's Messages take files as PDF or text; {part.name or 'a file'} is {kind or 'of no kind'}."
    )


def _plain(content: bytes, name: str) -> dict[str, str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInputError(f"The text of {name} is not UTF-8; convert it first.") from None
    if not text.strip():
        raise InvalidInputError(f"There is no text in {name}, and Anthropic's Messages take no empty ones.")
    return {"type": "text", "media_type": "text/plain", "data": text}


def _checked_address(uri: str, what: str) -> str:
    if not uri.startswith("https://"):
        raise InvalidInputError(f"Anthropic's Messages take {what} from https:// addresses or as data URIs only.")
    return uri


def _decoded(uri: str, name: str) -> tuple[str, bytes]:
    """The media type and the content of a data URI."""
    described, comma, content = uri[5:].partition(",")
    kind, *parameters = described.lower().split(";")
    if not comma or not content:
        raise InvalidInputError(f"The data URI of {name} has no content.")
    if "base64" not in [parameter.strip() for parameter in parameters]:
        return kind.strip() or "text/plain", unquote_to_bytes(content)
    try:
        return kind.strip() or "text/plain", base64.b64decode(content, validate=True)
    except ValueError:
        raise InvalidInputError(f"The data URI of {name} is not sound base64.") from None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
