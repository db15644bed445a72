"""Journal: what an open run writes down of itself, so that its death loses little and others can follow it.

Rule of this file: records are JSON, and only ever appended. Each says at which place of the turn it stands (see
`cursors`), so reading needs no state:

    {"e": 7, "at": 0,  "said": [["text", "Ahoy"], ["call", 0, "call_1", "weather", "{"]]}   pieces of an answer
    {"e": 7, "at": 0,  "done": [message, ...]}      a whole answer, and the results of its calls; takes the place of
                                                    what was said since that place
    {"e": 9, "at": 31, "again": true}               another writer asks again from here: what was said after is void
                                                    as soon as it says something

`e` is the epoch of the writer. docs/format.md describes the form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from holdfast.conversation.cursors import units, updates_of
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import decode_messages, encode_messages
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    FinishUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
)


class Entry(Struct, omit_defaults=True):
    """One record. `at` is the place where it begins."""

    e: int
    at: int
    said: list[list[Any]] | None = None
    done: Raw = Raw()
    again: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole answer."""
        return bool(bytes(self.done))

    @property
    def updates(self) -> list[AgentRunResponseUpdate]:
        """What it says, as updates."""
        if bytes(self.done):
            return updates_of(decode_messages(bytes(self.done)))
        return [_update(piece) for piece in self.said or ()]


class Recorded(Struct):
    """All of a journal, folded: whole answers and results, the pieces of the answer that was cut off, restarts."""

    messages: list[ChatMessage]
    pieces: list[AgentRunResponseUpdate]
    place: int = 0  # where the pieces begin
    restarts: tuple[tuple[int, int], ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def said(epoch: int, at: int, updates: Iterable[AgentRunResponseUpdate]) -> bytes:
    """The record of pieces of an answer, as few as say the same."""
    pieces: list[list[Any]] = []
    for update in updates:
        piece = _piece(update)
        if piece is None:
            continue
        if pieces and len(piece) == 2 and pieces[-1][0] == piece[0]:
            pieces[-1].append(piece[1])
        else:
            pieces.append(piece)
    entry = Entry(epoch, at, said=[[piece[0], "".join(piece[1:])] if _is_text(piece) else piece for piece in pieces])
    try:
        return _encode(entry)
    except UnicodeEncodeError:  # half of a surrogate pair, whose other half comes later
        return json.dumps({"e": epoch, "at": at, "said": entry.said}).encode()


def done(epoch: int, at: int, messages: Sequence[ChatMessage]) -> bytes:
    """The record of a whole answer and the results of its calls."""
    return _encode(Entry(epoch, at, done=Raw(encode_messages(messages))))


def again(epoch: int, at: int) -> bytes:
    """The record of a writer that asks again."""
    return _encode(Entry(epoch, at, again=True))


def entries(records: Iterable[bytes]) -> list[Entry]:
    """The records, up to the first one that this version cannot read."""
    found: list[Entry] = []
    for record in records:
        try:
            found.append(_decode(record))
        except msgspec.DecodeError:
            try:
                found.append(_with_halves(record))
            except (ValueError, TypeError, KeyError):
                break
    return found


def recorded(records: Iterable[bytes]) -> Recorded:
    """What a journal says. Raises DamagedError for messages that cannot be read."""
    found = Recorded([], [])
    void = False
    for entry in entries(records):
        if entry.again:
            found.restarts += ((entry.e, entry.at),)
            void = True  # once the new writer has said something; should it die before, what there is stands
        elif bytes(entry.done):
            found.messages.extend(decode_messages(bytes(entry.done)))
            found.place = entry.at + sum(map(units, entry.updates))
            found.pieces, void = [], False
        else:
            found.pieces = entry.updates if void else found.pieces + entry.updates
            void = False
    return found


def _with_halves(record: bytes) -> Entry:
    """A record with halves of surrogate pairs in it, which only the standard library's JSON reads."""
    found = json.loads(record)
    return Entry(int(found["e"]), int(found["at"]), said=[list(piece) for piece in found["said"]])


def _is_text(piece: list[Any]) -> bool:
    return piece[0] in ("text", "reasoning", "refusal")


def _piece(update: AgentRunResponseUpdate) -> list[Any] | None:
    if type(update) is AgentRunResponseUpdate:
        return ["text", update.text]
    if isinstance(update, ToolCallUpdate):
        return ["call", update.index, update.call_id, update.name, update.arguments]
    if isinstance(update, ReasoningUpdate):
        return ["reasoning", update.reasoning]
    if isinstance(update, RefusalUpdate):
        return ["refusal", update.refusal]
    if isinstance(update, FinishUpdate):
        return ["finish", update.finish_reason, update.model, update.response_id]
    return None


def _update(piece: list[Any]) -> AgentRunResponseUpdate:
    """The update that a piece stands for; one that says nothing, for a kind that this version does not know."""
    kind, *values = piece
    if kind == "text":
        return AgentRunResponseUpdate(str(values[0]))
    if kind == "reasoning":
        return ReasoningUpdate(reasoning=str(values[0]))
    if kind == "refusal":
        return RefusalUpdate(refusal=str(values[0]))
    if kind == "call" and len(values) == 4:
        index, call_id, name, arguments = values
        return ToolCallUpdate(index=int(index), call_id=str(call_id), name=str(name), arguments=str(arguments))
    if kind == "finish" and len(values) == 3:
        return FinishUpdate(finish_reason=values[0], model=values[1], response_id=values[2])
    return AgentRunResponseUpdate()
