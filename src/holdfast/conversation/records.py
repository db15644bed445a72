"""Records: the stored JSON of a turn, and the hash that chains turns.

Rule of this file: stored bytes are data. No class is looked up by name, nothing is evaluated, and what this
version does not know is kept as it came: unknown kinds of content become `UnknownContent`, and the stored bytes
themselves are never rewritten. Hashes are over the stored bytes.

The form (version 1), as JSON:

    {"v": 1,
     "input":  [message, ...],
     "output": [message, ...],            the assistant's and the tools' messages
     "usage":  {"input_tokens": ..., ...},
     "model": "...", "service": "...", "finish": "stop",
     "error": {"code": "...", "message": "..."},
     "restarts": [[epoch, place], ...]}   where somebody else went on with the turn, and asked again (see `cursors`)

    message = {"role": "user", "contents": [{"type": "text", "text": "..."}], "author": "...", "id": "...",
               "properties": {...}}

Whatever is empty is left out. docs/format.md describes every kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from holdfast.conversation.errors import DamagedError, InvalidInputError, SchemaVersionError
from holdfast.conversation.messages import ChatMessage, Content, KnownContent, Role, UnknownContent, assembled
from holdfast.conversation.plain import plain
from holdfast.conversation.turns import Turn, TurnError, TurnStatus
from holdfast.conversation.updates import Usage

VERSION = 1

# The parent of a first turn.
ROOT = bytes(32)


class _Message(Struct, omit_defaults=True):
    role: str
    contents: Sequence[Any] = ()
    author: str | None = None
    id: str | None = None
    properties: Any = None


class _KnownMessage(Struct):
    role: str
    contents: tuple[KnownContent, ...] = ()
    author: str | None = None
    id: str | None = None
    properties: Any = None


class _AnyMessage(Struct):
    role: str
    contents: tuple[Raw, ...] = ()
    author: str | None = None
    id: str | None = None
    properties: Any = None


class _Record(Struct, omit_defaults=True):
    v: int
    input: Raw
    output: Any = ()
    usage: Usage | None = None
    model: str | None = None
    service: str | None = None
    finish: str | None = None
    error: TurnError | None = None
    restarts: tuple[tuple[int, int], ...] = ()


class _KnownRecord(Struct):
    v: int
    input: tuple[_KnownMessage, ...] = ()
    output: tuple[_KnownMessage, ...] = ()
    usage: Usage | None = None
    model: str | None = None
    service: str | None = None
    finish: str | None = None
    error: TurnError | None = None
    restarts: tuple[tuple[int, int], ...] = ()


class _AnyRecord(_KnownRecord):
    input: tuple[_AnyMessage, ...] = ()  # type: ignore[assignment]
    output: tuple[_AnyMessage, ...] = ()  # type: ignore[assignment]


class _Kind(Struct):
    type: str = ""


class _Said(Struct):
    input: Raw


class _Version(Struct):
    v: int = 0


_encoder = msgspec.json.Encoder()
_decode_known = msgspec.json.Decoder(_KnownRecord).decode
_decode_any = msgspec.json.Decoder(_AnyRecord).decode
_decode_messages = msgspec.json.Decoder(tuple[_AnyMessage, ...]).decode
_decode_part = msgspec.json.Decoder(KnownContent).decode
_decode_input = msgspec.json.Decoder(_Said).decode
_decode_version = msgspec.json.Decoder(_Version).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode


def encode_messages(messages: Sequence[ChatMessage]) -> bytes:
    """The stored form of a list of messages. Raises InvalidInputError for properties that are no JSON."""
    try:
        return _encoder.encode([_stored(message) for message in messages])
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"A message cannot be stored as JSON: {error}.") from None


def decode_messages(stored: bytes) -> tuple[ChatMessage, ...]:
    """The messages of a stored list. Raises DamagedError if the bytes are no such list."""
    try:
        return tuple([_message_any(message) for message in _decode_messages(stored)])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"A stored input cannot be read: {error}.") from None


def encode_turn(
    stored_input: bytes,
    output: Sequence[ChatMessage] = (),
    *,
    usage: Usage | None = None,
    model: str | None = None,
    service: str | None = None,
    finish_reason: str | None = None,
    error: TurnError | None = None,
    restarts: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """The record of a turn, around the bytes that `encode_messages` made of its input."""
    record = _Record(
        v=VERSION,
        input=Raw(stored_input),
        output=tuple([_stored(message) for message in output]),
        usage=usage,
        model=model,
        service=service,
        finish=finish_reason,
        error=error,
        restarts=restarts,
    )
    return _encoder.encode(record)


def decode_turn(record: bytes, *, turn_id: str, seq: int, status: str, started_us: int, ended_us: int) -> Turn:
    """A turn from its record and the columns beside it.

    Raises DamagedError if the bytes are no record, SchemaVersionError if a newer version wrote them.
    """
    try:
        found = _decoded(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (version := _version_of(record)) > VERSION:
            raise SchemaVersionError(
                f"Turn {turn_id} was written in form {version}; this holdfast reads up to {VERSION}. Update holdfast.",
                turn_id=turn_id,
            ) from None
        raise DamagedError(f"The record of turn {turn_id} cannot be read: {error}.", turn_id=turn_id) from None
    said, answered, rest = found
    return Turn(
        turn_id,
        seq,
        cast(TurnStatus, status),
        said,
        answered,
        rest.usage,
        rest.model,
        rest.service,
        rest.finish,
        rest.error,
        started_us,
        ended_us,
        rest.restarts,
    )


def input_of(record: bytes) -> bytes:
    """The stored input in a record, as the bytes that `encode_messages` made. Raises DamagedError."""
    try:
        return bytes(_decode_input(record).input)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedError(f"A record cannot be read: {error}.") from None


def _decoded(record: bytes) -> tuple[tuple[ChatMessage, ...], tuple[ChatMessage, ...], _KnownRecord]:
    """Input, output, and the record for the rest of it. Raises what msgspec raises."""
    try:
        known = _decode_known(record)
        make: Any = _message_known
    except msgspec.ValidationError:
        # Kinds that this version does not know, or damage: the tolerant reading tells which.
        known, make = _decode_any(record), _message_any
    if known.v > VERSION:
        raise msgspec.ValidationError(f"form {known.v}")
    return tuple([make(message) for message in known.input]), tuple([make(message) for message in known.output]), known


def _version_of(record: bytes) -> int:
    """The form that a record says it has, whatever else is in it; 0 if it says nothing."""
    try:
        return _decode_version(record).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def chain(
    parent: bytes,
    *,
    seq: int,
    turn_id: str,
    key: str | None,
    status: str,
    reference: str | None,
    started_us: int,
    ended_us: int,
    record: bytes,
) -> bytes:
    """The hash of a turn (SHA-256, 32 bytes): over its parent's hash, its columns and its stored record.

    Every field is preceded by its length, so that no two different turns give the same input.
    """
    digest = hashlib.sha256(parent)
    columns = _encoder.encode((seq, turn_id, key, status, reference, started_us, ended_us))
    digest.update(len(columns).to_bytes(8, "big"))
    digest.update(columns)
    digest.update(record)
    return digest.digest()


def _stored(message: ChatMessage) -> _Message:
    contents: tuple[Any, ...] = message.contents
    if any(type(part) is UnknownContent for part in contents):
        contents = tuple(Raw(part.raw) if isinstance(part, UnknownContent) else part for part in contents)
    properties = message.additional_properties
    if properties is not None:
        properties = plain(properties, "A message's additional_properties")  # type: ignore[assignment]
    return _Message(message.role, contents, message.author_name, message.message_id, properties)


def _message_known(message: _KnownMessage) -> ChatMessage:
    return assembled(cast(Role, message.role), message.contents, message.author, message.id, message.properties)


def _message_any(message: _AnyMessage) -> ChatMessage:
    contents = tuple(_part(bytes(raw)) for raw in message.contents)
    return assembled(cast(Role, message.role), contents, message.author, message.id, message.properties)


def _part(raw: bytes) -> Content:
    try:
        return cast(Content, _decode_part(raw))
    except msgspec.ValidationError:
        # Valid JSON, but no kind that we know, or a known kind with a field of another type.
        return UnknownContent(_decode_kind(raw).type, raw)
