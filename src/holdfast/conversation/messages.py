"""Messages: a role and its contents. Frozen; any kind of service can be told them.

Rule of this file: a part says what it is in the conversation's own terms. What only one service understands
has no place here.

The kinds are tagged with `type` in the stored form (see `records`). A kind that this version does not know
becomes `UnknownContent` and keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(("system", "user", "assistant", "tool"))


class _Part(Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    """What all kinds of content share: frozen, tagged, defaults left out of the stored form."""


class TextContent(_Part, frozen=True, tag="text"):
    """Plain text."""

    text: str


class ReasoningContent(_Part, frozen=True, tag="reasoning"):
    """What a model thought before it answered, as far as its service shows it.

    It is kept in the log; without a service's signature it is never sent back to any service.
    """

    text: str


class RefusalContent(_Part, frozen=True, tag="refusal"):
    """The model's own words for declining to answer."""

    text: str


class ImageContent(_Part, frozen=True, tag="image"):
    """An image: a `data:` URI, or an `https:` URL that is passed to the service and never fetched by us."""

    uri: str
    detail: str | None = None


class FileContent(_Part, frozen=True, tag="file"):
    """A file or a recording: a `data:` URI, or a URL that is passed on and never fetched by us."""

    uri: str
    name: str | None = None


class ToolCallContent(_Part, frozen=True, tag="tool_call"):
    """The model asks for a tool. `arguments` is the JSON text exactly as the model wrote it."""

    call_id: str
    name: str
    arguments: str = ""


class ToolResultContent(_Part, frozen=True, tag="tool_result"):
    """What came of the tool call with the same `call_id`."""

    call_id: str
    result: str = ""
    is_error: bool = False


class UnknownContent(Struct, frozen=True):
    """A kind of content written by a newer version: `kind` names it, `raw` is its stored JSON, kept as it came."""

    kind: str
    raw: bytes


KnownContent: TypeAlias = (
    TextContent | ReasoningContent | RefusalContent | ImageContent | FileContent | ToolCallContent | ToolResultContent
)
Content: TypeAlias = KnownContent | UnknownContent
_KNOWN_KINDS = frozenset(str(kind.__struct_config__.tag) for kind in KnownContent.__args__)
CONTENT_TYPES: tuple[type, ...] = (*KnownContent.__args__, UnknownContent)


class ChatMessage:
    """One message: who speaks (`role`) and what (`contents`). Immutable, comparable, hashable by identity of parts.

        ChatMessage(role="user", text="Hello")
        ChatMessage(role="user", contents=[TextContent("What is this?"), ImageContent("https://example.org/a.png")])

    `author_name` and `message_id` are free for the caller. `additional_properties` is JSON-able data that is
    stored with the message and never sent to a service.
    Raises InvalidInputError for an unknown role, both or neither of text and contents, or a part of no known kind.
    """

    __slots__ = ("additional_properties", "author_name", "contents", "message_id", "role")

    role: Role
    contents: tuple[Content, ...]
    author_name: str | None
    message_id: str | None
    additional_properties: Mapping[str, Any] | None

    def __init__(
        self,
        role: Role,
        contents: Iterable[Content | str] | None = None,
        *,
        text: str | None = None,
        author_name: str | None = None,
        message_id: str | None = None,
        additional_properties: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidInputError(f"A message's role is one of {', '.join(sorted(ROLES))}; got {role!r}.")
        if text is not None and contents is not None:
            raise InvalidInputError("Give a message either text= or contents=, not both.")
        if text is not None:
            parts: tuple[Content, ...] = (TextContent(checked_text(text)),)
        else:
            parts = _checked_parts(contents)
        for what, value in (("author_name", author_name), ("message_id", message_id)):
            if value is not None:
                checked_text(value, f"A message's {what}")
        if additional_properties is not None and not isinstance(additional_properties, Mapping):
            raise InvalidInputError(
                f"A message's additional_properties are a dict; got {type(additional_properties).__name__}."
            )
        put = object.__setattr__
        put(self, "role", role)
        put(self, "contents", parts)
        put(self, "author_name", author_name)
        put(self, "message_id", message_id)
        put(self, "additional_properties", additional_properties)

    @property
    def text(self) -> str:
        """The text of all text parts, joined without anything between them."""
        return "".join([part.text for part in self.contents if type(part) is TextContent])

    @property
    def tool_calls(self) -> tuple[ToolCallContent, ...]:
        """The tool calls among the contents, in order."""
        return tuple(part for part in self.contents if type(part) is ToolCallContent)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A ChatMessage cannot be changed (tried to set {name!r}); build a new one.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A ChatMessage cannot be changed (tried to delete {name!r}); build a new one.")

    def _key(self) -> tuple[object, ...]:
        return (self.role, self.contents, self.author_name, self.message_id, self.additional_properties)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ChatMessage) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.role, self.contents, self.author_name, self.message_id))

    def __repr__(self) -> str:
        only_text = len(self.contents) == 1 and isinstance(self.contents[0], TextContent)
        inside = f"text={self.text!r}" if only_text else f"contents={list(self.contents)!r}"
        return f"ChatMessage(role={self.role!r}, {inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, self._key())


def assembled(
    role: Role,
    contents: tuple[Content, ...],
    author_name: str | None = None,
    message_id: str | None = None,
    additional_properties: Mapping[str, Any] | None = None,
) -> ChatMessage:
    """A message from parts that are known to be sound (read from the log, folded from updates): no checks."""
    message = object.__new__(ChatMessage)
    put = object.__setattr__
    put(message, "role", role)
    put(message, "contents", contents)
    put(message, "author_name", author_name)
    put(message, "message_id", message_id)
    put(message, "additional_properties", additional_properties)
    return message


_rebuild = assembled


def normalized_input(messages: object) -> tuple[ChatMessage, ...]:
    """What a caller may pass to a run, as messages: a string, a ChatMessage, or a list of them.

    Raises InvalidInputError for anything else, for nothing at all, and for a message without content.
    """
    if isinstance(messages, str) and messages.strip():
        text = messages if messages.isascii() else checked_text(messages)
        return (assembled("user", (TextContent(text),)),)
    if isinstance(messages, (str, ChatMessage)):
        messages = (messages,)
    if not isinstance(messages, Iterable) or isinstance(messages, (Mapping, bytes)):
        raise InvalidInputError(
            f"A run takes a string, a ChatMessage or a list of them; got {type(messages).__name__}."
        )
    found = tuple(_as_message(item) for item in messages)
    if not found:
        raise InvalidInputError("There is nothing to say: the list of messages is empty. Pass at least one message.")
    for message in found:
        if is_blank(message):
            raise InvalidInputError(
                "There is nothing to say: the message is empty or blank. Pass some text, an image or a file."
            )
        if any(isinstance(part, (ToolCallContent, ToolResultContent)) for part in message.contents):
            raise InvalidInputError(
                "Tool calls and their results are the agent's part of a turn and no input. To bring a transcript into "
                "a thread use thread.add_messages(...)."
            )
    return found


def is_blank(message: ChatMessage) -> bool:
    """True if nothing in the message could be sent: no parts, or white space only (services refuse both)."""
    return not any(
        part.text.strip() if isinstance(part, (TextContent, RefusalContent)) else True for part in message.contents
    )


def _as_message(item: object) -> ChatMessage:
    if isinstance(item, ChatMessage):
        return item
    if isinstance(item, str):
        return ChatMessage("user", text=item)
    raise InvalidInputError(f"A run takes strings and ChatMessages; the list holds a {type(item).__name__}.")


def _checked_parts(contents: Iterable[Content | str] | None) -> tuple[Content, ...]:
    if contents is None or isinstance(contents, (str, bytes, Mapping)) or not isinstance(contents, Iterable):
        raise InvalidInputError("A message needs text= (a string) or contents= (a list of parts).")
    parts = tuple(TextContent(part) if isinstance(part, str) else part for part in contents)
    for part in parts:
        if not isinstance(part, CONTENT_TYPES):
            raise InvalidInputError(
                f"{type(part).__name__} is no kind of content; use TextContent, ImageContent, FileContent "
                "or the other parts of holdfast."
            )
        if isinstance(part, UnknownContent):
            _check_raw(part)
        else:
            _check_fields(part)
        if isinstance(part, (ImageContent, FileContent)):
            _checked_uri(part.uri)
    return parts


def _check_raw(part: UnknownContent) -> None:
    """Bytes that go into the log as they are must be one JSON object of the kind that they claim, and no known one."""
    try:
        found = msgspec.json.decode(part.raw)
        said = found["type"] if isinstance(found, dict) else None
    except (TypeError, KeyError, ValueError, msgspec.DecodeError, RecursionError):
        said = None
    if said is None or said != part.kind or said in _KNOWN_KINDS:
        raise InvalidInputError(
            "An UnknownContent is a kind of content that this version does not know, as it was stored: one JSON object "
            "whose type is its kind. To make a message use the other parts."
        )


def _check_fields(part: KnownContent) -> None:
    """A part is a plain struct and takes anything; what it cannot be read back from is refused here."""
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if isinstance(value, str):
            checked_text(value, f"The {name} of a {type(part).__name__}")
    try:
        msgspec.json.decode(msgspec.json.encode(part), type=type(part))
    except (TypeError, ValueError, msgspec.DecodeError) as error:
        raise InvalidInputError(f"A {type(part).__name__} cannot hold this: {error}.") from None


def checked_text(text: object, what: str = "A message's text") -> str:
    """Refuse what cannot be written as UTF-8 (half of a surrogate pair): no service and no store could take it."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} is a string; got {type(text).__name__}.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"{what} holds half of a surrogate pair at position {error.start}, which is no character. "
                "Decode it properly, or replace it: text.encode('utf-8', 'replace').decode()."
            ) from None
    return text


def _checked_uri(uri: str) -> None:
    if not uri.startswith(("data:", "https://", "http://")):
        raise InvalidInputError(
            f"An image or file is given as a data: URI or an http(s) URL; got {uri[:40]!r}. "
            "Read a local file yourself and pass it as a data: URI."
        )
