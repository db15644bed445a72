"""What Chat Completions asks of the messages: each by itself, and how calls of tools and their results pair up.

Rule of this file: it refuses what the documented schema forbids and what the service is known to refuse. The paths
in `param` are the service's own: its schema writes `messages[1].content`, its later checks `messages.[1].content`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from holdfast.testing.openai_chat_parameters import LONGEST_NAME, TOOL_NAME
from holdfast.testing.openai_checks import Field, RequestRefused

ROLES = ("system", "assistant", "user", "function", "tool", "developer")
MEMBERS: Mapping[str, frozenset[str]] = {
    "system": frozenset(("role", "content", "name")),
    "developer": frozenset(("role", "content", "name")),
    "user": frozenset(("role", "content", "name")),
    # An answer of the service may be sent back as it came, hence its annotations.
    "assistant": frozenset(
        ("role", "content", "name", "refusal", "audio", "function_call", "tool_calls", "annotations")
    ),
    "tool": frozenset(("role", "content", "name", "tool_call_id")),
    "function": frozenset(("role", "content", "name")),
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
}
IMAGE_TYPES = ("png", "jpeg", "jpg", "gif", "webp")
MESSAGE_NAME = r"^[^\s<|\\/>]+$"
LONGEST_CALL_ID = 40
MOST_CALLS = 128


def messages_are_given(body: Field) -> None:
    """There is at least one message."""
    body["messages"].array(low=1, of="objects")


def messages_fit(body: Field) -> None:
    """Each message has a known role, what its role needs, and nothing else."""
    for message in body["messages"].items():
        message.object()
        role = message["role"].one_of(*ROLES)
        message.object(MEMBERS[role])
        if message.given("name"):
            message["name"].string(low=1, high=LONGEST_NAME, pattern=MESSAGE_NAME)
        if role == "assistant":
            _assistant_fits(message)
        elif role == "function":
            _function_fits(message)
        else:
            _content_fits(message, role)
            if role == "tool":
                message["tool_call_id"].string(low=1)


def tool_calls_are_answered(body: Field) -> None:
    """Calls are followed at once by one result for each, in any order; there is no result without its call."""
    asked: dict[str, int | None] = {}  # id of a call -> the message that answers it
    for index, message in enumerate(body.value["messages"]):
        if message.get("role") == "tool":
            _match_result(asked, index, message.get("tool_call_id"))
            continue
        _refuse_unanswered(asked, f"messages.[{index}].role")
        asked = _calls_of(message, index)
    _refuse_unanswered(asked, "messages")


def _match_result(asked: dict[str, int | None], index: int, call_id: Any) -> None:
    if not asked:
        raise RequestRefused(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
            "with 'tool_calls'.",
            param=f"messages.[{index}].role",
        )
    at = f"messages.[{index}].tool_call_id"
    if call_id not in asked:
        raise RequestRefused(
            f"Invalid parameter: 'tool_call_id' of '{call_id}' not found in 'tool_calls' of previous message.",
            param=at,
        )
    earlier = asked[call_id]
    if earlier is not None:
        raise RequestRefused(
            f"Invalid parameter: Duplicate value for 'tool_call_id' of '{call_id}', in messages[{earlier}] "
            f"and messages[{index}].",
            param=at,
        )
    asked[call_id] = index


def _refuse_unanswered(asked: Mapping[str, int | None], param: str) -> None:
    missing = [call_id for call_id, answer in asked.items() if answer is None]
    if missing:
        raise RequestRefused(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(missing)}",
            param=param,
        )


def _calls_of(message: Mapping[str, Any], index: int) -> dict[str, int | None]:
    asked: dict[str, int | None] = {}
    calls = message.get("tool_calls") if message.get("role") == "assistant" else None
    for number, call in enumerate(calls or ()):
        if call["id"] in asked:
            raise RequestRefused(
                f"Invalid parameter: Duplicate value for 'id' of '{call['id']}' in 'tool_calls' of messages[{index}].",
                param=f"messages.[{index}].tool_calls.[{number}].id",
            )
        asked[call["id"]] = None
    return asked


def _assistant_fits(message: Field) -> None:
    if "tool_calls" in message:
        for call in message["tool_calls"].array(low=1, high=MOST_CALLS, of="objects"):
            _call_fits(call)
    if message.given("function_call"):
        function = message["function_call"].object(("name", "arguments"))
        function["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)
        function["arguments"].string()
    if message.given("refusal"):
        message["refusal"].string()
    if message.given("audio"):
        message["audio"].object(("id",))["id"].string()
    says_it_otherwise = "tool_calls" in message or message.given("function_call") or message.given("audio")
    if message.given("content") or not says_it_otherwise:
        _content_fits(message, "assistant")


def _call_fits(call: Field) -> None:
    call.object()
    call["id"].string(low=1, high=LONGEST_CALL_ID)
    kind = call["type"].one_of("function", "custom")
    call.object(("id", "type", kind))
    asked = call[kind].object(("name", "arguments" if kind == "function" else "input"))
    asked["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)
    asked["arguments" if kind == "function" else "input"].string()


def _function_fits(message: Field) -> None:
    message["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)
    if message["content"].value is not None:
        message["content"].string()


def _content_fits(message: Field, role: str) -> None:
    content = message["content"]
    if content.value is None:
        raise RequestRefused(
            "Invalid value for 'content': expected a string, got null.",
            param=re.sub(r"^messages\[", "messages.[", content.path),
        )
    if isinstance(content.value, str):
        return
    if not isinstance(content.value, list):
        content.refuse_type("one of a string or array of objects")
    parts = content.array(low=1, of="objects")
    for part in parts:
        part.object()
        kind = part["type"].value
        if kind == "image_url" and role != "user":
            message.refuse(
                f"Invalid '{message.path}'. Image URLs are only allowed for messages with role 'user', "
                f"but this message with role '{role}' contains an image URL."
            )
        PART_CHECKS[part["type"].one_of(*PARTS[role])](part)
    if len(parts) > 1 and any(part.value["type"] == "refusal" for part in parts):
        content.refuse(
            f"Invalid '{content.path}': an array of content parts holds either text parts or exactly one refusal."
        )


def _text_fits(part: Field) -> None:
    part.object(("type", "text", "prompt_cache_breakpoint"))
    part["text"].string()


def _refusal_fits(part: Field) -> None:
    part.object(("type", "refusal"))
    part["refusal"].string()


def _image_fits(part: Field) -> None:
    part.object(("type", "image_url", "prompt_cache_breakpoint"))
    image = part["image_url"].object(("url", "detail"))
    if image.given("detail"):
        image["detail"].one_of("auto", "low", "high", "original")
    address = image["url"]
    text = address.string()
    if text.startswith("data:"):
        kind = re.match(r"data:image/([a-z]+);base64,", text)
        if kind is None or kind.group(1) not in IMAGE_TYPES:
            _refuse_data(address, "an image MIME type (e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=')")
        _base64_fits(address, text.partition(",")[2], "a base64-encoded image")
    elif not re.match(r"https?://[^/\s]", text):
        address.refuse(
            f"Invalid '{address.path}'. Expected a valid URL, but got a value with an invalid format.",
        )


def _audio_fits(part: Field) -> None:
    part.object(("type", "input_audio", "prompt_cache_breakpoint"))
    audio = part["input_audio"].object(("data", "format"))
    _base64_fits(audio["data"], audio["data"].string(), "base64-encoded audio")
    audio["format"].one_of("wav", "mp3")


def _file_fits(part: Field) -> None:
    part.object(("type", "file", "prompt_cache_breakpoint"))
    file = part["file"].object(("file_id", "file_data", "filename"))
    for member in ("file_id", "file_data", "filename"):
        if member in file:
            file[member].string(low=1)
    if "file_data" in file:
        text = file["file_data"].string()
        if not re.match(r"data:[\w.+-]+/[\w.+-]+;base64,", text):
            _refuse_data(file["file_data"], "its MIME type (e.g. 'data:application/pdf;base64,aGVsbG8=')")
        _base64_fits(file["file_data"], text.partition(",")[2], "a base64-encoded file")
    else:
        _ = file["file_id"]


def _refuse_data(field: Field, wanted: str) -> NoReturn:
    field.refuse(
        f"Invalid '{field.path}'. Expected a base64-encoded data URL with {wanted}, but got a value without it.",
    )


def _base64_fits(field: Field, text: str, wanted: str) -> None:
    try:
        sound = bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        field.refuse(f"Invalid '{field.path}'. Expected {wanted}, but got an invalid base64-encoded value.")


PART_CHECKS: Mapping[str, Callable[[Field], None]] = {
    "text": _text_fits,
    "refusal": _refusal_fits,
    "image_url": _image_fits,
    "input_audio": _audio_fits,
    "file": _file_fits,
}


def estimated_tokens(messages: Any) -> int:
    """A quarter of the characters of all texts, calls included, rounded up. Images and files count nothing."""
    return -(-sum(len(text) for text in texts(messages)) // 4)


def texts(messages: Any) -> Iterator[str]:
    """Every text that the model would read. Looks only at what has the right shape, so it fits any rules."""
    for message in _dicts(messages):
        yield text_of(message.get("content"))
        for call in _dicts(message.get("tool_calls")):
            for asked in _dicts([call.get("function"), call.get("custom")]):
                yield from (value for value in asked.values() if isinstance(value, str))


def text_of(content: Any) -> str:
    """The text of a message's content, whether it is a string or an array of parts."""
    if isinstance(content, str):
        return content
    found = [part.get("text") or part.get("refusal") for part in _dicts(content)]
    return "".join(text for text in found if isinstance(text, str))


def _dicts(items: Any) -> Iterator[dict[str, Any]]:
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, dict))
