"""What Anthropic's Messages ask of the messages: each by itself, and how calls of tools and their results pair up.

Rule of this file: it refuses what the documented schema forbids and what the service is known to refuse, in its words.
Neighbours of one role count as one turn, as they do for the service.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from holdfast.testing.anthropic_checks import Field, RequestRefused

ROLES = ("user", "assistant")
ID = r"^[a-zA-Z0-9_-]+$"
TOOL_NAME = r"^[a-zA-Z0-9_-]{1,128}$"
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
MOST_MESSAGES = 100_000
BLOCKS: Mapping[str, tuple[str, ...]] = {
    "user": ("text", "image", "document", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "tool_result": ("text", "image", "document"),
}


def messages_are_given(body: Field) -> None:
    """There is at least one message, and not too many."""
    messages = body["messages"].array()
    if not messages:
        raise RequestRefused("messages: at least one message is required")
    if len(messages) > MOST_MESSAGES:
        raise RequestRefused(f"messages: List should have at most {MOST_MESSAGES} items after validation")


def messages_fit(body: Field) -> None:
    """Each message has a known role, a content that is not empty, and nothing else."""
    last = len(body.value["messages"]) - 1
    for index, message in enumerate(body["messages"].items()):
        message.object()
        role = message["role"].value
        if role == "system":
            raise RequestRefused(
                'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
                '"system" as an input message role.'
            )
        message["role"].one_of(*ROLES)
        message.object(("role", "content"))
        content = message["content"]
        if content.value in ("", []) and not (index == last and role == "assistant"):
            message.refuse("all messages must have non-empty content except for the optional final assistant message")
        content_fits(content, role)


def content_fits(content: Field, role: str) -> None:
    """A string or blocks of the kinds that may stand there."""
    if isinstance(content.value, str):
        _has_words(content.value)
        return
    for block in content.array():
        block.object()
        kind = block["type"].value
        if kind not in BLOCKS[role]:
            tags = ", ".join(f"'{tag}'" for tag in BLOCKS[role])
            block.refuse(f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}")
        CHECKS[kind](block.tagged(kind))


def tool_calls_are_answered(body: Field) -> None:
    """Each call has an id of its own, and one result at the beginning of the next turn; no result is without a call."""
    asked: dict[str, bool] = {}  # the calls of the turn before, and whether they are answered
    seen: set[str] = set()
    asked_at = 0
    for role, blocks in turns(body.value["messages"]):
        if role == "assistant":
            _refuse_unanswered(asked, asked_at)
            asked = _calls(blocks, seen)
            asked_at = blocks[-1][0] if blocks else asked_at
            continue
        leading = True
        for message, place, block in blocks:
            if block.get("type") != "tool_result":
                leading = False
                continue
            _match(asked, f"messages.{message}.content.{place}", block["tool_use_id"], leading)
        _refuse_unanswered(asked, asked_at)
        asked = {}
    _refuse_unanswered(asked, asked_at)


def turns(messages: list[Any]) -> Iterator[tuple[str, list[tuple[int, int, dict[str, Any]]]]]:
    """The turns that the service makes of messages: a role, and blocks with their places."""
    role, blocks = "", list[tuple[int, int, dict[str, Any]]]()
    for index, message in enumerate(messages):
        if message["role"] != role and role:
            yield role, blocks
            blocks = []
        role = message["role"]
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        blocks += [(index, place, block) for place, block in enumerate(parts)]
    if role:
        yield role, blocks


def _calls(blocks: list[tuple[int, int, dict[str, Any]]], seen: set[str]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for message, place, block in blocks:
        if block.get("type") == "tool_use":
            if block["id"] in seen:
                raise RequestRefused(f"messages.{message}.content.{place}: `tool_use` ids must be unique")
            seen.add(block["id"])
            found[block["id"]] = False
    return found


def _match(asked: dict[str, bool], path: str, call_id: str, leading: bool) -> None:
    if call_id not in asked:
        raise RequestRefused(
            f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {call_id}. Each `tool_result` block must "
            "have a corresponding `tool_use` block in the previous message."
        )
    if asked[call_id]:
        raise RequestRefused(
            f"{path}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {call_id}"
        )
    asked[call_id] = leading  # a result that other content stands before is not right after its call


def _refuse_unanswered(asked: Mapping[str, bool], message: int) -> None:
    missing = [call_id for call_id, answered in asked.items() if not answered]
    if missing:
        raise RequestRefused(
            f"messages.{message}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )


def _has_words(text: str) -> None:
    if text and not text.strip():
        raise RequestRefused("messages: text content blocks must contain non-whitespace text")


def _text_fits(block: Field) -> None:
    block.object(("type", "text", "cache_control", "citations"))
    block.cache_control()
    if not block["text"].string():
        raise RequestRefused("messages: text content blocks must be non-empty")
    _has_words(block.value["text"])


def _image_fits(block: Field) -> None:
    block.object(("type", "source", "cache_control", "transformations"))
    block.cache_control()
    source = block["source"].object()
    kind = source["type"].one_of("base64", "url", "file")
    source = source.tagged(kind)
    if kind == "url":
        _url_fits(source)
    elif kind == "base64":
        source.object(("type", "media_type", "data"))["media_type"].one_of(*IMAGES)
        _base64_fits(source["data"])


def _document_fits(block: Field) -> None:
    block.object(("type", "source", "cache_control", "title", "context", "citations"))
    block.cache_control()
    for name in ("title", "context"):
        if block.given(name):
            block[name].string(low=1)
    source = block["source"].object()
    kind = source["type"].one_of("base64", "text", "content", "url", "file")
    source = source.tagged(kind)
    if kind == "url":
        _url_fits(source)
    elif kind == "base64":
        source.object(("type", "media_type", "data"))["media_type"].one_of("application/pdf")
        _base64_fits(source["data"])
    elif kind == "text":
        source.object(("type", "media_type", "data"))["media_type"].one_of("text/plain")
        source["data"].string(low=1)


def _url_fits(source: Field) -> None:
    address = source.object(("type", "url"))["url"].string(low=1)
    if not re.match(r"https://[^/\s]", address):
        source["url"].refuse("Only HTTPS URLs are supported.")


def _base64_fits(data: Field) -> None:
    try:
        sound = bool(base64.b64decode(data.string(low=1), validate=True))
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        data.refuse("Invalid base64 data")


def _call_fits(block: Field) -> None:
    block.object(("type", "id", "name", "input", "cache_control", "caller", "toolset_name"))
    block.cache_control()
    block["id"].string(pattern=ID)
    block["name"].string(low=1, pattern=TOOL_NAME)
    block["input"].object()


def _result_fits(block: Field) -> None:
    block.object(("type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name"))
    block.cache_control()
    block["tool_use_id"].string(pattern=ID)
    failed = "is_error" in block and block["is_error"].boolean()
    if "content" in block:
        content_fits(block["content"], "tool_result")
    if failed and not block.value.get("content"):
        block.refuse("content cannot be empty if `is_error` is true")


def _thought_fits(block: Field) -> None:
    if block.value["type"] == "thinking":
        block.object(("type", "thinking", "signature"))["thinking"].string()
        block["signature"].string(low=1)
    else:
        block.object(("type", "data"))["data"].string(low=1)


CHECKS: Mapping[str, Callable[[Field], None]] = {
    "text": _text_fits,
    "image": _image_fits,
    "document": _document_fits,
    "tool_use": _call_fits,
    "tool_result": _result_fits,
    "thinking": _thought_fits,
    "redacted_thinking": _thought_fits,
}
